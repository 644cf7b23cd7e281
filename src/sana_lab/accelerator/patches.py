"""Putting the virtual GPU in place of the real interfaces, and taking all of it away again.

Every change is made by `Patches.set`, which remembers what was there, so that leaving restores it object by object.
What libraries computed when they were imported, or cached, is refreshed on entering and on leaving.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext, _device_constructors

from . import below, cuda_api, exchange, legacy_types, mismatch, old_bitsandbytes, parallel, refused, words
from .devices import CPU, Devices
from .generator import VirtualGenerator
from .mode import VirtualGPUMode

_ABSENT = object()

CACHING_MODULES = (
    "transformers.utils",
    "transformers.utils.import_utils",
    "accelerate.utils.imports",
    "accelerate.utils.environment",
    "diffusers.utils.import_utils",
    "diffusers.utils.torch_utils",
    "torch.cuda",
    "bitsandbytes.backends.default.ops",
    "bitsandbytes.backends.utils",
)
"""Modules with cached answers to questions on devices, or with cached tensors on one (of diffusers 0.42, transformers
5.23, accelerate 1.15, bitsandbytes 0.50)."""


class Patches:
    """A list of attributes that were changed, with what they were before."""

    def __init__(self) -> None:
        """Nothing changed yet."""
        self.changed: list[tuple[Any, str, Any]] = []
        self.afterwards: list[Callable[[], None]] = []
        """What else is to be done at the end, such as taking back a setting."""

    def set(self, owner: Any, name: str, value: Any) -> None:
        """Set `owner.name`, and remember what is in the owner's own dictionary now (possibly nothing)."""
        self.changed.append((owner, name, vars(owner).get(name, _ABSENT)))
        setattr(owner, name, value)

    def undo(self) -> None:
        """Put everything back, last change first."""
        while self.changed:
            owner, name, before = self.changed.pop()
            if before is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, before)
        while self.afterwards:
            self.afterwards.pop()()


def apply(patches: Patches, devices: Devices, mode: VirtualGPUMode) -> None:
    """Make all of PyTorch's doors lead to `devices`."""
    _cuda(patches, devices)
    _generators(patches, devices)
    _storages(patches, devices, mode)
    _default_device(patches, devices, mode)
    _threads(patches, mode)
    _gradients(patches, mode)
    _scripts(patches, mode)
    _nested(patches, mode)
    _parallel(patches, mode)
    _legacy_types(patches, mode)
    _refusals(patches, mode)
    _grouping(patches, mode)
    exchange.apply(patches, mode.ledger)
    functional = old_bitsandbytes.needed()
    if functional is not None:
        patches.set(functional, "lib", old_bitsandbytes.Kernels(functional.lib))
    patches.set(torch, "compile", refuse_compile)
    refresh_libraries()


def _cuda(patches: Patches, devices: Devices) -> None:
    api = cuda_api.CudaApi(devices)
    functions = {name: getattr(api, name) for name in dir(api) if name not in vars(object) and _is_cuda_name(name)}
    classes = {name: getattr(cuda_api, name) for name in ("Stream", "Event", "CUDAGraph")}
    for name, kind in cuda_api.generic_kinds().items():
        patches.set(torch, name, kind)
    modules = [torch.cuda, torch.cuda.memory, torch.cuda.random, torch.cuda.streams, torch.cuda.graphs]
    for name, value in {**functions, **classes}.items():
        for module in modules:
            if name in vars(module):
                patches.set(module, name, value)
    if hasattr(torch, "accelerator"):
        accelerator = cuda_api.AcceleratorApi(api)
        patches.set(torch.accelerator, "current_accelerator", accelerator.current_accelerator)
        for name, value in vars(accelerator).items():
            if name in vars(torch.accelerator):
                patches.set(torch.accelerator, name, value)
    lower_level = {
        "_get_accelerator": lambda *args: torch.device("cuda"),
        "_accelerator_exchangeDevice": api._exchange_device,
        "_accelerator_maybeExchangeDevice": api._exchange_device,
    }
    for name, value in lower_level.items():
        if hasattr(torch._C, name):
            patches.set(torch._C, name, value)
    # bitsandbytes 0.50.2 looks it up while it is imported, if CUDA is available (backends/cuda/ops.py)
    patches.set(torch._C, "_cuda_getCurrentRawStream", lambda device: 0)


def _is_cuda_name(name: str) -> bool:
    return not name.startswith("__") and name not in cuda_api.HELPERS


def _generators(patches: Patches, devices: Devices) -> None:
    patches.set(VirtualGenerator, "resolve", staticmethod(devices.resolve))
    patches.set(torch, "Generator", VirtualGenerator)


def _storages(patches: Patches, devices: Devices, mode: VirtualGPUMode) -> None:
    """Storages as Python sees them: `torch.save`, `torch.load`, pickle and deepcopy work on these."""
    real_device = torch.UntypedStorage.device
    real_new = torch.UntypedStorage.__new__
    real_resize = torch.UntypedStorage.resize_

    def device(self):
        index = devices.memory.index_of(self)
        return real_device.__get__(self) if index < 0 else devices.handles[index]

    def new(cls, *args, device=None, **kwargs):
        target = CPU if device is None else devices.resolve(device)
        if target.type != "cuda":
            return real_new(cls, *args, **kwargs, **({} if device is None else {"device": target}))
        storage = real_new(cls, *args, **kwargs)
        devices.memory.place(storage, target.index)
        return storage

    def resize_(self, size):
        real_resize(self, size)
        devices.memory.recount(self)
        return self

    patches.set(torch.UntypedStorage, "device", property(device))
    patches.set(torch.UntypedStorage, "__new__", staticmethod(new))
    patches.set(torch.UntypedStorage, "resize_", resize_)


def _default_device(patches: Patches, devices: Devices, mode: VirtualGPUMode) -> None:
    """`torch.set_default_device("cuda")` is a function mode *below* all others: the mode above has let go of the call.

    (`with torch.device("cuda")` is one on top: there the mode's turn still comes.)
    """
    original = DeviceContext.__torch_function__

    def torch_function(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        fills_in = func in _device_constructors() and kwargs.get("device") is None
        if fills_in and self.device.type == "cuda" and mode not in _get_current_function_mode_stack():
            return mode.__torch_function__(func, types, args, {**kwargs, "device": self.device})
        return original(self, func, types, args, kwargs)

    patches.set(DeviceContext, "__torch_function__", torch_function)


def _threads(patches: Patches, mode: VirtualGPUMode) -> None:
    """A function mode belongs to a thread, a GPU to the process. So threads started from now on enter the mode."""
    start = threading.Thread.start

    def start_with_mode(self: threading.Thread) -> None:
        had_own = vars(self).get("run")  # a bound method would refer to the thread, and the thread to it

        def run_with_mode() -> None:
            thread = threading.current_thread()
            try:
                with mode:  # which lets everything through once the GPUs are left
                    return type(thread).run(thread) if had_own is None else had_own()
            finally:
                vars(thread).pop("run", None)

        self.run = run_with_mode
        start(self)

    patches.set(threading.Thread, "start", start_with_mode)


def _gradients(patches: Patches, mode: VirtualGPUMode) -> None:
    """The backward pass runs inside PyTorch, where no function mode looks: see `below`."""
    ledger = mode.ledger
    engine = below.engine(ledger, mode, torch.autograd.graph._engine_run_backward)
    for module in (torch.autograd, torch.autograd.graph):
        patches.set(module, "_engine_run_backward", engine)
    own = torch.autograd.Function
    patches.set(own, "apply", classmethod(below.own_functions(ledger, vars(own)["apply"].__func__)))
    node = torch.autograd.function.BackwardCFunction
    patches.set(node, "apply", below.own_backward(ledger, node.apply))
    hooks = torch.autograd.graph.saved_tensors_hooks
    patches.set(hooks, "__init__", below.saving(ledger, mode, hooks.__init__))


def _scripts(patches: Patches, mode: VirtualGPUMode) -> None:
    """Scripted and traced functions run in an interpreter of their own: see `below`."""
    for kind in (torch.jit.ScriptFunction, torch._C.ScriptMethod):
        patches.set(kind, "__call__", below.scripted(mode.ledger, mode, kind.__call__))
    patches.set(torch.jit, "load", below.loaded(mode.ledger, torch.jit.load))


def _legacy_types(patches: Patches, mode: VirtualGPUMode) -> None:
    """`torch.cuda.FloatTensor`, `torch.FloatTensor`, and `torch.set_default_tensor_type`."""
    for module, name, value in legacy_types.types(mode.ledger):
        patches.set(module, name, value)
    setter, take_back = legacy_types.default_setter(torch.set_default_tensor_type)
    patches.set(torch, "set_default_tensor_type", setter)
    patches.afterwards.append(take_back)


def _parallel(patches: Patches, mode: VirtualGPUMode) -> None:
    """`DataParallel` and what it is made of: see `parallel`."""

    def with_mode(function: Callable) -> Callable:
        @functools.wraps(function)
        def called(*args, **kwargs):
            with below.switched_on(mode):
                return function(*args, **kwargs)

        return called

    for function in parallel.FUNCTIONS:
        patches.set(torch._C, function.__name__, with_mode(function))
    patches.set(torch.cuda.nccl, "is_available", lambda tensors: False)  # sums are made by plain additions then
    copying = torch.nn.parallel._functions  # which keeps streams for as many GPUs as there were at first
    if hasattr(copying, "_get_stream"):
        stream = cuda_api.Stream
        patches.set(copying, "_get_stream", lambda device: None if device.type == "cpu" else stream(device))


def _nested(patches: Patches, mode: VirtualGPUMode) -> None:
    """`torch.nested.nested_tensor` makes its tensors in C++, with no word to any mode."""
    ledger, made = mode.ledger, torch._C._nested.nested_tensor

    def nested_tensor(parts, *args, device=None, **kwargs):
        tensors = [part for part in parts if isinstance(part, torch.Tensor)]
        first = tensors[0] if tensors else None
        for part in tensors if device is None else ():
            if ledger.index_of(part) != ledger.index_of(first):
                raise words.wrong_argument("tensors", ledger.device_of(part), ledger.device_of(first), "cat")
        index = -1 if first is None else ledger.index_of(first)
        if device is not None:
            index = ledger.devices.resolve(device).index if torch.device(device).type == "cuda" else -1
            device = CPU if index >= 0 else device
        mismatch.same_device([part for part in parts if isinstance(part, torch.Tensor)], ledger.device_of)
        with torch._C.DisableTorchFunction():
            result = made(parts, *args, device=device, **kwargs)
        if index >= 0:
            ledger.place(result, index)
        return result

    patches.set(torch._C._nested, "nested_tensor", nested_tensor)


def _refusals(patches: Patches, mode: VirtualGPUMode) -> None:
    """What would fall apart inside C++ is refused in words: see `refused`."""
    for name in refused.EXPORTERS:
        if hasattr(torch.export, name):
            patches.set(torch.export, name, refused.export(mode.ledger, name, getattr(torch.export, name)))
    for module, names in refused.FUNCTIONS.items():
        owner = sys.modules.get(module)
        for name, why in names.items():
            if owner is not None and name in vars(owner):
                patches.set(owner, name, refused.function(f"{module}.{name}", why))
    kind = torch.autograd.profiler.profile
    patches.set(kind, "__init__", refused.profile(kind.__init__))


def _grouping(patches: Patches, mode: VirtualGPUMode) -> None:
    """Optimizers and the clipping of gradients take lists apart by device and type before they call `_foreach_*`."""
    original, ledger = torch._C._group_tensors_by_device_and_dtype, mode.ledger

    def group(tensorlistlist, with_indices=False):
        on_gpu = any(ledger.index_of(tensor) >= 0 for tensor in tensorlistlist[0] if tensor is not None)
        if not ledger.devices.live or not on_gpu:
            return original(tensorlistlist, with_indices)
        groups: dict[Any, tuple[list[list], list[int]]] = {}
        for number, first in enumerate(tensorlistlist[0]):
            key = (ledger.device_of(first), first.dtype)
            lists, numbers = groups.setdefault(key, ([[] for _ in tensorlistlist], []))
            for items, tensors in zip(lists, tensorlistlist, strict=True):
                if tensors:  # a list may be empty
                    items.append(tensors[number])
            if with_indices:
                numbers.append(number)
        return groups

    patches.set(torch._C, "_group_tensors_by_device_and_dtype", group)


def refuse_compile(*args: Any, **kwargs: Any) -> Any:
    """In place of `torch.compile`.

    Raises:
        RuntimeError: always.
    """
    raise RuntimeError(
        "torch.compile needs a real GPU: on the virtual GPU there are no kernels to compile. "
        "Leave it out here, or run this on a machine with a CUDA device."
    )


def refresh_libraries() -> None:
    """Let libraries that are imported already see the devices there are now. Call after entering and after leaving."""
    for name in CACHING_MODULES:
        for value in list(vars(sys.modules.get(name, object)).values()):
            _clear(value)
    # bitsandbytes keeps its 8-bit map on the GPU that first needed it (0.50.2, functional.py, `quantize_blockwise`)
    getattr(sys.modules.get("bitsandbytes.functional"), "name2qmap", {}).pop("dynamic", None)
    torch_utils = sys.modules.get("diffusers.utils.torch_utils")
    if torch_utils is None:
        return
    backend = getattr(torch_utils, "TorchDeviceBackend", None)
    if backend is not None:
        _clear(getattr(backend, "_detect_device_type", None))
    pipelines = sys.modules.get("diffusers.pipelines.pipeline_utils")
    if pipelines is not None and hasattr(pipelines, "SUPPORTED_DEVICE_MAP") and hasattr(pipelines, "get_device"):
        strategies = pipelines.SUPPORTED_DEVICE_MAP  # since 0.35 the second is the device there was at import
        if len(strategies) > 1:
            pipelines.SUPPORTED_DEVICE_MAP = [strategies[0], pipelines.get_device(), *strategies[2:]]


def _clear(function: Callable | None) -> None:
    clear = getattr(function, "cache_clear", None)
    if callable(clear) and callable(getattr(function, "cache_info", None)):
        clear()
