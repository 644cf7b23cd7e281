"""A Gemma tokenizer whose vocabulary is the scene grammar and the pipeline's own instruction.

Sana's pipeline puts an instruction of some thousand letters in front of every prompt
(`complex_human_instruction`, diffusers 0.42.1, pipeline_sana.py). Its words are whole tokens here, as they are in
Gemma's vocabulary; words that nobody taught the model fall into letters.
"""

from __future__ import annotations

import inspect
import json
import string
from typing import TYPE_CHECKING

from .scenes import known_words

if TYPE_CHECKING:
    from transformers import GemmaTokenizer

SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")  # ids 0 to 4, as in Gemma


def instruction() -> str:
    """The text that `SanaPipeline` puts before a prompt, read from the installed diffusers."""
    from diffusers import SanaPipeline

    lines = inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default
    return "\n".join(lines)


def build_tokenizer() -> GemmaTokenizer:
    """Learn byte-pair merges until every word of the grammar and of the instruction is one token.

    Like Gemma's own it pads on the right and puts `<bos>` first.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import GemmaTokenizer

    learner = Tokenizer(models.BPE(unk_token="<unk>"))
    learner.normalizer = normalizers.Replace(" ", "▁")
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("▁", "merged_with_next"),
            pre_tokenizers.Split(Regex(r"[.,:\n'\-]|->"), "isolated"),
        ]
    )
    words = sorted(known_words())
    trainer = trainers.BpeTrainer(
        vocab_size=8000,
        min_frequency=1,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted("▁\n" + string.ascii_letters + string.digits + string.punctuation),
        show_progress=False,
    )
    learner.train_from_iterator([instruction()] * 2 + words + [f" {w}" for w in words] * 2, trainer)
    learned = json.loads(learner.to_str())["model"]
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in learned["merges"]]
    tokenizer = GemmaTokenizer(vocab=learned["vocab"], merges=merges, padding_side="right")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", SPECIAL.index("<bos>"))]
    )
    return tokenizer
