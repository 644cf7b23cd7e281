"""The probes of `layouts` for this book's own kernels and fast layers, which take any view and any size."""

from __future__ import annotations

import torch

from .layouts import MATRIX, PROBES, VECTOR, codes, decibels, linear_8bit, numbers, probe, sizes

BEFORE = frozenset(PROBES)
SMALL = {"rows": 40, "inner": 72, "outputs": 48}


def _int8_given():
    given = {"codes": codes(SMALL["rows"], SMALL["inner"]), "weight": codes(SMALL["outputs"], SMALL["inner"], seed=1)}
    steps = {"step": sizes(SMALL["rows"])[:, None] / 500, "scale": sizes(SMALL["outputs"], seed=1) / 500}
    return {**given, **steps, "bias": numbers(SMALL["outputs"], seed=3)}


def _int8_exact(g):
    product = g["codes"].double() @ g["weight"].double().T
    return product * g["step"].double() * g["scale"].double() + g["bias"].double()


@probe(
    "sana_lab int8_linear",
    {"codes": MATRIX, "step": ("contiguous", "steps", "expanded"), "weight": MATRIX, "scale": VECTOR, "bias": VECTOR},
    _int8_given,
    _int8_exact,
)
def _(g):
    from sana_lab.kernels import int8_linear

    return int8_linear(g["codes"], g["step"], g["weight"], g["scale"], g["bias"], False, torch.float32)


@probe(
    "sana_lab dequantize",
    {"codes": MATRIX, "scale": VECTOR},
    lambda: {"codes": codes(48, 72), "scale": sizes(48)},
    lambda g: g["codes"].double() * g["scale"].double()[:, None],
)
def _(g):
    from sana_lab.kernels import dequantize

    return dequantize(g["codes"], g["scale"], torch.float32)


def _depthwise_exact(g):
    hidden = g["hidden"].double().view(1, 6, 5, 16)
    weight = g["taps"].double().view(3, 3, 16).permute(2, 0, 1).unsqueeze(1)
    both = torch.nn.functional.conv2d(hidden.permute(0, 3, 1, 2), weight, g["bias"].double(), padding=1, groups=16)
    value, gate = both.permute(0, 2, 3, 1).chunk(2, dim=-1)
    return value * torch.nn.functional.silu(gate)


@probe(
    "sana_lab gated_depthwise",
    {"hidden": MATRIX, "taps": MATRIX, "bias": VECTOR},
    lambda: {"hidden": numbers(30, 16), "taps": numbers(9, 16, seed=1), "bias": numbers(16, seed=2)},
    _depthwise_exact,
)
def _(g):
    from sana_lab.kernels import gated_depthwise

    hidden = g["hidden"].unflatten(0, (6, 5)).unsqueeze(0)
    return gated_depthwise(hidden, g["taps"].unflatten(0, (3, 3)), g["bias"])


for _name in ("FusedLinear8bit", "WeightOnly8bit"):

    @probe(
        f"sana_lab {_name}",
        {"x": MATRIX},
        lambda: {"x": numbers(192, 640, dtype=torch.bfloat16), "weight": numbers(256, 640, seed=1)},
        lambda g: g["x"].double() @ g["weight"].double().T,
    )
    def _(g, name=_name):
        from sana_lab import fast

        return getattr(fast, name).of(linear_8bit(g["weight"], 0.0))(g["x"].unsqueeze(0))[0]


OURS = tuple(name for name in PROBES if name not in BEFORE)
"""Names of the probes of this file."""


def large() -> dict[str, float]:
    """Decibels of our kernels on tensors with more than 2**31 numbers; needs a real GPU with 40 GB.

    Each is compared with the same kernel on the last part alone, which is small.
    """
    from sana_lab.kernels import dequantize, gated_depthwise, int8_linear

    found = {}
    rows, inner = 40_000, 65_536  # 2.6e9 codes
    many = torch.randint(-127, 128, (rows, inner), dtype=torch.int8, device="cuda")
    few = torch.randint(-127, 128, (64, inner), dtype=torch.int8, device="cuda")
    scale, small = torch.rand(rows, device="cuda"), torch.rand(64, device="cuda")
    end = slice(-64, None)
    for name, arguments, last in (
        ("int8_linear, many rows", (many, scale[:, None], few, small), (many[end], scale[end, None], few, small)),
        ("int8_linear, many outputs", (few, small[:, None], many, scale), (few, small[:, None], many[end], scale[end])),
    ):
        whole = int8_linear(*arguments, None, False, torch.float32)
        part = int8_linear(*last, None, False, torch.float32)
        found[name] = decibels(part, whole[end] if "rows" in name else whole[:, end])
        del whole
    found["dequantize"] = decibels(
        dequantize(many[end], scale[end], torch.bfloat16), dequantize(many, scale, torch.bfloat16)[end]
    )
    del many
    taps, bias = torch.randn(3, 3, 16, device="cuda"), torch.randn(16, device="cuda")
    pictures = torch.randn(70_000, 64, 32, 16, dtype=torch.bfloat16, device="cuda")  # 2.3e9 numbers, 4.5e6 lines
    found["gated_depthwise"] = decibels(
        gated_depthwise(pictures[-1:], taps, bias), gated_depthwise(pictures, taps, bias)[-1:]
    )
    return found
