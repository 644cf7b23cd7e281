"""One number for each kernel, argument and layout: how right the result is if one argument is not contiguous.

A `Probe` makes the arguments of a kernel, gives one of them another layout with the same numbers, calls the kernel on
the GPU, and compares with float64 on the processor: decibels of signal against error, 99 for no error at all. Around
the numbers of a view lie others of the same kind, so that what a kernel reads wrongly is known too.

`cases_raw` makes conformance cases of these, `audit_kernels` a table of a real GPU. Written for bitsandbytes 0.46 and
later; what a version does not have is left out.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Given = dict[str, Any]

MATRIX = ("contiguous", "transposed", "rows", "columns", "steps", "offset", "odd offset", "expanded")
"""Layouts of a matrix; see `laid`."""

VECTOR = ("contiguous", "steps", "offset", "odd offset", "expanded")
ROW = ("contiguous", "columns", "steps", "offset", "odd offset")
OUTPUT = tuple(layout for layout in MATRIX if layout != "expanded")
VECTOR_OUTPUT = tuple(layout for layout in VECTOR if layout != "expanded")
RISKY = "odd offset"
"""A kernel that reads several numbers at a time may end CUDA for the whole process here."""

EXACT = 99
"""Decibels that stand for a result without error."""

LOSS_DB = 3
"""A result that loses more than this against the contiguous argument counts as wrong."""


@dataclasses.dataclass(frozen=True)
class Probe:
    """A kernel and one of its arguments.

    Attributes:
        kernel: name of the operator, function or class.
        argument: the one that gets another layout.
        layouts: to try.
        given: makes all arguments, on the CPU and contiguous.
        run: calls the kernel with them on the GPU.
        exact: the right result, from the numbers of the arguments on the CPU.
        there: whether the installed bitsandbytes has this kernel.
    """

    kernel: str
    argument: str
    layouts: tuple[str, ...]
    given: Callable[[], Given]
    run: Callable[[Given], Tensor]
    exact: Callable[[Given], Tensor]
    there: Callable[[], bool] = lambda: True

    @property
    def name(self) -> str:
        """Of the probe: kernel and argument."""
        return f"{self.kernel}, {self.argument}"

    def decibels(self, layout: str) -> float:
        """What the kernel keeps of its result in this layout."""
        given = self.given()
        there = {name: value.cuda() if isinstance(value, Tensor) else value for name, value in given.items()}
        there[self.argument] = laid(given[self.argument], layout)
        known = {name: value.cpu() if isinstance(value, Tensor) else value for name, value in there.items()}
        return decibels(self.exact(known), self.run(there))


PROBES: dict[str, Probe] = {}


def laid(values: Tensor, layout: str) -> Tensor:
    """`values` on the GPU in a layout, with numbers of the same kind around them.

    transposed: columns lie one after the other. rows: every second row of a matrix. columns: some columns, from the
    eighth on. steps: every second column. offset: contiguous, eight numbers into its storage. odd offset: the same, one
    number. expanded: the first row for all rows, the matrix behind it.
    """
    pool = values.flatten().flip(0).repeat(9)
    count, shape = values.numel(), values.shape
    if layout == "contiguous":
        return values.cuda()
    if layout == "transposed":
        return values.t().contiguous().cuda().t()
    if layout in ("offset", "odd offset"):
        start = 8 if layout == "offset" else 1
        memory = pool[: count + start].clone()
        memory[start:] = values.flatten()
        return memory.cuda()[start:].view(shape)
    if values.ndim == 1:
        if layout == "expanded":
            return values.cuda()[:1].expand(shape)
        memory = pool[: 2 * count].clone()
        memory[::2] = values
        return memory.cuda()[::2]
    rows, columns = shape
    if layout == "expanded":
        return values.cuda()[:1].expand(shape)
    if layout == "rows":
        memory = pool[: 2 * count].view(2 * rows, columns).clone()
        memory[::2] = values
        return memory.cuda()[::2]
    memory = pool.repeat(9)[: rows * (2 * columns + 8)].view(rows, 2 * columns + 8).clone()
    if layout == "columns":
        memory[:, 8 : 8 + columns] = values
        return memory.cuda()[:, 8 : 8 + columns]
    memory[:, : 2 * columns : 2] = values
    return memory.cuda()[:, : 2 * columns : 2]


def decibels(exact: Tensor, found: Tensor) -> float:
    """Signal against error; `EXACT` without error, -99 for what is not finite."""
    exact, found = exact.double().cpu(), found.double().cpu()
    if found.shape != exact.shape or not bool(found.isfinite().all()):
        return -EXACT
    noise, signal = float((found - exact).square().sum()), float(exact.square().sum())
    if noise == 0:
        return EXACT
    return round(max(-EXACT, min(EXACT, 10 * math.log10(max(signal, 1e-300) / noise))), 1)


def probe(
    kernel: str, arguments: dict[str, tuple[str, ...]], given: Callable, exact: Callable, there: Callable | None = None
) -> Callable:
    """Register a function that runs a kernel, once for each argument."""

    def register(run: Callable[[Given], Tensor]) -> Callable[[Given], Tensor]:
        for argument, layouts in arguments.items():
            made = Probe(kernel, argument, layouts, given, run, exact, there or (lambda: True))
            PROBES[made.name] = made
        return run

    return register


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Normal numbers, the same everywhere."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def codes(*shape: int, seed: int = 0, dtype: torch.dtype = torch.int8) -> Tensor:
    """Numbers from -127 to 127."""
    return torch.randint(-127, 128, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def sizes(count: int, seed: int = 0) -> Tensor:
    """Scales, float32, from 1 to 9."""
    return torch.rand(count, generator=torch.Generator().manual_seed(seed)) * 8 + 1


def has(name: str) -> Callable[[], bool]:
    """Whether bitsandbytes has an operator of this name."""

    def there() -> bool:
        import bitsandbytes  # noqa: F401

        return hasattr(torch.ops.bitsandbytes, name)

    return there


def in_functional(name: str) -> Callable[[], bool]:
    """Whether `bitsandbytes.functional` has a function of this name, and a real library to call."""

    def there() -> bool:
        import bitsandbytes.functional as F

        return hasattr(F, name) and "Cuda" in type(F.lib).__name__

    return there


def ops() -> Any:
    """The operators of bitsandbytes."""
    import bitsandbytes  # noqa: F401

    return torch.ops.bitsandbytes


# ---- 8 bits ---------------------------------------------------------------------------------------------------------

ROWS, INNER, OUTPUTS = 24, 64, 40


def _activations() -> Given:
    return {"A": numbers(ROWS, INNER, dtype=torch.float16)}


def _activations_with_outliers() -> Given:
    values = numbers(ROWS, INNER)
    values[:, 5] *= 9
    values[3, 11] = 20
    return {"A": values.half()}


@probe("int8_vectorwise_quant", {"A": MATRIX}, _activations, lambda g: g["A"])
def _(g):
    found, absmax, _ = ops().int8_vectorwise_quant.default(g["A"], 0.0)
    return found * (absmax / 127)[:, None]


@probe("int8_vectorwise_quant at threshold 6", {"A": MATRIX}, _activations_with_outliers, lambda g: g["A"])
def _(g):
    found, absmax, columns = ops().int8_vectorwise_quant.default(g["A"], 6.0)
    values = found * (absmax / 127)[:, None]
    values[:, columns] = g["A"][:, columns].float()
    return values


@probe("int8_double_quant, its rows", {"A": MATRIX}, _activations, lambda g: g["A"])
def _(g):
    found, _, absmax, _, _ = ops().int8_double_quant.default(g["A"], threshold=0.0)
    return found * (absmax / 127)[:, None]


@probe("int8_double_quant, its columns", {"A": MATRIX}, _activations, lambda g: g["A"])
def _(g):
    _, found, _, absmax, _ = ops().int8_double_quant.default(g["A"], threshold=0.0)
    return found * (absmax / 127)[None, :]


def _integers(inner: int) -> Callable[[], Given]:
    return lambda: {"A": codes(ROWS, inner), "B": codes(OUTPUTS, inner, seed=1)}


def _integers_and_place() -> Given:
    return {**_integers(INNER)(), "out": torch.zeros(ROWS, OUTPUTS, dtype=torch.int32)}


def _integer_product(g):
    return g["A"].double() @ g["B"].double().T


@probe("int8_linear_matmul", {"A": MATRIX, "B": MATRIX}, _integers(INNER), _integer_product)
def _(g):
    return ops().int8_linear_matmul.default(g["A"], g["B"])


@probe("int8_linear_matmul of width 30", {"A": MATRIX, "B": MATRIX}, _integers(30), _integer_product)
def _(g):
    return ops().int8_linear_matmul.default(g["A"], g["B"])


@probe("int8_linear_matmul", {"out": OUTPUT}, _integers_and_place, _integer_product)
def _(g):
    ops().int8_linear_matmul.out(g["A"], g["B"], g["out"])
    return g["out"]


def _sums(dtype: torch.dtype) -> Callable[[], Given]:
    return lambda: {
        "A": codes(ROWS, OUTPUTS, seed=2, dtype=torch.int32) * 100,
        "row_stats": sizes(ROWS),
        "col_stats": sizes(OUTPUTS, seed=1),
        "bias": (numbers(OUTPUTS, seed=3) * 20).to(dtype),
    }


def _dequantized(g):
    scales = g["row_stats"].double()[:, None] * g["col_stats"].double()
    return g["A"].double() * scales / 127**2 + g["bias"].double()


@probe(
    "int8_mm_dequant",
    {"A": MATRIX, "row_stats": VECTOR, "col_stats": VECTOR, "bias": VECTOR},
    _sums(torch.float16),
    _dequantized,
)
def _(g):
    return ops().int8_mm_dequant.default(g["A"], g["row_stats"], g["col_stats"], dtype=torch.float16, bias=g["bias"])


@probe("int8_mm_dequant in bfloat16", {"A": MATRIX, "bias": VECTOR}, _sums(torch.bfloat16), _dequantized)
def _(g):
    return ops().int8_mm_dequant.default(g["A"], g["row_stats"], g["col_stats"], dtype=torch.bfloat16, bias=g["bias"])


def _scaled() -> Given:
    return {
        **_integers(INNER)(),
        "row_stats": sizes(ROWS),
        "col_stats": sizes(OUTPUTS, seed=1),
        "bias": (numbers(OUTPUTS, seed=3) * 100).half(),
    }


@probe(
    "int8_scaled_mm",
    {"A": MATRIX, "B": MATRIX, "row_stats": VECTOR, "col_stats": VECTOR, "bias": VECTOR},
    _scaled,
    lambda g: _dequantized({**g, "A": _integer_product(g)}),
)
def _(g):
    return ops().int8_scaled_mm.default(
        g["A"], g["B"], g["row_stats"], g["col_stats"], bias=g["bias"], dtype=torch.float16
    )


def _mixed() -> Given:
    values = _activations_with_outliers()["A"]
    columns = (values.abs() >= 6).any(dim=0).nonzero().view(-1)
    rest = values.float().masked_fill(values.abs() >= 6, 0)
    rest[:, columns] = 0
    absmax = rest.abs().amax(dim=1)
    return {
        "A": values,
        "CA": (rest * 127 / absmax[:, None]).round().to(torch.int8),
        "CB": codes(OUTPUTS, INNER, seed=1),
        "SCA": absmax,
        "SCB": sizes(OUTPUTS, seed=1),
        "outlier_cols": columns,
        "bias": (numbers(OUTPUTS, seed=3) * 10).half(),
    }


def _mixed_product(g):
    weight = g["CB"].double() * g["SCB"].double()[:, None] / 127
    plain = (g["CA"].double() * g["SCA"].double()[:, None] / 127) @ weight.T
    columns = g["outlier_cols"]
    return plain + g["A"].double()[:, columns] @ weight[:, columns].T + g["bias"].double()


@probe(
    "int8_mixed_scaled_mm",
    {"A": MATRIX, "CA": MATRIX, "CB": MATRIX, "SCA": VECTOR, "SCB": VECTOR, "outlier_cols": VECTOR, "bias": VECTOR},
    _mixed,
    _mixed_product,
    has("int8_mixed_scaled_mm"),
)
def _(g):
    names = ("A", "CA", "CB", "SCA", "SCB", "outlier_cols", "bias")
    return ops().int8_mixed_scaled_mm.default(*(g[name] for name in names))[0]


@probe(
    "int8_vectorwise_dequant",
    {"A": MATRIX, "stats": VECTOR},
    lambda: {"A": codes(ROWS, INNER), "stats": sizes(ROWS)},
    lambda g: g["A"].double() * g["stats"].double()[:, None] / 127,
)
def _(g):
    return ops().int8_vectorwise_dequant.default(g["A"], g["stats"])


# ---- blocks ---------------------------------------------------------------------------------------------------------

BLOCK, WIDTH = 64, 128


def _map() -> Tensor:
    import bitsandbytes.functional as F

    return F.create_dynamic_map().float().cpu()


def _from_blocks(found: Tensor, absmax: Tensor, code: Tensor) -> Tensor:
    values = code.double().cpu()[found.cpu().long()]
    scaled = values.reshape(-1, BLOCK) * absmax.double().cpu()[:, None]
    return scaled.reshape(found.shape)


@probe(
    "quantize_blockwise",
    {"A": MATRIX, "code": VECTOR},
    lambda: {"A": numbers(ROWS, WIDTH), "code": _map()},
    lambda g: g["A"],
)
def _(g):
    found, absmax = ops().quantize_blockwise.default(g["A"], g["code"], BLOCK)
    return _from_blocks(found, absmax, g["code"])


def _blocks() -> Given:
    values = torch.randint(0, 256, (ROWS, WIDTH), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    return {"A": values, "absmax": sizes(ROWS * WIDTH // BLOCK), "code": _map()}


def _blocks_back(g):
    return _from_blocks(g["A"], g["absmax"], g["code"])


@probe("dequantize_blockwise", {"A": MATRIX, "absmax": VECTOR, "code": VECTOR}, _blocks, _blocks_back)
def _(g):
    return ops().dequantize_blockwise.default(g["A"], g["absmax"], g["code"], BLOCK, torch.float32)


@probe("dequantize_blockwise", {"out": OUTPUT}, lambda: {**_blocks(), "out": torch.zeros(ROWS, WIDTH)}, _blocks_back)
def _(g):
    ops().dequantize_blockwise.out(g["A"], g["absmax"], g["code"], BLOCK, torch.float32, g["out"])
    return g["out"]


# ---- 4 bits ---------------------------------------------------------------------------------------------------------


def _nf4() -> Tensor:
    import bitsandbytes.functional as F

    return F.get_4bit_type("nf4", device="cpu").float()


def _unpacked(packed: Tensor, absmax: Tensor, shape: tuple[int, ...], code: Tensor | None = None) -> Tensor:
    pairs = packed.cpu().reshape(-1)
    both = torch.stack([pairs >> 4, pairs & 15], dim=1).flatten().long()
    values = (_nf4() if code is None else code.cpu()).double()[both]
    return (values.reshape(-1, BLOCK) * absmax.double().cpu()[:, None]).reshape(shape)


@probe("quantize_4bit", {"A": MATRIX}, lambda: {"A": numbers(ROWS, WIDTH, dtype=torch.float16)}, lambda g: g["A"])
def _(g):
    packed, absmax = ops().quantize_4bit.default(g["A"], BLOCK, "nf4", torch.uint8)
    return _unpacked(packed, absmax, tuple(g["A"].shape))


def _packed(rows: int = OUTPUTS) -> Given:
    count = rows * WIDTH
    packed = torch.randint(0, 256, (count // 2, 1), generator=torch.Generator().manual_seed(4)).to(torch.uint8)
    return {"B": packed, "absmax": sizes(count // BLOCK)}


def _packed_as_matrix() -> Given:
    given = _packed()
    return {"A": given["B"].view(OUTPUTS, -1), "absmax": given["absmax"]}


def _weight(g):
    return _unpacked(g["A"], g["absmax"], (OUTPUTS, WIDTH))


@probe("dequantize_4bit", {"A": MATRIX, "absmax": VECTOR}, _packed_as_matrix, _weight)
def _(g):
    return ops().dequantize_4bit.default(g["A"], g["absmax"], BLOCK, "nf4", (OUTPUTS, WIDTH), torch.float32)


@probe("dequantize_4bit", {"out": OUTPUT}, lambda: {**_packed_as_matrix(), "out": torch.zeros(OUTPUTS, WIDTH)}, _weight)
def _(g):
    shape = (OUTPUTS, WIDTH)
    ops().dequantize_4bit.out(g["A"], g["absmax"], BLOCK, "nf4", shape, torch.float32, g["out"])
    return g["out"]


def _one_row() -> Given:
    return {"A": numbers(1, WIDTH, seed=5, dtype=torch.float16), **_packed(), "code": _nf4()}


def _row_times_weight(g):
    product = g["A"].double() @ _unpacked(g["B"], g["absmax"], (OUTPUTS, WIDTH), g.get("code")).T
    return product if g.get("bias") is None else product + g["bias"].double()


@probe(
    "gemv_4bit",
    {"A": ROW, "B": ("contiguous", "steps", "offset", "odd offset"), "absmax": VECTOR, "code": VECTOR},
    lambda: {**(given := _one_row()), "B": given["B"].view(-1)},
    _row_times_weight,
)
def _(g):
    return ops().gemv_4bit.default(g["A"], g["B"], (OUTPUTS, WIDTH), g["absmax"], g["code"], BLOCK)


@probe(
    "gemv_4bit",
    {"out": ROW},
    lambda: {**_one_row(), "out": torch.zeros(1, OUTPUTS, dtype=torch.float16)},
    _row_times_weight,
)
def _(g):
    ops().gemv_4bit.out(g["A"], g["B"], (OUTPUTS, WIDTH), g["absmax"], g["code"], BLOCK, g["out"])
    return g["out"]


def _few_rows(rows: int, dtype: torch.dtype) -> Callable[[], Given]:
    def given() -> Given:
        packed = _packed()
        bias = (numbers(OUTPUTS, seed=6) * 40).to(dtype)
        return {"A": numbers(rows, WIDTH, seed=5, dtype=dtype), "B": packed["B"].view(-1), "bias": bias} | {
            "absmax": packed["absmax"]
        }

    return given


for _rows in (3, 40, 2000):

    @probe(
        f"gemm_4bit, {_rows} rows",
        {"A": MATRIX, "B": ("contiguous", "steps", "offset", "odd offset"), "absmax": VECTOR, "bias": VECTOR},
        _few_rows(_rows, torch.bfloat16),
        _row_times_weight,
        has("gemm_4bit"),
    )
    def _(g):
        shape = (OUTPUTS, WIDTH)
        return ops().gemm_4bit.default(g["A"], g["B"].view(-1, 1) if g["B"].is_contiguous() else g["B"], shape,
                                       g["absmax"], BLOCK, "nf4", bias=g["bias"])  # fmt: skip


def _nested() -> Given:
    packed = torch.randint(0, 256, (512 * WIDTH // 2, 1), generator=torch.Generator().manual_seed(4)).to(torch.uint8)
    sizes_8bit = torch.randint(0, 256, (512 * WIDTH // BLOCK,), generator=torch.Generator().manual_seed(7))
    return {
        "A": numbers(3, WIDTH, seed=5, dtype=torch.bfloat16),
        "B": packed,
        "absmax": sizes(4),
        "absmax_8bit": sizes_8bit.to(torch.uint8),
        "absmax_code": _map(),
        "absmax_offset": torch.tensor(8.0),
    }


def _nested_exact(g):
    large = g["absmax"].double().repeat_interleave(256) * g["absmax_code"].double()[g["absmax_8bit"].long()]
    weight = _unpacked(g["B"], large + g["absmax_offset"].double(), (512, WIDTH))
    return g["A"].double() @ weight.T


@probe(
    "gemm_4bit, nested scales",
    {"absmax": VECTOR, "absmax_8bit": VECTOR, "absmax_code": VECTOR},
    _nested,
    _nested_exact,
    has("gemm_4bit"),
)
def _(g):
    scales = {name: g[name] for name in ("absmax_8bit", "absmax_code", "absmax_offset")}
    return ops().gemm_4bit.default(g["A"], g["B"], (512, WIDTH), g["absmax"], BLOCK, "nf4", **scales)


# ---- layers and functions of bitsandbytes ---------------------------------------------------------------------------


def _layer_given(dtype: torch.dtype, rows: int = 192) -> Callable[[], Given]:
    return lambda: {"x": numbers(rows, 640, dtype=dtype), "weight": numbers(256, 640, seed=1)}


def _times_weight(g):
    return g["x"].double() @ g["weight"].double().T


def linear_8bit(weight: Tensor, threshold: float) -> Any:
    """A layer of bitsandbytes on the GPU."""
    import bitsandbytes as bnb

    layer = bnb.nn.Linear8bitLt(weight.shape[1], weight.shape[0], bias=False, has_fp16_weights=False)
    layer.state.threshold = threshold
    layer.load_state_dict({"weight": weight.cpu()})
    return layer.eval().cuda()


SHAPED = {
    "": lambda x: x,
    ", a leading dimension of 1": lambda x: x.unsqueeze(0),
    ", a leading dimension of 2": lambda x: torch.stack([x, x]) if x.is_contiguous() else _twice(x),
}


def _twice(x: Tensor) -> Tensor:
    """Two of `x`, in its layout if that is transposed; else stacked, and so contiguous."""
    if x.stride(0) == 1:
        return torch.stack([x.t(), x.t()]).transpose(1, 2)
    return torch.stack([x, x])


for _threshold in (0.0, 6.0):
    for _dtype in (torch.float16, torch.bfloat16):
        for _shape_words, _shaped in SHAPED.items():

            @probe(
                f"Linear8bitLt at threshold {_threshold:.0f}, {str(_dtype)[6:]}{_shape_words}",
                {"x": MATRIX},
                _layer_given(_dtype),
                _times_weight,
            )
            def _(g, threshold=_threshold, shaped=_shaped):
                y = linear_8bit(g["weight"], threshold)(shaped(g["x"]))
                return y if y.ndim == 2 else y[-1]


@probe(
    "Linear8bitLt with a weight in 16 bits",
    {"x": MATRIX, "weight": MATRIX},
    lambda: {"x": numbers(192, 640, dtype=torch.float16), "weight": numbers(256, 640, seed=1, dtype=torch.float16)},
    _times_weight,
)
def _(g):
    import bitsandbytes as bnb

    layer = bnb.nn.Linear8bitLt(640, 256, bias=False, has_fp16_weights=True).cuda().half()
    layer.weight.data = g["weight"]
    return layer(g["x"]).detach()


@probe(
    "bitsandbytes.matmul",
    {"A": MATRIX, "B": MATRIX},
    lambda: {"A": numbers(192, 640, dtype=torch.float16), "B": numbers(256, 640, seed=1, dtype=torch.float16)},
    lambda g: g["A"].double() @ g["B"].double().T,
)
def _(g):
    import bitsandbytes as bnb

    return bnb.matmul(g["A"], g["B"])


for _which, _of in (("input", "x"), ("weight", "weight")):

    @probe(
        f"gradient of the {_which}, Linear8bitLt with a weight in 16 bits",
        {"grad": ("contiguous", "transposed", "rows")},
        lambda: {
            "x": numbers(192, 640, dtype=torch.float16),
            "weight": numbers(256, 640, seed=1, dtype=torch.float16),
            "grad": numbers(192, 256, seed=2, dtype=torch.float16),
        },
        (lambda g: g["grad"].double() @ g["weight"].double())
        if _of == "x"
        else (lambda g: g["grad"].double().T @ g["x"].double()),
    )
    def _(g, of=_of):
        import bitsandbytes as bnb

        layer = bnb.nn.Linear8bitLt(640, 256, bias=False, has_fp16_weights=True).cuda().half()
        layer.weight.data = g["weight"].clone()
        x = g["x"].clone().requires_grad_()
        layer(x).backward(g["grad"])
        return x.grad if of == "x" else layer.weight.grad


for _dtype in (torch.float16, torch.bfloat16):
    for _rows in (1, 3, 192):

        @probe(
            f"Linear4bit, {str(_dtype)[6:]}, {_rows} rows",
            {"x": MATRIX if _rows > 1 else ROW},
            lambda rows=_rows, dtype=_dtype: {
                "x": numbers(rows, 640, dtype=dtype),
                "weight": numbers(256, 640, seed=1).to(dtype),
            },
            _times_weight,
        )
        def _(g):
            import bitsandbytes as bnb

            dtype = g["x"].dtype
            layer = bnb.nn.Linear4bit(640, 256, bias=False, compute_dtype=dtype, quant_type="nf4")
            layer.load_state_dict({"weight": g["weight"].cpu()})
            return layer.eval().cuda()(g["x"])


@probe(
    "Adam8bit",
    {"p": MATRIX, "grad": MATRIX},
    lambda: {"p": numbers(ROWS, 256), "grad": numbers(ROWS, 256, seed=1)},
    lambda g: g["p"].double() - 0.1 * g["grad"].double().sign(),  # what Adam's first step is, up to epsilon
)
def _(g):
    import bitsandbytes as bnb

    parameter = torch.nn.Parameter(g["p"])
    parameter.grad = g["grad"]
    bnb.optim.Adam8bit([parameter], lr=0.1, min_8bit_size=0).step()
    return parameter.detach()


def _lion_given() -> Given:
    return {"p": numbers(ROWS, 256), "g": numbers(ROWS, 256, seed=1)}


@probe(
    "optimizer_update_32bit",
    {"p": MATRIX[:-1], "g": MATRIX},
    _lion_given,
    lambda g: g["p"].double() - 0.1 * g["g"].double().sign(),  # Lion's first step
)
def _(g):
    import bitsandbytes.functional as F

    state = torch.zeros(ROWS, 256, device="cuda")
    F.optimizer_update_32bit("lion", g["g"], g["p"], state, 0.9, 0.0, 1, 0.1, beta2=0.99)
    return g["p"]


@probe(
    "optimizer_update_8bit_blockwise",
    {"p": MATRIX[:-1], "g": MATRIX},
    _lion_given,
    lambda g: g["p"].double() - 0.1 * g["g"].double().sign(),
)
def _(g):
    import bitsandbytes.functional as F

    blocks = ROWS * 256 // 256
    state, largest = torch.zeros(ROWS, 256, dtype=torch.uint8, device="cuda"), torch.zeros(blocks, device="cuda")
    code = F.create_dynamic_map().float().cuda()
    first = ("lion", g["g"], g["p"], state, None, 0.9, 0.99, 0.0, 0.0, 0.0, 1, 0.1, code, None, largest, None)
    F.optimizer_update_8bit_blockwise(*first)
    return g["p"]


@probe(
    "igemm",
    {"A": MATRIX[:-1], "B": MATRIX[:-1]},
    lambda: {"A": codes(ROWS, INNER), "B": codes(INNER, OUTPUTS, seed=1)},
    lambda g: g["A"].double() @ g["B"].double(),
    in_functional("igemm"),
)
def _(g):
    import warnings

    import bitsandbytes.functional as F

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return F.igemm(g["A"], g["B"])
