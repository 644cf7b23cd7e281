"""The toys of book/map.md: the page's own code, held to code that others wrote, or to what it approximates."""

import ast
import json
import math
import re
from pathlib import Path

import bitsandbytes as bnb
import diffusers
import pytest
import torch
import transformers
from bitsandbytes import functional as bnb_functional
from diffusers.quantizers.bfl import utils as bfl

from sana_lab import int8

PAGE = Path(__file__).parent.parent / "book" / "map.md"
RECORD = json.loads((Path(__file__).parent / "map_references.json").read_text(encoding="utf-8"))
CELL = re.compile(r"^```\{code-cell\}[^\n]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
TEXT = PAGE.read_text(encoding="utf-8")


def cells():
    """The code that a reader of the page sees, without the options of a cell."""
    return [cell for cell in CELL.findall(TEXT) if not cell.startswith(":tags: [remove-")]


@pytest.fixture(scope="module")
def page():
    """The page's names, and under `toys` what it measures; nothing is measured."""
    names, toys = {"toys": {}}, {}
    for cell in cells():
        if "measure(" in cell and "def measure" not in cell:
            cell = cell.replace("measure(", "remember(")
        names["remember"] = toys.__setitem__
        if "AutoModel" not in cell:
            exec(cell.partition('\n\nmeasure("')[0], names)
    names["toys"] = toys
    return names


@pytest.fixture(scope="module")
def recorded():
    return {name: torch.tensor(values) for name, values in RECORD["numbers"].items()}


def normal(*shape, seed=0, spread=0.0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw) * torch.exp(spread * torch.randn(*shape, generator=draw))


def case(seed=0, factor=20.0):
    """Inputs, weights and samples with channels that move together and one that is larger."""
    mixing = normal(8, 128, seed=seed)
    x = normal(96, 8, seed=seed + 1) @ mixing + normal(96, 128, seed=seed + 2)
    x[:, 3] *= factor
    return x[64:], 0.05 * normal(24, 128, seed=seed + 3), x[:64]


def eight_bit_layer(w, threshold):
    layer = bnb.nn.Linear8bitLt(w.shape[1], w.shape[0], bias=False, has_fp16_weights=False, threshold=threshold)
    layer.weight = bnb.nn.Int8Params(w.clone(), requires_grad=False, has_fp16_weights=False)
    return layer.eval()


# --- the page --------------------------------------------------------------------------------------------------------


def test_a_toy_takes_fifteen_lines_at_most(page):
    functions = [node for cell in cells() for node in ast.parse(cell).body if isinstance(node, ast.FunctionDef)]
    lengths = {f.name: len([line for line in ast.unparse(f).splitlines() if line.strip()]) for f in functions}
    assert len(page["toys"]) == 17
    assert {toy.__name__ for toy in page["toys"].values()} <= lengths.keys()
    assert {name: n for name, n in lengths.items() if n > 15 and name != "measure"} == {}


def test_every_method_has_its_lines_of_library_and_of_what_is_left_out(page):
    methods = re.findall(r'^measure\("([^"]+)"', TEXT, flags=re.MULTILINE)
    assert methods == list(page["toys"])
    plain = {"bfloat16", "INT4, both"}  # the ceiling, and a baseline
    parts = re.split(r'^measure\("', TEXT, flags=re.MULTILINE)[1:]
    for name, part in zip(methods, parts, strict=True):
        assert name in plain or ("*In libraries:*" in part and "*Left out:*" in part), name


def test_the_classes_that_the_page_names_are_there():
    named = set(re.findall(r"`((?:[\w.]+\.)?\w*Config)\b", TEXT)) - {"PerRow"}
    torchao = {re.sub(r"^torchao\.(quantization\.(?=[A-Z])|)", "", name) for name in RECORD["classes"]}
    there = {name for name in named if hasattr(diffusers, name) or hasattr(transformers, name)}
    assert len(named) >= 18
    assert named - there - torchao == set()


# --- the two ways to round -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group", [16, 64, 128])
def test_integers_are_those_of_chapter_2(page, bits, group):
    v = normal(8, 128, spread=2)
    rounded, cost = page["integers"](v, bits, group)
    expected = int8.quantize(v, bits, block=group)
    assert torch.equal(rounded, expected.dequantize())
    assert cost == expected.bits_per_value


def test_integers_with_a_step_in_16_bits_read_back_from_that_step(page):
    v = normal(8, 128, spread=2)
    rounded, cost = page["integers"](v, 4, 32, torch.float16)
    step = (v.reshape(-1, 32).abs().amax(dim=1, keepdim=True) / 7).half().float()
    codes = rounded.reshape(-1, 32) / step
    assert torch.allclose(codes, codes.round(), atol=1e-5) and codes.abs().max() <= 7
    assert (rounded - v).reshape(-1, 32).abs().le(step * 0.505).all()
    assert cost == 4.5


def test_floats_are_pytorch_s_e4m3(page):
    every = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    every = every[every.isfinite()].unique()
    between = (every[1:] + every[:-1]) / 2  # ties
    v = torch.cat([every, between, normal(20_000, spread=3).clamp(-448, 448)])
    assert torch.equal(page["floats"](v, *page["E4M3"]), v.to(torch.float8_e4m3fn).float())


def test_floats_are_the_e2m1_of_diffusers(page):
    levels = bfl.E2M1_LUT.unique()
    assert torch.equal(page["floats"](torch.linspace(-9, 9, 999), *page["E2M1"]).unique(), levels)
    ties = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
    assert page["floats"](ties, *page["E2M1"]).tolist() == [0, 1, 1, 2, 2, 4, 4]


# --- eight bits on both sides ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("toy", "threshold"), [("Sana's W8A8", 0.0), ("LLM.int8()", 6.0)])
def test_eight_bits_by_rows_are_those_of_bitsandbytes(page, toy, threshold):
    x, w, seen = case()
    x, w = x.half().float(), w.half().float()
    y, weight, activation = page["toys"][toy](x, w, seen)
    layer = eight_bit_layer(w, threshold)
    assert int8.sqnr_db(y, layer(x)) > 60  # where rounding itself leaves 20 to 40 dB
    held = 8 * layer.state.CB.numel() + 32 * layer.state.SCB.numel()
    assert weight == held / w.numel()
    columns = (x.abs() >= 6).any(dim=0).sum().item()
    assert columns > 0
    assert activation == 8 + 32 / 128 + (16 * columns / 128 if threshold else 0)


def test_eight_bits_by_rows_are_torchao_s_but_for_the_step(page, recorded):
    """Up to its step, absmax / 127.5: other roundings, and as far from the exact product."""
    x, w = recorded["x"], recorded["w"]
    exact = x.double() @ w.double().T
    y, *_ = page["toys"]["Sana's W8A8"](x, w, None)
    assert abs(int8.sqnr_db(exact, y) - int8.sqnr_db(exact, recorded["int8 product"])) < 1.5
    read = [(v / (v.abs().amax(dim=1, keepdim=True) / 127.5)).round().clamp(-128, 127) for v in (x, w)]
    steps = [v.abs().amax(dim=1, keepdim=True) / 127.5 for v in (x, w)]
    assert int8.sqnr_db(recorded["int8 product"], (read[0] * steps[0]) @ (read[1] * steps[1]).T) > 50


def test_a_static_step_knows_the_samples_only(page):
    x, w, seen = case()
    static = page["toys"]["INT8, static"]
    y, *_ = static(x, w, seen)
    assert int8.sqnr_db(x @ w.T, static(x, w, 10 * seen)[0]) < int8.sqnr_db(x @ w.T, y) - 10
    clipped, *_ = static(100 * x, w, seen)
    assert clipped.abs().max() < 50 * y.abs().max()


def test_smoothing_uses_the_factors_of_torchao_and_hurts_nothing_when_it_has_nothing_to_do(page, recorded):
    x, w, seen = (recorded[name] for name in ("x", "w", "seen"))
    s = recorded["smoothing"]
    expected, *_ = page["toys"]["Sana's W8A8"](x / s, w * s, None)
    y, *_ = page["toys"]["SmoothQuant"](x, w, seen)
    assert int8.sqnr_db(expected, y) > 50
    exact = x.double() @ w.double().T
    assert int8.sqnr_db(exact, y) > int8.sqnr_db(exact, page["toys"]["Sana's W8A8"](x, w, None)[0])


def test_groups_of_32_are_those_of_gguf(page, recorded):
    """gguf divides by the step before it is stored in 16 bits, so a code near a tie may be the neighbor."""
    rounded, bits = page["integers"](recorded["x"], 8, 32, torch.float16)
    step = recorded["x"].reshape(-1, 32).abs().amax(dim=1, keepdim=True) / 127
    apart = (rounded - recorded["q8_0"]).reshape(-1, 32) / step
    assert apart.abs().max() < 1.01 and (apart.abs() > 0.01).float().mean() < 0.02
    assert bits == 8 * 34 / 32  # a block of gguf: 32 codes and a float16


def test_fp8_is_that_of_diffusers(page):
    x, w, seen = case()
    y, weight, activation = page["toys"]["FP8, rows"](x, w, seen)
    codes, scales = zip(*(bfl.quantize_fp8r(v) for v in (x, w)), strict=True)
    read = [bfl.dequantize_fp8r(c, s) for c, s in zip(codes, scales, strict=True)]
    assert int8.sqnr_db(read[0] @ read[1].T, y) > 100
    assert weight == (8 * codes[1].numel() + 32 * scales[1].numel()) / w.numel() == activation


@pytest.mark.parametrize(("name", "bits", "grid"), [("mxfp8", 8, "E4M3"), ("mxfp4", 4, "E2M1")])
def test_mx_is_that_of_torchao(page, recorded, name, bits, grid):
    rounded, cost = page["mx"](recorded["x"], bits, *page[grid])
    assert torch.equal(rounded, recorded[name])
    assert cost == bits + 0.25


# --- four bits for the weights ---------------------------------------------------------------------------------------


def test_gptq_with_samples_that_say_nothing_is_rounding_to_the_nearest(page):
    x, w, _ = case()
    y, *_ = page["toys"]["GPTQ"](x, w, torch.eye(128))
    assert int8.sqnr_db(page["toys"]["INT4, nearest"](x, w, None)[0], y) > 80


def test_gptq_fits_the_columns_that_are_left_by_least_squares(page):
    """After each column the others are what minimizes the damped error of the samples, given all that is rounded."""
    w, seen = case()[1].double(), case()[2].double()
    h = seen.T @ seen
    h += 0.01 * h.diagonal().mean() * torch.eye(128)
    step = (w.abs().amax(dim=1) / 7).half().double()
    rounded, now = torch.zeros_like(w), w.clone()
    for k in range(128):
        rounded[:, k] = (now[:, k] / step).round().clamp(-7, 7) * step
        error = w[:, : k + 1] - rounded[:, : k + 1]
        left = h[k + 1 :, k + 1 :]
        now[:, k + 1 :] = w[:, k + 1 :] + torch.linalg.solve(left, h[k + 1 :, : k + 1] @ error.T).T if k < 127 else 0
    found, weight, activation = page["toys"]["GPTQ"](torch.eye(128), w.float(), seen.float())
    same = ((found.T.double() - rounded).abs() < 0.01 * step[:, None]).double().mean()
    assert same > 0.99  # float32 may tip a tie
    assert (weight, activation) == (4.125, 16)


@pytest.mark.parametrize("seed", range(4))
def test_samples_make_gptq_and_awq_no_worse_than_the_nearest(page, seed):
    _, w, seen = case(seed)
    errors = {
        name: (seen @ w.T - page["toys"][name](seen, w, seen)[0]).square().sum()
        for name in ("INT4, nearest", "GPTQ", "AWQ")
    }
    assert errors["AWQ"] <= errors["INT4, nearest"] * 1.0001
    assert errors["GPTQ"] < errors["INT4, nearest"]


def test_awq_finds_what_torchao_s_search_finds(page, recorded):
    x, w, seen = (recorded[name] for name in ("x", "w", "seen"))
    found, weight, activation = page["toys"]["AWQ"](torch.eye(128), w, seen)
    assert torch.allclose(found.T, recorded["awq weights"], rtol=1e-4, atol=1e-7)
    assert (weight, activation) == (4.125 + 16 / 8, 16)


def test_nf4_is_that_of_bitsandbytes(page):
    _, w, _ = case()
    codes, state = bnb_functional.quantize_4bit(w, blocksize=64, quant_type="nf4")
    assert torch.allclose(page["nf4_levels"](), state.code.float(), atol=1e-6)
    found, weight, _ = page["toys"]["NF4"](torch.eye(128), w, None)
    read = bnb_functional.dequantize_4bit(codes, state)
    same = torch.isclose(found.T, read, rtol=1e-5, atol=1e-8)
    assert same.float().mean() > 0.999  # a level's last digit may tip a number that lies between two
    assert weight == (8 * codes.numel() + 32 * state.absmax.numel()) / w.numel()


def test_training_lowers_the_loss_that_it_trains_on(page):
    _, w, seen = case(factor=1.0)
    toys = page["toys"]
    before, after = (
        (seen @ w.T - toys[name](seen, w, seen)[0]).square().mean() for name in ("INT4, nearest", "INT4, trained")
    )
    assert after < 0.9 * before
    assert toys["INT4, trained"](seen, w, seen)[1:] == (4.125, 16)


# --- four bits on both sides -----------------------------------------------------------------------------------------


def test_svdquant_of_full_rank_leaves_only_what_16_bits_leave(page):
    x, w, seen = case()
    exact = x.double() @ w.double().T
    svdquant = page["toys"]["SVDQuant"]
    ranks = {rank: int8.sqnr_db(exact, svdquant(x, w, seen, rank=rank)[0]) for rank in (0, 8, 24)}
    assert ranks[0] < ranks[8] < 35 < 45 < ranks[24]


def test_svdquant_of_rank_0_is_smoothing_and_the_thin_part_is_paid_for(page):
    x, w, seen = case()
    y, weight, activation = page["toys"]["SVDQuant"](x, w, seen, rank=0)
    s = (seen.abs().amax(dim=0) / w.abs().amax(dim=0)).sqrt()
    expected, bits, _ = page["toys"]["INT4, both"](x / s, w * s, None)
    assert int8.sqnr_db(expected, y) > 60
    assert (bits, activation) == (4.25, 4.25)
    assert weight == 4.25 + 16 * 128 / w.numel()
    assert page["toys"]["SVDQuant"](x, w, seen, rank=8)[1] == weight + 16 * 8 * (128 + 24) / w.numel()


def test_a_weight_of_low_rank_needs_the_thin_part_alone(page):
    x, _, seen = case(factor=1.0)
    w = normal(24, 4, seed=8) @ normal(4, 128, seed=9)
    svdquant = page["toys"]["SVDQuant"]
    exact = x.double() @ w.double().T
    assert int8.sqnr_db(exact, svdquant(x, w, seen, rank=4)[0]) > 40
    assert int8.sqnr_db(exact, svdquant(x, w, seen, rank=0)[0]) < 25


def test_nvfp4_is_that_of_diffusers_and_of_torchao(page, recorded):
    x, w, _ = case()
    w[2, 16:32] = 0
    w[5, :16] = 1e-9  # a scale that is 0 in E4M3
    codes, scale, whole = bfl.quantize_nvfp4(w)
    rounded, bits = page["nvfp4"](w)
    assert torch.allclose(rounded, bfl.dequantize_nvfp4(codes, scale, whole), rtol=1e-6, atol=0)
    assert math.isclose(bits, (8 * codes.numel() + 8 * scale.numel() + 32) / w.numel())
    rounded, _ = page["nvfp4"](recorded["x"])
    assert torch.allclose(rounded, recorded["nvfp4"], rtol=1e-5, atol=0)


# --- what the page says about them -----------------------------------------------------------------------------------


def test_what_the_page_concludes_holds_on_other_draws(page):
    """Signs, not sizes: the same kind of product from another seed."""
    draw = torch.Generator

    class Other:
        def manual_seed(self, seed):
            return draw().manual_seed(seed + 11)

    source = next(cell for cell in cells() if "def product(" in cell).replace("torch.Generator()", "Other()")
    names = {"Other": Other}
    exec(source, names)
    found = {}
    for kind, (x, w, seen) in names["products"].items():
        for name, toy in page["toys"].items():
            if name != "INT4, trained":
                found[name, kind] = int8.sqnr_db(x.double() @ w.double().T, toy(x, w, seen)[0])
    calm, outlier = ({name: db for (name, of), db in found.items() if of == kind} for kind in ("calm", "outlier"))
    assert calm["Sana's W8A8"] > calm["FP8, rows"] + 8 and outlier["FP8, rows"] > outlier["Sana's W8A8"] + 8
    assert abs(outlier["FP8, rows"] - calm["FP8, rows"]) < 1
    assert outlier["SmoothQuant"] > outlier["LLM.int8()"] > outlier["Q8_0"] > outlier["Sana's W8A8"]
    assert calm["GPTQ"] > calm["INT4, nearest"] + 2 and abs(calm["AWQ"] - calm["INT4, nearest"]) < 1
    assert outlier["AWQ"] > outlier["GPTQ"] > outlier["INT4, nearest"]
    assert outlier["INT4, nearest"] < calm["INT4, nearest"] - 6
    assert outlier["NVFP4"] > outlier["MXFP4"] and outlier["SVDQuant"] > outlier["INT4, both"] + 6
