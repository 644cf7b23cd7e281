"""bitsandbytes' kernels as CUDA runs them: they get an address and a shape, and read memory as it lies.

A tensor that is a view of another (transposed, every second row, some of the columns, expanded) says by its strides
where its numbers are. A kernel that takes `data_ptr()` and sizes never sees the strides: it starts at the tensor's
first number and takes what follows, row by row. Where bitsandbytes makes a contiguous copy first, that is right; where
it does not, the result is wrong without a word. On a processor the same operators are written in PyTorch, which
honours strides, so a virtual GPU would be right where a real one is not. `as_on_cuda` takes that difference away.

What lies behind the end of a storage belongs to somebody else. A real GPU reads it; here it reads as zeros, and so does
memory that a kernel never writes.

`ARGUMENTS` is the table of all of this, argument by argument; the book shows it, and tests compare it with the source
and with the record of a real GPU. (bitsandbytes' Triton kernels, backends/triton, are for Intel's GPUs alone.)
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch

COPIES_SINCE = (0, 49)
"""From this version of bitsandbytes on the blockwise and 4-bit kernels copy what is not contiguous (bitsandbytes#1690;
0.48.2 has no `contiguous()` in backends/cuda/ops.py, 0.49.2 has four)."""

SMALL_ROWS = 4
"""Up to this many rows `gemm_4bit` always takes its own kernel (`_GEMM_4BIT_CUSTOM_FLOOR_M`)."""

VECTOR_BYTES, PRODUCT_BYTES = 16, 4
"""What an address must be a multiple of for the 4-bit products, which load 16 bytes at a time, and for cuBLASLt."""

Kernel = Callable[..., Any]


# ---- the table ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Argument:
    """What becomes of one argument that is not contiguous.

    Attributes:
        kernel: name of the operator, without `bitsandbytes::`.
        name: of the argument.
        safe: whether the result is right for any view.
        why: in a few words.
        place: file and line of bitsandbytes 0.50.2 that says so.
    """

    kernel: str
    name: str
    safe: bool
    why: str
    place: str


CUDA, DEFAULT, OPS = "backends/cuda/ops.py", "backends/default/ops.py", "_ops.py"
ADDRESS, WRITTEN = "read by address", "written by address"


def _rows(kernel: str, file: str, *rows: tuple[str, bool, str, int]) -> tuple[Argument, ...]:
    return tuple(Argument(kernel, name, safe, why, f"{file}:{line}") for name, safe, why, line in rows)


ARGUMENTS = (
    *_rows(
        "int8_vectorwise_quant",
        CUDA,
        ("A", False, f"codes and scales {ADDRESS}; outlier columns found by PyTorch", 240),
    ),
    *_rows("int8_double_quant", CUDA, ("A", False, "rows by `int8_vectorwise_quant`; columns by PyTorch, right", 263)),
    *_rows(
        "int8_linear_matmul",
        CUDA,
        ("A", False, f"{ADDRESS}; by PyTorch, right, if its width is no multiple of 4", 138),
        ("B", False, f"{ADDRESS}; by PyTorch, right, if its width is no multiple of 4", 137),
        ("out", False, WRITTEN, 139),
    ),
    *_rows(
        "int8_mm_dequant",
        CUDA,
        ("A", False, f"{ADDRESS}, and the result written in the same order: the scales meet other numbers", 196),
        ("row_stats", False, ADDRESS, 197),
        ("col_stats", False, ADDRESS, 198),
        ("bias", False, f"{ADDRESS} in float16; added by PyTorch, right, in other types", 192),
    ),
    *_rows(
        "int8_scaled_mm",
        DEFAULT,
        ("A", False, "as in `int8_linear_matmul`", 112),
        ("B", False, "as in `int8_linear_matmul`", 112),
        ("row_stats", False, "as in `int8_mm_dequant`", 113),
        ("col_stats", False, "as in `int8_mm_dequant`", 113),
        ("bias", False, "as in `int8_mm_dequant`", 113),
    ),
    *_rows(
        "int8_mixed_scaled_mm",
        DEFAULT,
        ("A", True, "its outlier columns are copied by PyTorch", 78),
        ("CA", False, "as in `int8_scaled_mm`", 94),
        ("CB", False, "as in `int8_scaled_mm`; its outlier columns copied by PyTorch, right", 94),
        ("SCA", False, "as in `int8_scaled_mm`", 94),
        ("SCB", False, "as in `int8_scaled_mm`; for the outlier columns by PyTorch, right", 94),
        ("outlier_cols", True, "an index for PyTorch", 78),
        ("bias", False, "as in `int8_scaled_mm`", 94),
    ),
    *_rows(
        "int8_vectorwise_dequant",
        OPS,
        ("A", True, "written in PyTorch", 121),
        ("stats", True, "written in PyTorch", 121),
    ),
    *_rows(
        "quantize_blockwise",
        CUDA,
        ("A", True, f"copied; {ADDRESS} before 0.49", 301),
        ("code", False, ADDRESS, 324),
    ),
    *_rows(
        "dequantize_blockwise",
        CUDA,
        ("A", False, "copied, but the result takes its strides first, and is written row by row", 337),
        ("absmax", False, ADDRESS, 376),
        ("code", False, ADDRESS, 374),
        ("out", False, WRITTEN, 377),
    ),
    *_rows("quantize_4bit", CUDA, ("A", True, f"copied; {ADDRESS} before 0.49", 388)),
    *_rows(
        "dequantize_4bit",
        CUDA,
        ("A", True, f"copied; {ADDRESS} before 0.49", 462),
        ("absmax", False, ADDRESS, 486),
        ("out", False, WRITTEN, 487),
    ),
    *_rows(
        "gemv_4bit",
        CUDA,
        ("A", False, f"one row of it {ADDRESS}", 570),
        ("B", False, ADDRESS, 571),
        ("absmax", False, ADDRESS, 572),
        ("code", False, ADDRESS, 573),
        ("out", False, WRITTEN, 574),
    ),
    *_rows(
        "gemm_4bit",
        CUDA,
        ("A", True, "copied", 866),
        ("B", False, f"{ADDRESS}; copied where the rows are many", 886),
        ("absmax", False, ADDRESS, 887),
        ("absmax_8bit", False, f"{ADDRESS}; copied where the rows are many", 888),
        ("absmax_code", False, ADDRESS, 889),
        ("bias", False, f"{ADDRESS}; by PyTorch, right, where the rows are many", 892),
    ),
    *_rows(
        "optimizer_update_32bit",
        CUDA,
        ("g", False, f"{ADDRESS}; bitsandbytes' optimizers copy it before", 1097),
        ("p", False, f"{ADDRESS}; bitsandbytes' optimizers copy it before", 1098),
    ),
    *_rows(
        "optimizer_update_8bit_blockwise",
        CUDA,
        ("p", False, f"{ADDRESS}; bitsandbytes' optimizers copy it before", 1189),
        ("g", False, f"{ADDRESS}; bitsandbytes' optimizers copy it before", 1190),
    ),
)


# ---- memory ---------------------------------------------------------------------------------------------------------


def as_it_lies(tensor: torch.Tensor | None) -> torch.Tensor | None:
    """What a kernel reads that is given the address and the shape of `tensor`.

    Args:
        tensor: any view; None stays None.

    Returns:
        A contiguous tensor of the same shape: the numbers that follow the first one in memory, zeros past the end of
        the storage. `tensor` itself if it is contiguous.
    """
    if tensor is None or tensor.is_contiguous():
        return tensor
    memory = _memory(tensor)
    found = memory[: tensor.numel()]
    missing = tensor.numel() - found.numel()
    return (torch.cat([found, found.new_zeros(missing)]) if missing else found.clone()).view(tensor.shape)


def write(tensor: torch.Tensor, values: torch.Tensor) -> None:
    """Put `values` where a kernel puts them that is given the address of `tensor`: one after the other.

    What would fall behind the end of the storage is dropped.
    """
    memory = _memory(tensor)
    values = values.reshape(-1)[: memory.numel()]
    memory[: values.numel()] = values.to(tensor.dtype)


def _memory(tensor: torch.Tensor) -> torch.Tensor:
    """All numbers from the first of `tensor` to the end of its storage."""
    count = tensor.untyped_storage().nbytes() // tensor.element_size() - tensor.storage_offset()
    return tensor.detach().as_strided((max(count, 0),), (1,))


# ---- the kernels ----------------------------------------------------------------------------------------------------


def as_on_cuda(name: str, func: Callable, kernel: Kernel, args: tuple, kwargs: dict) -> Kernel:
    """The kernel to call in place of `kernel`, with the same arguments.

    Args:
        name: of the operator, without `bitsandbytes::` and overload.
        func: the operator, for the names of its arguments.
        kernel: what computes it from tensors that are contiguous.
        args: as the operator is called.
        kwargs: the same.

    Returns:
        `kernel` itself where CUDA would do the same.
    """
    reader = READERS.get(name)
    if reader is None:
        return kernel
    given = _named(func, args, kwargs)
    tensors = [value for value in given.values() if isinstance(value, torch.Tensor)]
    plain = all(tensor.is_contiguous() and not tensor.storage_offset() for tensor in tensors)
    if plain and not _only_on_cuda(name, given):
        return kernel
    return lambda *args, **kwargs: reader(kernel, **_named(func, args, kwargs))


def _named(func: Callable, args: tuple, kwargs: dict) -> dict[str, Any]:
    if not hasattr(func, "_schema"):  # `torch.ops.bitsandbytes.name`, all its overloads at once
        func = func.out if "out" in kwargs else func.default
    return {**dict(zip(_parameters(func), args, strict=False)), **kwargs}


@functools.cache
def _parameters(func: Callable) -> tuple[str, ...]:
    """Names of an operator's arguments; asked of its schema, each time they are made anew."""
    return tuple(argument.name for argument in func._schema.arguments)


def _only_on_cuda(name: str, given: dict[str, Any]) -> bool:
    """What the kernels for processors lack or do in another way, also for contiguous tensors."""
    if name == "int8_double_quant" or "out" in given:
        return True
    A = given.get("A")
    if name == "gemv_4bit":
        return A.numel() != A.shape[-1]
    return name in ("int8_vectorwise_quant", "int8_mm_dequant") and A.ndim != 2


def _int8_vectorwise_quant(
    kernel: Kernel, A: torch.Tensor, threshold: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    read = as_it_lies(A).reshape(-1, A.shape[-1])
    if threshold <= 0:
        codes, absmax, _ = kernel(read)
        return codes.view(A.shape), absmax, None
    # the kernel leaves out what is large in memory; which columns count as outliers is asked of the tensor itself
    codes, absmax, _ = kernel(read.masked_fill(read.abs() >= threshold, 0))
    codes = codes.view(A.shape)
    columns = torch.argwhere((A.abs() >= threshold).any(dim=0)).view(-1)
    if len(read) > 1:
        codes[:, columns] = 0
    return codes, absmax, columns


def _int8_double_quant(kernel: Kernel, A: torch.Tensor, threshold: float = 0.0) -> tuple[Any, ...]:
    quantize = torch.ops.bitsandbytes.int8_vectorwise_quant.default
    codes, absmax, columns = _int8_vectorwise_quant(quantize, A, threshold)
    sizes = A.abs().view(-1, A.shape[-1])
    if threshold > 0:
        outliers = sizes >= threshold
        sizes = sizes.masked_fill(outliers, 0.0)
        A = A.masked_fill(outliers, 0.0)
    column_absmax = sizes.amax(dim=0).float()
    column_codes = torch.round(A.mul(127.0) / column_absmax.unsqueeze(0)).to(torch.int8)
    return codes, column_codes, absmax, column_absmax, columns


def _int8_linear_matmul(
    kernel: Kernel, A: torch.Tensor, B: torch.Tensor, out: torch.Tensor | None = None
) -> torch.Tensor | None:
    multiply = torch.ops.bitsandbytes.int8_linear_matmul.default
    if B.shape[-1] % 4:  # PyTorch does it, and copies to where `out` is
        sums = multiply(A.contiguous(), B.contiguous())  # `_int_mm` misreads stride 0 on processors (torch 2.13)
        return sums if out is None else _nothing(out.copy_(sums))
    _check_product(A, B)
    sums = multiply(as_it_lies(A), as_it_lies(B))
    return sums if out is None else _nothing(write(out, sums))


def _int8_mm_dequant(
    kernel: Kernel,
    A: torch.Tensor,
    row_stats: torch.Tensor,
    col_stats: torch.Tensor,
    dtype: torch.dtype | None = None,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    inside = bias is not None and bias.dtype == torch.float16
    read = as_it_lies(A).reshape(-1, A.shape[-1])
    found = kernel(read, as_it_lies(row_stats), as_it_lies(col_stats), bias=as_it_lies(bias) if inside else None)
    out = torch.empty_like(A, dtype=torch.float16)  # laid out as `A` is, if that has no gaps
    write(out, found)
    if bias is not None and not inside:
        out.add_(bias)
    return out.to(dtype or torch.float16)


def _int8_scaled_mm(
    kernel: Kernel,
    A: torch.Tensor,
    B: torch.Tensor,
    row_stats: torch.Tensor,
    col_stats: torch.Tensor,
    bias: torch.Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    sums = _int8_linear_matmul(kernel, A, B)
    dequantize = torch.ops.bitsandbytes.int8_mm_dequant.default
    if bias is not None and bias.dtype == torch.float16:
        bias = as_it_lies(bias)
    dtype = dtype or torch.float16
    return dequantize(sums, as_it_lies(row_stats), as_it_lies(col_stats), dtype=dtype, bias=bias)


def _int8_mixed_scaled_mm(
    kernel: Kernel,
    A: torch.Tensor,
    CA: torch.Tensor,
    CB: torch.Tensor,
    SCA: torch.Tensor,
    SCB: torch.Tensor,
    outlier_cols: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    product = _int8_scaled_mm(kernel, CA, CB, SCA, SCB, bias, A.dtype)
    return with_outliers(product, A, CB, SCB, outlier_cols)


def with_outliers(
    product: torch.Tensor, A: torch.Tensor, CB: torch.Tensor, SCB: torch.Tensor, columns: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Add the product of the outlier columns, which is PyTorch's own: in float32, rounded to 16 bits at the end.

    Args:
        product: of the codes, (rows, n).
        A: activations, (rows, k).
        CB: codes of the weight, int8, (n, k).
        SCB: largest magnitude of each row of the weight, float32.
        columns: numbers of the outlier columns, or None.

    Returns:
        The sum, in the type of `A`, and the outlier columns of `A` (0.50.2, backends/default/ops.py).
    """
    if columns is None or not columns.numel():
        return product, A.new_empty(0)
    chosen = A[:, columns].contiguous()
    weights = torch.ops.bitsandbytes.int8_vectorwise_dequant.default(CB[:, columns].contiguous(), SCB).to(A.dtype).t()
    return torch.addmm(product.float(), chosen.float(), weights.float()).to(A.dtype), chosen


def _quantize_blockwise(kernel: Kernel, A: torch.Tensor, code: torch.Tensor, blocksize: int) -> tuple[Any, ...]:
    if _copies():
        return kernel(A.contiguous(), as_it_lies(code), blocksize)
    codes, absmax = kernel(as_it_lies(A), as_it_lies(code), blocksize)
    out = torch.empty_like(A, dtype=torch.uint8)
    write(out, codes)
    return out, absmax


def _dequantize_blockwise(
    kernel: Kernel,
    A: torch.Tensor,
    absmax: torch.Tensor,
    code: torch.Tensor,
    blocksize: int,
    dtype: torch.dtype,
    out: torch.Tensor | None = None,
) -> torch.Tensor | None:
    dequantize = torch.ops.bitsandbytes.dequantize_blockwise.default
    read = A.contiguous() if _copies() else as_it_lies(A)
    values = dequantize(read, as_it_lies(absmax), as_it_lies(code), blocksize, dtype)
    if out is not None:
        return _nothing(write(out, values))
    out = torch.empty_like(A, dtype=dtype)  # laid out as `A` is, if that has no gaps; written row by row all the same
    write(out, values)
    return out


def _quantize_4bit(
    kernel: Kernel, A: torch.Tensor, blocksize: int, quant_type: str, quant_storage: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    return kernel(A.contiguous() if _copies() else as_it_lies(A), blocksize, quant_type, quant_storage)


def _dequantize_4bit(
    kernel: Kernel,
    A: torch.Tensor,
    absmax: torch.Tensor,
    blocksize: int,
    quant_type: str,
    shape: Any,
    dtype: torch.dtype,
    out: torch.Tensor | None = None,
) -> torch.Tensor | None:
    dequantize = torch.ops.bitsandbytes.dequantize_4bit.default
    read = A.contiguous() if _copies() else as_it_lies(A)
    values = dequantize(read, as_it_lies(absmax), blocksize, quant_type, shape, dtype)
    return values if out is None else _nothing(write(out, values))


def _gemv_4bit(
    kernel: Kernel,
    A: torch.Tensor,
    B: torch.Tensor,
    shapeB: Any,
    absmax: torch.Tensor,
    code: torch.Tensor,
    blocksize: int,
    out: torch.Tensor | None = None,
) -> torch.Tensor | None:
    _check_vectors(A, B)
    row = as_it_lies(A).reshape(-1, A.shape[-1])[:1]  # one row, however many there are
    packed = as_it_lies(B).reshape(-1).view(torch.uint8)
    both = torch.stack([packed >> 4, packed & 15], dim=1).flatten()[: prod(shapeB)].long()
    # the kernel for processors looks whether the map is NF4's or FP4's and takes its own
    weight = as_it_lies(code)[both] * as_it_lies(absmax).repeat_interleave(blocksize)[: len(both)]
    values = (row.float() @ weight.to(A.dtype).float().view(*shapeB).t()).to(A.dtype)
    result = A.new_zeros(*A.shape[:-1], shapeB[0]) if out is None else out
    write(result, values)
    return result if out is None else None


def _gemm_4bit(
    kernel: Kernel,
    A: torch.Tensor,
    B: torch.Tensor,
    shapeB: Any,
    absmax: torch.Tensor,
    blocksize: int,
    quant_type: str,
    bias: torch.Tensor | None = None,
    absmax_8bit: torch.Tensor | None = None,
    absmax_code: torch.Tensor | None = None,
    absmax_offset: torch.Tensor | None = None,
) -> torch.Tensor:
    few = A.numel() // A.shape[-1] <= SMALL_ROWS and A.shape[-1] % blocksize == 0
    read = as_it_lies if few else torch.Tensor.contiguous
    if few:
        _check_vectors(A.contiguous(), B)
    return kernel(
        A.contiguous(),
        read(B),
        shapeB,
        as_it_lies(absmax),
        blocksize,
        quant_type,
        bias=bias if bias is None else read(bias),
        absmax_8bit=absmax_8bit if absmax_8bit is None else read(absmax_8bit),
        absmax_code=as_it_lies(absmax_code),
        absmax_offset=absmax_offset,
    )


def _optimizer_update(kernel: Kernel, **given: Any) -> None:
    read = {name: as_it_lies(value) if isinstance(value, torch.Tensor) else value for name, value in given.items()}
    kernel(**read)
    for name, value in given.items():
        if isinstance(value, torch.Tensor) and read[name] is not value:
            write(value, read[name])


def _check_vectors(*tensors: torch.Tensor) -> None:
    """Raise what CUDA raises where a kernel loads 16 bytes from an address that is no multiple of 16."""
    if any(tensor.storage_offset() * tensor.element_size() % VECTOR_BYTES for tensor in tensors):
        raise getattr(torch, "AcceleratorError", RuntimeError)(
            "CUDA error: misaligned address\nSearch for `cudaErrorMisalignedAddress' in "
            "https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html for more information."
        )


def _check_product(A: torch.Tensor, B: torch.Tensor) -> None:
    """Raise what bitsandbytes raises where cuBLASLt does not take an address (backends/cuda/ops.py, 165)."""
    if any(tensor.storage_offset() % PRODUCT_BYTES for tensor in (A, B)):
        shapeA, shapeB, shapeC = B.shape, A.shape, (*A.shape[:-1], B.shape[0])
        lda, ldb, ldc = shapeA[-1], shapeB[-1], shapeC[-1]
        (k, m), n = shapeA, prod(shapeB[:-1])  # so named there
        raise RuntimeError(
            f"cublasLt ran into an error!\n\t{shapeA=}, {shapeB=}, {shapeC=}\n\t{(lda, ldb, ldc)=}\n\t{(m, n, k)=}"
        )


def _nothing(*done: Any) -> None:
    """The result of an operator that writes where it is told."""


def _copies() -> bool:
    """Whether the blockwise and 4-bit kernels of the installed bitsandbytes copy what is not contiguous."""
    import bitsandbytes

    return tuple(int(part) for part in bitsandbytes.__version__.split(".")[:2]) >= COPIES_SINCE


READERS: dict[str, Callable[..., Any]] = {
    "int8_vectorwise_quant": _int8_vectorwise_quant,
    "int8_double_quant": _int8_double_quant,
    "int8_linear_matmul": _int8_linear_matmul,
    "int8_mm_dequant": _int8_mm_dequant,
    "int8_scaled_mm": _int8_scaled_mm,
    "int8_mixed_scaled_mm": _int8_mixed_scaled_mm,
    "quantize_blockwise": _quantize_blockwise,
    "dequantize_blockwise": _dequantize_blockwise,
    "quantize_4bit": _quantize_4bit,
    "dequantize_4bit": _dequantize_4bit,
    "gemv_4bit": _gemv_4bit,
    "gemm_4bit": _gemm_4bit,
    "optimizer_update_32bit": _optimizer_update,
    "optimizer_update_8bit_blockwise": _optimizer_update,
}
"""Operator -> the function that reads as CUDA does and computes with the kernel it is given."""
