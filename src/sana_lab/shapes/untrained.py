"""The Shapes pipeline with random weights: every shape, byte, device and error of the trained one, and no picture."""

from __future__ import annotations

import tempfile
from pathlib import Path

FORMAT = 1  # raise when model.py changes, so that no old folder is reused


def untrained_shapes(seed: int = 0, *, cache: str | Path | None = None) -> Path:
    """Folder of an untrained Shapes pipeline in diffusers' format, made on the first call (a few seconds).

    What a model weighs, where its parts are placed and how libraries fail does not depend on what it has learned.

    Args:
        seed: of the random weights; the same seed gives the same weights on one version of PyTorch.
        cache: where to keep the folder; by default the folder for temporary files.

    Raises:
        OSError: if `cache` cannot be written.

    Chapter 4.
    """
    import torch

    from .model import assemble, build_autoencoder, build_text_encoder, build_tokenizer, build_transformer

    home = Path(cache if cache is not None else tempfile.gettempdir())
    folder = home / f"sana-lab-untrained-{FORMAT}-{seed}-torch{torch.__version__.split('+')[0]}"
    if (folder / "model_index.json").is_file():
        return folder
    home.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        models = build_autoencoder(), build_transformer(), build_text_encoder(len(build_tokenizer()))
    with tempfile.TemporaryDirectory(dir=home) as partial:  # renamed only when whole
        assemble(Path(partial) / "pipeline", *models)
        try:
            (Path(partial) / "pipeline").rename(folder)
        except OSError:  # another process was faster
            if not (folder / "model_index.json").is_file():
                raise
    return folder
