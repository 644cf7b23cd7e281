"""Functions that speak of devices themselves: moving, asking, making, printing, drawing random numbers.

Each handler receives the function, its positional and its named arguments, with the mode switched off. `by_name` at the
end says which function gets which handler; everything else gets `Handlers.compute`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors

from . import asserts, device_rules, kernels, words
from .devices import CPU
from .ledger import MIXED, NOT_SEEN, ON_CPU, Ledger, Tensor, real_device, storage_of, tensors_in, unwrapped
from .mismatch import CONVOLUTIONS, bind, cpp_type_name, settle, type_name

Handler = Callable[[Callable, tuple, dict], Any]


def passing(func: Callable, args: tuple, kwargs: dict) -> Any:
    """The handler of functions that neither mix devices nor make storages: views, shapes, types."""
    return func(*args, **kwargs)


PASSING = """
    shape.__get__ dtype.__get__ layout.__get__ requires_grad.__get__ requires_grad.__set__ grad_fn.__get__
    is_leaf.__get__
    ndim.__get__ names.__get__ _version.__get__ is_sparse.__get__ is_meta.__get__ is_quantized.__get__ data.__get__
    data.__set__ real.__get__ output_nr.__get__ itemsize.__get__
    nbytes.__get__ is_nested.__get__ is_mkldnn.__get__ is_sparse_csr.__get__ is_xla.__get__ is_mps.__get__
    is_xpu.__get__ is_hpu.__get__ is_ipu.__get__ is_vulkan.__get__ is_maia.__get__ is_mtia.__get__ name.__get__
    volatile.__get__ retains_grad.__get__ _base.__get__ _backward_hooks.__get__ _backward_hooks.__set__ _cdata.__get__
    _grad_fn.__get__ grad_dtype.__get__ _post_accumulate_grad_hooks.__get__
    size dim stride numel nelement ndimension data_ptr is_contiguous storage_offset element_size is_floating_point
    is_complex is_signed is_tensor is_storage untyped_storage storage _typed_storage is_inference is_conj is_neg
    is_same_size is_nonzero is_set_to __len__ __bool__ __int__ __float__ __index__ __complex__ __hash__ item tolist
    view view_as expand expand_as movedim squeeze detach_
    requires_grad_ narrow unbind chunk split unflatten diagonal unfold as_strided alias view_as_real
    view_as_complex broadcast_to split_with_sizes adjoint
    register_post_accumulate_grad_hook retain_grad backward grad has_names
    zero_ fill_ result_type can_cast promote_types get_default_dtype broadcast_shapes
    _has_compatible_shallow_copy_type has_torch_function __instancecheck__ __reduce_ex__ __setstate__ __iter__
    _is_view _use_count is_shared share_memory_ is_grad_enabled from_numpy frombuffer from_file
    compute_should_use_set_data _is_zerotensor _nested_view_from_jagged _nested_get_jagged_dummy _nested_get_values
    _nested_get_offsets refine_names align_to __dir__ get_default_device
""".split()
"""Functions that make no storage and compare no devices. Views are here: their storage is known already."""

VIEWS = """
    t transpose swapaxes swapdims permute unsqueeze select detach T.__get__ H.__get__ mT.__get__ mH.__get__
""".split()
"""Views of which sparse tensors make copies."""

SIZED = frozenset(
    """
    empty zeros ones full rand randn randint randperm empty_strided arange linspace eye zeros_like ones_like
    empty_like full_like new_empty new_zeros new_ones new_full
    """.split()
)
"""Factories whose size is asked on the meta device first, so that nothing is allocated that would not fit."""

RANDOM = """
    rand randn randint randperm normal bernoulli multinomial uniform_ normal_ random_ exponential_ geometric_ cauchy_
    log_normal_ bernoulli_ poisson
""".split()
"""Functions that take a `generator`."""

RANDOM_LIKE = ["rand_like", "randn_like", "randint_like"]
"""Functions that draw from the default generator of the device."""


def by_name(handlers: Handlers) -> dict[str, Handler]:
    """The table: bare name of a function -> its handler."""
    table: dict[str, Handler] = dict.fromkeys(PASSING, passing)
    table.update(dict.fromkeys(VIEWS, handlers.view))
    table.update({constructor.__name__: handlers.make for constructor in _device_constructors()})
    table.update(dict.fromkeys([*SIZED], handlers.make))
    table.update(dict.fromkeys(RANDOM, handlers.draw))
    table.update(dict.fromkeys(RANDOM_LIKE, handlers.draw_like))
    table.update(dict.fromkeys(CONVOLUTIONS, handlers.convolve))
    table.update(
        {
            "device": handlers.make_device,
            "device.__get__": handlers.get_device,
            "is_cuda.__get__": handlers.is_cuda,
            "is_cpu.__get__": handlers.is_cpu,
            "get_device": handlers.get_device_index,
            "grad.__get__": handlers.get_grad,
            "_grad.__get__": handlers.get_grad,
            "grad.__set__": handlers.set_grad,
            "register_hook": handlers.register_hook,
            "copy_": handlers.copy,
            "to": handlers.to,
            "_to_copy": handlers.to,
            "cuda": handlers.cuda,
            "cpu": handlers.cpu,
            "type": handlers.type,
            "type_as": handlers.type_as,
            "tensor": handlers.tensor,
            "as_tensor": handlers.tensor,
            "asarray": handlers.tensor,
            "numpy": handlers.numpy,
            "__array__": handlers.numpy,
            "__repr__": handlers.show,
            "__str__": handlers.show,
            "__format__": handlers.format,
            "pin_memory": handlers.pin_memory,
            "is_pinned": handlers.is_pinned,
            "record_stream": handlers.record_stream,
            "_parse_to": handlers.parse_to,
            "resize_": handlers.resize,
            "resize_as_": handlers.resize,
            "resize_as_sparse_": handlers.resize,
            "__cuda_array_interface__.__get__": handlers.cuda_array_interface,
            "__dlpack__": handlers.dlpack,
            "__dlpack_device__": handlers.dlpack_device,
            "_cudnn_rnn_flatten_weight": handlers.flatten_weights,
            "tensor_split": handlers.split_at,
            "_pack_padded_sequence": handlers.pack,
            "apply_": handlers.only_on_cpu,
            "map_": handlers.only_on_cpu,
            "map2_": handlers.only_on_cpu,
        }
    )
    return table


class Handlers:
    """The handlers, all with the signature `(func, args, kwargs)`."""

    def __init__(self, ledger: Ledger, mode: TorchFunctionMode):
        """Keep books in `ledger`; `mode` is for what PyTorch prints by asking its own functions."""
        self.ledger = ledger
        self.mode = mode
        self.devices, self.memory, self.blocks = ledger.devices, ledger.memory, ledger.blocks

    # ---- the common handlers

    def compute(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        """For all other functions: compare devices, run, and note where the result lives."""
        blocks = self.blocks
        home = NOT_SEEN
        for value in args:
            if isinstance(value, Tensor):
                try:
                    block = blocks.get(storage_of(value)._cdata)
                    if block is not None:
                        index = block.index
                    else:
                        index = ON_CPU if type(value) is Tensor else self.ledger.index_of(value)
                except (NotImplementedError, RuntimeError):
                    index = self.ledger.index_of(value)
            elif isinstance(value, (list, tuple)):
                index = self.ledger.home(value)
                if index == NOT_SEEN:
                    continue
            else:
                continue
            if index != home:
                home = index if home == NOT_SEEN else MIXED
        if kwargs:
            if kwargs.get("device") is not None:
                return self.create(func, args, kwargs)
            index = self.ledger.home(kwargs.values())
            if index not in (NOT_SEEN, home):
                home = index if home == NOT_SEEN else MIXED
        if home == MIXED:
            return self._compute_mixed(func, args, kwargs)
        try:
            result = func(*args, **kwargs)
        except (RuntimeError, IndexError) as error:
            if home >= 0:
                self._explain(error, func, args, home)
            raise
        if home >= 0:
            if type(result) is Tensor:
                try:
                    storage = storage_of(result)
                except (NotImplementedError, RuntimeError):
                    self.ledger.place(result, home)
                else:
                    if storage._cdata not in blocks:
                        self.memory.place(storage, home)
            elif result is not None:
                self.ledger.place_all(result, home)
        return result

    def _explain(self, error: Exception, func: Callable, args: tuple, index: int) -> None:
        """Raise what CUDA raises where the CPU's kernel has raised `error` in a call on GPU `index`."""
        self.memory.explain(error, index)
        words.explain(error)
        asserts.explain(error, bare_name(func), args)

    def create(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        """For calls with `device=`: make the result on the CPU and note the device that was asked for."""
        target = self.devices.resolve(kwargs["device"])
        if target.type != "cuda":
            return func(*args, **{**kwargs, "device": target})
        result = func(*args, **{**kwargs, "device": CPU})
        self.ledger.place_all(result, target.index)
        return result

    def view(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        """A view shares its tensor's storage; of a sparse tensor, which has none, it may be a copy."""
        result = func(*args, **kwargs)
        if result.layout is not torch.strided and args:
            index = self.ledger.index_of(args[0])
            if index >= 0:
                self.ledger.place(result, index)
        return result

    def _compute_mixed(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        lacking = kernels.refusal_of(bare_name(func), args, kwargs)
        if lacking is not None and "backend" in str(lacking):  # the operator is chosen before devices are compared
            raise lacking
        device = settle(func, bare_name(func), args, kwargs, self.ledger.device_of)
        if device is None:
            from .inside import Inside  # only where devices mix

            name = bare_name(func)
            given = bind(func, name, args, kwargs, self.ledger.device_of)
            first = given[0].device
            with Inside(self.ledger.device_of, self.ledger.place) as inside:
                result = func(*args, **kwargs)
            inside.home_of_result(result, first)
            device_rules.after(name, given, result)
            return result
        given = map(unwrapped, tensors_in((args, kwargs)))
        before = {storage_of(tensor)._cdata for tensor in given if tensor.layout == torch.strided}
        try:
            result = func(*args, **kwargs)
        except (RuntimeError, IndexError) as error:
            if device.type == "cuda":
                self._explain(error, func, args, device.index)
            raise
        if device.type == "cuda":
            for tensor in map(unwrapped, tensors_in(result)):
                if tensor.device.type == "cpu" and storage_of(tensor)._cdata not in before:
                    self.ledger.place(tensor, device.index)
        return result

    # ---- asking

    def make_device(self, func: Callable, args: tuple, kwargs: dict) -> torch.device:
        """`torch.device(0)` is the first GPU; everything else is as it is."""
        if len(args) == 1 and type(args[0]) is int:
            return torch.device("cuda", args[0])
        return func(*args, **kwargs)

    def get_device(self, func: Callable, args: tuple, kwargs: dict) -> torch.device:
        """`tensor.device`."""
        try:
            block = self.ledger.blocks.get(storage_of(args[0])._cdata)
        except (NotImplementedError, RuntimeError):
            return self.ledger.device_of(args[0])
        return self.ledger.device_of(args[0]) if block is None else self.devices.handles[block.index]

    def is_cuda(self, func: Callable, args: tuple, kwargs: dict) -> bool:
        """`tensor.is_cuda`."""
        return self.ledger.index_of(args[0]) >= 0 or func(*args)

    def is_cpu(self, func: Callable, args: tuple, kwargs: dict) -> bool:
        """`tensor.is_cpu`."""
        return self.ledger.index_of(args[0]) < 0 and func(*args)

    def get_device_index(self, func: Callable, args: tuple, kwargs: dict) -> int:
        """`tensor.get_device()`: the index of the GPU, -1 for the CPU."""
        index = self.ledger.index_of(args[0])
        return index if index >= 0 else func(*args, **kwargs)

    def get_grad(self, func: Callable, args: tuple, kwargs: dict) -> torch.Tensor | None:
        """`tensor.grad`: the backward pass runs inside PyTorch; its results get their device when first looked at."""
        grad = func(*args)
        index = self.ledger.index_of(args[0])
        if grad is not None and index >= 0:
            self.ledger.place(grad, index)
        return grad

    def set_grad(self, func: Callable, args: tuple, kwargs: dict) -> None:
        """`tensor.grad = g`: both on one device."""
        tensor, grad = args
        if isinstance(grad, torch.Tensor) and self.ledger.device_of(grad) != self.ledger.device_of(tensor):
            raise words.gradient_device(self.ledger.device_of(grad), self.ledger.device_of(tensor))
        return func(*args)

    def register_hook(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        """`tensor.register_hook(hook)`: the gradient that the hook is given lives where the tensor does."""
        tensor, hook = args if len(args) == 2 else (args[0], kwargs["hook"])
        ledger, index = self.ledger, self.ledger.index_of(tensor)
        if not callable(hook) or index < 0:
            return func(*args, **kwargs)

        @functools.wraps(hook, updated=())
        def hook_on_gpu(gradient: torch.Tensor) -> torch.Tensor | None:
            if not self.devices.live:
                return hook(gradient)
            ledger.place(gradient, index)
            result = hook(gradient)
            if isinstance(result, torch.Tensor) and ledger.device_of(result).type != "cuda":
                with torch._C.DisableTorchFunction():
                    before, after = (cpp_type_name(g, ledger.device_of(g)) for g in (gradient, result))
                raise words.hook_changed(getattr(hook, "__name__", repr(hook)), before, after)
            return result

        return func(tensor, hook_on_gpu)

    def copy(self, func: Callable, args: tuple, kwargs: dict) -> torch.Tensor:
        """`tensor.copy_(source)`: the gradient of a source from elsewhere goes back there."""
        result = func(*args, **kwargs)
        if result.requires_grad and len(args) > 1 and isinstance(args[1], torch.Tensor) and args[1].requires_grad:
            here, there = self.ledger.device_of(args[1]), self.ledger.device_of(args[0])
            if here != there and result.grad_fn is not None:
                self._send_back(result.grad_fn, here, last_only=True)
        return result

    def _send_back(self, node: Any, device: torch.device, last_only: bool = False) -> None:
        """Let the gradients that `node` hands on go to `device`: PyTorch sees one device and leaves them."""

        def send_back(gradients: tuple, _: tuple) -> tuple | None:
            if not self.devices.live:
                return None
            kept = gradients[:-1] if last_only else ()
            return (*kept, *(g if g is None else g.to(device) for g in gradients[len(kept) :]))

        node.register_hook(send_back)

    def cuda_array_interface(self, func: Callable, args: tuple, kwargs: dict) -> dict:
        """Refused: there is no CUDA memory to point to."""
        raise AttributeError("The virtual GPU has no CUDA memory to share: move the tensor with .cpu() first.")

    def dlpack(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        """Refused on a GPU: other libraries would take its memory for the CPU's. `torch.from_dlpack` needs none."""
        if self.ledger.index_of(args[0]) < 0:
            return func(*args, **kwargs)
        raise BufferError("The virtual GPU has no CUDA memory to share: move the tensor with .cpu() first.")

    def dlpack_device(self, func: Callable, args: tuple, kwargs: dict) -> tuple:
        """`tensor.__dlpack_device__()`: the kind of device as DLPack numbers it, and the GPU's index."""
        kind, number = func(*args, **kwargs)
        index = self.ledger.index_of(args[0])
        return (kind, number) if index < 0 else (type(kind).kDLCUDA, index)

    # ---- moving

    def to(self, func: Callable, args: tuple, kwargs: dict) -> torch.Tensor:
        """`tensor.to(...)` in all its forms."""
        if len(args) == 2 and type(args[1]) is torch.dtype and not kwargs:
            return self.compute(func, args, kwargs)  # by far the most frequent
        tensor, *rest = args
        device, dtype = kwargs.get("device"), kwargs.get("dtype")
        flags = []
        for value in rest:
            if isinstance(value, torch.Tensor):
                device, dtype = self.ledger.device_of(value), value.dtype
            elif isinstance(value, torch.dtype):
                dtype = value
            elif isinstance(value, bool):
                flags.append(value)
            elif value is not None:
                device = value
        other = kwargs.get("other")
        if other is not None:
            device, dtype = self.ledger.device_of(other), other.dtype
        copy = kwargs.get("copy", len(flags) > 1 and flags[1])
        return self.move(tensor, device, dtype, copy, kwargs.get("memory_format"))

    def cuda(self, func: Callable, args: tuple, kwargs: dict) -> torch.Tensor:
        """`tensor.cuda(device)`."""
        device = args[1] if len(args) > 1 else kwargs.get("device")
        target = "cuda" if device is None else device
        return self.move(args[0], target, None, False, kwargs.get("memory_format"))

    def cpu(self, func: Callable, args: tuple, kwargs: dict) -> torch.Tensor:
        """`tensor.cpu()`."""
        return self.move(args[0], CPU, None, False, kwargs.get("memory_format"))

    def type(self, func: Callable, args: tuple, kwargs: dict) -> str | torch.Tensor:
        """`tensor.type()` names the type, `tensor.type("torch.cuda.HalfTensor")` converts."""
        target = args[1] if len(args) > 1 else kwargs.get("dtype")
        tensor = args[0]
        if target is None:
            return type_name(tensor, self.ledger.device_of(tensor))
        if isinstance(target, torch.dtype):
            return self.move(tensor, None, target, False, None)
        name = target if isinstance(target, str) else f"{target.__module__}.{target.__name__}"
        device = "cuda" if name.startswith("torch.cuda.") else CPU
        try:
            dtype = torch.Tensor.type(torch.empty(0), name.replace("torch.cuda.", "torch.")).dtype
        except ValueError:
            raise ValueError(f"invalid type: '{name}'") from None
        return self.move(tensor, device, dtype, False, None)

    def type_as(self, func: Callable, args: tuple, kwargs: dict) -> torch.Tensor:
        """`tensor.type_as(other)` follows device and dtype."""
        other = args[1] if len(args) > 1 else kwargs["other"]
        return self.move(args[0], self.ledger.device_of(other), other.dtype, False, None)

    def move(self, tensor: torch.Tensor, device: Any, dtype: Any, copy: bool, memory_format: Any) -> torch.Tensor:
        """`tensor` on `device` as `dtype`: itself where nothing changes, else a new storage."""
        ledger = self.ledger
        options = {} if memory_format is None else {"memory_format": memory_format}
        here = ledger.index_of(tensor)
        target = None if device is None else self.devices.resolve(device)
        there = here if target is None else (target.index if target.type == "cuda" else -1)
        if real_device(tensor).type != "cpu" or (target is not None and target.type not in ("cpu", "cuda")):
            # from or to a meta tensor, or some other real device: PyTorch itself knows what to say
            real = None if target is None else CPU if target.type == "cuda" else target
            result = torch.Tensor.to(tensor, device=real, dtype=dtype, copy=copy, **options)
            if there >= 0 and real_device(result).type == "cpu":
                ledger.place(result, there)
            return result
        if here != there:
            copy = True
            if there >= 0:
                size = tensor.numel() * (tensor.element_size() if dtype is None else dtype.itemsize)
                ledger.memory.check_room(size, there)
        result = torch.Tensor.to(tensor, dtype=dtype, copy=copy, **options)
        if there >= 0 and result is not tensor:
            ledger.place(result, there)
        if here != there and result.requires_grad and result.grad_fn is not None:
            self._send_back(result.grad_fn, CPU if here < 0 else self.devices.handles[here])
        return result

    def parse_to(self, func: Callable, args: tuple, kwargs: dict) -> tuple:
        """`torch._C._nn._parse_to`, the argument parser of `Module.to`: an index means a GPU."""
        args = tuple(torch.device("cuda", value) if type(value) is int else value for value in args)
        if type(kwargs.get("device")) is int:
            kwargs = {**kwargs, "device": torch.device("cuda", kwargs["device"])}
        if args and isinstance(args[0], torch.Tensor):
            return (self.ledger.device_of(args[0]), *func(*args, **kwargs)[1:])
        return func(*args, **kwargs)

    # ---- making

    def make(self, func: Callable, args: tuple, kwargs: dict) -> torch.Tensor:
        """Factories: `torch.zeros`, `torch.arange`, `zeros_like`, `tensor.new_zeros`, ..."""
        if kwargs.pop("pin_memory", False):
            return self.mark_pinned(self.compute(func, args, kwargs))
        if kwargs.get("device") is None:
            kwargs.pop("device", None)
            return self.compute(func, args, kwargs)
        target = self.devices.resolve(kwargs["device"])
        out = kwargs.get("out")
        if target.type == "cuda" and isinstance(out, Tensor) and self.ledger.index_of(out) < 0:
            raise device_rules.factory_out(self.ledger.device_of(out))
        if target.type == "cuda" and func.__name__ in SIZED:
            size = self.size_of(func, args, kwargs)
            self.ledger.memory.check_room(size, target.index)
        return self.create(func, args, kwargs)

    @staticmethod
    def size_of(func: Callable, args: tuple, kwargs: dict) -> int:
        """The bytes that a factory would allocate; 0 where the meta device cannot tell."""
        options = {key: value for key, value in kwargs.items() if key not in ("device", "generator", "out")}
        try:
            sketch = func(*args, **options, device="meta")
        except (NotImplementedError, RuntimeError, TypeError):
            return 0
        return sketch.untyped_storage().nbytes()

    def tensor(self, func: Callable, args: tuple, kwargs: dict) -> torch.Tensor:
        """`torch.tensor`, `as_tensor`, `asarray`: from data, to where the data is unless told otherwise."""
        data = args[0] if args else kwargs.get("data", kwargs.get("obj"))
        device = kwargs.pop("device", None)
        pin = kwargs.pop("pin_memory", False)
        here = self.ledger.index_of(data) if isinstance(data, torch.Tensor) else -1
        target = None if device is None else self.devices.resolve(device)
        if target is None and here >= 0:
            target = self.devices.handles[here]
        if target is None or target.type != "cuda":
            if here >= 0:
                data = self.move(data, CPU, None, False, None)
                args = (data, *args[1:])
            result = func(*args, **kwargs, **({} if target is None else {"device": target}))
            return self.mark_pinned(result) if pin else result
        result = func(*args, **kwargs, device=CPU)
        if isinstance(data, torch.Tensor) and here != target.index and result is not data:
            return self.move(result, target, None, False, None)
        if here == target.index:
            self.ledger.place(result, target.index)  # shares the storage, or is new
            return result
        if result is data or _shares(result, data):
            return self.move(result, target, None, True, None)
        self.ledger.place(result, target.index)
        return result

    def draw(self, func: Callable, args: tuple, kwargs: dict) -> torch.Tensor:
        """Random numbers from a generator, which must belong to the kind of device that the numbers are for."""
        device = kwargs.get("device")
        if device is not None:
            target = self.devices.resolve(device)
            index = target.index if target.type == "cuda" else -1
        else:
            index = max(self.ledger.home((*args, *kwargs.values())), -1)
        generator = kwargs.get("generator")
        if generator is not None:
            expected, found = ("cuda" if index >= 0 else "cpu"), generator.device.type
            if expected != found:
                raise words.generator_device(expected, found)
        elif index >= 0:
            kwargs = {**kwargs, "generator": self.devices.generators[index]}
        return self.make(func, args, kwargs)

    def draw_like(self, func: Callable, args: tuple, kwargs: dict) -> torch.Tensor:
        """`rand_like` and its kin: from the default generator of the device."""
        device = kwargs.get("device")
        index = self.devices.resolve(device).index if device is not None else self.ledger.index_of(args[0])
        if kwargs.get("generator") is not None or index is None or index < 0:
            return self.make(func, args, kwargs)
        generator, real = self.devices.generators[index], torch.default_generator
        state = real.get_state()
        real.set_state(generator.get_state())
        try:
            return self.make(func, args, kwargs)
        finally:
            generator.set_state(real.get_state())
            real.set_state(state)

    def resize(self, func: Callable, args: tuple, kwargs: dict) -> torch.Tensor:
        """`tensor.resize_()`: the storage may have grown."""
        result = func(*args, **kwargs)
        self.ledger.memory.recount(storage_of(args[0]))
        return result

    def convolve(self, func: Callable, args: tuple, kwargs: dict) -> torch.Tensor:
        """Convolutions compare types also on one device, in words that name the device."""
        try:
            return self.compute(func, args, kwargs)
        except RuntimeError:
            tensors = tensors_in((args, kwargs))
            bias = args[2] if len(args) > 2 else kwargs.get("bias")
            if bias is not None and bias.dtype != tensors[0].dtype and not func.__name__.startswith("conv_transpose"):
                return func(*args, **kwargs)  # PyTorch compares these two first, in words that name no device
            if any(tensor.dtype != tensors[0].dtype for tensor in tensors) and self.ledger.home(tensors) >= 0:
                settle(func, func.__name__, args, kwargs, self.ledger.device_of)
            raise

    def flatten_weights(self, func: Callable, args: tuple, kwargs: dict) -> torch.Tensor:
        """What recurrent layers do on a GPU: all weights into one storage (ATen/native/cudnn/RNN.cpp)."""
        weights = args[0] if args else kwargs["weight_arr"]
        flat = torch.cat([weight.detach().reshape(-1) for weight in weights])
        self.ledger.place(flat, self.ledger.index_of(weights[0]))
        start = 0
        for weight in weights:
            weight.set_(flat[start : start + weight.numel()].view_as(weight))
            start += weight.numel()
        return flat

    def split_at(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        """`tensor_split`: sections in a tensor are read on the CPU."""
        for tensor in tensors_in((args[1:], kwargs)):
            if self.ledger.index_of(tensor) >= 0:
                raise device_rules.sections_device(self.ledger.device_of(tensor))
        return func(*args, **kwargs)

    def pack(self, func: Callable, args: tuple, kwargs: dict) -> tuple:
        """Sequences packed for a recurrent layer: the sizes of batches stay on the CPU, as the lengths are."""
        lengths = args[1] if len(args) > 1 else kwargs["lengths"]
        if self.ledger.index_of(lengths) >= 0:
            raise words.lengths_device(lengths.dim(), self.ledger.device_of(lengths))
        result = func(*args, **kwargs)
        self.ledger.place_all(result[0], self.ledger.index_of(args[0]))
        return result

    def only_on_cpu(self, func: Callable, args: tuple, kwargs: dict) -> torch.Tensor:
        """`apply_` and `map_` call Python for each number (torch/csrc/utils/tensor_apply.cpp)."""
        tensors = tensors_in(args)
        here = self.ledger.device_of(tensors[0])
        for number, other in enumerate(tensors[1:]):
            if self.ledger.device_of(other) != here:
                names = (type_name(tensor, self.ledger.device_of(tensor)) for tensor in (tensors[0], other))
                raise words.other_type(func.__name__, len(tensors), number, *names)
        if here.type == "cuda":
            raise TypeError(f"{func.__name__} is only implemented on CPU tensors")
        return func(*args, **kwargs)

    # ---- leaving PyTorch: numbers, text, pinned memory

    def numpy(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        """`tensor.numpy()` and `np.asarray(tensor)`: from the CPU only."""
        if self.ledger.index_of(args[0]) < 0:
            return func(*args, **kwargs)
        if kwargs.get("force"):
            return func(args[0].detach(), **kwargs)
        raise words.to_numpy(self.ledger.device_of(args[0]))

    def show(self, func: Callable, args: tuple, kwargs: dict) -> str:
        """`repr(tensor)`: printed by PyTorch with the mode on, so that it asks for the device."""
        with self.mode:
            return torch._tensor_str._str(args[0], **kwargs)

    def format(self, func: Callable, args: tuple, kwargs: dict) -> str:
        """`f"{tensor}"`."""
        tensor, spec = args
        if tensor.dim() == 0 and not tensor.is_meta and type(tensor) is torch.Tensor:
            return tensor.item().__format__(spec)
        with self.mode:
            return object.__format__(tensor, spec)

    def pin_memory(self, func: Callable, args: tuple, kwargs: dict) -> torch.Tensor:
        """`tensor.pin_memory()`: a copy that says it is pinned."""
        tensor = args[0]
        if self.ledger.index_of(tensor) >= 0:
            name = type_name(tensor, self.ledger.device_of(tensor))
            raise RuntimeError(f"cannot pin '{name}' only dense CPU tensors can be pinned")
        return tensor if self._is_pinned(tensor) else self.mark_pinned(tensor.clone())

    def is_pinned(self, func: Callable, args: tuple, kwargs: dict) -> bool:
        """`tensor.is_pinned()`."""
        return self._is_pinned(args[0])

    def mark_pinned(self, tensor: torch.Tensor) -> torch.Tensor:
        """Remember that `tensor` was pinned; nothing else is different about it."""
        storage_of(tensor)._pinned_for = self.devices
        return tensor

    def _is_pinned(self, tensor: torch.Tensor) -> bool:
        return getattr(storage_of(tensor), "_pinned_for", None) is self.devices

    def record_stream(self, func: Callable, args: tuple, kwargs: dict) -> None:
        """Nothing runs later, so nothing has to be kept for later."""


def _shares(result: torch.Tensor, data: Any) -> bool:
    return any(storage_of(result)._cdata == storage_of(t)._cdata for t in tensors_in(data)) or not isinstance(
        data, (torch.Tensor, int, float, bool, complex, list, tuple)
    )


def bare_name(func: Any) -> str:
    """A function's name as the tables know it: `mm`, `__getitem__`, `device.__get__` for the reading of a property."""
    name = getattr(func, "__name__", "") or str(func)
    if name in ("__get__", "__set__", "__delete__"):
        owner = func.__self__
        owner_name = getattr(owner, "__name__", None) or getattr(getattr(owner, "fget", None), "__name__", "")
        return f"{owner_name}.{name}"
    return name.split(".")[0]  # an overload such as `add.Tensor`
