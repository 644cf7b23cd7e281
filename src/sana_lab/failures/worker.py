"""The process in which reproductions and fixes run. Started by `runner`; not for use by hand.

Its request has `cases`, each a number and [id, fix, memory], `jobs`, `limit`, `virtual`, `fork` and `folder`, and it
answers with pairs of a number and an outcome. See `sana_lab.isolated`.
"""

from __future__ import annotations

import ast
import contextlib
import linecache
import os
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from .. import isolated
from .catalogue import get
from .entry import Failure
from .outcome import DIED, TIME_LIMIT, Outcome


def main() -> None:
    """Run what stdin says."""
    isolated.serve(answers)


def answers(wanted: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Run the cases of a request, and give the number and the outcome of each."""
    if wanted["fork"] and not isolated.preload(_libraries, gpus=not wanted["virtual"]):
        raise isolated.CannotFork("CUDA does not survive a fork here")
    folder, limit = wanted.get("folder") or _folder(), wanted["limit"]
    cases = dict(wanted["cases"])
    if wanted["fork"]:
        _prepare([id for id, *_ in cases.values()], wanted["virtual"])
    tasks = [(number, partial(_run, *case, folder, wanted["virtual"], limit)) for number, case in cases.items()]
    ended = isolated.run_each(tasks, limit=limit + isolated.GRACE, jobs=wanted["jobs"], fork=wanted["fork"])
    for number, end in ended:
        yield number, outcome_of(cases[number], end, limit).to_json()


def outcome_of(case: list | tuple, ended: isolated.Ended, limit: float) -> Outcome:
    """What came of a case, given what became of its process."""
    log = [line.rstrip() for line in ended.stderr.splitlines()]
    if ended.how == isolated.DONE:
        log = "\n".join(dict.fromkeys(line for line in log if line))
        return Outcome(*case, log=log, printed=ended.stdout.strip(), **ended.value)
    if ended.how == isolated.LATE:
        return Outcome(*case, error=TIME_LIMIT, message=f"not done after {limit:g} seconds", log=ended.stderr[-2000:])
    return Outcome(*case, error=DIED, message=f"exit status {ended.status}", log=ended.stderr[-2000:])


def _libraries() -> None:
    """Import what reproductions import."""
    import diffusers
    import transformers

    for library, names in (
        (diffusers, ("SanaPipeline", "BitsAndBytesConfig", "PipelineQuantizationConfig")),
        (transformers, ("AutoModel", "AutoModelForCausalLM", "BitsAndBytesConfig", "GemmaTokenizer")),
    ):
        for name in names:
            getattr(library, name)
    import bitsandbytes.nn  # noqa: F401


def _prepare(ids: list[str], virtual: bool | None) -> None:
    """Compute once what each fork would compute anew: the catalogue, and tables of libraries and of the virtual GPU."""
    for id in ids:
        get(id)
    with contextlib.suppress(ImportError, AttributeError):  # as of transformers 5; a quarter of a second
        from transformers.conversion_mapping import get_checkpoint_conversion_mapping

        get_checkpoint_conversion_mapping("gemma2")
    with contextlib.suppress(ImportError):  # diffusers imports it when it loads its first pipeline
        import diffusers.guiders  # noqa: F401
    with contextlib.suppress(ImportError, AttributeError):  # and the schedulers that could take this one's place
        for name in diffusers.DPMSolverMultistepScheduler._compatibles:
            getattr(diffusers, name)
    from .. import accounting  # noqa: F401  (for `devices_of`)

    if virtual:  # otherwise no part of it may be there
        from ..accelerator import schemas, session  # noqa: F401

        schemas.operators()
        schemas.operator("add", "Tensor")


def _folder() -> str:
    from ..shapes.untrained import untrained_shapes

    return str(untrained_shapes())


# ---- one case ---------------------------------------------------------------------------------------------------


def _run(id: str, fix: int | None, memory: int, folder: str, virtual: bool | None, limit: float) -> dict[str, Any]:
    """Run one reproduction or fix in this process, which should not be used afterwards: fields of its outcome."""
    failure = get(id)
    code = failure.code if fix is None else failure.fixes[fix - 1].code
    device = _accelerator(failure, virtual, memory)
    settle = _synchronize if virtual is False and failure.gpus else lambda: None
    with isolated.alarm(limit):
        started = time.perf_counter()
        found = _execute(code, f"<{id}>", {"__name__": "__main__", "FOLDER": folder}, settle)
        seconds = round(time.perf_counter() - started, 3)
    return {"device": device, "seconds": seconds, **found}


def _accelerator(failure: Failure, virtual: bool | None, memory: int) -> str:
    """Give this process the GPUs that the failure needs, and return what they are."""
    if failure.gpus == 0:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        return ""
    import torch

    if failure.vram and not memory:
        virtual = True
    if virtual is False:  # no part of the virtual GPU is imported, so that nothing can come from it
        count, gpu = torch.cuda.device_count(), torch.cuda.get_device_properties(0)
        if count < failure.gpus:
            raise RuntimeError(f"{failure.id} needs {failure.gpus} GPUs, and {count} are visible")
        if memory:
            torch.cuda.set_per_process_memory_fraction(memory / gpu.total_memory)
        return f"{gpu.name}: {count} × {gpu.total_memory / 2**30:.4g} GiB"

    from ..accelerator import use_accelerator

    if virtual is None and torch.cuda.device_count() < failure.gpus:
        virtual = True
    return repr(use_accelerator(failure.gpus, failure.vram or "16GiB", virtual))


def _synchronize() -> None:
    """Wait for the GPUs: a kernel's fault comes to light here, and belongs to the statement that launched it."""
    import torch

    for index in range(torch.cuda.device_count()):
        torch.cuda.synchronize(index)


def _execute(code: str, file: str, namespace: dict[str, Any], settle: Callable[[], None]) -> dict[str, Any]:
    """Run a program statement by statement, looking at where models are before and after each.

    `settle` is called after each statement and may raise what is still under way.
    """
    linecache.cache[file] = (len(code), None, code.splitlines(keepends=True), file)  # so that tracebacks show lines
    before: dict[str, str] = {}
    for statement in ast.parse(code, file).body:
        before = devices_of(namespace)
        try:
            exec(compile(ast.Module([statement], []), file, "exec"), namespace)
            settle()
        except Exception as error:
            return {**_broke(error, file, code, statement.lineno), "before": before, "after": devices_of(namespace)}
    return {"before": before, "after": devices_of(namespace)}


def _broke(error: Exception, file: str, code: str, line: int) -> dict[str, Any]:
    """`line` is that of the statement, for an error that came after it."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = [frame for frame in frames if frame.filename == file]
    theirs = [frame for frame in frames if _library(frame.filename) not in ("", "torch", "sana_lab")]
    deepest = (theirs or inside or frames)[-1]
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__.tb_next))
    return {
        "error": type(error).__name__,
        "kinds": tuple(kind.__name__ for kind in type(error).__mro__),
        "message": str(error),
        "line": code.splitlines()[(inside[-1].lineno if inside else line) - 1].strip(),
        "where": f"{_short(deepest.filename)}:{deepest.lineno} in {deepest.name}",
        "traceback": text,
    }


def _short(file: str) -> str:
    return file.replace("\\", "/").rpartition("/site-packages/")[2].rpartition("/src/")[2]


def _library(file: str) -> str:
    short = _short(file)
    return "" if short.startswith("<") else short.partition("/")[0]


def devices_of(namespace: dict[str, Any]) -> dict[str, str]:
    """The devices of all models among some variables, `{"pipe.vae": "cpu", ...}`; a pipeline counts by component.

    What bitsandbytes keeps beside its weights counts too: in some failures it is all that stayed behind.
    """
    import torch

    from ..accounting import tensors_of

    modules: dict[int, tuple[str, Any]] = {}
    for name, value in namespace.items():
        parts = getattr(value, "components", None)
        if isinstance(parts, dict):
            modules.update({id(part): (f"{name}.{key}", part) for key, part in parts.items()})
        elif isinstance(value, torch.nn.Module):
            modules.setdefault(id(value), (name, value))
    found = {}
    for name, module in modules.values():
        if isinstance(module, torch.nn.Module):
            places = {str(tensor.device) for part in module.modules() for _, tensor, *_ in tensors_of(part)}
            found[name] = ", ".join(sorted(places))
    return found


if __name__ == "__main__":
    main()
