"""Eight bits from scratch: quantizers, error measures and integer products in plain PyTorch.

Read top to bottom: numbers to codes (`quantize`), how much was lost (`max_error`, `rmse`, `sqnr_db`), products of
codes (`int8_matmul`), and the whole of LLM.int8() (`int8_vectorwise_quant`, `llm_int8_linear`), which agrees with
bitsandbytes. Nothing here imports another room of this package, or bitsandbytes.

A *step* is the distance between the numbers that neighboring codes stand for. Every error bound below is in steps.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

SMALLEST_STEP = torch.finfo(torch.float32).tiny
"""The smallest normal float32. A group of zeros gets this step, so that nothing is divided by zero."""

LONGEST_PRODUCT = (2**31 - 1) // 128**2
"""131,071: that many products of two int8 codes are sure to fit an int32 sum."""


@dataclass(frozen=True)
class QuantizedTensor:
    """Codes, and what it takes to read them as numbers again: ``value = (code - zero_point) * scale``.

    Groups are what shares a scale: the whole tensor, a slice along `axis`, or `block` neighbors in memory order.

    Attributes:
        codes: int8, the shape of the tensor it came from. Fewer than 8 bits still sit in one byte each here.
        scale: float32, one step a group, in the unit of the values.
        zero_point: int32, one code a group, the code that stands for exactly 0; `None` for absmax (it is 0).
        bits: 2 to 8.
        axis: The dimension whose every index has its own scale, or `None`.
        block: How many neighbors share a scale, or `None`.
        dtype: What `dequantize` returns.

    Chapter 2.
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor | None
    bits: int
    axis: int | None
    block: int | None
    dtype: torch.dtype

    @property
    def shape(self) -> torch.Size:
        """The shape of the tensor that the codes stand for. Chapter 2."""
        return self.codes.shape

    @property
    def bits_per_value(self) -> float:
        """Bits that one value costs with codes packed tightly, its share of the group's scale included.

        A scale has 32 bits, a zero point as many as a code. Chapter 2.
        """
        per_group = 32 + (0 if self.zero_point is None else self.bits)
        return self.bits + per_group * self.scale.numel() / self.codes.numel()

    def dequantize(self, dtype: torch.dtype | None = None) -> Tensor:
        """The values that the codes stand for, in `dtype` (as a rule that of the tensor they came from).

        The outermost code may stand for a number beyond the dtype's range: it is clipped to the range.
        Jacob et al. 2018 (arXiv 1712.05877), equation 1. Chapter 2.
        """
        dtype = dtype or self.dtype
        codes = _to_groups(self.codes.float(), self.axis, self.block)
        if self.zero_point is not None:
            codes = codes - self.zero_point[:, None]
        limit = min(torch.finfo(dtype).max, torch.finfo(torch.float32).max)
        values = (codes * self.scale[:, None]).clamp(-limit, limit).to(dtype)
        return _from_groups(values, self.shape, self.axis)


def code_range(bits: int, scheme: str = "absmax") -> tuple[int, int]:
    """Lowest and highest code: (-127, 127) for absmax in 8 bits, (-128, 127) for affine.

    Absmax leaves the lowest code of two's complement out. With it the codes would not be symmetric: negating a tensor
    would not negate its codes, and the range would have to grow by a step on one side that no value needs.
    Nagel et al. 2021 (arXiv 2106.08295), section 2.2, has both schemes.

    Raises:
        ValueError: for bits outside 2 to 8, or another scheme. One bit has no symmetric range but {0}.

    Chapter 2.
    """
    if isinstance(bits, bool) or not isinstance(bits, int) or not 2 <= bits <= 8:
        raise ValueError(f"bits must be a whole number from 2 to 8, got {bits!r}: codes are kept in int8")
    if scheme not in ("absmax", "affine"):
        raise ValueError(f"scheme must be 'absmax' (symmetric) or 'affine' (with a zero point), got {scheme!r}")
    highest = 2 ** (bits - 1) - 1
    return (-highest if scheme == "absmax" else -highest - 1), highest


def quantize(
    x: Tensor,
    bits: int = 8,
    *,
    scheme: str = "absmax",
    axis: int | None = None,
    block: int | None = None,
    clip: float = 1.0,
) -> QuantizedTensor:
    """Round floating-point values to `bits`-bit codes, one scale for each group of values.

    With ``clip=1`` no value moves by more than half a step. Rounding is to the nearest code and to the even one at a
    tie, as `torch.round` does and as bitsandbytes does on every device.

    Args:
        x: Any shape, finite. Computed in float32.
        bits: 2 to 8.
        scheme: "absmax": ``scale = max|x| / highest code`` and 0 is code 0 (LLM.int8(), arXiv 2208.07339, section 2.1).
            "affine", also called zero-point: the range from the lowest to the highest value, widened to hold 0,
            is laid over all codes, so 0 has a code of its own (Jacob et al., arXiv 1712.05877, sections 2.1 and 3).
        axis: One scale for each index of this dimension: 0 gives one a row of a matrix, 1 one a column.
        block: One scale for `block` neighbors in memory order (row by row), the last block may be shorter.
            Without axis and block the whole tensor shares one scale.
        clip: In (0, 1]: the part of each group's range that codes cover. Values beyond saturate, the rest gets a
            finer step (Nagel et al., arXiv 2106.08295, section 3.1).

    Raises:
        TypeError: if x is not a floating-point tensor.
        ValueError: if x is empty or not finite, or an argument is out of range; the text says what would do.

    Example:
        >>> quantize(torch.tensor([0.5, -1.0, 0.25])).codes
        tensor([  64, -127,   32], dtype=torch.int8)

    Chapter 2.
    """
    lowest, highest = code_range(bits, scheme)
    _check_floating(x)
    if axis is not None and block is not None:
        raise ValueError(f"axis={axis} and block={block} exclude each other: pass one of them")
    if axis is not None and not -x.dim() <= axis < x.dim():
        raise ValueError(f"axis={axis} is not a dimension of shape {tuple(x.shape)}: pass {-x.dim()} to {x.dim() - 1}")
    if block is not None and block < 1:
        raise ValueError(f"block={block} holds no value: pass 1 or more, 64 is usual")
    if not 0 < clip <= 1:
        raise ValueError(f"clip={clip} must be above 0 and at most 1, which is no clipping")
    axis = None if axis is None else axis % x.dim()
    values = _to_groups(x.float(), axis, block)
    if not values.isfinite().all():
        raise ValueError("x holds NaN, an infinity, or a value beyond float32: look at x.isfinite() before quantizing")

    if scheme == "absmax":
        scale = (values.abs().amax(dim=1) * clip / highest).clamp(min=SMALLEST_STEP)
        zero_point = None
        codes = torch.round(values / scale[:, None])
    else:
        low, high = values.amin(dim=1).clamp(max=0) * clip, values.amax(dim=1).clamp(min=0) * clip
        steps = highest - lowest
        scale = (high / steps - low / steps).clamp(min=SMALLEST_STEP)  # high - low may be beyond float32
        zero_point = torch.round(lowest - low / scale)
        codes = torch.round(values / scale[:, None]) + zero_point[:, None]
        zero_point = zero_point.to(torch.int32)
    codes = _from_groups(codes.clamp(lowest, highest).to(torch.int8), x.shape, axis)
    return QuantizedTensor(codes, scale, zero_point, bits, axis, block, x.dtype)


def _to_groups(x: Tensor, axis: int | None, block: int | None) -> Tensor:
    """A matrix with one group a row. The last block is filled up with zeros, which change no absmax and no range."""
    if axis is not None:
        return x.movedim(axis, 0).reshape(x.shape[axis], -1)
    if block is not None:
        return nn.functional.pad(x.flatten(), (0, -x.numel() % block)).reshape(-1, block)
    return x.reshape(1, -1)


def _from_groups(groups: Tensor, shape: torch.Size, axis: int | None) -> Tensor:
    """Undo `_to_groups`."""
    if axis is None:
        return groups.flatten()[: shape.numel()].reshape(shape)
    return groups.reshape(shape[axis], *shape[:axis], *shape[axis + 1 :]).movedim(0, axis).contiguous()


def max_error(x: Tensor, y: Tensor) -> float:
    """Largest absolute difference between two tensors of one shape, in the unit of the values. Chapter 2."""
    return _difference(x, y).abs().max().item()


def rmse(x: Tensor, y: Tensor) -> float:
    """Root of the mean squared difference, in the unit of the values.

    An error spread evenly over half a step to either side has ``step / sqrt(12)``. Chapter 2.
    """
    return _difference(x, y).square().mean().sqrt().item()


def sqnr_db(x: Tensor, y: Tensor) -> float:
    """Signal-to-quantization-noise ratio of `y` as a stand-in for `x`, in decibels; infinity if they are equal.

    ``10 log10(sum x² / sum (x - y)²)``: each bit halves the step and so adds 20 log10(2) = 6.02 dB. Chapter 2.
    """
    noise = _difference(x, y).square().sum()
    return float("inf") if noise == 0 else (10 * torch.log10(x.double().square().sum() / noise)).item()


def _difference(x: Tensor, y: Tensor) -> Tensor:
    if x.shape != y.shape or not x.numel():
        raise ValueError(f"pass two tensors of one shape that is not empty, got {tuple(x.shape)} and {tuple(y.shape)}")
    return x.double() - y.double()


def int8_matmul(a: Tensor, b: Tensor) -> Tensor:
    """Exact integer product ``a @ b.T``: int8 (m, k) and int8 (n, k), as `nn.Linear` keeps weights, to int32 (m, n).

    Computed in float64, which holds every such sum exactly; PyTorch multiplies int32 matrices on CPUs only.
    bitsandbytes 0.50.2 uses `torch._int_mm` on CPUs with AVX-512 (backends/cpu/ops.py) and a float32 product on
    others (backends/default/ops.py), whose sums are no longer exact above 2**24.

    Raises:
        TypeError: if a or b is not int8.
        ValueError: if shapes do not fit, or k is above 131,071, where an int32 sum could overflow.

    Chapter 2.
    """
    if a.dtype != torch.int8 or b.dtype != torch.int8:
        raise TypeError(f"int8_matmul needs two int8 tensors, got {a.dtype} and {b.dtype}: pass the codes")
    if a.dim() != 2 or b.dim() != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"shapes must be (m, k) and (n, k), got {tuple(a.shape)} and {tuple(b.shape)}")
    if a.shape[1] > LONGEST_PRODUCT:
        raise ValueError(f"k={a.shape[1]} could overflow int32: split k into parts of at most {LONGEST_PRODUCT}")
    return (a.double() @ b.double().T).to(torch.int32)


def int8_vectorwise_quant(x: Tensor, threshold: float = 0.0) -> tuple[Tensor, Tensor, Tensor | None]:
    """Quantize each row by its absmax, bit for bit as `bitsandbytes.functional.int8_vectorwise_quant` does.

    What differs from ``quantize(x, axis=0)``: bitsandbytes keeps the absmax itself, not absmax / 127; it multiplies
    by ``127 / absmax`` where `quantize` divides by the step; and it lets zeros and infinities through. A row of zeros
    has absmax 0, ``0 * (127 / 0)`` is NaN, and NaN becomes code 0. A row with an infinity has absmax infinity and
    codes 0, so it reads back as NaN. Source: bitsandbytes 0.50.2, backends/default/ops.py (CPU); 0.50.1,
    csrc/kernels.cu, `kInt8VectorQuant` (CUDA: rounds to even as well; `127 / absmax` by an approximate division).

    Args:
        x: (rows, columns), floating point. CUDA accepts float16 only, and `Linear8bitLt` casts activations to it.
        threshold: Above 0: values of at least this magnitude are outliers. They do not count in their row's absmax,
            and the columns they sit in are code 0 in all rows (LLM.int8(), arXiv 2208.07339, section 3).

    Returns:
        Codes, int8 (rows, columns); absmax a row, float32 (rows); outlier columns, int64, or `None` for threshold 0.

    Raises:
        TypeError, ValueError: if x is not a floating-point matrix with a value in it, or the threshold is negative.

    Chapter 2, the threshold in chapter 3.
    """
    _check_floating(x)
    if x.dim() != 2:
        raise ValueError(f"x must be a matrix, got shape {tuple(x.shape)}: use x.reshape(-1, x.shape[-1])")
    if not threshold >= 0:
        raise ValueError(f"threshold={threshold} must be 0 (no outliers) or above, LLM.int8() uses 6.0")
    outlier_columns = None
    if threshold > 0:
        outliers = x.abs() >= threshold
        outlier_columns = outliers.any(dim=0).nonzero().flatten()
        x = x.masked_fill(outliers, 0)
    absmax = x.abs().amax(dim=1).float()
    # In C++ the cast of NaN or infinity to int8 is undefined; x86 gives 0, and so do we, everywhere.
    codes = torch.round(x * (127.0 / absmax[:, None])).nan_to_num(0, 0, 0).to(torch.int8)
    if outlier_columns is not None:
        codes[:, outlier_columns] = 0
    return codes, absmax, outlier_columns


def weight_only_linear(x: Tensor, codes: Tensor, absmax: Tensor, bias: Tensor | None = None) -> Tensor:
    """Linear layer with 8-bit weights and untouched activations (W8A16): read the weights back, multiply in x's dtype.

    This is also what bitsandbytes 0.50.2 computes on a CPU in training mode (`MatMul8bitFp` in
    autograd/_functions.py): activations are *not* quantized there until you call ``model.eval()``.

    Args:
        x: Activations, floating point (..., k).
        codes: The weight as `int8_vectorwise_quant` gives it, int8 (n, k).
        absmax: With it, float32 (n).
        bias: (n), in x's dtype.

    Returns:
        (..., n), in x's dtype.

    Raises:
        TypeError, ValueError: if dtypes or shapes do not fit.

    Chapter 2.
    """
    _check_linear(x, codes, absmax)
    return nn.functional.linear(x, _read_back(codes, absmax, x.dtype), bias)


def llm_int8_linear(
    x: Tensor, codes: Tensor, absmax: Tensor, bias: Tensor | None = None, threshold: float = 6.0
) -> Tensor:
    """Linear layer of LLM.int8(): outlier columns of x in x's own dtype, all others in 8 bits (W8A8).

    Dettmers et al. 2022 (arXiv 2208.07339), section 3 and figure 2. As in bitsandbytes 0.50.2 the weights of outlier
    columns are read back from 8 bits (in the paper they stay in 16), and activations are cast to float16 first:
    with threshold 0 a bfloat16 or float32 value beyond 65,504 becomes infinity there and its row of y NaN, while with
    a threshold it is an outlier and never meets the cast's result.

    The result is that of `bitsandbytes.nn.Linear8bitLt` in `eval` mode up to float16 rounding. Ours divides by
    127 · 127 = 16,129; CUDA multiplies by 6.200012e-05 (0.50.1, csrc/kernels.cu), that to seven digits; the kernel for
    CPUs by 6.200124e-05 (backends/default/ops.py, a zero is missing), which makes its results 18 millionths too large.

    Args:
        x: Activations, floating point (..., k), not empty.
        codes: The weight as `int8_vectorwise_quant` gives it, int8 (n, k).
        absmax: With it, float32 (n).
        bias: (n).
        threshold: From which magnitude on an activation is an outlier; 0 for plain vector-wise 8 bits, no split.

    Returns:
        (..., n), in x's dtype.

    Raises:
        TypeError, ValueError: if dtypes or shapes do not fit, x is empty, or the threshold is negative.

    Chapter 3.
    """
    _check_linear(x, codes, absmax)
    rows = x.reshape(-1, x.shape[-1])
    a, a_absmax, outliers = int8_vectorwise_quant(rows.to(torch.float16), threshold)
    y = int8_matmul(a, codes) * (a_absmax[:, None] * absmax) / 127**2
    if bias is not None:
        y = y + bias
    y = y.to(x.dtype)
    if outliers is not None:
        y = y.addmm(rows[:, outliers], _read_back(codes[:, outliers], absmax, x.dtype).T)
    return y.reshape(*x.shape[:-1], -1)


def _read_back(codes: Tensor, absmax: Tensor, dtype: torch.dtype) -> Tensor:
    return (codes * (absmax[:, None] / 127)).to(dtype)


def fake_quantize_(
    module: nn.Module,
    bits: int,
    *,
    scheme: str = "absmax",
    axis: int | None = 0,
    block: int | None = None,
    clip: float = 1.0,
    kinds: tuple[type[nn.Module], ...] = (nn.Linear,),
) -> list[str]:
    """Round the weight of every `nn.Linear` in `module` to `bits` bits, in place; the dtype stays.

    Simulated quantization (Nagel et al., arXiv 2106.08295, section 2.3): the error of `bits`-bit weights without their
    saving in memory. Activations are untouched. Arguments are those of `quantize`; pass ``axis=None, block=64`` for
    blocks. For one layer alone: ``fake_quantize_(model.get_submodule(name), bits)``. Other layers with a `weight` are
    rounded if `kinds` names them: ``kinds=(nn.Linear, nn.Conv2d)``. The weight of a convolution is (out, in / groups,
    height, width), so that ``axis=0`` gives one scale for each output channel, as it does for each output of a Linear.

    Returns:
        Names of the layers, in the order of `named_modules`.

    Raises:
        TypeError: if a layer's weight is not floating point: load the model in 16 or 32 bits for this.
        ValueError: if there is no layer of these kinds, or as in `quantize`.

    Example:
        >>> fake_quantize_(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), bits=4)
        ['0']

    Chapter 6.
    """
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, kinds)}
    if not layers:
        wanted = " or ".join(f"nn.{kind.__name__}" for kind in kinds)
        raise ValueError(f"{type(module).__name__} has no {wanted} to quantize: pass a model, or one such layer of it")
    rounded = {
        name: quantize(layer.weight.detach(), bits, scheme=scheme, axis=axis, block=block, clip=clip)
        for name, layer in layers.items()
    }
    for name, weight in rounded.items():  # only now that every layer has passed the checks
        layers[name].weight.data.copy_(weight.dequantize())
    return list(layers)


def _check_floating(x: Tensor) -> None:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"x must be a floating-point tensor, got {kind}: use x.float() if it holds numbers")
    if not x.numel():
        raise ValueError(f"x is empty, shape {tuple(x.shape)}: there is no range to quantize")


def _check_linear(x: Tensor, codes: Tensor, absmax: Tensor) -> None:
    _check_floating(x)
    if codes.dtype != torch.int8:
        raise TypeError(f"codes must be int8, got {codes.dtype}: quantize the weight with int8_vectorwise_quant first")
    if codes.dim() != 2 or absmax.shape != codes.shape[:1] or x.shape[-1:] != codes.shape[1:]:
        raise ValueError(
            f"shapes must be x (..., k), codes (n, k), absmax (n), got {tuple(x.shape)}, {tuple(codes.shape)}, "
            f"{tuple(absmax.shape)}"
        )
