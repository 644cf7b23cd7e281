"""8-bit products of bitsandbytes before 0.46, which knew CUDA alone: its three C functions, done on the CPU.

From 0.46 on bitsandbytes reaches its kernels through PyTorch's dispatcher, which finds the ones for the CPU. Before,
`bitsandbytes.functional` handed pointers to a C library, and the one in the wheel for machines without CUDA lacks these
functions. Everything above them, checks of devices included, is bitsandbytes' own code.

Formulas: bitsandbytes 0.45.5, csrc/kernels.cu, `kInt8VectorQuant` and `kdequant_mm_int32_fp16`.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import numpy as np


class Kernels:
    """Stands in for `bitsandbytes.functional.lib`; what it does not have, the library in place answers."""

    def __init__(self, library: Any):
        """`library`: what bitsandbytes loaded."""
        self._library = library

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)

    def get_context(self) -> int:
        """The address of a cuBLAS handle, of which there is none."""
        return 1

    @staticmethod
    def cint8_vector_quant(values, codes, absmax, threshold, rows, columns, stream) -> None:
        """Rows of fp16 to int8; entries of `threshold` and more count for nothing and become 0, if it is above 0."""
        shape = rows.value, columns.value
        x = _array(values, np.float16, shape).astype(np.float32)
        if threshold.value > 0:
            x = np.where(np.abs(x) >= threshold.value, np.float32(0), x)
        largest = np.abs(x).max(axis=1)
        scale = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest > 0)
        _array(absmax, np.float32, shape[:1])[:] = largest
        _array(codes, np.int8, shape)[:] = np.rint(x * scale[:, None])

    @staticmethod
    def cigemmlt_32(context, inner, rows, outputs, weights, inputs, sums, *scale_strides_and_stream) -> int:
        """Int8 (rows, inner) times int8 (outputs, inner) to int32 (rows, outputs)."""
        w = _array(weights, np.int8, (outputs.value, inner.value)).astype(np.float64)  # exact: sums stay below 2**53
        x = _array(inputs, np.int8, (rows.value, inner.value)).astype(np.float64)
        _array(sums, np.int32, (rows.value, outputs.value))[:] = x @ w.T
        return 0

    @staticmethod
    def cdequant_mm_int32_fp16(sums, row_absmax, column_absmax, out, bias, rows, columns, stream) -> None:
        """Int32 sums back to fp16: times both absmax, over 127 squared, plus bias."""
        shape = rows.value, columns.value
        scales = np.outer(_array(row_absmax, np.float32, shape[:1]), _array(column_absmax, np.float32, shape[1:]))
        result = _array(sums, np.int32, shape).astype(np.float32) * (scales / np.float32(127 * 127))
        if bias is not None and bias.value:
            result = result + _array(bias, np.float16, shape[1:])
        _array(out, np.float16, shape)[:] = result


def needed() -> Any:
    """`bitsandbytes.functional` if it is imported, older than 0.46 and of use to a virtual GPU, else None."""
    functional = sys.modules.get("bitsandbytes.functional")
    old = functional is not None and hasattr(functional, "lib") and "bitsandbytes.backends" not in sys.modules
    return functional if old and hasattr(functional, "int8_vectorwise_quant") else None


def _array(pointer: ctypes.c_void_p, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    """The memory behind a pointer, without a copy."""
    kind = np.ctypeslib.as_ctypes_type(dtype) if dtype is not np.float16 else ctypes.c_uint16
    count = int(np.prod(shape))
    return np.ctypeslib.as_array((kind * count).from_address(pointer.value)).view(dtype).reshape(shape)
