"""The Triton kernels under Triton's interpreter, on a processor: beside float64, on odd sizes and on views.

Triton is no requirement: its wheel has 0.3 GB and a gigabyte unpacked (3.9.0), and PyTorch's builds for processors come
without. `make triton` fetches it into a folder of its own and runs this, in CI too; elsewhere it is skipped. The
interpreter reads its variable when Triton is imported, so everything runs in a process of its own.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import pytest

CHILD = """
import json, sys
import torch
import torch.nn.functional as F
from sana_lab import kernels, row_kernels

DEPTHWISE, BLOCKS = kernels._gated_depthwise.configs, kernels._linear_attention.configs
kernels._int8_linear.configs = kernels._int8_linear.configs[-1:]  # choosing between tiles would need CUDA's clock


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def codes(*shape, seed=0):
    return torch.randint(-127, 128, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.int8)


def views(tensor):
    yield tensor
    yield tensor.mT.contiguous().mT
    wide = tensor.new_empty(*tensor.shape[:-1], 2 * tensor.shape[-1] + 3)
    wide[..., 3::2] = tensor
    yield wide[..., 3::2]
    tall = tensor.new_empty(2 * tensor.shape[0], *tensor.shape[1:])
    tall[1::2] = tensor
    yield tall[1::2]


def vectors(tensor):
    twice = tensor.new_empty(2 * len(tensor))
    twice[::2] = tensor
    yield tensor
    yield twice[::2]
    yield tensor[:1].expand(len(tensor))


def off(found, exact):
    return float((found.double() - exact).abs().max() / exact.abs().max())


worst = dict.fromkeys(["int8_linear", "dequantize", "gated_depthwise", "linear_attention"], 0.0)
for rows, inner, outputs in ((40, 72, 48), (1, 130, 33), (70, 64, 200)):
    left, right = codes(rows, inner), codes(outputs, inner, seed=1)
    steps = [random(rows, 1, seed=3), random(1, 1, seed=3).expand(rows, 1), random(rows, 4, seed=5)[:, 1:2]]
    scales = [*vectors(random(outputs, seed=2))]
    biases = [None, *vectors(random(outputs, seed=4))]
    for number, (a, b) in enumerate(zip(views(left), views(right))):
        step, scale, bias = steps[number % 3], scales[number % 3], biases[number % 4]
        exact = (a.double() @ b.double().T) * step.double() * scale.double() + (0 if bias is None else bias.double())
        found = kernels.launch_int8_linear(a, step, b, scale, bias, number % 2 == 1, torch.float32)
        worst["int8_linear"] = max(worst["int8_linear"], off(found, F.silu(exact) if number % 2 else exact))
    for a in views(right):
        for scale in vectors(random(outputs, seed=2)):
            found = kernels.launch_dequantize(a, scale, torch.float32)
            worst["dequantize"] = max(worst["dequantize"], off(found, a.double() * scale.double()[:, None]))
for turn, shape in enumerate(((1, 1, 1, 2), (2, 5, 19, 74), (3, 2, 4, 6), (1, 9, 8, 4))):
    kernels._gated_depthwise.configs = DEPTHWISE[turn::4][:1]  # strips and lines that fit, and that do not
    hidden, taps = random(*shape), random(3, 3, shape[-1], seed=1)
    biases = [*vectors(random(shape[-1], seed=2))]
    for number, (h, t) in enumerate(zip(views(hidden), views(taps))):
        for bias in biases[number % 3 : number % 3 + 1]:
            silu = (turn + number) % 2 == 0
            weight = t.double().permute(2, 0, 1).unsqueeze(1)
            read = F.silu(h.double()) if silu else h.double()
            both = F.conv2d(read.permute(0, 3, 1, 2), weight, bias.double(), padding=1, groups=len(weight))
            value, gate = both.permute(0, 2, 3, 1).chunk(2, dim=-1)
            found = kernels.launch_gated_depthwise(h, t, bias, silu)
            worst["gated_depthwise"] = max(worst["gated_depthwise"], off(found, value * F.silu(gate)))
            assert torch.allclose(found, kernels.gated_depthwise(h, t, bias, silu), atol=1e-4)
for turn, (pictures, tokens, heads, width) in enumerate(((1, 1, 2, 16), (2, 130, 3, 32), (1, 40, 2, 24))):
    kernels._linear_attention.configs = BLOCKS[turn : turn + 1]
    joint = random(pictures, tokens, 3 * heads * width + 5, seed=6).half()[..., 5:]
    parts = joint.chunk(3, dim=-1)
    for given in (parts, [part.transpose(0, 1).contiguous().transpose(0, 1) for part in parts]):
        split = [part.double().transpose(1, 2).unflatten(1, (heads, width)) for part in given]
        weights = F.relu(split[1]).transpose(2, 3) @ F.relu(split[0])
        exact = (split[2] @ (weights / (weights.sum(2, keepdim=True) + 1e-15))).flatten(1, 2).transpose(1, 2)
        found = kernels.launch_linear_attention(*given, heads, True)
        assert torch.allclose(found, kernels.linear_attention(*given, heads, True), atol=2e-3)
        worst["linear_attention"] = max(worst["linear_attention"], off(found, exact))
    parts[1][-1, -1, -1] = float("nan")
    assert kernels.launch_linear_attention(*parts, heads, False)[-1, :, -width:].isnan().all(), "NaN was hidden"
row_kernels._between.configs = row_kernels._between.configs[:1]
# Triton 3.9's interpreter rounds to e4m3 without the carry (127.9 becomes 64), so here PyTorch rounds
row_kernels.CODES["float8"] = torch.float32
ways = [(-1, -1, False), (-1, 0, False), (2, -1, True), (-1, 3, True)]  # gate, shift, whether something is added
worst["between"] = 0.0
for turn, (pictures, tokens, columns) in enumerate(((2, 3, 48), (1, 5, 80))):
    hidden, update, parts = (random(pictures, n, columns, seed=n).half() for n in (tokens, tokens, 6))
    hidden[-1, -1], parts[:, 2] = 0, parts[:, 2] / 8
    for number, (gate, shift, added) in enumerate(ways):
        if gate == 2:
            update[0, 0, :2] = torch.tensor([float("inf"), float("-inf")])  # to be clipped
        for codes in ("float8", "int8", "")[: 2 + (shift >= 0)]:
            laid = [[*views(x)][(number + len(codes) + turn) % 4] for x in (hidden, update, parts)]
            given = (laid[0], laid[1] if added else None, laid[2], gate, shift, 1e-6, gate == 2, codes)
            total, rows, step = row_kernels.launch_between(*given)
            wide = [None if x is None else x.float() for x in given[:3]]
            if added:
                exact = row_kernels.between(*wide, *given[3:])[0]
                assert (total.float() - exact).abs().max() <= 2**-10 * exact.abs().max(), (number, codes)
                wide[:2] = total.float(), None  # the norm reads what was rounded
            _, made, steps = row_kernels.between(*wide, -1, *given[4:])
            if not codes:
                worst["between"] = max(worst["between"], off(rows, made.double()))
                continue
            assert (step - steps).abs().max() <= 1e-5 * steps.max(), (number, codes)
            rows, made = rows.to(made.dtype).float(), made.float()
            apart = rows != made
            assert apart.sum() <= (0 if shift < 0 and not added else 2), (number, codes, apart.sum())
            assert ((rows - made).abs() <= made.abs() / 8 + 1).all(), (number, codes)
        update[0, 0, :2] = 1.0
for codes in ("float8", "int8"):
    hidden = random(1, 2, 16)
    hidden[0, 0, 3] = float("nan")
    _, rows, step = row_kernels.launch_between(hidden, None, None, -1, -1, 0.0, False, codes)
    assert not torch.isfinite((rows.float() * step.view(1, 2, 1))[0, 0]).any(), "NaN was hidden"
    assert torch.isfinite((rows.float() * step.view(1, 2, 1))[0, 1]).all()
print(json.dumps(worst))
"""


FAR = """
import torch
from triton.runtime import interpreter
from sana_lab import kernels, row_kernels

END, LAST = 2**31, [0]
builder, made = interpreter.interpreter_builder, interpreter.GridExecutor.__init__


def of_the_last(self, fn, names, grid, *more):
    def one(arguments):
        LAST[0] = (grid(arguments) if callable(grid) else grid)[0] - 1
        return (1,)

    made(self, fn, names, one, *more)


interpreter.GridExecutor.__init__ = of_the_last
interpreter.GridExecutor._restore_args_dev = lambda *_: None  # it would copy each tensor onto itself, all of it
builder.set_grid_idx = lambda x, y, z: setattr(builder, "grid_idx", (LAST[0], y, z))
for kernel in (kernels._int8_linear, kernels._gated_depthwise, kernels._linear_attention, row_kernels._between):
    kernel.configs = kernel.configs[-1:]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def codes(*shape, seed=0):
    return torch.randint(-127, 128, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.int8)


def ends(shape, last):
    tensor = torch.empty(shape, dtype=last.dtype)  # the system gives memory to what is written, and that is the end
    tensor[tuple(slice(-n, None) for n in last.shape)] = last
    return tensor


def same(what, found, exact, within):
    off = float((found.double() - exact).abs().max() / exact.abs().max())
    assert off < within, f"{what}: {off} off"


# many rows, many outputs, and a result that is longer than both
for rows, inner, outputs in ((END // 4096 + 70, 4096, 48), (40, 4096, END // 4096 + 70), (END // 4096 + 70, 40, 4100)):
    assert END < max(rows * inner, outputs * inner, rows * outputs)
    some, few = codes(6, inner), codes(4, inner, seed=1)
    step, scale = random(rows, 1, seed=2), random(outputs, seed=3)
    left, right = ends((rows, inner), last=some), ends((outputs, inner), last=few)
    found = kernels.launch_int8_linear(left, step, right, scale, None, False, torch.float32)[-6:, -4:]
    same("int8_linear", found, (some.double() @ few.double().T) * step[-6:].double() * scale[-4:].double(), 1e-5)
row, scale = codes(1, 4096), random(END // 4096 + 1)
found = kernels.launch_dequantize(ends((len(scale), 4096), last=row), scale, torch.float16)[-1:]
same("dequantize", found, row.double() * scale[-1].double(), 1e-3)
shape = (13, 128, 128, 11200)  # pictures of 4096 pixels in the 1.6B transformer
corner, taps, bias = random(1, 5, 9, 11200).half(), random(3, 3, 11200, seed=1).half(), random(11200, seed=2).half()
found = kernels.launch_gated_depthwise(ends(shape, last=corner), taps, bias)[-1:, -4:, -4:, -32:]
exact = kernels.gated_depthwise(corner, taps, bias)[:, -4:, -4:, -32:]  # the border is the same; 5600 is 87 * 64 + 32
same("gated_depthwise", found, exact.double(), 2e-3)
kernels.FAR = 12 * 12 * 8  # the kernel counts within a picture in 32 bits, and leaves larger ones to PyTorch
inputs = random(1, 12, 12, 8), random(3, 3, 8), random(8)
assert torch.equal(kernels.launch_gated_depthwise(*inputs), kernels.gated_depthwise(*inputs)), "by the kernel"
for pictures, tokens in ((1, 70), (70, 1)):  # far by the stride of tokens, and of pictures
    parts = [torch.empty(pictures, tokens, END // 64, dtype=torch.half)[..., :32] for _ in range(3)]
    for number, part in enumerate(parts):
        part.copy_(random(*part.shape, seed=number))
    found = kernels.launch_linear_attention(*parts, 2, False)[-1:, :, -16:]
    exact = kernels.linear_attention(*(part[-1:].contiguous() for part in parts), 2, False)[:, :, -16:]
    same("linear_attention", found, exact.double(), 2e-3)
pictures = END // (6 * 2240) + 1
row, parts = random(1, 1, 2240).half(), random(1, 6, 2240, seed=1).half()
given = ends((pictures, 7, 2240), last=row), None, ends((pictures, 6, 2240), last=parts)
found = row_kernels.launch_between(*given, -1, 3, 1e-6, False, "")[1][-1:, -1:]
same("between", found, row_kernels.between(row, None, parts, -1, 3, 1e-6, False, "")[1].double(), 2e-3)
"""


THERE = importlib.util.find_spec("triton") is not None or "SANA_LAB_TRITON" in os.environ  # then it must be there


needs_triton = pytest.mark.skipif(not THERE, reason="Triton is not installed, a gigabyte: make triton")


def interpret(script):
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, env=environment
    )
    assert run.returncode == 0, run.stderr[-3000:] or run.returncode
    return run.stdout


@needs_triton
def test_the_kernels_are_right_for_every_layout():
    worst = json.loads(interpret(CHILD).splitlines()[-1])
    assert worst["dequantize"] < 1e-6, worst
    assert worst["int8_linear"] < 1e-5, worst
    assert worst["gated_depthwise"] < 1e-5, worst
    assert worst["linear_attention"] < 1e-3, worst  # results in float16
    assert worst["between"] < 1e-3, worst  # likewise


@needs_triton
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere memory that nobody writes to may be taken, 12 GB of it")
def test_the_kernels_find_numbers_behind_the_two_thousand_millionth():
    """Where a place no longer fits in 32 bits. Of each kernel the last program runs, on the end of its tensors."""
    interpret(FAR)
