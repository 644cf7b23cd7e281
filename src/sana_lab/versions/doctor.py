"""`doctor()`: looks at the environment it runs in, and says what is wrong and which command mends it.

Two halves. `look()` collects facts: versions and requirements from metadata, GPUs from `nvidia-smi`, and in processes
of their own, since an import may crash, what torch and bitsandbytes say. `diagnose()` judges such facts and touches
nothing, so that it can be tried on environments that nobody has to build.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, files, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from .. import evidence, isolated
from ..checkpoints import Source, resolve
from . import sizes
from .here import installed, nearest
from .stacks import BOOK, LIBRARIES
from .stacks import get as get_stack

if TYPE_CHECKING:
    from ..fitting.planner import Choice

LOWEST = {
    "torch": "2.5",
    "diffusers": "0.32",
    "transformers": "4.47",
    "accelerate": "1.1",
    "bitsandbytes": "0.45",
    "huggingface-hub": "0.27",
}
"""The oldest versions that were measured at all."""

ALL_PINS = "pip install " + " ".join(f"{name}=={number}" for name, number in get_stack(BOOK).pins.items())
"""The command that leads out of any mix: all libraries at once, as this book pins them."""

STOPPING = ("8bit-load-calls-to", "flax-weights-name-import")
"""Entries of the failure catalogue that stop the recipe itself; the others stop something that one may not need."""

RECIPE = ("load-transformer-8bit", "load-encoder-8bit", "load-recipe", "call-balanced")
"""Probes without which nothing in this book runs."""

CAPABILITY = (7, 5)
"""Compute capability that 8-bit products need (bitsandbytes 0.50.2, docs: LLM.int8() from Turing on)."""

FLOAT8 = (8, 9)
"""The same for products of FP8 codes: `sana_lab.float8.UNITS`, which cannot be imported where torch is broken."""

HEADROOM = 1.25
"""What a pipeline needs beside its weights, as a factor, in a precision that `sana_lab.plan` has no way for: a rule of
thumb for a warning, not a measurement."""

SECONDS = 120
"""After this a process that imports torch counts as hanging."""


@dataclass(frozen=True)
class Seen:
    """The facts about an environment.

    Attributes:
        versions: Library -> version, None where it is missing.
        requires: Library -> what its metadata asks for.
        beside: Version of every other distribution that one of the requirements names.
        binaries: Files of bitsandbytes' C library.
        gpus: Name and driver of each NVIDIA GPU that `nvidia-smi` lists.
        device: What `smoke` said about torch and bitsandbytes; empty if it said nothing.
        need: Bytes that the model asked for will hold; None if nobody asked.
        python: Version of Python.
    """

    versions: Mapping[str, str | None]
    requires: Mapping[str, Sequence[str]] = field(default_factory=dict)
    beside: Mapping[str, str] = field(default_factory=dict)
    binaries: Sequence[str] = ()
    gpus: Sequence[tuple[str, str]] = ()
    device: Mapping[str, Any] = field(default_factory=dict)
    need: int | None = None
    python: str = "3.11"


@dataclass(frozen=True)
class Check:
    """One line: `status` is OK, WARN or FAIL, `fix` a command or `""`."""

    status: str
    name: str
    text: str
    fix: str = ""

    def __str__(self) -> str:
        """As it is printed."""
        return f"{self.status:4}  {self.name}: {self.text}" + (f" → {self.fix}" if self.fix else "")


@dataclass(frozen=True)
class Diagnosis:
    """What `doctor()` returns: prints one line a check."""

    checks: Sequence[Check]

    @property
    def failed(self) -> bool:
        """Whether any check says FAIL."""
        return any(check.status == "FAIL" for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """All checks as plain data."""
        return {"failed": self.failed, "checks": [asdict(check) for check in self.checks]}

    def __str__(self) -> str:
        """One line a check."""
        return "\n".join(map(str, self.checks))

    __repr__ = __str__


def doctor(model: str | Path | Source = "shapes", precision: str = "int8") -> Diagnosis:
    """Look at this environment.

    Args:
        model: what `load_sana` takes, such as `"1600M-1024"`. Of a released one nothing is downloaded.
        precision: fp32, bf16, fp16, int8, fp8 or nf4.

    Raises:
        ValueError: there is no such model or precision.

    Chapter 12.
    """
    source = resolve(model)
    return diagnose(look(sizes.recorded(source, precision)), source.name, precision)


# ---- facts ------------------------------------------------------------------------------------------------------


def of_versions() -> list[Check]:
    """The checks of versions alone: each library, their requirements, known failures, the matrix. Imports no torch.

    Chapter 13.
    """
    seen = _installed()
    libraries = [_library(seen, name) for name in LIBRARIES]
    return [_python(seen), *libraries, *_requirements(seen), *_known(seen), *_stack(seen)]


def look(need: int | None = None) -> Seen:
    """The facts about this environment, with the bytes that a model will hold. Most of the time torch is imported."""
    seen = _installed()
    shipped = (files("bitsandbytes") or []) if seen.versions["bitsandbytes"] else []
    return replace(
        seen,
        binaries=sorted(file.name for file in shipped if file.name.startswith("libbitsandbytes_")),
        gpus=_gpus(),
        device=_smoke(),
        need=need,
    )


def _installed() -> Seen:
    """The facts that metadata tells."""
    versions = installed()
    asked = {name: requires(name) or [] for name, number in versions.items() if number is not None}
    beside = {}
    for name in dict.fromkeys(Requirement(line).name for lines in asked.values() for line in lines):
        try:
            beside[name] = version(name)
        except PackageNotFoundError:
            continue
    return Seen(
        versions=versions,
        requires=asked,
        beside=beside,
        python=".".join(map(str, sys.version_info[:3])),
    )


def _gpus() -> list[tuple[str, str]]:
    machine = evidence.this_machine()
    return [(machine["device"], machine["driver"])] * machine["count"] if machine["driver"] else []


def _smoke() -> dict[str, Any]:
    environ = {"HF_HUB_OFFLINE": "1", "PYTHONUTF8": "1"}
    try:
        done = isolated.run(isolated.module(f"{__package__}.smoke"), environ=environ, limit=SECONDS)
    except subprocess.TimeoutExpired:
        return {"torch_error": f"not imported after {SECONDS} seconds"}
    if done.returncode != 0 or not done.stdout.strip():
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return {"torch_error": last[:200]}
    return json.loads(done.stdout)


# ---- judgement --------------------------------------------------------------------------------------------------


def diagnose(seen: Seen, model: str = "shapes", precision: str = "int8") -> Diagnosis:
    """Judge facts. Touches nothing but the record of the matrix and the failure catalogue."""
    checks = [_python(seen), *(_library(seen, name) for name in LIBRARIES)]
    checks += _requirements(seen)
    checks += _known(seen)
    checks += _stack(seen)
    checks += _gpu(seen, precision)
    checks += _bitsandbytes(seen, precision)
    checks += _memory(seen, model, precision)
    return Diagnosis(checks)


def _python(seen: Seen) -> Check:
    if Version(seen.python) < Version("3.11"):
        return Check("FAIL", "python", f"{seen.python}; 3.11 or newer is needed", "python3.11 -m venv .venv")
    return Check("OK", "python", seen.python)


def _library(seen: Seen, name: str) -> Check:
    number, pinned = seen.versions.get(name), get_stack(BOOK).pins[name]
    if number is None:
        return Check("FAIL", name, "not installed", f"pip install {name}=={pinned}")
    if Version(number) < Version(LOWEST[name]):
        fix = f"pip install -U '{name}>={LOWEST[name]}'"
        return Check("WARN", name, f"{number}, older than all that was measured", fix)
    if Version(number).release > Version(pinned).release:
        return Check("OK", name, f"{number}, newer than what was measured ({pinned})")
    return Check("OK", name, number)


def _requirements(seen: Seen) -> list[Check]:
    """What `pip check` does, for these libraries."""
    there = {**seen.beside, **{name: number for name, number in seen.versions.items() if number}}
    there = {name.lower().replace("_", "-"): number for name, number in there.items()}
    unmet = []
    for name, lines in seen.requires.items():
        for line in lines:
            wanted = Requirement(line)
            if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
                continue
            number = there.get(wanted.name.lower().replace("_", "-"))
            if number is None:
                text = f"{name} needs {wanted.name}, which is missing"
                unmet.append(Check("FAIL", "requirements", text, f"pip install '{wanted.name}{wanted.specifier}'"))
            elif not wanted.specifier.contains(number, prereleases=True):
                text = f"{name} {seen.versions[name]} needs {wanted.name}{wanted.specifier}, and {number} is installed"
                unmet.append(Check("FAIL", "requirements", text, ALL_PINS))
    return unmet or [Check("OK", "requirements", "all met")]


def _known(seen: Seen) -> list[Check]:
    """Entries of the failure catalogue that these versions have and newer ones do not."""
    from ..failures import catalogue

    found = []
    for failure in catalogue():
        for ranges in () if failure.elsewhere else failure.affects:  # versions alone do not bring those about
            curable = any("<" in specifier for specifier in ranges.values())
            hit = all(
                seen.versions.get(name) and SpecifierSet(text).contains(seen.versions[name], prereleases=True)
                for name, text in ranges.items()
            )
            if curable and hit and (len(ranges) > 1 or failure.shows == "error"):
                found.append(failure)
                break
    checks = [
        Check("FAIL", "known failure", f"{f.title} ({f.id})", next((x.command for x in f.fixes if x.command), ALL_PINS))
        for f in found
        if f.id in STOPPING
    ]
    rest = [failure.id for failure in found if failure.id not in STOPPING]
    if rest:
        text = f"{len(rest)} that newer versions do not have: {', '.join(rest)}"
        checks.append(Check("WARN", "known failures", text, f"sana-lab failures show {rest[0]}"))
    return checks or [Check("OK", "known failures", "none that newer versions would cure")]


def _stack(seen: Seen) -> list[Check]:
    """What the matrix says about the stack that is nearest."""
    from .matrix import describe, matrix

    if any(seen.versions.get(name) is None for name in LIBRARIES[1:-1]):
        return []
    try:
        found = matrix()
    except ValueError as reason:
        return [Check("WARN", "matrix", str(reason))]
    name, differences = nearest(found, seen.versions)
    fails = [probe for probe in RECIPE if found.verdict(name, probe) == "fails"]
    if fails and not differences:
        text = f"this is stack {name}, on which {fails[0]} fails: {describe(found.outcome(name, fails[0]))[:120]}"
        return [Check("FAIL", "matrix", text, ALL_PINS)]
    if fails:
        text = f"nearest is stack {name}, on which {fails[0]} fails; {', '.join(differences)}"
        return [Check("WARN", "matrix", text, ALL_PINS)]
    if differences:
        return [Check("OK", "matrix", f"nearest is stack {name}, on which the recipe runs; {', '.join(differences)}")]
    return [Check("OK", "matrix", f"this is stack {name}, on which the recipe runs")]


def _gpu(seen: Seen, precision: str) -> list[Check]:
    device = seen.device
    if "torch_error" in device:
        text = f"cannot be imported: {device['torch_error']}"
        return [Check("FAIL", "import", text, "pip install --force-reinstall torch")]
    if not seen.gpus and not device.get("cuda"):
        return [Check("WARN", "gpu", "none that NVIDIA's driver lists: this book uses a virtual one")]
    names = ", ".join(f"{name}, driver {driver}" for name, driver in seen.gpus) or device.get("name", "")
    if not device.get("cuda_build"):
        text = f"{names}; but this torch was built without CUDA"
        return [Check("FAIL", "gpu", text, "pip install --force-reinstall torch")]
    if not device.get("cuda"):
        text = f"{names}; torch, built for CUDA {device['cuda_build']}, cannot use it: the driver is too old, or hidden"
        return [Check("FAIL", "gpu", text, "echo $CUDA_VISIBLE_DEVICES; nvidia-smi")]
    capability = tuple(device.get("capability") or (0, 0))
    text = f"{names or device['name']}, CUDA {device['cuda_build']}, compute capability {capability[0]}.{capability[1]}"
    if capability < CAPABILITY and precision == "int8":
        advice = "sana-lab doctor --precision nf4"
        return [Check("FAIL", "gpu", f"{text}; 8-bit products need 7.5", advice)]
    if capability < FLOAT8 and precision == "fp8":
        return [Check("WARN", "gpu", f"{text}; FP8 products need 8.9, activations=16 keeps the weights alone in FP8")]
    return [Check("OK", "gpu", text)]


def _bitsandbytes(seen: Seen, precision: str) -> list[Check]:
    device, number = seen.device, seen.versions.get("bitsandbytes")
    if number is None or "torch_error" in device:
        return []
    checks = []
    if device.get("cuda"):
        wanted = f"libbitsandbytes_cuda{str(device.get('cuda_build')).replace('.', '')}"
        there = ", ".join(b.removeprefix("libbitsandbytes_").partition(".")[0] for b in seen.binaries)
        exact = any(binary.startswith(wanted) for binary in seen.binaries)
        if exact:
            checks.append(Check("OK", "bitsandbytes binary", wanted))
        elif Version(number) >= Version("0.50") and device.get("binary", "").startswith("libbitsandbytes_cuda"):
            checks.append(Check("OK", "bitsandbytes binary", f"{device['binary']}, the nearest to {wanted}"))
        else:
            text = f"{wanted} is not in {number}, which has {there or 'none'}"
            checks.append(Check("FAIL", "bitsandbytes binary", text, "pip install -U 'bitsandbytes>=0.50'"))
    elif not device.get("binary") and "bitsandbytes_error" not in device:
        checks.append(Check("WARN", "bitsandbytes binary", "none is loaded", "python -m bitsandbytes"))
    place = "GPU" if device.get("cuda") else "CPU"
    error = device.get("product")
    if error is None:
        reason = device.get("bitsandbytes_error", "not tried")
        old = place == "CPU" and Version(number) < Version("0.46")
        fix = "pip install -U 'bitsandbytes>=0.46'" if old else "python -m bitsandbytes"
        status = "WARN" if old else "FAIL"  # a virtual GPU stands in for the kernels that it lacks
        checks.append(Check(status, "8-bit product", f"one layer on the {place} raises {reason}", fix))
    elif error > 0.02:
        text = f"one layer on the {place} is {100 * min(error, 10):.0f} % off the float one"
        checks.append(Check("FAIL", "8-bit product", text, "pip install --force-reinstall bitsandbytes"))
    else:
        checks.append(
            Check("OK", "8-bit product", f"one layer on the {place} is {100 * error:.1f} % off the float one")
        )
    return checks


def _memory(seen: Seen, model: str | Path | Source, precision: str) -> list[Check]:
    if seen.need is None:
        return []
    size = f"{model} in {precision} holds {_gib(seen.need)}"
    free = seen.device.get("free")
    if free is None:
        return [Check("OK", "memory", f"{size}; no GPU to hold it against")]
    text = f"{size}, {_gib(free)} of {_gib(seen.device['total'])} are free"
    if seen.need > free:
        return [Check("FAIL", "memory", *_ways_out(text, model, free))]
    choice = _planned(model, precision, free)
    if choice is None or choice.peak < seen.need:
        hardly, why = seen.need * HEADROOM > free, "a call needs more than the weights"
    else:
        hardly = not choice.fits
        why = f"a picture needs {_gib(choice.peak)} in {choice.where}, more than the weights"
        if choice.decode != "whole":
            text += f" (decode in {choice.decode}: `sana-lab plan --model {model}`)"
    if hardly:
        return [Check("WARN", "memory", *_ways_out(f"{text}, and {why}", model, free))]
    return [Check("OK", "memory", text)]


def _planned(model: str | Path | Source, precision: str, free: int) -> Choice | None:
    """What `sana_lab.plan` says of a precision on a GPU with `free` free bytes; None where it has no way for it."""
    from ..fitting import planner

    try:
        source = resolve(model)
        choices = planner.on_a_card(source, free, "free", planner.own_pixels(source)).choices
    except (ValueError, OSError, ImportError):  # a folder, where torch is broken
        return None
    way = "16-bit" if precision == (source.trained or "bf16") else precision
    return next((choice for choice in choices if choice.way == way), None)


def _ways_out(text: str, model: str | Path | Source, free: int) -> tuple[str, str]:
    """What `sana_lab.plan` says about this many free bytes, after `text`, and the command that shows its code."""
    from ..fitting import planner

    command = f"sana-lab plan --model {model}"
    try:
        source = resolve(model)
        fits = planner.on_a_card(source, free, "free", planner.own_pixels(source)).fits
    except (ValueError, OSError, ImportError):  # a folder, where torch is broken
        return text, command
    if not fits:
        return f"{text}; no way to draw with it fits", command
    first = fits[0]
    return f"{text}; what fits: {first.title} ({_gib(first.peak)} in {first.where})", f"{command} --way {first.way}"


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
