"""Where the name and the type of a call do not decide alone whether CUDA has a kernel: sizes, dimensions, arguments.

Each check says what CUDA raises, None where it computes. `kernels` asks them before it looks into its table; the types
beside a check are those of the call's first tensor that it looks at. Words and cases: the record `operators_h200`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from . import words
from .ledger import tensors_in

Check = Callable[[str, tuple, dict], "RuntimeError | None"]

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
"""Types that cuBLAS does not multiply, as it does not `float8_e4m3fn`."""

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)

CPP_NAMES = {
    torch.uint8: "Byte",
    torch.int8: "Char",
    torch.int16: "Short",
    torch.int32: "Int",
    torch.int64: "Long",
    torch.float16: "Half",
    torch.float32: "Float",
    torch.float64: "Double",
    torch.bfloat16: "BFloat16",
    torch.bool: "Bool",
    torch.complex32: "ComplexHalf",
    torch.complex64: "ComplexFloat",
    torch.complex128: "ComplexDouble",
    torch.float8_e4m3fn: "Float8_e4m3fn",
}
"""Types as C++ spells them."""


def _missing(kernel: str, dtype: torch.dtype) -> NotImplementedError:
    return NotImplementedError(f"\"{kernel}\" not implemented for '{CPP_NAMES.get(dtype, dtype)}'")


# ---- products ------------------------------------------------------------------------------------------------------


def product(name: str, args: tuple, kwargs: dict) -> RuntimeError | None:
    """Which kernel `matmul` and `inner` end in (ATen/native/LinearAlgebra.cpp, `_matmul_impl`)."""
    tensors = tensors_in((args, kwargs))[:2]
    a, b = (tensor.dim() for tensor in tensors) if len(tensors) == 2 else (0, 0)
    if 0 in (a, b):
        return None
    if a == b == 1:
        kernel = "dot"
    elif name == "inner":
        kernel = "addmm_cuda"
    elif a == 1 or b == 1:
        kernel = "addmv_impl_cuda"
    else:
        kernel = "addmm_cuda" if min(a, b) == 2 else "baddbmm_cuda"
    dtype = tensors[0].dtype
    if name == "inner" and dtype == torch.float8_e4m3fn:
        return None if a == b == 1 else _missing("addmm_cuda", dtype)
    if dtype == torch.float8_e4m3fn and kernel != "addmm_cuda":
        return None  # a processor refuses those as well
    return _missing(kernel, dtype)


def power(name: str, args: tuple, kwargs: dict) -> RuntimeError | None:
    """`matrix_power` multiplies from the second power on."""
    number = args[1] if len(args) > 1 else kwargs.get("n", 0)
    if not isinstance(number, int) or abs(number) < 2:
        return None
    return _missing("addmm_cuda" if args[0].dim() == 2 else "baddbmm_cuda", args[0].dtype)


def int_mm(name: str, args: tuple, kwargs: dict) -> RuntimeError | None:
    """`_int_mm` (ATen/native/cuda/Blas.cpp): what cuBLASLt takes."""
    a, b = tensors_in((args, kwargs))[:2]
    for label, tensor in (("self", a), ("mat2", b)):
        if tensor.dim() != 2:
            return RuntimeError(f"Expected {label} to be of dimension 2 but got {tensor.dim()}")
    for tensor in (a, b):
        if tensor.dtype != torch.int8:
            return RuntimeError(f"expected scalar type Char but found {CPP_NAMES.get(tensor.dtype, tensor.dtype)}")
    if a.size(1) != b.size(0):
        return None
    if a.size(0) <= 16:
        return RuntimeError(f"self.size(0) needs to be greater than 16, but got {a.size(0)}")
    for label, size in (("self", a.size(1)), ("mat2", b.size(1))):
        if size <= 0 or size % 8:
            return RuntimeError(f"{label}.size(1) needs to be greater than 0 and a multiple of 8, but got {size}")
    return None


# ---- operators that CUDA does not have -----------------------------------------------------------------------------


def histogram(name: str, args: tuple, kwargs: dict) -> RuntimeError | None:
    """`histogram`, by the form of its bins."""
    bins = args[1] if len(args) > 1 else kwargs.get("bins")
    tail = "bins_tensor" if isinstance(bins, torch.Tensor) else "bin_ct"
    return words.no_kernel(f"histogram.{tail}{'_out' * ('out' in kwargs)}")


def histogramdd(name: str, args: tuple, kwargs: dict) -> RuntimeError | None:
    """`histogramdd`, by the form of its bins."""
    bins = args[1] if len(args) > 1 else kwargs.get("bins")
    tensors = isinstance(bins, (list, tuple)) and bins and isinstance(bins[0], torch.Tensor)
    return words.no_kernel("_histogramdd_from_bin_tensors" if tensors else "_histogramdd_bin_edges")


def narrow_copy(name: str, args: tuple, kwargs: dict) -> RuntimeError | None:
    """`narrow_copy` with `out=`."""
    return words.no_kernel("narrow_copy.out") if "out" in kwargs else None


def sparse_mm(name: str, args: tuple, kwargs: dict) -> RuntimeError | None:
    """`torch.sparse.mm` that reduces."""
    reduces = any(isinstance(value, str) for value in (*args, *kwargs.values()))
    return words.no_kernel("_sparse_mm_reduce_impl", "SparseCsrCUDA") if reduces else None


# ---- others --------------------------------------------------------------------------------------------------------


def norm_types(name: str, args: tuple, kwargs: dict) -> RuntimeError | None:
    """`layer_norm` and `group_norm` with weights of another type: a processor takes float32 beside 16 bits."""
    tensors = tensors_in((args, kwargs))
    other = next((tensor for tensor in tensors[1:] if tensor.dtype != tensors[0].dtype), None)
    if other is None:
        return None
    expected, found = (CPP_NAMES.get(tensor.dtype, tensor.dtype) for tensor in (tensors[0], other))
    return RuntimeError(f"expected scalar type {expected} but found {found}")


def median_along(name: str, args: tuple, kwargs: dict) -> RuntimeError | None:
    """`median` of one dimension; that of all numbers CUDA computes in any type."""
    return _missing("median_out_impl", args[0].dtype) if len(args) > 1 or "dim" in kwargs else None


def least_squares(name: str, args: tuple, kwargs: dict) -> RuntimeError | None:
    """`lstsq` has one driver on CUDA."""
    if kwargs.get("driver") in (None, "gels"):
        return None
    return RuntimeError("torch.linalg.lstsq: `driver` other than `gels` is not supported on CUDA")


def half_transform(name: str, args: tuple, kwargs: dict) -> RuntimeError | None:
    """Transforms in half precision (ATen/native/cuda/SpectralOps.cpp): sizes are powers of two."""
    tensor = args[0]
    names = ("n", "dim") if name.rstrip("2n").endswith("fft") and not name.endswith(("2", "n")) else ("s", "dim")
    given = dict(zip(names, args[1:], strict=False)) | kwargs
    dims = given.get("dim")
    if dims is None:
        dims = -1 if names[0] == "n" else (-2, -1) if name.endswith("2") else range(tensor.dim())
    dims = [dims] if isinstance(dims, int) else list(dims)
    sizes = given.get(names[0])
    sizes = [sizes] if isinstance(sizes, int) else sizes
    if sizes is None:
        sizes = [tensor.size(dim) for dim in dims]
        if name in ("fft_irfft", "fft_irfft2", "fft_irfftn", "fft_hfft", "fft_hfft2", "fft_hfftn") and sizes:
            sizes[-1] = 2 * (sizes[-1] - 1)
    if all(size > 0 and size & (size - 1) == 0 for size in sizes):
        return None
    return RuntimeError(
        "cuFFT only supports dimensions whose sizes are powers of two when computing in half precision, but got a "
        f"signal size of{list(sizes)}"
    )


TRANSFORMS = [
    f"fft_{inverse}{kind}{dims}" for inverse in ("", "i") for kind in ("fft", "rfft", "hfft") for dims in ("", "2", "n")
]

NOT_MULTIPLIED = (*INTEGERS, torch.float8_e4m3fn)

CHECKS: dict[str, tuple[tuple[torch.dtype, ...], Check]] = {
    **dict.fromkeys(["matmul", "__matmul__", "__rmatmul__", "__imatmul__", "inner"], (NOT_MULTIPLIED, product)),
    **dict.fromkeys(["matrix_power", "linalg_matrix_power"], (NOT_MULTIPLIED, power)),
    "_int_mm": ((*INTEGERS, *FLOATS), int_mm),
    "histogram": (tuple(CPP_NAMES), histogram),
    "histogramdd": (tuple(CPP_NAMES), histogramdd),
    "narrow_copy": (tuple(CPP_NAMES), narrow_copy),
    "_sparse_mm": (tuple(CPP_NAMES), sparse_mm),
    "sparse_mm": (tuple(CPP_NAMES), sparse_mm),
    "layer_norm": ((torch.float16, torch.bfloat16), norm_types),
    "group_norm": ((torch.float16, torch.bfloat16), norm_types),
    "median": ((torch.bool, torch.float8_e4m3fn), median_along),
    "nanmedian": ((torch.bool, torch.float8_e4m3fn), median_along),
    "linalg_lstsq": (FLOATS, least_squares),
    **dict.fromkeys(TRANSFORMS, ((torch.float16, torch.complex32), half_transform)),
}
"""Name -> types, check."""

LACKING = frozenset(["histogram", "histogramdd", "narrow_copy", "_sparse_mm", "sparse_mm"])
"""Functions some of whose operators CUDA does not have at all."""

BY_HAND = frozenset([*CHECKS, "tensor_split"]) - {*TRANSFORMS, "layer_norm", "group_norm", "median", "nanmedian"}
"""Names whose rules are here or in a handler, not in the table."""
