"""Follows a pipeline from stage to stage, by hooks on its parts that are taken back whatever happens.

At the begin of a stage, and at each call of its component, the allocator's own counters are read. They cost
microseconds and wait for nothing: memory is given out by the host, ahead of the GPU. What the driver says is asked once
a stage.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from ..accelerator.ledger import tensors_in
from ..accounting import tensors_of
from . import scrape
from .live import Line, shown_by_default
from .panel import Panel, Stopped, kernel_here
from .stages import Peak, Stage, in_words, most, sentence, table

if TYPE_CHECKING:
    import pandas as pd

P = TypeVar("P")

STAGES = {
    "text_encoder": "encode",
    "text_encoder_2": "encode",
    "transformer": "steps",
    "unet": "steps",
    "vae": "decode",
}
"""Which stage begins when a component is called. Any other is a stage under its own name."""

KEPT = 4096
"""How many rows are kept: a service that draws for weeks must not fill memory with what it has seen."""

_NOTICED = 2**20
"""Bytes by which memory must differ between two calls for the weights to be counted anew."""

_OF_A_CALL = ("encode", "steps", "decode")


class Memory:
    """What `memory` returns: a context manager, and afterwards what was seen.

    Attributes:
        stages: a `Stage` for each stage of each call, the oldest first.
        calls: calls of the pipeline that went to their end.
        failures: calls that did not.
        stopped: whether the button ended the block.

    Chapter 13.
    """

    def __init__(
        self,
        pipe: Any = None,
        *,
        deep: bool = False,
        live: bool | None = None,
        stop: bool = False,
        log: str | os.PathLike | None = None,
        every: Callable[[Stage], object] | None = None,
    ):
        """See `memory`."""
        self._kept: deque[Stage] = deque(maxlen=KEPT)
        self.calls = self.failures = 0
        self._deep, self._live, self._stop, self._every = deep, True if stop else live, stop, every
        self.stopped = False
        self._log = Path(log) if log is not None else None
        self._to_watch = pipe
        self._pipe: Any = None
        self._models: dict[str, nn.Module] = {}
        self._undo: list[Callable[[], object]] = []
        self._open = False
        self._error = ""
        self._call, self._stage = 0, ""
        self._line: Line | Panel = Line(False)

    # ---- the block ----

    def __enter__(self) -> Memory:
        """Begin. Peak counters of the watched GPUs start anew at each stage.

        Raises:
            RuntimeError: it is open already.
            TypeError: the pipeline has no models.
            OSError: the log cannot be written.
        """
        if self._open:
            raise RuntimeError("this monitor is open already: make another with sana_lab.memory(pipe)")
        if self._log is not None:
            try:
                self._log.parent.mkdir(parents=True, exist_ok=True)
                with self._log.open("a"):
                    pass
            except OSError as error:
                raise OSError(
                    f"log={str(self._log)!r} cannot be written ({error.strerror}): give another file"
                ) from None
        kernel = kernel_here() if self._stop else None
        self._line = Panel(kernel) if kernel else Line(shown_by_default() if self._live is None else self._live)
        self._devices = _devices({})
        self._open, self._error = True, ""
        self._weigh()
        self._begin("load" if self._to_watch is None else "before")
        try:
            if self._to_watch is not None:
                self.watch(self._to_watch)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        """End: the last stage is noted, all hooks are taken back."""
        if kind is not None:
            self._error = kind.__name__
        if kind is Stopped:
            self.stopped = True
            with contextlib.suppress(Exception):  # offloaded parts go back, as after a call that went to its end
                self._pipe.maybe_free_model_hooks()
        self._finish_call(kind is not None)
        self._close()

    def watch(self, pipe: P) -> P:
        """Follow a pipeline that was loaded inside of the block, and return it.

        Args:
            pipe: a diffusers pipeline. The one watched before is let go.

        Raises:
            TypeError: it has no models.
            RuntimeError: the block has not begun, or is over.
        """
        if not self._open:
            raise RuntimeError("watch(pipe) goes inside of `with sana_lab.memory() as m:`")
        components = getattr(pipe, "components", None)
        models = {name: part for name, part in (components or {}).items() if isinstance(part, nn.Module)}
        if not models:
            raise TypeError(f"memory needs a diffusers pipeline with models in it, got {type(pipe).__name__}")
        self._take_back()
        self._pipe, self._models = pipe, models
        if self._stage == "load":
            self._end_stage()
            self._begin("before")
        self._devices = _devices(models, getattr(pipe, "_execution_device", None))
        self._weigh()
        self._base()
        for name, model in models.items():
            self._hook(name, model, STAGES.get(name, name))
        return pipe

    def done(self, *, failed: bool = False) -> None:
        """Say that a call of the pipeline is over, for a block that goes on: its last stage is noted now.

        Args:
            failed: it ended with an exception.
        """
        if self._open and self._stage in _OF_A_CALL:
            self._finish_call(failed)
            self._begin("before")

    # ---- what was seen ----

    @property
    def open(self) -> bool:
        """Whether the block has begun and is not over."""
        return self._open

    @property
    def stage(self) -> str:
        """The stage at hand; "" before the block."""
        return self._stage

    @property
    def last(self) -> list[Stage]:
        """The rows of the last call, and of what came before the first."""
        return [one for one in self._kept if one.call == self._call]

    @property
    def stages(self) -> list[Stage]:
        """All rows that are kept, the oldest first."""
        return list(self._kept)

    @property
    def peak(self) -> Stage | None:
        """The row with the most allocated."""
        return most(self.stages)

    @property
    def table(self) -> pd.DataFrame:
        """A row for each stage and device, in MiB and seconds."""
        return table(self.stages)

    def json_lines(self) -> str:
        """A line of JSON for each row."""
        return "".join(json.dumps(one.to_json()) + "\n" for one in self._kept)

    def prometheus(self) -> str:
        """The numbers of the last call as Prometheus reads them.

        Raises:
            ImportError: prometheus-client is not installed.
        """
        return scrape.text(self.stages, self.calls, self.failures)

    def __repr__(self) -> str:
        """The table and a sentence."""
        text = self.table.to_string() if self._kept else ""
        return f"{text}\n{sentence(self.stages, self._error)}".lstrip()

    def _repr_html_(self) -> str:
        text = self.table.to_html() if self._kept else ""
        return f"{text}<p>{sentence(self.stages, self._error)}</p>"

    # ---- hooks ----

    def _hook(self, name: str, model: nn.Module, stage: str) -> None:
        """Notice each call of a component, which begins a stage; in a deep watch each call of its modules, too."""

        def called(*_: Any) -> None:
            self._enter_stage(stage)

        if stage == "decode":  # a method, and no call of the module
            self._wrap(model, "decode", called)
        else:
            handle = model.register_forward_pre_hook(called, prepend=True)  # an error in another hook is its stage's
            self._undo.append(handle.remove)
        if self._deep:
            for inner, module in model.named_modules():
                handle = module.register_forward_hook(self._after(name, inner))
                self._undo.append(handle.remove)

    def _wrap(self, model: nn.Module, method: str, before: Callable[[], None]) -> None:
        """Call `before` at each call of a method of this model, until the watch ends."""
        inner = getattr(model, method, None)
        if inner is None:
            return
        own = method in vars(model)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            before()
            return inner(*args, **kwargs)

        vars(model)[method] = wrapped

        def back() -> None:
            if vars(model).get(method) is wrapped:
                if own:
                    vars(model)[method] = inner
                else:
                    del vars(model)[method]

        self._undo.append(back)

    def _after(self, component: str, inner: str) -> Callable[..., None]:
        def noted(module: nn.Module, given: tuple, result: Any) -> None:
            for device in self._devices:
                now = _counters(device)[0]
                if now > self._high[device]:
                    self._high[device] = now
                    sizes = sorted(map(_told, tensors_in((given, result))), key=lambda one: -one[2])
                    self._at[device] = Peak(component, inner, type(module).__name__, tuple(sizes[:3]))

        return noted

    def _take_back(self) -> None:
        while self._undo:
            with contextlib.suppress(Exception):  # what one hook cannot undo must not keep the others
                self._undo.pop()()

    def _close(self) -> None:
        self._take_back()
        self._open = False
        self._models, self._pipe, self._to_watch = {}, None, None  # what was seen must not keep the pipeline
        self._line.end()

    # ---- stages ----

    def _enter_stage(self, stage: str) -> None:
        """A component is called: the stage before is over if this is another one.

        Raises:
            Stopped: the button was pressed.
        """
        if stage == self._stage:
            self._look()
        else:
            new = stage in _OF_A_CALL and self._is_new_call(stage)
            if new:
                self._finish_call(False)
                self._call += 1
            else:
                self._end_stage()
            self._begin(stage, weigh=new and self._changed())
        if getattr(self._line, "asked", False):
            raise Stopped(
                f"stopped by the button, before call {self._steps + 1} of {stage}: the pipeline can draw again"
            )
        self._steps += 1
        if self._line.wants():
            self._line.say(self._now())

    def _is_new_call(self, stage: str) -> bool:
        """Whether a stage is the first of a call: an earlier one than the last, or the first after loading."""
        if self._stage not in _OF_A_CALL:
            return True
        return _OF_A_CALL.index(stage) < _OF_A_CALL.index(self._stage)

    def _finish_call(self, failed: bool) -> None:
        in_call = self._stage in _OF_A_CALL
        self._end_stage()
        if in_call:
            if failed:
                self.failures += 1
            else:
                self.calls += 1

    def _begin(self, stage: str, weigh: bool = False) -> None:
        self._stage, self._steps = stage, 0
        if weigh:
            self._weigh()
        self._base()

    def _base(self) -> None:
        """Counters and clock start anew."""
        self._since = time.perf_counter()
        self._most = {device: [0, 0] for device in self._devices}
        self._high = dict.fromkeys(self._devices, 0)
        self._at: dict[str, Peak] = {}
        for device in self._devices:
            if device != "cpu":
                torch.cuda.reset_peak_memory_stats(device)

    def _look(self) -> None:
        for device, row in self._most.items():
            allocated, reserved = _counters(device)
            row[0], row[1] = max(row[0], allocated), max(row[1], reserved)

    def _end_stage(self) -> None:
        """Add a row for the stage at hand on each device, to the log too, and show it."""
        if self._stage == "before" and self._call:  # between two calls of a block nothing is worth a row
            return
        self._look()
        for device in self._devices:
            if device != "cpu" and not torch.cuda.is_current_stream_capturing():
                torch.cuda.synchronize(device)  # or else the next stage would be charged with this one's work
        seconds = time.perf_counter() - self._since
        for device in self._devices:
            allocated, reserved = self._most[device]
            used, total, left = _driver(device, allocated)
            one = Stage(
                self._call, self._stage, device, round(seconds, 6), self._steps, allocated, reserved, used, total, left,
                self._weights.get(device, 0), self._at.get(device),
            )  # fmt: skip
            self._kept.append(one)
            if self._log is not None:
                with self._log.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(one.to_json()) + "\n")
            if self._every is not None:
                self._every(one)
        if self._line.wants(now=True):
            self._line.say(self._now())

    def _weigh(self) -> None:
        """Bytes of the models by device, and what was allocated when they were counted."""
        self._weights: dict[str, int] = {}
        for device, nbytes in _placed(self._models):
            self._weights[device] = self._weights.get(device, 0) + nbytes
        self._when_weighed = self._held_now()

    def _held_now(self) -> int:
        return sum(torch.cuda.memory_allocated(device) for device in self._devices if device != "cpu")

    def _changed(self) -> bool:
        """Whether models may have been slimmed, dropped or moved since: counting them takes milliseconds."""
        return abs(self._held_now() - self._when_weighed) > _NOTICED

    def _now(self) -> str:
        parts = [
            f"{device} {in_words(row[0])} (left {in_words(_driver(device, row[0])[2])})"
            for device, row in self._most.items()
        ]
        return f"{self._stage} {self._steps or ''}: {', '.join(parts)}".replace(" :", ":")


def memory(
    pipe: Any = None,
    *,
    deep: bool = False,
    live: bool | None = None,
    stop: bool = False,
    log: str | os.PathLike | None = None,
    every: Callable[[Stage], object] | None = None,
) -> Memory:
    """Watch the memory of a pipeline, stage by stage, for as long as a block runs.

    `m.table` has a row for each stage: what tensors took at most, what PyTorch had reserved, what the driver counts as
    used, what was left. Where there is no GPU, the rows are those of the process's own memory. PyTorch's peak counters
    start anew at each stage, so `torch.cuda.max_memory_allocated()` tells less afterwards than it would have.

    Args:
        pipe: a diffusers pipeline; None to watch how it is loaded, and tell it by `m.watch(pipe)` when it is there.
        deep: find the module during which the peak came about, and its tensors. Hooks on every module make a step
            slower; without, a step costs some microseconds more.
        live: show one line that changes: True or False; by default in a terminal.
        stop: show the line in a notebook with a button that stops the pipeline before its next step, and leaves it fit
            to draw again. The cell ends with `Stopped`. Where the kernel cannot hear the button, a text says how to
            interrupt it; in a terminal that is Ctrl+C.
        log: file to append a line of JSON to at the end of each stage.
        every: called with each `Stage` as it ends.

    Returns:
        A `Memory`, to be used with `with`. Its hooks are taken back at the end, however the block ends.

    Raises:
        TypeError: `pipe` is no pipeline with models. Raised as the block begins.
        OSError: `log` cannot be written; likewise.
        Stopped: the button was pressed. Raised inside of the block.

    Example:
        >>> from sana_lab import load_sana, memory, use_accelerator
        >>> with use_accelerator(virtual=True), memory() as m:
        ...     pipe = m.watch(load_sana("shapes", "int8"))
        ...     picture = pipe("a red star", num_inference_steps=1).images[0]
        >>> [stage.stage for stage in m.stages]
        ['load', 'before', 'encode', 'steps', 'decode']

    Chapter 13.
    """
    return Memory(pipe, deep=deep, live=live, stop=stop, log=log, every=every)


# ---- counters ----------------------------------------------------------------------------------------------------


def _devices(models: dict[str, nn.Module], computes_on: torch.device | None = None) -> list[str]:
    """GPUs to watch: those that models are on and that they compute on; "cpu" where there is none."""
    there = {device for device, _ in _placed(models)} | ({str(computes_on)} if computes_on else set())
    there = {f"cuda:{torch.cuda.current_device()}" if device == "cuda" else device for device in there}
    gpus = sorted(device for device in there if device.startswith("cuda"))
    if gpus or there or not torch.cuda.is_available():
        return gpus or ["cpu"]
    return [f"cuda:{torch.cuda.current_device()}"]


def _placed(models: dict[str, nn.Module]) -> Iterator[tuple[str, int]]:
    """Device and bytes of everything that the models hold, once each."""
    seen = set()
    for model in models.values():
        for owner in model.modules():
            for _, tensor, _, _ in tensors_of(owner):
                key = tensor.data_ptr() or id(tensor)
                if key not in seen:
                    seen.add(key)
                    yield str(tensor.device), tensor.nbytes


def _counters(device: str) -> tuple[int, int]:
    """The most allocated and reserved since the counters were reset; of the process where there is no GPU."""
    if device == "cpu":
        now = resident()
        return now, now
    found = torch.cuda.memory_stats_as_nested_dict(device)
    if not found:  # nothing was ever asked of this GPU
        return 0, 0
    return found["allocated_bytes"]["all"]["peak"], found["reserved_bytes"]["all"]["peak"]


def _driver(device: str, peak: int) -> tuple[int, int, int]:
    """Bytes that the driver counts as used, all that there is, and what was left at a peak."""
    if device == "cpu":
        total, free = _host()
        return total - free, total, max(0, free)
    free, total = torch.cuda.mem_get_info(device)
    found = torch.cuda.memory_stats_as_nested_dict(device)
    reserved = found["reserved_bytes"]["all"]["current"] if found else 0
    left = free + reserved - peak
    fraction = getattr(torch.cuda, "get_per_process_memory_fraction", None)  # from PyTorch 2.8 on
    if fraction is not None:
        left = min(left, int(fraction(device) * total) - peak)
    return total - free, total, max(0, left)


def resident() -> int:
    """Bytes of this process that are in the machine's memory now; the most ever, where the system tells no more."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        pass
    if sys.platform == "win32":
        return 0
    import resource

    most_ever = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most_ever if sys.platform == "darwin" else most_ever * 1024


def _host() -> tuple[int, int]:
    """All of the machine's memory, and what is available."""
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
        return tuple(int(lines[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    except (OSError, ValueError, KeyError):
        return 0, 0


def _told(tensor: torch.Tensor) -> tuple[tuple[int, ...], str, int]:
    """Shape, type and bytes."""
    return tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), tensor.nbytes
