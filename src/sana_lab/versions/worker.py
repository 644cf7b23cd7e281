"""The process in which probes run: started by `runner` with the Python of a stack's environment, not by hand.

Its request has `probes`, `folder`, `older` (the same in older words), `trained` and `virtual`. It answers with the
versions that this environment really has, then with one object for each probe. See `sana_lab.isolated`.
"""

from __future__ import annotations

import os
import platform
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator
from importlib.metadata import distributions

from .. import isolated
from ..messages import without_folders
from .probes import PROBES, Probe
from .stacks import LIBRARIES

WORDS = 300
"""Letters of a message that are kept."""

PATIENCE = 6
"""A probe may compute for as long as its limit says, and take so many times as long by the clock: a machine with other
work to do must not turn a slow probe into one that hangs."""


def main() -> None:
    """Run what stdin says."""
    isolated.serve(answers)


def answers(wanted: dict) -> Iterator[dict]:
    """What is installed, then the outcome of each probe of a request."""
    yield installed()
    if not isolated.preload(_libraries):
        print("CUDA does not survive a fork here: each probe imports by itself", file=sys.stderr)
    for id in wanted["probes"]:
        yield {"probe": id, **_in_a_fork(PROBES[id], wanted)}


def installed(path: list[str] | None = None) -> dict:
    """Every distribution of this environment with its version, as `importlib.metadata` reads it.

    Args:
        path: folders to look in, in this order; `sys.path` by default.
    """
    found: dict[str, str] = {}
    for d in distributions() if path is None else distributions(path=path):
        if d.name:
            found.setdefault(d.name.lower().replace("_", "-"), d.version)  # the first on the path is what is imported
    return {
        "python": platform.python_version(),
        "resolved": {name: found.get(name) for name in LIBRARIES},
        "beside": {name: number for name, number in sorted(found.items()) if name not in LIBRARIES},
    }


def _libraries() -> None:
    """Import what probes import, as far as it can be imported; what cannot fails again in the probe, and says so."""
    for module, names in (
        ("torch", ()),
        ("diffusers", ("SanaPipeline", "BitsAndBytesConfig", "SanaTransformer2DModel")),
        ("transformers", ("AutoModel", "Gemma2Model", "BitsAndBytesConfig")),
        ("bitsandbytes", ()),
    ):
        try:
            library = __import__(module)
            for name in names:
                getattr(library, name)
        except Exception as error:
            print(f"{module}: {type(error).__name__}: {error}", file=sys.stderr)


def _in_a_fork(probe: Probe, wanted: dict) -> dict:
    """The outcome of a probe that runs in a fork: what it returned or raised, or that it hung or died."""
    if probe.trained and not wanted["trained"]:
        return {"kind": "skipped", "words": "needs the trained weights"}
    ((_, ended),) = isolated.run_each(
        [(probe.id, lambda: _run(probe, wanted))],
        limit=PATIENCE * probe.limit,
        processor=probe.limit,
        one_file=True,
    )
    if ended.how == isolated.LATE:
        return {"kind": "hangs", "words": f"not done after {probe.limit:g} seconds"}
    if ended.how == isolated.DIED:
        return {"kind": "dies", "words": f"the process ended with status {ended.status}"}
    outcome, lines = ended.value, ended.stdout.splitlines()
    seen = [_clean(line, wanted) for line in lines if probe.watch and re.search(probe.watch, line)]
    if outcome["kind"] == "runs" and seen:
        outcome["warns"] = seen[0]
    return outcome


def _run(probe: Probe, wanted: dict) -> dict:
    """Run a probe in this process: its value, or its exception with the words cleaned."""
    import inspect

    warnings.simplefilter("default")
    given = {"FOLDER": wanted["folder"] if _new_words() else wanted["older"], "AS_WRITTEN": wanted["folder"]}
    arguments = [given[name] for name in inspect.signature(probe.function).parameters]
    try:
        _quiet()
        _accelerator(wanted["virtual"])
        value = probe.function(*arguments)
    except Exception as error:
        return {"kind": "raises", "error": type(error).__name__, "words": _clean(str(error), wanted)}
    return {"kind": "runs", "value": _clean(str(value), wanted)}


def _new_words() -> bool:
    """Whether transformers reads the folder as transformers 5 wrote it."""
    from importlib.metadata import version

    try:
        return int(version("transformers").split(".")[0]) >= 5
    except Exception:
        return False


def _quiet() -> None:
    """No loading bars: they are no log lines."""
    os.environ["TQDM_DISABLE"] = "1"


def _accelerator(virtual: bool | None) -> None:
    from ..accelerator import use_accelerator

    if use_accelerator(virtual=virtual).virtual:
        _quick_integers()


def _quick_integers() -> None:
    """Let `torch._int_mm` compute in float64, in which its sums are exact: the same numbers, an eighth of the time.

    bitsandbytes 0.46 to 0.49 multiplies with it (backends/cpu/ops.py), and on a processor without AVX-512 torch 2.9.1
    takes 0.3 s for a layer of the Shapes model.
    """
    import torch

    def product(a: torch.Tensor, b: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
        sums = (a.double() @ b.double()).to(torch.int32)
        return sums if out is None else out.copy_(sums)

    torch._int_mm = product


def _clean(text: str, wanted: dict) -> str:
    """A message in one line, shortened, without what differs from run to run: folders and addresses."""
    for folder in (wanted["older"], wanted["folder"]):
        text = text.replace(folder, "FOLDER")
    text = without_folders(text)
    for place in sorted(filter(None, sys.path), key=len, reverse=True):
        text = text.replace(f"{place}/", "")
    text = re.sub(re.escape(tempfile.gettempdir()) + r"/\w+", "FOLDER", text)
    text = re.sub(r"0x[0-9a-f]{6,}", "0x…", text)
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    text = " ".join(text.split())
    # Libraries that load lazily wrap an error in one more sentence for each module on the way.
    text = re.sub(r"Failed to import \S+ because of the following error \(look up to see its traceback\): ", "", text)
    return text if len(text) <= WORDS else text[:WORDS].rsplit(" ", 1)[0] + " …"


if __name__ == "__main__":
    main()
