"""What happens when tensors of different devices meet in one call: what CUDA accepts, and what it says of the rest.

The rules are data. A function that is in none of the tables below is looked into while it runs (`inside`): each kernel
is looked up in PyTorch's own table (`schemas`). With a generated device check it names the first argument that differs,
otherwise it does as elementwise operators do.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from . import device_rules, schemas, words
from .ledger import tensors_in

CPU = torch.device("cpu")


class Given(NamedTuple):
    """A tensor as an operator received it."""

    name: str
    tensor: torch.Tensor
    device: torch.device


FREE = frozenset(
    """
    _copy_from reshape_as set_ set_data broadcast_tensors pack_padded_sequence ctc_loss
    _assert_tensor_metadata _foreach_copy_ vector_to_parameters
    """.split()
)
"""Functions that may see several devices: they copy between them, or look only at shapes and types."""

WITHOUT_ELEMENTS = frozenset(["batch_norm"])
"""Functions that look at nothing else where their input is empty."""

KERNELS: dict[str, tuple[str, str]] = {
    "embedding": ("_index_select", "self=weight index=input|indices"),
    "prelu": ("__prelu_kernel", "self weight"),
    "layer_norm": ("_native_layer_norm", "input weight bias"),
    "group_norm": ("_native_group_norm", "input weight bias"),
    "batch_norm": ("_cudnn_batch_norm", "input weight bias running_mean running_var"),
    "rms_norm": ("__fused_rms_norm", "input weight"),
    "cross_entropy": ("nll_loss_forward", "self=input target weight"),
    "nll_loss": ("nll_loss_forward", "self=input target weight"),
    "stack": ("cat", "out tensors"),
    "hstack": ("cat", "out tensors"),
    "vstack": ("cat", "out tensors"),
    "concat": ("cat", "out tensors"),
    "concatenate": ("cat", "out tensors"),
    "sparse_sampled_addmm": ("sparse_sampled_addmm", "out self=input|self mat1 mat2"),
    "sparse_coo_tensor": ("__sparse_coo_tensor_with_dims_and_tensors", "indices values"),
    "dropout": ("_native_dropout", "input"),
    "_nested_tensor_from_tensor_list": ("cat", "tensors=list"),
}
"""Python function -> the CUDA kernel that first compares devices, and its arguments in the order it does: `self=bias`
reads "the kernel's `self` is the Python function's `bias`", `a|b` "whichever the function has"."""


def settle(func: Callable, name: str, args: tuple, kwargs: dict, device_of: Callable) -> torch.device | None:
    """Decide a call whose tensors are on several devices.

    `name` is the operator's bare name, `device_of` tells a tensor's device. Returns the device on which the result
    lives, None where the kernels inside have to tell. Raises RuntimeError in CUDA's words where CUDA does.
    """
    given = bind(func, name, args, kwargs, device_of)
    if name == "__rmatmul__":
        given[:2] = given[1::-1]
    name = ALIASES.get(name, name)
    if name in FREE or name in WITHOUT_ELEMENTS and not given[0].tensor.numel():
        return given[0].device
    if name in ("bernoulli", "bernoulli_"):  # copies
        return given[0].device
    device_rules.before(name, given, kwargs)
    family = FAMILIES.get(name)
    if str(func).startswith("bitsandbytes."):
        family = functools.partial(_bitsandbytes, name=name)
    if family is None and name in KERNELS:
        kernel, order = KERNELS[name]
        _same_device(_ordered(given, order), kernel, "SparseCUDA" if name == "sparse_coo_tensor" else "")
    elif family is not None:
        family(given)
    else:
        return None
    return home(name, given)


def same_device(tensors: Sequence[torch.Tensor], device_of: Callable) -> None:
    """Compare as `cat` does.

    Raises:
        RuntimeError: `tensors` are on several devices.
    """
    _same_device([Given("tensors", tensor, device_of(tensor)) for tensor in tensors], "cat")


def compare(name: str, operator: schemas.Operator | None, given: list[Given]) -> None:
    """What a CUDA kernel says to tensors of several devices; `given` in the order of its arguments."""
    in_place = name.endswith("_") and not name.endswith("__")
    if operator is not None and operator.outputs:
        given = sorted(given, key=lambda g: g.name not in operator.outputs)  # generated checks begin with the results
    if name in OPERATORS:
        OPERATORS[name](given)
    elif name in SPARSE_SUMS and any(g.tensor.layout == torch.sparse_coo for g in given):
        _sparse_sum(SPARSE_SUMS[name], given, in_place)
    elif operator is not None and operator.checked:
        _same_device(given, operator.kernel())
    else:
        _elementwise(given, in_place)


def settle_operator(func: Any, args: tuple, kwargs: dict, device_of: Callable) -> None:
    """The same for an operator of ATen, which C++ called: it has its schema with it, and its name is the kernel's.

    Raises:
        RuntimeError: CUDA refuses the call.
    """
    name, schema = func.overloadpacket.__name__, func._schema
    if name in FREE or name in ("_to_copy", "_copy_from_and_resize"):
        return
    values = {argument.name: value for argument, value in zip(schema.arguments, args, strict=False)} | kwargs
    given = [Given(label, tensor, device_of(tensor)) for label, value in values.items() for tensor in tensors_in(value)]
    compare(name, schemas.operator(name, func._overloadname), given)


def bind(func: Callable, name: str, args: tuple, kwargs: dict, device_of: Callable) -> list[Given]:
    """All tensors of a call in the order of the parameters, each with the parameter's name."""
    names: Sequence[str]
    schema = getattr(func, "_schema", None) or getattr(getattr(func, "default", None), "_schema", None)
    try:
        names = SIGNATURES.get(name) or [argument.name for argument in getattr(schema, "arguments", ())]
        names = names or list(inspect.signature(func).parameters)
    except (TypeError, ValueError):
        number = len(args) + len(kwargs) - ("out" in kwargs)
        operator = schemas.find(name.rstrip("_") if not name.endswith("__") else name, number)
        names = operator.arguments if operator is not None else ()
    given = []
    for position, value in enumerate(args):
        label = names[position] if position < len(names) else f"argument {position}"
        given += [Given(label, tensor, device_of(tensor)) for tensor in tensors_in(value)]
    for label, value in kwargs.items():
        given += [Given(label, tensor, device_of(tensor)) for tensor in tensors_in(value)]
    return given


SIGNATURES = {
    "__getitem__": ["self", "index"],
    "__setitem__": ["self", "index", "values"],
    **dict.fromkeys(["lstm", "gru", "rnn_tanh", "rnn_relu"], ["input", "hx", "params"]),
}
"""Parameters of functions that neither Python nor PyTorch's table knows."""

CONVOLUTIONS = "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d".split()


# ---- families ------------------------------------------------------------------------------------------------------


def _elementwise(given: list[Given], in_place: bool = False) -> None:
    """`TensorIterator`: one device for all; a 0-dim CPU tensor goes with anything, unless it is the output."""
    order = [g for g in given if g.name == "out"] + [g for g in given if g.name != "out"]
    outputs = {id(g.tensor) for g in order[:1] if in_place or g.name == "out"}
    common = next((g.device for g in order if g.device.type != "cpu"), CPU)
    for g in order:
        scalar = g.device.type == "cpu" and g.tensor.dim() == 0 and id(g.tensor) not in outputs
        if g.device != common and not (scalar and common.type != "cpu"):
            raise words.two_devices(common, g.device)


def _same_device(given: list[Given], kernel: str, backend: str = "") -> None:
    """A generated check: the first tensor sets the device, the first that differs is named, 0-dim or not.

    Kernels for sparse tensors have wrappers of their own, none of them structured.
    """
    for g in given:
        if g.device != given[0].device:
            sparse = next((SPARSE[g.tensor.layout] for g in given if g.tensor.layout in SPARSE), "")
            if sparse and not kernel.startswith(("_", "out_")):
                kernel = f"_{kernel}"
            raise words.wrong_argument(g.name, g.device, given[0].device, kernel, backend or sparse or "CUDA")


def _sparse_sum(kernel: str, given: list[Given], in_place: bool) -> None:
    """Sums, and products of two sparse tensors, look at each argument (ATen/native/sparse/cuda)."""
    alone = all(g.tensor.layout == torch.sparse_coo for g in given[:2])
    if alone or kernel == "add" and given[1].tensor.layout == torch.sparse_coo:
        for g in given:
            if g.device == CPU:
                raise words.sparse_on_cpu(kernel, g.name, alone)
    _elementwise(given, in_place)


SPARSE = {torch.sparse_coo: "SparseCUDA", torch.sparse_csr: "SparseCsrCUDA", torch.sparse_csc: "SparseCsrCUDA"}
"""Layout -> the backend whose wrapper compares the devices."""

SPARSE_SUMS = {"add": "add", "add_": "add", "sub": "add", "sub_": "add", "mul": "mul", "mul_": "mul"}
"""Operator of ATen -> the name that its sparse kernel gives itself."""


def _product(given: list[Given]) -> None:
    """`matmul`: which kernel depends on the number of dimensions (ATen/native/LinearAlgebra.cpp, `_matmul_impl`)."""
    a, b = given[0], given[1]
    dims = (a.tensor.dim(), b.tensor.dim())
    if dims == (1, 1):
        _same_device(_renamed([a, b], "self tensor"), "_dot")
    elif dims[0] >= 2 and dims[1] == 1:
        _same_device(_renamed([b, a, b], "self mat vec"), "addmv_")
    elif dims[1] <= 2:
        _same_device(_renamed([a, b], "self mat2"), "mm")
    elif dims[0] <= 2:
        _same_device(_renamed([b, a], "self mat2"), "mm")
    else:
        _same_device(_renamed([a, b], "self mat2"), "bmm")


def _linear(given: list[Given]) -> None:
    """`linear`: `addmm` with a bias, `matmul` without."""
    by_name = {g.name: g for g in given}
    if "out" in by_name:
        _same_device(_ordered(given, "out self=input mat2=weight"), "mm_out")
        _elementwise(given)
    elif "bias" in by_name:
        _same_device(_ordered(given, "self=bias mat1=input mat2=weight"), "addmm")
    else:
        _product(_ordered(given, "self=input mat2=weight"))


def _matrix_vector(given: list[Given]) -> None:
    """`mv`: `addmv` into its `out=`, or into a new vector like `vec`."""
    if given[0].tensor.layout == torch.sparse_coo:
        _same_device(_ordered(given, "self|input vec"), "_mv")
    out = any(g.name == "out" for g in given)
    order = "self=out mat=self|input vec" if out else "self=vec mat=self|input vec"
    _same_device(_ordered(given, order), "addmv_out_out" if out else "addmv_")


def _sparse_product(given: list[Given]) -> None:
    """`torch.sparse.mm`: of two sparse tensors, or `addmm` into a result that is made where the dense one is."""
    if all(g.tensor.layout == torch.sparse_coo for g in given):
        _same_device(_renamed(given, "self other"), "__sparse_sparse_matmul")
    _same_device(_ordered(given, "self=dense mat1=sparse mat2=dense"), "addmm")


def _einsum(given: list[Given]) -> None:
    """`einsum` of two operands ends in `bmm`."""
    _same_device(_renamed(given[:2], "self mat2"), "bmm")
    _elementwise(given)


def _convolution(given: list[Given], transposed: bool = False) -> None:
    """Convolutions compare type names first; two GPUs have the same type name and meet cuDNN's own check.

    With a CPU input it depends on the kernel that PyTorch picks for it here: the plain ones have a generated check.
    """
    tensors = {g.name: g for g in given}
    source, weight = tensors["input"], tensors["weight"]
    on_cpu = source.device.type == "cpu"
    if on_cpu and not _picks_mkldnn(source.tensor, weight.tensor, transposed):
        if weight.tensor.dim() == 5 and not transposed:
            raise words.no_kernel("slow_conv3d_forward")
        kernel = "slow_conv_transpose2d" if transposed else "__slow_conv2d_forward"
        _same_device(_ordered(given, "self=input weight bias"), kernel)
    own = cpp_type_name(source.tensor, source.device)
    for what in ("weight", "bias"):
        other = tensors.get(what)
        if other is not None and cpp_type_name(other.tensor, other.device) != own:
            mkldnn = on_cpu and what == "weight"
            raise words.convolution_types(what, own, cpp_type_name(other.tensor, other.device), mkldnn)
    _same_device(_ordered(given, "self=input weight bias"), "_cudnn_convolution")


def _picks_mkldnn(source: torch.Tensor, weight: torch.Tensor, transposed: bool) -> bool:
    """Whether PyTorch leaves a convolution on the CPU to oneDNN (ATen/native/Convolution.cpp, `use_mkldnn`)."""
    ones = [1] * (weight.dim() - 2)
    zeros = [0] * len(ones)
    batch = source if source.dim() == weight.dim() else source[None]
    groups = 1 if transposed else max(batch.size(1) // weight.size(1), 1)
    backend = torch._C._select_conv_backend(batch, weight, None, ones, zeros, ones, transposed, zeros, groups)
    return backend.name.startswith("Mkldnn")


def _attention(given: list[Given]) -> None:
    """`scaled_dot_product_attention`: a mask is compared by the kernel that takes masks."""
    devices = {g.name: g.device for g in given}
    query, key, value = devices["query"], devices["key"], devices["value"]
    if not query == key == value:
        raise words.attention_devices(query, key, value)
    order = "query key value attn_bias=attn_mask"
    _same_device(_ordered(given, order), "__scaled_dot_product_efficient_attention")


def _recurrent(given: list[Given]) -> None:
    """`lstm` and its kin: the layer's input, its state, its weights (ATen/native/cudnn/RNN.cpp)."""
    source, what = given[0], {"hx": "hidden", "params": "parameter"}
    if given[1].tensor.dtype == torch.int64:  # a packed sequence: its sizes of batches, on the CPU, come second
        labels = {"params": "hx", "argument 3": "params"}
        given = [source, *(g._replace(name=labels.get(g.name, g.name)) for g in given[2:])]
    for g in sorted(given[1:], key=lambda g: g.name != "params"):
        if g.device != source.device and g.name in what:
            raise words.recurrent_device(what[g.name], source.device, g.device)


def _masked_fill(given: list[Given]) -> None:
    """`masked_fill`: the mask is where the tensor is; a value is 0-dim and may come from the CPU."""
    tensors = {g.name: g for g in given}
    masked, mask = tensors["self"], tensors["mask"]
    if mask.device != masked.device:
        raise words.mask_device(mask.device, masked.device)
    _elementwise(given, in_place=True)


def _bitsandbytes(given: list[Given], name: str = "") -> None:
    """Kernels of bitsandbytes compare no devices (0.50.2, backends/cuda/ops.py): they fail at the foreign memory.

    A kernel asks for the stream of the device of its first tensor, `A`, which the CPU has none of; memory of the CPU in
    another place is met by the kernel itself. The product of codes takes its two factors in the reverse order, and asks
    for a cuBLAS handle on the weights' device first (functional.py, `CUBLAS_Context.get_context`).
    """
    tensors = dict.fromkeys(("A", "B", "CA", "CB", "SCB", "outlier_cols")) | {g.name: g for g in given}
    if name == "int8_linear_matmul" and tensors["B"].device != CPU:  # whose stream and handle it takes
        if tensors["B"].tensor.shape[-1] % 4:
            raise words.wrong_argument("mat2", tensors["B"].device, tensors["A"].device, "mm")
        raise words.illegal_access()
    codes = tensors["CB"] or tensors["B"]
    if name.startswith("int8_") and codes is not None and codes.device == CPU:
        columns = tensors["outlier_cols"]
        if columns is not None and columns.tensor.numel():
            raise words.index_device(CPU)
        if codes.tensor.shape[-1] % 4:  # by another way: a product in float32
            raise words.wrong_argument("mat2", CPU, given[0].device, "mm")
        raise words.not_a_gpu(CPU)
    first = tensors["CA"] or given[0]
    if first.device == CPU:
        raise words.no_stream_on_cpu()
    scales, columns = tensors["SCB"], tensors["outlier_cols"]
    if scales is not None and scales.device == CPU and columns is not None and columns.tensor.numel():
        raise words.two_devices(codes.device, CPU)  # the outliers' weights are codes times scales
    raise words.illegal_access()


def _indexing(given: list[Given]) -> None:
    """`x[index]` and its kin: an index may be on the CPU, or where `x` is; values follow the elementwise rule."""
    indexed = given[0].device
    for g in given[1:]:
        if indexed == CPU and g.tensor.dim() == 0:  # read as a number
            continue
        if g.device not in (CPU, indexed):
            raise words.index_device(indexed)


def _set_item(given: list[Given]) -> None:
    """`x[index] = values`: without tensors in the index a copy, otherwise values where `x` is, or a 0-dim tensor.

    A tensor on the CPU is written to with an index from anywhere.
    """
    index = [g for g in given if g.name != "values"]
    if given[0].device != CPU:
        _indexing(index)
    values = [g for g in given if g.name == "values" and g.tensor.dim() > 0]
    if len(index) > 1:
        _elementwise([given[0], *values], in_place=True)


FAMILIES: dict[str, Callable[[list[Given]], None]] = {
    "linear": _linear,
    "mv": _matrix_vector,
    **dict.fromkeys(["lstm", "gru", "rnn_tanh", "rnn_relu"], _recurrent),
    "matmul": _product,
    "_sparse_mm": _sparse_product,
    "einsum": _einsum,
    "scaled_dot_product_attention": _attention,
    **dict.fromkeys(CONVOLUTIONS[:3], _convolution),
    **dict.fromkeys(CONVOLUTIONS[3:], functools.partial(_convolution, transposed=True)),
    "masked_fill": _masked_fill,
    "masked_fill_": _masked_fill,
    "__getitem__": _indexing,
    "index": _indexing,
    "__setitem__": _set_item,
    "index_put": _set_item,
    "index_put_": _set_item,
}
"""Operators with rules of their own."""

OPERATORS: dict[str, Callable[[list[Given]], None]] = {
    "convolution": _convolution,
    "masked_fill": _masked_fill,
    "masked_fill_": _masked_fill,
    "index": _indexing,
    "index_put": _set_item,
    "index_put_": _set_item,
    "_index_put_impl_": _set_item,
}
"""The same by the names of ATen, for kernels inside a function and for what C++ calls."""

ALIASES = {"__matmul__": "matmul", "__rmatmul__": "matmul", "__imatmul__": "matmul"}


# ---- helpers -------------------------------------------------------------------------------------------------------


def type_name(tensor: torch.Tensor, device: torch.device) -> str:
    """`Tensor.type()`: `torch.FloatTensor` on the CPU, `torch.cuda.FloatTensor` on a GPU."""
    plain = torch.Tensor.type(tensor)
    return plain.replace("torch.", "torch.cuda.", 1) if device.type == "cuda" else plain


def cpp_type_name(tensor: torch.Tensor, device: torch.device) -> str:
    """The same as C++ spells it: types that older PyTorch had under its Python names, all others `CUDABFloat16Type`."""
    name = type_name(tensor, device)
    kind = name.rpartition(".")[2].removesuffix("Tensor")
    return name if kind in LEGACY_TYPES else f"{device.type.upper()}{kind}Type"


LEGACY_TYPES = frozenset("Byte Char Short Int Long Half Float Double".split())


def home(name: str, given: list[Given]) -> torch.device:
    """Where the result of a call lives that CUDA accepts."""
    if name in ("__getitem__", "index", "__setitem__", "index_put", "index_put_") or name.endswith("_"):
        return given[0].device
    return next((g.device for g in given if g.device.type == "cuda"), given[0].device)


def _renamed(given: list[Given], names: str) -> list[Given]:
    return [g._replace(name=name) for g, name in zip(given, names.split(), strict=True)]


def _ordered(given: list[Given], order: str) -> list[Given]:
    """`given` in the order that `order` asks for, under the names that it gives; see `KERNELS`."""
    result = []
    for item in order.split():
        kernel_name, _, python_names = item.partition("=")
        wanted = (python_names or kernel_name).split("|")
        result += [g._replace(name=kernel_name) for g in given if g.name in wanted]
    return result
