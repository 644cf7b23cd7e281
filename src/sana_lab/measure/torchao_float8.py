"""FP8 by the library: what torchao's float8 with a scale a row does to a Sana transformer, each way in a process.

    python -m sana_lab.measure.torchao_float8 --out FOLDER        the Shapes model; stores the record `torchao_float8`

Three ways: diffusers' `TorchAoConfig` while loading, torchao's `quantize_` on the loaded model, and the same after the
1x1 convolutions became linear layers. Each way has a limit of its own, and what breaks is a result.

Chapter 8.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import evidence, isolated
from ..commandline import SECONDS, run_command
from ..evidence.journal import must_be_writable

if TYPE_CHECKING:
    from torch import Tensor, nn

RECORD = "torchao_float8"
MODULE = "sana_lab.measure.torchao_float8"
ROUTES = {
    "config": "from_pretrained with diffusers' TorchAoConfig",
    "quantize_": "torchao's quantize_ on the loaded transformer",
    "pointwise": "the same, after the 1x1 convolutions became linear layers",
}
OLDEST = "0.15"
"""The first torchao that diffusers 0.42.1 takes (quantizers/torchao/torchao_quantizer.py, `validate_environment`)."""


NOT_DONE = {"error": "Unfinished", "text": "it was stopped before all was measured"}
"""Of what is compiled, until it is."""


def configuration() -> Any:
    """FP8 of torchao's, with a scale a row, for weights and inputs.

    Raises:
        ImportError: torchao is missing or too old.

    Chapter 8.
    """
    try:
        from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow
    except ImportError:
        raise ImportError(f"torchao is missing or too old: pip install 'torchao>={OLDEST}', or use fp8.") from None
    return Float8DynamicActivationFloat8WeightConfig(granularity=PerRow())


def transformer(folder: Path, route: str, dtype: Any = None) -> nn.Module:
    """The transformer of a pipeline, in FP8 by a way of `ROUTES`, on the GPU.

    Args:
        folder: of a pipeline.
        route: key of `ROUTES`.
        dtype: of the weights before; bfloat16 by default, the only one that torchao's scales a row are for.

    Raises:
        ValueError: the way is unknown.
        ImportError: torchao is missing or too old.
    """
    import torch
    from diffusers import SanaTransformer2DModel, TorchAoConfig

    from ..slim import pointwise_as_linear_

    if route not in ROUTES:
        raise ValueError(f"route {route!r} is unknown: choose from {', '.join(ROUTES)}.")
    options = {"subfolder": "transformer", "dtype": dtype or torch.bfloat16}
    wanted = configuration()
    if route == "config":
        config = TorchAoConfig(wanted)
        return SanaTransformer2DModel.from_pretrained(folder, quantization_config=config, **options).to("cuda")
    from torchao.quantization import quantize_

    model = SanaTransformer2DModel.from_pretrained(folder, **options).to("cuda")
    quantize_(pointwise_as_linear_(model) if route == "pointwise" else model, wanted)
    return model


def measure(
    folder: Path, route: str, compiled: bool = True, keep: Callable[[dict[str, Any]], object] = lambda found: None
) -> dict[str, Any]:
    """What became of the layers, what a step keeps of the signal, and how long it takes on a real GPU.

    Args:
        folder: of a pipeline.
        route: key of `ROUTES`.
        compiled: whether to compile as well, on a real GPU.
        keep: called with what is known before that.

    Returns:
        `layers`: class and class of the weight, with their number; `db`: a step against bfloat16; `first_s` and
        `step_ms`, eager; `compiled`: the same compiled, or what went wrong.
    """
    import torch
    from diffusers import SanaTransformer2DModel

    from ..accelerator import on_real_gpu, use_accelerator

    use_accelerator()
    exact = SanaTransformer2DModel.from_pretrained(folder, subfolder="transformer", dtype=torch.bfloat16).to("cuda")
    given = inputs(exact)
    with torch.no_grad():
        before = exact(**given)[0].float().cpu()
        model = transformer(folder, route)
        kinds = Counter(f"{type(layer).__name__} {type(layer.weight.data).__name__}" for layer in _with_weight(model))
        found: dict[str, Any] = {"layers": dict(kinds.most_common())}
        found |= _timed(lambda: model(**given)[0], before)
        if compiled and on_real_gpu():
            keep(found | {"compiled": NOT_DONE})
            try:
                for block in model.transformer_blocks:
                    block.compile(fullgraph=True, dynamic=False)
                found["compiled"] = _timed(lambda: model(**given)[0], before)
            except Exception as error:
                found["compiled"] = {"error": type(error).__name__, "text": " ".join(str(error).split())[:400]}
    return found


def inputs(model: nn.Module) -> dict[str, Any]:
    """A step's input, both halves of guidance of two pictures, in the model's type."""
    import torch

    config, kind = model.config, next(model.parameters()).dtype
    noise = torch.Generator().manual_seed(0)
    side = config.sample_size
    return {
        "hidden_states": torch.randn(4, config.in_channels, side, side, generator=noise).to("cuda", kind),
        "encoder_hidden_states": torch.randn(4, 32, config.caption_channels, generator=noise).to("cuda", kind),
        "timestep": torch.full((4,), 500.0, device="cuda"),
        "return_dict": False,
    }


def _with_weight(model: nn.Module) -> list[nn.Module]:
    return [layer for layer in model.modules() if layer._parameters.get("weight") is not None]


def _timed(step: Any, before: Tensor) -> dict[str, Any]:
    """Seconds of the first call, milliseconds of later ones, and decibels against `before`."""
    import torch

    began = time.perf_counter()
    out = step().float().cpu()
    first = time.perf_counter() - began
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(5):
        step()
    torch.cuda.synchronize()
    ratio = before.square().sum() / (out - before).square().sum()
    return {
        "db": round(10 * ratio.log10().item(), 2),
        "first_s": round(first, 2),
        "step_ms": round((time.perf_counter() - began) / 5 * 1000, 3),
    }


def record(model: str = "shapes", *, limit: float = 120, folder: Path = evidence.FOLDER) -> Path:
    """Measure each way in a process of its own, and store the record `torchao_float8`.

    Args:
        model: what `sana_lab.checkpoints.resolve` takes.
        limit: seconds for each way.
        folder: where to write.

    Returns:
        The file written.

    Raises:
        ValueError: the model is unknown.
        ImportError: torchao is missing or too old.
        OSError: the folder cannot be written.
    """
    from ..checkpoints import resolve

    source = resolve(model)
    configuration()
    found = {}
    for route in ROUTES:
        began = time.monotonic()
        found[route] = {"way": ROUTES[route], **_of_a_process(source.folder, route, limit)}
        found[route]["seconds"] = round(time.monotonic() - began, 1)
    return evidence.save(
        RECORD,
        what="What torchao's float8 with a scale a row makes of a Sana transformer, by three ways",
        command=f"python -m {MODULE} --model {source.name}",
        results={"model": source.name, "routes": found},
        versions=evidence.installed_versions("torchao"),
        seed=0,
        folder=folder,
    )


def _of_a_process(folder: Path, route: str, limit: float) -> dict[str, Any]:
    import subprocess
    from tempfile import TemporaryFile

    ended: dict[str, Any] = {}
    # Files and no pipes: a compiler's own processes would keep a pipe open when this one is ended.
    with TemporaryFile("w+", encoding="utf-8") as out, TemporaryFile("w+", encoding="utf-8") as err:
        command = isolated.module(MODULE, "--route", route, "--model", str(folder))
        process = isolated.start(command, stdout=out, stderr=err)
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            ended = {"error": "TimeoutExpired", "text": f"no result within {limit:g} seconds"}
        finally:
            isolated.end(process)
        out.seek(0)
        err.seek(0)
        said, wrong = out.read(), err.read()
    notes = sorted({" ".join(line.split())[:200] for line in wrong.splitlines() if "torchao" in line.lower()})
    if not ended:
        last = (wrong.strip().splitlines() or ["no word"])[-1]
        ended = {"error": last.partition(":")[0][:60], "text": last[:400], "notes": notes[:5]}
    for line in reversed(said.splitlines()):
        if line.startswith("{"):
            found = json.loads(line) | {"notes": notes[:5]}
            return found | ({"compiled": ended} if found.get("compiled") == NOT_DONE else {})
    return ended


def record_command(
    model: Annotated[str, typer.Option(help="A name or a folder.")] = "shapes",
    limit: Annotated[float, typer.Option(help="Seconds for each way.", callback=SECONDS)] = 120,
    route: Annotated[str | None, typer.Option(help="Measure this way alone, in this process, and print it.")] = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="For the record.")] = evidence.FOLDER,
) -> None:
    """What does torchao's float8 make of a Sana transformer? Measure, and store the record torchao_float8."""
    if route is not None:
        from ..checkpoints import resolve

        def say(found: dict[str, Any]) -> None:
            print(json.dumps(found), flush=True)

        say(measure(resolve(model).folder, route, keep=say))
    else:
        must_be_writable(out, out)
        print(record(model, limit=limit, folder=out))


def main(arguments: list[str] | None = None) -> int:
    """Run the command and give its exit status."""
    return run_command(record_command, f"python -m {MODULE}", arguments)


if __name__ == "__main__":
    sys.exit(main())
