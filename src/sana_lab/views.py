"""Which linear layers of the Sana pipelines get inputs that are views, found by hooks and without a GPU.

    python -m sana_lab.views                    names of the layers, on any machine
    python -m sana_lab.views --values FOLDER    what it does to the result: a record, on a GPU, real or virtual

bitsandbytes' 8-bit kernel reads memory as it lies (`sana_lab.layers.contiguous_inputs_`). Here every pipeline of Sana
that the installed diffusers has draws once with two random blocks, with guidance and without, one picture and two, and
a hook on every `nn.Linear` asks whether the rows that bitsandbytes would hand to its kernel lie in order. `values` then
puts the transformers in 8 bits and compares what the pipelines return.

Chapter 5.
"""

from __future__ import annotations

import math
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import typer
from torch import Tensor, nn

from .commandline import run_command
from .layers import contiguous_inputs_

if TYPE_CHECKING:
    import pandas as pd

BLOCKS = {
    "num_layers": 2, "num_attention_heads": 4, "attention_head_dim": 16, "num_cross_attention_heads": 4,
    "cross_attention_head_dim": 16, "cross_attention_dim": 64, "caption_channels": 128,
}  # fmt: skip
CALL = {
    "num_inference_steps": 2, "height": 64, "width": 64, "use_resolution_binning": False, "output_type": "latent",
    "max_sequence_length": 16, "complex_human_instruction": None,
}  # fmt: skip
MODELS = ("text_encoder", "transformer", "controlnet")
RECORD = "sana_classes"


@dataclass(frozen=True)
class Way:
    """A pipeline and a call of it.

    Args:
        build: makes the pipeline, with random weights.
        guided: whether its classifier-free guidance can be switched off, `guidance_scale=1.0`.
        call: arguments besides `CALL`.
    """

    build: Callable[[], Any]
    guided: bool
    call: Callable[[], dict[str, Any]] = dict


@contextmanager
def watched(model: nn.Module) -> Iterator[dict[str, list[bool]]]:
    """For the length of the block, note of each input of each `nn.Linear` whether the kernel would get a view.

    The rows are made as bitsandbytes makes them: an input of three dimensions is reshaped, others are taken as they are
    (0.50.2, autograd/_functions.py, `MatMul8bitLt.forward`).

    Yields:
        Name of the layer → a list, True for each input that is a view.

    Chapter 5.
    """
    found: dict[str, list[bool]] = {}

    def watch(name: str) -> Callable[..., None]:
        def hook(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
            rows = args[0].reshape(-1, args[0].shape[-1]) if args[0].ndim == 3 else args[0]
            found.setdefault(name, []).append(not rows.is_contiguous())

        return hook

    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    handles = [layer.register_forward_pre_hook(watch(name)) for name, layer in layers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _shapes(*names: str) -> dict[str, Any]:
    """Parts of the Shapes model."""
    from diffusers import SanaPipeline

    from .libraries import quiet
    from .shapes import SHAPES_FOLDER

    with quiet():
        pipe = SanaPipeline.from_pretrained(SHAPES_FOLDER, transformer=None)
    return {name: pipe.components[name] for name in names}


def _pipeline(name: str, **transformer: Any) -> Any:
    import diffusers

    parts = _shapes("tokenizer", "text_encoder", "vae", "scheduler")
    if "Sprint" in name:
        parts["scheduler"] = diffusers.SCMScheduler()
        transformer |= {"guidance_embeds": True, "qk_norm": "rms_norm_across_heads"}
    options = {**BLOCKS, "in_channels": 32, "out_channels": 32, "sample_size": 2, "patch_size": 1}
    parts["transformer"] = diffusers.SanaTransformer2DModel(**options, **transformer)
    if "ControlNet" in name:
        parts["controlnet"] = diffusers.SanaControlNetModel(**options)
    return getattr(diffusers, name)(**parts)


def _video(name: str) -> Any:
    import diffusers

    parts = _shapes("tokenizer", "text_encoder", "scheduler")
    if "Image" in name:
        parts["scheduler"] = diffusers.FlowMatchEulerDiscreteScheduler()
    down = [False, True, True]
    vae = diffusers.AutoencoderKLWan(base_dim=3, z_dim=16, dim_mult=[1] * 4, num_res_blocks=1, temperal_downsample=down)
    transformer = diffusers.SanaVideoTransformer3DModel(**BLOCKS, in_channels=16, out_channels=16, rope_max_seq_len=32)
    return getattr(diffusers, name)(vae=vae, transformer=transformer, **parts)


def _picture() -> Any:
    from PIL import Image

    return Image.new("RGB", (64, 64), "white")


WAYS = {
    "SanaPipeline": Way(lambda: _pipeline("SanaPipeline"), True),
    "SanaPAGPipeline": Way(lambda: _pipeline("SanaPAGPipeline"), True, lambda: {"pag_scale": 3.0}),
    "SanaControlNetPipeline": Way(
        lambda: _pipeline("SanaControlNetPipeline"), True, lambda: {"control_image": _picture()}
    ),
    "SanaSprintPipeline": Way(lambda: _pipeline("SanaSprintPipeline"), False),
    "SanaSprintImg2ImgPipeline": Way(
        lambda: _pipeline("SanaSprintImg2ImgPipeline"), False, lambda: {"image": _picture()}
    ),
    "SanaVideoPipeline": Way(lambda: _video("SanaVideoPipeline"), True, lambda: {"frames": 9}),
    "SanaImageToVideoPipeline": Way(
        lambda: _video("SanaImageToVideoPipeline"), True, lambda: {"frames": 9, "image": _picture()}
    ),
}
"""Pipelines of Sana by class. Those of world models (diffusers 0.42, `SanaWM…`) want parts of other models."""


def table(names: list[str] | None = None) -> pd.DataFrame:
    """Draw with each, and count.

    Args:
        names: keys of `WAYS`; all that the installed diffusers has by default.

    Returns:
        A row for each pipeline, guidance, number of pictures and model: "layers", how many were called; "views", how
        many of these got a view at least once; "which", their names, the blocks' numbers as sets.

    Chapter 5.
    """
    import diffusers
    import pandas as pd

    rows = []
    for name in names or [name for name in WAYS if hasattr(diffusers, name)]:
        way = WAYS[name]
        torch.manual_seed(0)
        pipe = way.build()
        pipe.set_progress_bar_config(disable=True)
        for guidance in (4.5, 1.0) if way.guided else (None,):
            for pictures in (1, 2):
                call = {**CALL, **way.call()} | ({} if guidance is None else {"guidance_scale": guidance})
                if "Sprint" in name and "image" in call:  # one for each prompt; of a video the first frame of all
                    call["image"] = [call["image"]] * pictures
                models = {part: pipe.components[part] for part in MODELS if part in pipe.components}
                for part, seen in _seen(pipe, models, ["a red star"] * pictures, call).items():
                    views = [layer for layer, flags in seen.items() if any(flags)]
                    rows.append(
                        {
                            "pipeline": name,
                            "guidance": {4.5: "on", 1.0: "off", None: "has none"}[guidance],
                            "pictures": pictures,
                            "model": part,
                            "layers": len(seen),
                            "views": len(views),
                            "which": ", ".join(_grouped(views)),
                        }
                    )
    return pd.DataFrame(rows)


@torch.no_grad()
def _seen(
    pipe: Any, models: dict[str, nn.Module], prompts: list[str], call: dict[str, Any], watching: tuple = ()
) -> dict[str, dict[str, list[bool]]]:
    """Call a pipeline while all its models are watched."""
    if not models:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pipe(prompt=prompts, generator=torch.Generator().manual_seed(0), **call)
        return dict(watching)
    (part, model), *rest = models.items()
    with watched(model) as found:
        return _seen(pipe, dict(rest), prompts, call, (*watching, (part, found)))


def _grouped(names: list[str]) -> list[str]:
    """Names of layers with the numbers of blocks gathered: `transformer_blocks.{0,1}.attn1.to_out.0`."""
    groups: dict[str, list[str]] = {}
    for name in names:
        number = re.search(r"(?<=blocks\.)\d+", name)
        groups.setdefault(re.sub(r"(?<=blocks\.)\d+", "*", name, count=1), []).append(number[0] if number else "")
    return [name.replace("*", numbers[0] if len(numbers) == 1 else f"{{{','.join(numbers)}}}", 1)
            for name, numbers in groups.items()]  # fmt: skip


@torch.no_grad()
def values(names: list[str] | None = None) -> dict[str, dict[str, float | None]]:
    """Draw one picture with each pipeline and no guidance, in 16 bits and in 8, on the GPU.

    Args:
        names: keys of `WAYS`; all that the installed diffusers has by default.

    Returns:
        Pipeline -> decibels that the latents of one picture keep of the 16-bit ones: "8 bits" as bitsandbytes makes the
        layers, "guarded" after `contiguous_inputs_`; None where they are the same or not finite.

    Raises:
        RuntimeError: there is no GPU, real or virtual.

    Chapter 6.
    """
    import diffusers

    if not torch.cuda.is_available():
        raise RuntimeError("this needs a GPU, real or virtual: call sana_lab.use_accelerator() first")
    found = {}
    for name in names or [name for name in WAYS if hasattr(diffusers, name)]:
        way = WAYS[name]
        torch.manual_seed(0)
        pipe = way.build().to(torch.bfloat16).to("cuda")
        pipe.set_progress_bar_config(disable=True)
        call = {**CALL, **way.call()} | ({"guidance_scale": 1.0} if way.guided else {})

        def latents(pipe: Any = pipe, call: dict[str, Any] = call) -> Tensor:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                generator = torch.Generator("cpu").manual_seed(0)
                drawn = pipe(prompt=["a red star"], generator=generator, **call)
            return (drawn.frames if hasattr(drawn, "frames") else drawn.images).double()

        exact = latents()
        models = [pipe.components[part] for part in MODELS[1:] if part in pipe.components]
        for model in models:
            _to_8_bits_(model)
        rounded = latents()
        for model in models:
            contiguous_inputs_(model)
        found[name] = {"8 bits": _decibels(rounded, exact), "guarded": _decibels(latents(), exact)}
    return found


def _to_8_bits_(model: nn.Module) -> None:
    """Every `nn.Linear` in LLM.int8(), as the libraries make it (transformers, integrations/bitsandbytes.py)."""
    import bitsandbytes

    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    for name, layer in layers:
        shape = (layer.in_features, layer.out_features, layer.bias is not None)
        new = bitsandbytes.nn.Linear8bitLt(*shape, has_fp16_weights=False, threshold=6.0, device="meta")
        weight = layer.weight.data.cpu()
        new.weight = bitsandbytes.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
        new.bias = layer.bias
        model.set_submodule(name, new.to(layer.weight.device).eval())


def _decibels(found: Tensor, exact: Tensor) -> float | None:
    noise = (found - exact).square().mean().item()
    ratio = exact.square().mean().item() / noise if noise else math.inf
    return round(10 * math.log10(ratio), 1) if 0 < ratio < math.inf else None


def _command(
    folder: Annotated[
        Path | None, typer.Option("--values", metavar="FOLDER", help="Measure on a GPU, write the record here.")
    ] = None,
) -> None:
    """Which linear layers of the Sana pipelines get inputs that are views: print the table, or measure and record."""
    import diffusers

    from . import evidence
    from .evidence import journal

    diffusers.utils.logging.set_verbosity_error()
    if folder is None:
        print(f"diffusers {diffusers.__version__}, two random blocks each; layers that get a view at least once")
        print(table().to_string(index=False, justify="left"))
        return
    journal.must_be_writable(folder, folder, "--values")
    results = values()
    what = "One picture without guidance from every pipeline of Sana, small and random: decibels kept in 8 bits"
    file = evidence.save(
        RECORD, what=what, command="python -m sana_lab.views --values FOLDER", results=results, seed=0, folder=folder
    )
    for name, kept in results.items():
        print(f"{name:27} " + ", ".join(f"{way} {value} dB" for way, value in kept.items()))
    print(file)


def main(arguments: list[str] | None = None) -> int:
    """Run the command and give its exit status."""
    return run_command(_command, "python -m sana_lab.views", arguments)


if __name__ == "__main__":
    sys.exit(main())
