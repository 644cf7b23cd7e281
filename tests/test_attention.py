"""One product for queries, keys and values; keys and values of the prompt once: the same results, to the last bit."""

import copy
import gc
import inspect
import logging
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from sana_lab import fast, load_sana, use_accelerator
from sana_lab.attention import (
    CrossAttention,
    PromptOnce,
    SelfAttention,
    cast_once_,
    joined,
    prompt_once_,
    rewrite_,
)
from sana_lab.fast import Captured, FusedLinear8bit, WeightOnly8bit, capture_, fuse_, speed_up_
from sana_lab.kernels import linear_attention
from sana_lab.shapes import SHAPES_FOLDER


@pytest.fixture(scope="module", autouse=True)
def gpu():
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    with use_accelerator(virtual=True) as accelerator:
        yield accelerator


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def small(precision="fp32", device="cuda", slim=False):
    """Two of the blocks: all are alike."""
    transformer = load_sana(SHAPES_FOLDER, precision, device, slim=slim).transformer
    transformer.transformer_blocks = transformer.transformer_blocks[:2]
    return transformer


def inputs(transformer, seed=5, tokens=7):
    like = next(parameter for parameter in transformer.parameters() if parameter.is_floating_point())
    place = {"device": like.device, "dtype": transformer.dtype}
    return {
        "hidden_states": random(2, 32, 4, 6, seed=seed).to(**place),
        "encoder_hidden_states": random(2, tokens, 128, seed=1).to(**place),
        "encoder_attention_mask": torch.tensor([[1] * tokens, [1] * 3 + [0] * (tokens - 3)], device=like.device),
        "timestep": torch.tensor([500, 20], device=like.device),
    }


class Gives(nn.Module):
    """A layer that gives what it was made with, whatever it is given."""

    def __init__(self, given):
        super().__init__()
        self.given = given

    def forward(self, hidden):
        return self.given


@torch.no_grad()
def step(transformer, **given):
    return transformer(**given, return_dict=False)[0].clone()


# ---- one product for three ---------------------------------------------------------------------------------------


def codes(*shape, seed=0):
    return torch.randint(-127, 128, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.int8)


@pytest.mark.parametrize("kind", [FusedLinear8bit, WeightOnly8bit])
@pytest.mark.parametrize("biases", [(False,) * 3, (True,) * 3, (False, True, False)])
def test_joined_codes_give_the_same_bits(kind, biases):
    layers = [
        kind(codes(n, 40, seed=n), random(n, seed=n).abs(), random(n) if bias else None)
        for n, bias in zip((24, 8, 16), biases, strict=True)
    ]
    hidden = random(5, 40)
    together = joined(layers)(hidden).split([24, 8, 16], dim=-1)
    for layer, found in zip(layers, together, strict=True):
        if kind is FusedLinear8bit:
            assert torch.equal(layer(hidden), found)
        else:
            torch.testing.assert_close(layer(hidden), found, rtol=1e-6, atol=2e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_joined_weights_give_the_same_sums(dtype):
    layers = [nn.Linear(40, n, bias=n > 8, dtype=dtype) for n in (24, 8, 16)]
    hidden = random(5, 40).to(dtype)
    together = joined(layers)(hidden).split([24, 8, 16], dim=-1)
    for layer, found in zip(layers, together, strict=True):
        torch.testing.assert_close(layer(hidden), found, rtol=torch.finfo(dtype).eps, atol=1e-5)


def test_layers_of_several_kinds_or_inputs_are_not_joined():
    plain, ours = nn.Linear(8, 8), WeightOnly8bit(codes(8, 8), random(8), None)
    assert joined([plain, ours]) is None
    assert joined([plain, nn.Linear(9, 8)]) is None
    assert joined([plain, nn.Linear(8, 8).half()]) is None
    assert joined([nn.Bilinear(8, 8, 8)] * 2) is None if hasattr(nn.Bilinear(8, 8, 8), "in_features") else True


@pytest.mark.parametrize("norms", [False, True])
def test_a_rewritten_step_is_the_same_function(norms):
    from diffusers import SanaTransformer2DModel

    transformer = small(device="cpu")
    if norms:  # as Sana 1.5 has them
        config = {**transformer.config, "num_layers": 2, "qk_norm": "rms_norm_across_heads"}
        transformer = SanaTransformer2DModel.from_config(config).eval()
    given = inputs(transformer)
    before = step(transformer, **given)
    rewrite_(transformer)
    block = transformer.transformer_blocks[0]
    assert (type(block.attn1), type(block.attn2)) == (SelfAttention, CrossAttention)
    torch.testing.assert_close(step(transformer, **given), before, rtol=1e-5, atol=1e-5)


def test_layers_of_bitsandbytes_stay_as_they_are():
    transformer = small("int8")
    given = inputs(transformer)
    before = step(transformer, **given)
    rewrite_(transformer)
    assert hasattr(transformer.transformer_blocks[0].attn1, "to_q")
    assert torch.equal(step(transformer, **given), before)


def test_a_float16_self_attention_stays_finite():
    attention = small().transformer_blocks[0].attn1.cpu().half()
    with torch.no_grad():
        attention.to_out[0].weight.fill_(60000)
        ours = SelfAttention(attention, joined([attention.to_q, attention.to_k, attention.to_v]))
        out = ours(torch.ones(1, 4, 256, dtype=torch.float16))
    assert out.isfinite().all() and out.abs().max() == 65504


# ---- TF32 --------------------------------------------------------------------------------------------------------


def tf32(x):
    """As the matrix units read float32: the last 13 bits of the mantissa away."""
    return (x.view(torch.int32) & ~0x1FFF).view(torch.float32)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_numbers_of_16_bits_are_exact_in_tf32_and_the_bound_holds(dtype):
    every = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype).float()
    every = every[every.isfinite()]
    assert torch.equal(tf32(every), every)
    worst = 0.0
    for seed in range(20):
        q, k, v = (random(50, 32, seed=3 * seed + i).to(dtype).float() for i in range(3))
        v = v * 10.0 ** random(50, 1, seed=seed)  # values of very different sizes
        v = v.to(dtype).float()
        q, k = q.relu().double(), k.relu().double()
        scores = (v.T.double() @ k).float()
        divisor = (q @ k.sum(0))[:, None]
        moved = (q @ (tf32(scores).double() - scores.double()).T / divisor).abs()
        bound = 2.0**-10 * (q @ k.T @ v.abs().double()) / divisor
        worst = max(worst, (moved / bound).max().item())
    assert 0.01 < worst < 1, "the bound of `linear_attention`, and it is not idle"


def test_linear_attention_is_diffusers_own_to_the_last_bit():
    """Of the very same queries, keys and values, and before the layer behind it.

    diffusers hands that layer a transposed view, ours is contiguous, and MKL may add a product of the one in another
    order than of the other: on an AMD processor it does.
    """
    attention = small().transformer_blocks[0].attn1.cpu()
    parts = random(2, 12, 3 * 256).chunk(3, dim=-1)
    for name, part in zip(("to_q", "to_k", "to_v"), parts, strict=True):
        setattr(attention, name, Gives(part))
    attention.to_out[0] = nn.Identity()
    with torch.no_grad():
        for _ in range(20):
            assert torch.equal(linear_attention(*parts, attention.heads, True), attention(random(2, 12, 256)))
        assert not torch.equal(linear_attention(*parts, attention.heads // 2, True), attention(random(2, 12, 256)))
    torch.library.opcheck(linear_attention, (*parts, 8, True), test_utils=("test_schema", "test_faketensor"))


# ---- keys and values once a prompt -------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["fp32", "bf16", "int8", "fused", "weights"])
def test_keys_and_values_once_give_the_same_bits(way):
    transformer = small("int8" if way in ("fused", "weights") else way, slim=way in ("fused", "weights"))
    if way in ("fused", "weights"):
        fuse_(transformer, 8 if way == "fused" else 16)
    steps = [inputs(transformer, seed=seed) for seed in (5, 6, 7)]
    prompt = steps[0]["encoder_hidden_states"]
    before = [step(transformer, **given | {"encoder_hidden_states": prompt}) for given in steps]
    once = prompt_once_(transformer).forward
    assert isinstance(once, PromptOnce) and prompt_once_(transformer).forward is once
    after = [step(transformer, **given | {"encoder_hidden_states": prompt}) for given in steps]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert once.made == 1, "made anew"


def test_another_prompt_and_a_changed_one_are_noticed():
    transformer, fresh = small("bf16"), small("bf16")
    once = prompt_once_(transformer).forward
    given = inputs(transformer)
    prompt = given["encoder_hidden_states"]

    def same(made):
        assert torch.equal(step(transformer, **given), step(fresh, **given))
        assert once.made == made

    same(1)
    same(1)
    prompt.mul_(2)  # the same tensor with other numbers
    same(2)
    prompt[1, 2:].zero_()  # through a view
    same(3)
    given["encoder_hidden_states"] = prompt.clone()
    same(4)
    given |= {k: v for k, v in inputs(transformer, tokens=5).items() if "encoder" in k}  # fewer tokens
    same(5)
    with torch.no_grad():
        for model in (transformer, fresh):
            model.transformer_blocks[1].attn2.to_v.weight.mul_(3)
    same(6)
    for model in (transformer, fresh):
        model.caption_norm.weight.data = 2 * model.caption_norm.weight.data
    same(7)
    for model in (transformer, fresh):  # a layer inside of a part is another one
        old = model.caption_projection.linear_2
        new = nn.Linear(old.in_features, old.out_features, device=old.weight.device, dtype=old.weight.dtype)
        new.load_state_dict({name: -value for name, value in old.state_dict().items()})
        model.caption_projection.linear_2 = new
    same(8)
    given["encoder_hidden_states"].data.mul_(2)  # not counted
    once.forget()
    same(9)


def test_what_is_not_counted_is_made_at_every_call():
    transformer, fresh = small("bf16"), small("bf16")
    once = prompt_once_(transformer).forward
    with torch.inference_mode():
        given = inputs(transformer)
        for _ in range(2):
            assert torch.equal(step(transformer, **given), step(fresh, **given))
            given["encoder_hidden_states"].mul_(2)
    assert once.made == 2


def test_with_gradients_nothing_is_kept():
    transformer = small("fp32", "cpu")
    once = prompt_once_(transformer).forward
    given = inputs(transformer)
    given["encoder_hidden_states"].requires_grad_()
    transformer(**given).sample.sum().backward()
    assert given["encoder_hidden_states"].grad.abs().sum() > 0 and once.made == 0


def test_a_failed_step_leaves_the_layers_as_they_were():
    transformer = small("fp32", "cpu")
    given = inputs(transformer)
    before = step(transformer, **given)
    once = prompt_once_(transformer).forward
    with pytest.raises(RuntimeError, match="expected input.* to have 32 channels, but got 5 channels"):
        step(transformer, **given | {"hidden_states": random(2, 5, 4, 6)})
    assert all(attention.kept is None for attention in once.attentions)
    assert "forward" not in vars(transformer.caption_projection) and "forward" not in vars(transformer.caption_norm)
    assert torch.equal(step(transformer, **given), before)


def test_a_recording_finds_keys_and_values_where_they_were(monkeypatch):
    """Without a GPU: what a graph would read is where it was when it was recorded, for every shape."""
    transformer = small("bf16")
    capture_(prompt_once_(transformer))
    once = transformer.forward
    assert isinstance(once, PromptOnce) and isinstance(once.step, Captured) and capture_(transformer).forward is once
    read, seen = [], []

    def record(self, *args, **kwargs):
        read.append([kept.data_ptr() for attention in once.attentions for kept in attention.kept])
        seen.append([kept.clone() for attention in once.attentions for kept in attention.kept])
        return self.function(*args, **kwargs)

    monkeypatch.setattr(Captured, "__call__", record)
    first, second = inputs(transformer), inputs(transformer, tokens=5)
    step(transformer, **first)
    step(transformer, **second)
    first["encoder_hidden_states"] = 2 * first["encoder_hidden_states"]
    step(transformer, **first)
    assert read[0] == read[2] != read[1]
    assert not any(torch.equal(a, b) for a, b in zip(seen[0], seen[2], strict=True)), (
        "the recording would read old ones"
    )


def test_what_cannot_keep_is_refused_in_one_line():
    with pytest.raises(TypeError, match="Linear has no cross-attention of Sana's: give pipe.transformer"):
        prompt_once_(nn.Linear(2, 2))
    recorded = small("bf16")
    capture_(recorded)
    with pytest.raises(TypeError, match="recorded already: call prompt_once_ before capture_"):
        prompt_once_(recorded)
    offloaded = small("bf16")
    offloaded._hf_hook = object()
    with pytest.raises(TypeError, match="offloaded already: call prompt_once_ before enabling offload"):
        prompt_once_(offloaded)


def _picture(pipe, **more):
    call = {"height": 64, "width": 64, "use_resolution_binning": False, "num_inference_steps": 3} | more
    pipe.set_progress_bar_config(disable=True)
    return pipe("a small red star", **call, generator=torch.Generator().manual_seed(0), output_type="np").images


@pytest.mark.parametrize("encoder", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("guidance", [4.5, 1.0])
def test_a_whole_picture_makes_them_once_and_is_the_same(encoder, guidance):
    pictures = []
    for once in (False, True):
        pipe = load_sana("shapes", "bf16")
        pipe.text_encoder.to(encoder)
        if once:
            prompt_once_(cast_once_(cast_once_(pipe)).transformer)
        pictures.append(_picture(pipe, guidance_scale=guidance))
    assert (pictures[0] == pictures[1]).all()
    assert pipe.transformer.forward.made == 1


def test_types_as_released_make_them_once():
    """A transformer in float16 beside a text encoder in bfloat16; and the fast mode by itself."""
    pipe = load_sana("shapes", "fp16")
    assert (pipe.text_encoder.dtype, pipe.transformer.dtype) == (torch.bfloat16, torch.float16)
    before = _picture(pipe)
    prompt_once_(pipe.transformer)
    _picture(pipe)
    assert pipe.transformer.forward.made == 3, "the pipeline casts at each step"
    after = _picture(cast_once_(pipe))
    assert pipe.transformer.forward.made == 4 and (before == after).all()

    pipe = load_sana("shapes", "int8")
    pipe.text_encoder = load_sana("shapes", "fp32").text_encoder
    _picture(speed_up_(pipe, activations=16, graphs=False))
    assert pipe.transformer.forward.made == 1


def test_a_pipeline_that_casts_once_goes_when_it_is_let_go_and_can_be_copied():
    pipe = cast_once_(load_sana("shapes", "fp16", "cpu"))
    gone = weakref.ref(pipe.text_encoder)
    other = copy.deepcopy(pipe)
    torch.nn.Module.to(other.transformer, torch.float32)
    kinds = [p.encode_prompt("a red star", device="cpu")[0].dtype for p in (pipe, other)]
    assert kinds == [torch.float16, torch.float32]
    assert list(inspect.signature(pipe.encode_prompt).parameters)[0] == "prompt"
    gc.collect()
    gc.disable()
    try:
        del pipe
        assert gone() is None, "it keeps itself"
    finally:
        gc.enable()


def test_a_prompt_without_a_negative_one_and_sprint():
    pipe = cast_once_(load_sana("shapes", "fp16"))
    embeds, mask, negative, negative_mask = pipe.encode_prompt("a red star", do_classifier_free_guidance=False)
    assert embeds.dtype == torch.float16 and not mask.is_floating_point() and negative is negative_mask is None
    pipe = load_sana("shapes", "fp16")
    pipe.transformer.register_to_config(guidance_embeds=True)
    assert "encode_prompt" not in cast_once_(pipe).__dict__


def test_the_decoder_is_captured_once():
    vae = load_sana("shapes", "bf16").vae
    captured = fast.capture_decoder_(vae).decode
    assert isinstance(captured, Captured) and fast.capture_decoder_(vae).decode is captured


class Replayed:
    """In place of a CUDA graph; its recording counts."""

    def __init__(self, made, name):
        made.append(name)

    def replay(self):
        pass


@pytest.fixture
def recorded(monkeypatch):
    """A captured function and what was recorded of it: the plain value that each recording was made with."""
    made = []

    def record(self, leaves, form):
        plain = [x for x in leaves if not isinstance(x, torch.Tensor)]
        return Replayed(made, *plain), [x.clone() for x in leaves if isinstance(x, torch.Tensor)], plain

    monkeypatch.setattr(Captured, "_record", record)
    return Captured(None), made


def test_each_plain_value_has_a_recording_of_its_own(recorded):
    captured, made = recorded
    values = [
        0,
        0.0,
        -0.0,
        False,
        None,
        "",
        b"",
        1,
        1.0,
        True,
        float("nan"),
        "None",
        torch.float16,
        torch.device("cpu"),
    ]
    for value in values * 2:
        (found,) = captured(torch.ones(2), value)
        assert found is value or (type(found), repr(found)) == (type(value), repr(value))
    assert list(map(repr, made)) == list(map(repr, values)), "recorded once each, and none is taken for another"


class Same:
    """Two of these look alike, and are not."""

    def __repr__(self):
        return "Same"


@pytest.mark.parametrize("value", [Same(), object(), torch.nn.Identity(), slice(2), np.zeros(5000), np.int64(3)])
def test_what_may_change_without_a_word_is_not_recorded(recorded, value):
    captured, made = recorded
    with pytest.raises(TypeError, match="recorded for tensors and plain values, got .+: leave capture_ out for it"):
        captured(torch.ones(2), [value])
    assert not made and not captured.recordings


def test_recordings_are_not_kept_for_ever(recorded):
    captured, made = recorded
    for number in range(fast.RECORDINGS + 5):
        captured(torch.ones(2), number)
        captured(torch.ones(2), 0)  # in use all the time
    assert len(captured.recordings) == fast.RECORDINGS
    assert made == list(range(fast.RECORDINGS + 5)), "the one in use was dropped"
