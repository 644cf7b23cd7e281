"""The pipeline folder that probes load, and the same in the words of older libraries.

transformers 5 writes `dtype` and `GemmaTokenizer` where transformers 4 wrote, and needs, `torch_dtype` and
`GemmaTokenizerFast`: its `GemmaTokenizer` is another class, which wants a SentencePiece file. Weights, vocabulary and
all numbers are the same. So that the probes ask about quantization and not about two words, all but one load a folder
in which these two words are as the older library wrote them, as they are in the folders of the Hub; the one that does
not is `load-folder-of-today`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path


def source() -> tuple[Path, str]:
    """The Shapes pipeline, and `"trained"` or `"untrained"`: the weights of this release, or else random ones."""
    from ..shapes import SHAPES_FOLDER

    if (SHAPES_FOLDER / "model_index.json").is_file():
        return SHAPES_FOLDER, "trained"
    from ..shapes.untrained import untrained_shapes

    return untrained_shapes(), "untrained"


def in_older_words(folder: Path, target: Path) -> Path:
    """A folder at `target` with links to the files of `folder`, and three JSON files in the words of transformers 4.

    Raises:
        OSError: `target` cannot be written.
    """
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            place = target / file.relative_to(folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            if not place.exists():
                os.symlink(file.resolve(), place)
    _rewrite(target / "model_index.json", lambda index: index | {"tokenizer": ["transformers", "GemmaTokenizerFast"]})
    _rewrite(target / "tokenizer/tokenizer_config.json", lambda c: c | {"tokenizer_class": "GemmaTokenizerFast"})
    _rewrite(target / "text_encoder/config.json", lambda c: c | {"torch_dtype": c.get("dtype", c.get("torch_dtype"))})
    return target


def _rewrite(file: Path, change) -> None:
    content = change(json.loads(file.read_text(encoding="utf-8")))
    file.unlink()
    file.write_text(json.dumps(content, indent=1), encoding="utf-8")
