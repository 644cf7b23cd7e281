"""Measures one method on one checkpoint in this process, and writes what it finds to a file.

On a real GPU: bytes and times. On the virtual one: bytes of loading alone; nothing is drawn, and nothing is timed.

Chapters 7 to 9.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..accelerator import on_real_gpu
from ..checkpoints import Source, resolve
from ..evidence import journal
from ..machine import clocks
from .methods import TORCHAO, TUNED, Method, find

if TYPE_CHECKING:
    from diffusers import SanaPipeline

PROMPT = "a small red star above a large blue ring on a white background"
STEPS = 20
WARM_UP = 3
CALLS = 20
COMPILED_SIZES = 2
"""How many of the sizes are drawn in the ways that compile: each is compiled anew."""


def load(model: str | Path | Source, method: Method) -> SanaPipeline:
    """The pipeline that a method asks for, with its weights where the method wants them.

    Raises:
        ValueError, RuntimeError, OSError: as `load_sana`.
        ImportError: torchao is asked for and not installed.
    """
    from ..sana import load_sana

    source = resolve(model)
    precision = method.precision
    if precision == "16-bit":
        precision = source.trained or "bf16"
    pipe = load_sana(source, precision, "cpu" if method.offload else "cuda", slim=method.slim)
    pipe.set_progress_bar_config(disable=True)
    if method.threshold != 6 and precision == "int8":
        set_threshold_(pipe, method.threshold)
    if method.torchao:
        quantize_by_torchao_(pipe, method.torchao)
    if method.offload:
        pipe.enable_model_cpu_offload()
    return pipe


def quantize_by_torchao_(pipe: SanaPipeline, name: str) -> None:
    """Quantize the linear layers and 1x1 convolutions of a transformer's blocks by torchao, in place.

    torchao asks the compiler to try the neighbors of each kernel's tile, in all directions at once (0.18.0,
    quantization/utils.py, `recommended_inductor_config_setter`). That search is switched off again, for this process:
    with it the first picture of the 600M had not come after 190 seconds on an H200; without it, it took 34.

    Args:
        pipe: in 16 bits. For float8 with a scale a row torchao 0.18.0 wants bfloat16, so the transformer becomes that.
        name: key of `sana_lab.measure.methods.TORCHAO`.

    Raises:
        ImportError: it is not installed, or has no such configuration.
    """
    from torch._inductor import config as compiler

    from ..slim import pointwise_as_linear_

    options: dict[str, Any] = {}
    try:
        from torchao import quantization

        config = getattr(quantization, TORCHAO[name])
        if name == "float8":
            options["granularity"] = quantization.PerRow()
    except (ImportError, AttributeError):
        raise ImportError("method torchao wants a library: pip install torchao, or name other methods") from None
    pointwise_as_linear_(pipe.transformer)
    if name == "float8":
        torch.nn.Module.to(pipe.transformer, torch.bfloat16)  # not diffusers' own, which warns of types it keeps
    quantization.quantize_(pipe.transformer.transformer_blocks, config(**options))
    compiler.coordinate_descent_tuning = compiler.coordinate_descent_check_all_directions = False


def set_threshold_(pipe: SanaPipeline, threshold: float) -> None:
    """Change the outlier threshold of every 8-bit layer, in place.

    It is read at each call (bitsandbytes 0.50.2, nn/modules.py and autograd/_functions.py: `state.threshold`), so this
    is the same as loading with `llm_int8_threshold`.
    """
    from ..layers import is_linear_8bit

    for model in (pipe.text_encoder, pipe.transformer):
        for layer in model.modules():
            if is_linear_8bit(layer):
                layer.state.threshold = threshold


def measure(
    model: str | Path | Source,
    name: str,
    sizes: Sequence[tuple[int, int]],
    keep: Callable[[dict], None],
    alone: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> dict[str, Any]:
    """Load, count, and on a real GPU draw and time.

    Args:
        model: what `load_sana` takes.
        name: of a method.
        sizes: (pixels a side, pictures at once) to draw and time.
        keep: called with what is known so far, whenever there is more.
        alone: what is timed is timed inside of it, with nothing else running on the machine.

    Returns:
        `load`: seconds and peak bytes; `resident`: bytes by component and all that the allocator has given out;
        `ways`: a list for each way, with an entry a size, or what went wrong.
    """
    from .. import accounting, use_accelerator

    method = find(name)
    use_accelerator(vram="80GiB")
    for library in ("bitsandbytes", "diffusers", "transformers"):
        logging.getLogger(library).setLevel(logging.ERROR)
    real = on_real_gpu()
    torch.cuda.init()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    pipe = load(model, method)
    torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    gc.collect()
    torch.cuda.empty_cache()
    found: dict[str, Any] = {
        "load": {"seconds": round(seconds, 2) if real else None, "peak": torch.cuda.max_memory_allocated()},
        "resident": {**accounting.components(pipe, granule=512), "allocated": torch.cuda.memory_allocated()},
        "ways": {},
    }
    keep(found)
    if not real:
        return found
    for way in method.ways if sizes else ():
        try:
            with torch.no_grad():
                prepare_(pipe, way, method.activations)
                found["ways"][way] = []
                few = sizes if way in ("eager", "graph") else sizes[:COMPILED_SIZES]
                first = [_first(pipe, pixels, batch) for pixels, batch in few]  # all that compiles, before all timing
                with alone():
                    for i, ((pixels, batch), known) in enumerate(zip(few, first, strict=True)):
                        row = known | _drawing(pipe, method, pixels, batch, pictures=i == 0)
                        found["ways"][way].append(row)
                        keep(found)
        except Exception as error:  # what breaks is a result: the chapter says which combination, and how
            text = " ".join(str(error).split())
            found["ways"][way] = {"error": type(error).__name__, "text": text[:400]}
            keep(found)
            if "illegal memory access" in text or "unspecified launch failure" in text:
                break  # this process has no GPU any more
    return found


def prepare_(pipe: SanaPipeline, way: str, activations: int = 8) -> None:
    """Make all parts of the pipeline run in a way, whatever way they ran before."""
    from ..attention import PromptOnce, cast_once_, prompt_once_
    from ..fast import (
        Captured,
        FusedFeedForward,
        capture_,
        capture_decoder_,
        compile_,
        fuse_,
        weights_only_,
    )

    for model in (pipe.transformer, pipe.text_encoder):
        if isinstance(model.forward, PromptOnce):
            model.forward = model.forward.step
        if isinstance(model.forward, Captured):
            model.forward = model.forward.function
    if isinstance(pipe.vae.decode, Captured):
        pipe.vae.decode = pipe.vae.decode.function
    fused = any(isinstance(layer, FusedFeedForward) for layer in pipe.transformer.modules())
    if way in ("fused", "tuned") and not fused:
        fuse_(pipe.transformer, activations)
        weights_only_(pipe.text_encoder)
    if way == "compiled-eager":  # how many columns are outliers is known when they are found
        torch._dynamo.config.capture_dynamic_output_shape_ops = True
    if way in ("compiled-eager", "compiled", "fused", "tuned"):
        compile_(pipe.transformer, **({"options": TUNED[way]} if way in TUNED else {}))
    if way not in ("eager", "compiled-eager"):
        capture_(prompt_once_(pipe.transformer))
        cast_once_(pipe)
        capture_(pipe.text_encoder)
        capture_decoder_(pipe.vae)


def _call(pipe: SanaPipeline, pixels: int, batch: int, steps: int) -> None:
    pipe(
        [PROMPT] * batch,
        height=pixels,
        width=pixels,
        num_inference_steps=steps,
        use_resolution_binning=False,
        generator=[torch.Generator().manual_seed(i) for i in range(batch)],
    )
    torch.cuda.synchronize()


def _first(pipe: SanaPipeline, pixels: int, batch: int) -> dict[str, Any]:
    """Seconds of the first picture of a size, in which libraries and compilers make up their mind."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    _call(pipe, pixels, batch, 2)
    return {"pixels": pixels, "batch": batch, "first_s": round(time.perf_counter() - began, 2)}


def _drawing(pipe: SanaPipeline, method: Method, pixels: int, batch: int, pictures: bool) -> dict[str, Any]:
    """Times and peak of drawing `batch` pictures of `pixels` a side; of whole pictures only where asked.

    With guidance, which all of them have, a batch of n pictures is one of 2 n in the transformer.
    """
    row: dict[str, Any] = {"rows": 2 * batch}
    torch.cuda.reset_peak_memory_stats()
    _call(pipe, pixels, batch, 1)
    row["peak"] = torch.cuda.max_memory_allocated()
    if pictures or method.offload:
        seconds = []
        for _ in range(3):
            began = time.perf_counter()
            _call(pipe, pixels, batch, STEPS)
            seconds.append(round(time.perf_counter() - began, 4))
        row |= {"picture_s": sorted(seconds), "steps": STEPS}
    if method.offload:
        return row
    inputs = step_inputs(pipe, pixels, batch)
    with Clocks() as during:
        row["step_ms"] = timed(lambda: pipe.transformer(**inputs), CALLS)
    row["clocks"] = during.found
    latents = torch.randn(batch, 32, pixels // 32, pixels // 32, device="cuda", dtype=pipe.vae.dtype)
    row["encode_ms"] = timed(lambda: pipe.encode_prompt([PROMPT] * batch), 10)
    row["decode_ms"] = timed(lambda: pipe.vae.decode(latents, return_dict=False), 10)
    if pictures:
        row["kernels"] = kernels(lambda: pipe.transformer(**inputs))
    return row


class Clocks:
    """Clocks of the GPU while the block runs: `found` is [processors, memory] in MHz, the lowest that were seen.

    They are asked once at the beginning of the block and then, in a thread, until it ends; an answer takes some tens of
    milliseconds. None where the driver does not tell.
    """

    def __init__(self) -> None:
        """Nothing is known yet."""
        self.found: list[int] | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, args=(torch.cuda.current_device(),), daemon=True)

    def _watch(self, index: int) -> None:
        while not self._over.is_set():
            now = clocks(index)
            if now is not None:
                self.found = now if self.found is None else [min(pair) for pair in zip(self.found, now, strict=True)]
            self._over.wait(0.05)

    def __enter__(self) -> Clocks:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """End; the last answer is waited for."""
        self._over.set()
        self._thread.join()


def step_inputs(pipe: SanaPipeline, pixels: int, batch: int) -> dict[str, Any]:
    """What the pipeline gives its transformer at a step: both halves of guidance, in the transformer's type."""
    dtype = pipe.transformer.patch_embed.proj.weight.dtype
    embeds, mask, negative, negative_mask = pipe.encode_prompt([PROMPT] * batch)
    noise = torch.randn(2 * batch, 32, pixels // 32, pixels // 32, generator=torch.Generator().manual_seed(0))
    return {
        "hidden_states": noise.to("cuda", dtype),
        "encoder_hidden_states": torch.cat([negative, embeds]).to(dtype),
        "encoder_attention_mask": torch.cat([negative_mask, mask]),
        "timestep": torch.full((2 * batch,), 500.0, device="cuda"),
        "return_dict": False,
    }


def timed(function: Callable[[], object], calls: int) -> dict[str, float]:
    """Milliseconds of a call among others, after `WARM_UP`: median, quartiles, extremes, number of calls.

    The calls follow each other as the steps of a picture do, from the end of one to the end of the next by CUDA events:
    Python prepares a call while the GPU is busy with the one before, and counts only where it takes longer.
    """
    for _ in range(WARM_UP):
        function()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(calls + 1)]
    marks[0].record()
    for mark in marks[1:]:
        function()
        mark.record()
    torch.cuda.synchronize()
    found = [before.elapsed_time(after) for before, after in pairwise(marks)]
    low, _, high = statistics.quantiles(found, n=4)
    spread = {"median": statistics.median(found), "q1": low, "q3": high, "min": min(found), "max": max(found)}
    return {name: round(value, 3) for name, value in spread.items()} | {"n": calls}


def kernels(function: Callable[[], object]) -> dict[str, Any]:
    """What the GPU does in one call: kernels started, milliseconds busy, and the twelve that take longest."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        function()
        torch.cuda.synchronize()
    rows = [
        (event.key, event.count, event.device_time_total / 1e3)
        for event in profiler.key_averages()
        if not event.key.startswith("cuda") and event.device_time_total > 0
    ]
    rows.sort(key=lambda row: -row[2])
    return {
        "started": sum(count for _, count, _ in rows),
        "busy_ms": round(sum(ms for _, _, ms in rows), 3),
        "longest": [[key[:100], count, round(ms, 3)] for key, count, ms in rows[:12]],
    }


@contextmanager
def _turn(file: Path | None) -> Iterator[None]:
    """Wait until no other worker holds `file`, and hold it."""
    if file is None:
        yield
        return
    import fcntl

    with file.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


class Quiet:
    """Lets many workers of a machine load and compile at once, and one time alone, while none of the others works.

    Args:
        file: that all of them lock, shared while they work and alone while they time; None for no lock.
    """

    def __init__(self, file: Path | None) -> None:
        """Lock nothing yet."""
        self.file = None if file is None else file.open("w")

    def _lock(self, kind: str) -> None:
        if self.file is not None:
            import fcntl

            fcntl.flock(self.file, getattr(fcntl, kind))

    @contextmanager
    def working(self) -> Iterator[None]:
        """Nothing is timed meanwhile."""
        self._lock("LOCK_SH")
        try:
            yield
        finally:
            self._lock("LOCK_UN")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Inside of `working`: wait until all others wait or have ended."""
        self._lock("LOCK_EX")
        try:
            yield
        finally:
            self._lock("LOCK_SH")


def take_cores(part: int, parts: int) -> None:
    """Keep this process, and all that it starts, to one of so many equal parts of the cores it may use (Linux).

    Args:
        part: which, from 0.
        parts: how many.
    """
    if hasattr(os, "sched_setaffinity"):
        mine = sorted(os.sched_getaffinity(0))
        size = max(1, len(mine) // parts)
        os.sched_setaffinity(0, mine[part * size : (part + 1) * size] or mine)


def main(arguments: list[str] | None = None) -> None:
    """Measure and write; what goes wrong before anything is known becomes the result."""
    parser = argparse.ArgumentParser(prog="python -m sana_lab.measure.worker", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("method")
    parser.add_argument("out", type=Path)
    parser.add_argument("--sizes", default="", help="such as 512x1,1024x4: pixels a side, pictures at once")
    parser.add_argument("--turn", type=Path, help="a file that one worker at a time holds while it uses the GPU")
    parser.add_argument("--quiet", type=Path, help="a file that workers of one machine lock, see Quiet")
    parser.add_argument(
        "--share", help="such as 0/2: run on the first half of the cores, beside the other half's worker"
    )
    given = parser.parse_args(arguments)
    if given.share:
        take_cores(*map(int, given.share.split("/")))
    sizes = [tuple(map(int, size.split("x"))) for size in given.sizes.split(",") if size]

    def keep(found: dict) -> None:
        journal.write_json(given.out, found)

    quiet = Quiet(given.quiet)
    with quiet.working():
        import diffusers.pipelines.sana  # noqa: F401  before its turn: importing takes seconds and no GPU
        import transformers.models.gemma2  # noqa: F401

    try:
        with _turn(given.turn), quiet.working():
            found = measure(given.folder, given.method, sizes, keep, quiet.alone)
            found["alone"] = not given.share
            keep(found | {"sizes": sizes, "complete": True})
    except Exception as error:
        if not given.out.exists():
            text = " ".join(str(error).split())[:400]
            keep({"error": type(error).__name__, "text": text})
        raise


if __name__ == "__main__":
    main()
