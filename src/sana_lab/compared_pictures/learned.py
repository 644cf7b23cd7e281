"""LPIPS and the CLIP score: measures that are networks, whose weights are downloaded once and are not in this package.

LPIPS is the `lpips` package's (Zhang et al. 2018, arXiv 1801.03924), on AlexNet; the CLIP score is the cosine of a
picture and its prompt in `transformers.CLIPModel`, times 100 (Hessel et al. 2021, arXiv 2104.08718, without its factor
of 2.5 and its cut at 0, which a difference of two ways does not want). Both run on the CPU: whatever GPU drew the
pictures, the numbers are of one kind of arithmetic.
"""

from __future__ import annotations

import importlib.util
import os
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..libraries import dtype_argument, quiet

CLIP = "openai/clip-vit-large-patch14"
"""The model that torchmetrics' CLIP score takes by default; it has a safetensors file."""

CLIP_BYTES = "1.7 GB"
"""Of `CLIP`: 427,616,513 parameters in float32, counted on the meta device by transformers' `CLIPModel`."""
ALEXNET = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"
"""Where torchvision 0.28 has AlexNet from (models/alexnet.py); `torch.hub` keeps it under its last name."""

ALEXNET_BYTES = "233 MB"
LEAST_SIDE = 32
"""Pixels that AlexNet's five layers need."""

SECONDS = 5
"""To wait for an answer before there is no network."""

BATCH = 8


class NotHere(Exception):
    """A measure's library or weights are not here and cannot be downloaded; says why."""


def downloads(metrics: Sequence[str], clip: str = CLIP) -> list[str]:
    """A sentence for each measure whose weights would be downloaded now: what, from where, how much.

    Args:
        metrics: keys of `sana_lab.compared_pictures.scores.METRICS`.
        clip: the CLIP model's name or folder.
    """
    found = []
    if "lpips" in metrics and _packages() and not _alexnet().is_file():
        found.append(f"LPIPS downloads AlexNet's weights, {ALEXNET_BYTES}, from {ALEXNET}")
    if "clip" in metrics and not _clip_is_here(clip):
        size = f", {CLIP_BYTES}," if clip == CLIP else ""
        found.append(f"the CLIP score downloads {clip}{size} from the Hugging Face Hub")
    return found


def missing(metric: str, clip: str = CLIP) -> str | None:
    """Why a measure cannot be taken here and now, or None. Asks the network where weights are not here yet.

    Args:
        metric: "lpips" or "clip".
        clip: the CLIP model's name or folder.
    """
    if metric == "lpips":
        if not _packages():
            return "the package lpips is not installed (pip install lpips)"
        if not _alexnet().is_file() and (why := _unreachable(ALEXNET)):
            return f"AlexNet's weights are not here, and {why}"
        return None
    if _clip_is_here(clip):
        return None
    if _is_folder(clip):
        return f"the folder {clip} has no config.json of a CLIP model"
    from huggingface_hub import constants

    if why := _unreachable(f"{constants.ENDPOINT}/{clip}/resolve/main/config.json"):
        return f"{clip} is not here, and {why}"
    return None


def lpips(a: Sequence[Image.Image], b: Sequence[Image.Image]) -> list[float]:
    """LPIPS of each pair, 0 if they are equal.

    Args:
        a: RGB, (n,).
        b: the same sizes.

    Raises:
        NotHere: the weights are not here and cannot be downloaded, or the pictures are too small.
    """
    if min(side for picture in a for side in picture.size) < LEAST_SIDE:
        raise NotHere(f"a picture is smaller than the {LEAST_SIDE} pixels that AlexNet needs")
    with _or_not_here("LPIPS"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lpips 0.1.4 calls torchvision by names that it has given up
        import lpips as package

        network = package.LPIPS(net="alex", verbose=False)
    found = []
    with torch.inference_mode():
        for x, y in zip(a, b, strict=True):
            found.append(network(_scaled(x), _scaled(y), normalize=True).item())
    return found


def clip_scores(ways: Sequence[Sequence[Image.Image]], prompts: Sequence[str], clip: str = CLIP) -> list[list[float]]:
    """100 times the cosine of each picture and its prompt, for each way.

    A prompt beyond the model's longest, 77 tokens for the released ones, is cut there.

    Args:
        ways: RGB pictures of each way, (n,).
        prompts: (n,).
        clip: the CLIP model's name or folder.

    Raises:
        NotHere: the weights are not here and cannot be downloaded.
    """
    import transformers

    with _or_not_here(clip), quiet():
        options: dict[str, Any] = {dtype_argument(transformers): torch.float32}
        model = transformers.CLIPModel.from_pretrained(clip, use_safetensors=True, **options).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(clip)
        processor = _image_processor().from_pretrained(clip)
    longest = model.config.text_config.max_position_embeddings
    found: list[list[float]] = [[] for _ in ways]
    with torch.inference_mode():
        for start in range(0, len(prompts), BATCH):
            some = slice(start, start + BATCH)
            words = tokenizer(
                list(prompts[some]), padding=True, truncation=True, max_length=longest, return_tensors="pt"
            )
            for scores, pictures in zip(found, ways, strict=True):
                pixels = processor(images=list(pictures[some]), return_tensors="pt")
                out = model(
                    input_ids=words["input_ids"],
                    attention_mask=words["attention_mask"],
                    pixel_values=pixels["pixel_values"],
                )
                pairs = torch.nn.functional.cosine_similarity(out.image_embeds, out.text_embeds)
                scores += (100 * pairs).tolist()
    return found


def _image_processor() -> type:
    """CLIP's, on Pillow where torchvision is not installed, without the warning about it (transformers 5)."""
    import transformers

    if importlib.util.find_spec("torchvision") is None:
        return getattr(transformers, "CLIPImageProcessorPil", transformers.CLIPImageProcessor)
    return transformers.CLIPImageProcessor


def _scaled(picture: Image.Image) -> torch.Tensor:
    """(1, 3, height, width), 0 to 1."""
    return torch.from_numpy(np.array(picture)).movedim(-1, 0)[None].float() / 255


def _packages() -> bool:
    return all(importlib.util.find_spec(name) is not None for name in ("lpips", "torchvision"))


def _alexnet() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / ALEXNET.rpartition("/")[2]


def _is_folder(clip: str) -> bool:
    return Path(clip).is_dir() or clip.startswith((".", "/", "~"))


def _clip_is_here(clip: str) -> bool:
    if _is_folder(clip):
        return (Path(clip) / "config.json").is_file()
    from huggingface_hub import try_to_load_from_cache

    return all(isinstance(try_to_load_from_cache(clip, file), str) for file in ("config.json", "model.safetensors"))


def _unreachable(address: str) -> str | None:
    """Why something cannot be downloaded now, or None."""
    if os.environ.get("HF_HUB_OFFLINE", "0").upper() not in ("", "0", "NO", "OFF", "FALSE"):
        return "HF_HUB_OFFLINE forbids downloads"
    try:
        request = urllib.request.Request(address, method="HEAD", headers={"User-Agent": "sana-lab"})
        with urllib.request.urlopen(request, timeout=SECONDS):
            return None
    except urllib.error.HTTPError as error:
        return f"the server says {error.code} {error.reason}"
    except (OSError, ValueError):
        return "there is no network"


@contextmanager
def _or_not_here(what: str) -> Iterator[None]:
    """What a library raises on the way to its weights, as `NotHere`."""
    try:
        yield
    except (OSError, ImportError, ValueError, RuntimeError, KeyError, AttributeError, TypeError) as error:
        first = str(error).strip().partition("\n")[0][:200]
        raise NotHere(f"{what} cannot be loaded ({first or type(error).__name__})") from error
