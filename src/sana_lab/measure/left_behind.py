"""What stays on the GPU when an 8-bit model leaves it: codes and scales that bitsandbytes keeps beside its weights.

    python -m sana_lab.measure.left_behind --out FOLDER              the small model, each step in a process of its own
    python -m sana_lab.measure.left_behind --out FOLDER --size WORK  checkpoints of real size, too (WORK takes 11 GB)

`nn.Module.to` replaces the data inside each parameter and calls no layer's own `.to` (torch 2.13, nn/modules/module.py,
`_apply`). An `Int8Params` has two more tensors as attributes, `CB` and `SCB`, until the layer is called, and the
layer's `state` has them from then on (bitsandbytes 0.50.2, nn/modules.py, `Linear8bitLt`). The steps here move a model
back and forth and say after each how many bytes the allocator has given out and where those tensors are.

Chapters 10 and 11.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import typer

from .. import SHAPES_FOLDER, evidence, isolated
from ..accelerator import use_accelerator
from ..commandline import run_command
from ..evidence.journal import must_be_writable

if TYPE_CHECKING:
    import pandas

RECORD = "left_behind"
"""Name of the record in `sana_lab.evidence`."""

Found = dict[str, Any]
STEPS: dict[str, Callable[[], Found]] = {}
"""What is done -> the function that does it and says what it found. A step needs a process of its own on a real GPU:
the last ones leave it unusable."""


def step(title: str) -> Callable[[Callable[[], Found]], Callable[[], Found]]:
    """Register a step under what a reader sees."""

    def register(function: Callable[[], Found]) -> Callable[[], Found]:
        STEPS[title] = function
        return function

    return register


class Model:
    """The Shapes transformer in 8 bits on the GPU, and the bytes that were given out before it was loaded."""

    def __init__(self):
        from diffusers import BitsAndBytesConfig, SanaTransformer2DModel

        warm_up()
        self.before = allocated()
        self.module = SanaTransformer2DModel.from_pretrained(
            SHAPES_FOLDER,
            subfolder="transformer",
            quantization_config=BitsAndBytesConfig(load_in_8bit=True),
            dtype=torch.bfloat16,
        )

    def call(self, device: str = "cuda") -> torch.Tensor:
        """The output for one fixed input of two rows, as with guidance; the input is on `device`."""
        noise, config = torch.Generator().manual_seed(0), self.module.config
        inputs = {
            "hidden_states": torch.randn(2, config.in_channels, 16, 16, generator=noise),
            "encoder_hidden_states": torch.randn(2, 8, config.caption_channels, generator=noise),
            "timestep": torch.tensor([500.0, 500.0]),
        }
        with torch.no_grad():
            moved = {name: values.to(device, torch.bfloat16) for name, values in inputs.items()}
            return self.module(**moved, return_dict=False)[0]

    def layers(self) -> list[Any]:
        """The 8-bit layers."""
        from bitsandbytes.nn import Linear8bitLt

        return [layer for layer in self.module.modules() if isinstance(layer, Linear8bitLt)]

    def report(self) -> Found:
        """Bytes given out since before loading, and the devices of what the 8-bit layers hold ("–": nothing there)."""
        layers = self.layers()
        held = {
            "weight": [layer.weight.data for layer in layers],
            "weight.CB": [getattr(layer.weight, "CB", None) for layer in layers],
            "weight.SCB": [getattr(layer.weight, "SCB", None) for layer in layers],
            "state.CB": [layer.state.CB for layer in layers],
            "state.SCB": [layer.state.SCB for layer in layers],
        }
        places = {
            name: " + ".join(sorted({str(t.device) for t in tensors if t is not None})) or "–"
            for name, tensors in held.items()
        }
        return {"bytes": allocated() - self.before, **places}


def warm_up() -> None:
    """Let the libraries of CUDA take their workspaces, which the allocator counts, before anything is counted."""
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        x = torch.ones(64, 64, device="cuda", dtype=dtype)
        torch.nn.functional.linear(x, x, x[0])
        torch.bmm(x[None], x[None])


def allocated() -> int:
    """Bytes that the allocator has given out."""
    gc.collect()
    return torch.cuda.memory_allocated()


def outcome(call: Callable[[], object]) -> str:
    """What a call comes to: "returns", or the exception with the first line of its message."""
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    return "returns"


def next_use() -> object:
    """Something harmless that needs the GPU and waits for it."""
    return torch.ones(8, device="cuda").sum().item()


# ---- the steps ------------------------------------------------------------------------------------------------------


@step("loaded")
def _() -> Found:
    return Model().report()


@step('loaded, .to("cpu")')
def _() -> Found:
    model = Model()
    model.module.to("cpu")
    return model.report()


@step('loaded, .to("cpu"), .to("cuda")')
def _() -> Found:
    model = Model()
    model.module.to("cpu").to("cuda")
    return model.report()


@step("called")
def _() -> Found:
    model = Model()
    model.call()
    return model.report()


@step('called, .to("cpu")')
def _() -> Found:
    model = Model()
    model.call()
    model.module.to("cpu")
    return model.report()


@step('called, .to("cpu"), .to("cuda")')
def _() -> Found:
    model = Model()
    before = model.call().cpu()
    model.module.to("cpu").to("cuda")
    found = model.report()
    return {**found, "same output": torch.equal(before, model.call().cpu())}


@step('called, .to("cpu"), each 8-bit layer .to("cpu")')
def _() -> Found:
    model = Model()
    model.call()
    model.module.to("cpu")
    for layer in model.layers():
        layer.to("cpu")
    return model.report()


@step('loaded, .to("cpu"), called with inputs on the CPU')
def _() -> Found:
    model = Model()
    model.module.to("cpu")
    return {"call": outcome(lambda: model.call("cpu")), "next use of CUDA": outcome(next_use)}


@step('called, .to("cpu"), called with inputs on the CPU')
def _() -> Found:
    model = Model()
    model.call()
    model.module.to("cpu")
    return {"call": outcome(lambda: model.call("cpu")), "next use of CUDA": outcome(next_use)}


def offloaded(eight_bit: bool) -> Found:
    """The Shapes pipeline with model offload: bytes before its first call, the peak in it, and the bytes after it."""
    warm_up()
    before = allocated()
    pipe = pipeline(SHAPES_FOLDER, eight_bit)
    pipe.enable_model_cpu_offload()
    found = {"bytes before a call": allocated() - before}
    torch.cuda.reset_peak_memory_stats()
    pipe("a red star", num_inference_steps=1, output_type="latent")
    found["peak"] = torch.cuda.max_memory_allocated() - before
    return {**found, "bytes": allocated() - before}


@step("8-bit pipeline, model offload, called")
def _() -> Found:
    return offloaded(eight_bit=True)


@step("16-bit pipeline, model offload, called")
def _() -> Found:
    return offloaded(eight_bit=False)


# ---- real size ------------------------------------------------------------------------------------------------------

CHECKPOINTS = ("600M-512", "1600M-1024")
ROWS = (  # 8 bits or 16, how it is placed, GiB of the card (None: all of it)
    (8, "all on the GPU", None),
    (8, "all on the GPU", 4),
    (8, "all on the GPU", 8),
    (8, "model offload", None),
    (8, "model offload", 4),
    (8, "model offload", 8),
    (16, "model offload", None),
    (16, "model offload", 4),
    (16, "model offload", 8),
)
FIRST = {"text_encoder": "embed_tokens", "transformer": "patch_embed", "vae": "decoder.conv_in"}
"""Component -> its first layer in a call: when that is called, all of the component is on the GPU."""


def load_8bit(folder: Path, component: str) -> Any:
    """A component in 8 bits, which leaves it on the GPU."""
    if component == "text_encoder":
        from transformers import AutoModel, BitsAndBytesConfig

        loader = AutoModel
    else:
        from diffusers import BitsAndBytesConfig, SanaTransformer2DModel

        loader = SanaTransformer2DModel
    eight_bit = BitsAndBytesConfig(load_in_8bit=True)
    return loader.from_pretrained(folder, subfolder=component, quantization_config=eight_bit, dtype=torch.bfloat16)


def pipeline(folder: Path, eight_bit: bool, doing: list[str] | None = None) -> Any:
    """The pipeline as in chapter 10: quantized parts on the GPU, all else on the CPU; `doing`: what is done last."""
    from diffusers import SanaPipeline

    parts = {}
    for name in ("text_encoder", "transformer") if eight_bit else ():
        if doing is not None:
            doing.append(f"loading {name}")
        parts[name] = load_8bit(folder, name)
    pipe = SanaPipeline.from_pretrained(folder, **parts, dtype=torch.bfloat16)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def on_a_card(folder: Path, bits: int, way: str, gib: int | None) -> Found:
    """Draw one step with a checkpoint on a card, and say what the weights hold, or what was done when memory ran out.

    Args:
        folder: a pipeline.
        bits: 8 (the recipe) or 16.
        way: "all on the GPU" or "model offload".
        gib: the card's size, imitated by a limit for this process; None for the whole card.

    Returns:
        `held`: bytes given out as each component is called; `peak`; or `out of memory`: what was being done.
    """
    warm_up()
    if gib is not None:
        small_card(gib * 2**30)
    before, doing, held = allocated(), ["loading"], {}
    torch.cuda.reset_peak_memory_stats()
    try:
        pipe = pipeline(folder, bits == 8, doing)
        doing.append("loading vae" if way == "all on the GPU" else "calling")
        for name, first in FIRST.items():

            def note(layer, inputs, name=name):
                held.setdefault(name, allocated() - before)  # the text encoder is called twice

            def begin(model, inputs, name=name):
                doing.append(f"calling {name}")

            component = getattr(pipe, name)
            component.get_submodule(first).register_forward_pre_hook(note)
            component.register_forward_pre_hook(begin)
        if way == "all on the GPU":
            pipe.to("cuda")
        else:
            pipe.enable_model_cpu_offload()
        pipe("a red star", num_inference_steps=1, height=512, width=512, use_resolution_binning=False)
    except torch.cuda.OutOfMemoryError:
        return {"out of memory": doing[-1], "held": held}
    return {"held": held, "peak": torch.cuda.max_memory_allocated() - before}


def small_card(size: int) -> None:
    """Let this process have `size` bytes of the GPU and no more, and let libraries that ask hear so.

    transformers fills the memory that the driver says is free before it loads (5.23, modeling_utils.py,
    `caching_allocator_warmup`); the driver does not know of PyTorch's limit.
    """
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction(size / total)
    torch.cuda.mem_get_info = lambda device=None: (size - torch.cuda.memory_reserved(), size)


# ---- the record, for chapters ---------------------------------------------------------------------------------------


def steps_table() -> pandas.DataFrame:
    """The recorded steps: MiB given out after each, and on which device a layer's weight and what is beside it are.

    Raises:
        ValueError: the record is missing or damaged.
    """
    import pandas

    rows = {}
    for title, found in evidence.load(RECORD)["results"]["steps"].items():
        if "weight" not in found:
            continue
        beside = {found[f"{owner}.{name}"] for owner in ("weight", "state") for name in ("CB", "SCB")} - {"–"}
        rows[title] = {
            "on the GPU (MiB)": round(found["bytes"] / 2**20, 2),
            "weights are on": found["weight"],
            "codes and scales are on": " + ".join(sorted(beside)),
        }
    return pandas.DataFrame.from_dict(rows, orient="index")


def verdict(row: Found) -> str:
    """A recorded row of real size in the words of chapter 10's table of cards."""
    if "out of memory" in row:
        return f"out of memory, {row['out of memory']}"
    if "failed" in row:
        return row["failed"]
    return f"{max(row['held'].values()) / 2**30:.1f} GiB"


# ---- running --------------------------------------------------------------------------------------------------------

LIMIT = 400
"""Seconds that a step or a row may take."""


def apart(*arguments: str, virtual: bool) -> Found:
    """Run one step or row in a process of its own: what it found, or the last line that it said."""
    command = isolated.module("sana_lab.measure.left_behind", *arguments, *["--virtual"] * virtual)
    process = isolated.start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        said, complained = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return {"failed": f"took more than {LIMIT} s"}
    finally:
        isolated.end(process)
    lines = [line for line in said.splitlines() if line.startswith("{")]
    return json.loads(lines[-1]) if lines else {"failed": (complained.strip().splitlines() or [""])[-1][:300]}


def record(out: Path, *, virtual: bool, work: Path | None = None, jobs: int = 6) -> dict[str, Any]:
    """Run all steps, and with `work` the rows of real size; write the record to `out` as it grows."""
    results: dict[str, Any] = {"steps": dict.fromkeys(STEPS), "real size": {}}
    lock = threading.Lock()

    def keep(found: Found, place: Any, key: Any) -> None:
        with lock:
            place[key] = found
            evidence.save(
                RECORD,
                what="What stays on the GPU when 8-bit models are moved to the CPU or offloaded",
                command="python -m sana_lab.measure.left_behind --out FOLDER" + " --size WORK" * (work is not None),
                results=results,
                folder=out,
            )

    def one_step(title: str) -> None:
        keep(apart("--step", title, virtual=virtual), results["steps"], title)

    isolated.at_once(one_step, STEPS, jobs)
    for checkpoint in CHECKPOINTS if work else ():
        folder = made(checkpoint, work)
        results["real size"][checkpoint] = rows = [None] * len(ROWS)

        def one_row(number: int, folder=folder, rows=rows) -> None:
            bits, way, gib = ROWS[number]
            found = apart("--row", json.dumps([str(folder), bits, way, gib]), virtual=virtual)
            keep({"bits": bits, "way": way, "card (GiB)": gib, **found}, rows, number)

        isolated.at_once(one_row, range(len(ROWS)), jobs)
    return results


def made(checkpoint: str, work: Path) -> Path:
    """The folder of a checkpoint with random weights, made in a process of its own where it is not there yet."""
    folder, other = work / checkpoint, work / CHECKPOINTS[0]
    if not folder.exists():
        shared = ["--parts-from", str(other)] if other.exists() else []
        process = isolated.start(
            isolated.module("sana_lab.cli", "make-random", checkpoint, str(folder), *shared), stdout=subprocess.DEVNULL
        )
        try:
            if process.wait():
                raise RuntimeError(f"{folder} could not be made: `sana-lab make-random {checkpoint} FOLDER` says why")
        finally:
            isolated.end(process)
    return folder


def _command(
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="For the record.")] = None,
    size: Annotated[
        Path | None, typer.Option(metavar="WORK", help="Also checkpoints of real size, made in this folder.")
    ] = None,
    virtual: Annotated[bool, typer.Option("--virtual", help="On the virtual GPU, to compare.")] = False,
    step: Annotated[str | None, typer.Option(hidden=True, help="Run this step alone, in this process.")] = None,
    row: Annotated[str | None, typer.Option(hidden=True, help="Run one row in this process (JSON).")] = None,
) -> None:
    """What stays on the GPU when an 8-bit model leaves it: run each step in a process of its own, write the record."""
    if step or row:
        use_accelerator(virtual=True) if virtual else use_accelerator()
        if step:
            if step not in STEPS:
                raise ValueError(f"there is no step {step[:60]!r}: choose from {', '.join(STEPS)}")
            found = STEPS[step]()
        else:
            folder, *rest = json.loads(row)
            found = on_a_card(Path(folder), *rest)
        print(json.dumps(found))
        return
    if out is None:
        raise ValueError("give --out FOLDER, for the record.")
    must_be_writable(out, out)
    if size is not None:
        must_be_writable(size, size, "--size")
    print(json.dumps(record(out, virtual=virtual, work=size), indent=1))


def main(arguments: list[str] | None = None) -> int:
    """Run the command and give its exit status."""
    return run_command(_command, "python -m sana_lab.measure.left_behind", arguments)


if __name__ == "__main__":
    sys.exit(main())
