"""What diffusers and transformers call things by version, and how to keep them and their companions silent."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""What PyTorch calls the precisions that quantize nothing."""


def dtype_argument(library: ModuleType) -> str:
    """What `from_pretrained` calls the type of the weights: `torch_dtype` until diffusers 0.40 and transformers 5.

    Args:
        library: the module `diffusers` or `transformers`.
    """
    version = tuple(int(part) for part in library.__version__.split(".")[:2])
    renamed = {"diffusers": (0, 40), "transformers": (5, 0)}[library.__name__]
    return "dtype" if version >= renamed else "torch_dtype"


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back loading bars and log lines, for the length of the block. Errors are exceptions; download bars stay."""
    with hushed("bitsandbytes", "accelerate"):
        # bitsandbytes, imported with diffusers' classes, logs that it lacks `kernels` (0.50.2, backends/cpu/ops.py)
        import diffusers.utils.logging
        import transformers.utils.logging

        # Not transformers' disable_progress_bar(), which also turns off download bars (5.23.0, utils/logging.py). The
        # name is private: in a version without it bars are seen, and all the rest works.
        bars = [module for module in (diffusers.utils.logging, transformers.utils.logging) if hasattr(module, SWITCH)]
        before = [getattr(bar, SWITCH) for bar in bars]
        try:
            for bar in bars:
                setattr(bar, SWITCH, False)
            with hushed("diffusers", "transformers", "huggingface_hub"):  # these set their levels while imported
                yield
        finally:
            for bar, active in zip(bars, before, strict=True):
                setattr(bar, SWITCH, active)


SWITCH = "_tqdm_active"
"""The variable of both libraries' logging modules that says whether loading shows bars."""


@contextmanager
def hushed(*names: str) -> Iterator[None]:
    """Switch the loggers of these libraries off, for the length of the block."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
