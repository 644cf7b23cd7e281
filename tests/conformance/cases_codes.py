"""Eight-bit layers of which parts are on another device."""

from __future__ import annotations

import torch

from .registry import case, seen


def layer(**kwargs):
    """A quantized layer, 64 to 64, on the GPU, called once."""
    import bitsandbytes

    torch.manual_seed(0)
    made = bitsandbytes.nn.Linear8bitLt(64, 64, has_fp16_weights=False, **kwargs).to("cuda").eval()
    made(x())
    return made


def x(rows=2, device="cuda"):
    """Ones, (rows, 64), float16."""
    return torch.ones(rows, 64, dtype=torch.float16, device=device)


def parts(made):
    """Where the parts of a layer are."""
    found = {"data": made.weight.data, "CB": made.weight.CB, "state.CB": made.state.CB, "state.SCB": made.state.SCB}
    return {name: None if tensor is None else str(tensor.device) for name, tensor in found.items()}


@case()
def codes_on_cpu():
    """The codes that a layer computes with on the CPU, the input on the GPU."""
    made = layer()
    made.state.CB = made.state.CB.cpu()
    return seen(made(x()))


@case()
def codes_on_cpu_with_outliers():
    """The same with an outlier in the input."""
    made, big = layer(threshold=6.0), x()
    made.state.CB = made.state.CB.cpu()
    big[0, 0] = 60
    return seen(made(big))


@case()
def scales_on_cpu():
    """The scales on the CPU."""
    made = layer()
    made.state.SCB = made.state.SCB.cpu()
    result = made(x())
    torch.cuda.synchronize()
    return seen(result)


@case()
def codes_and_scales_on_cpu():
    """Both on the CPU."""
    made = layer()
    made.state.CB, made.state.SCB = made.state.CB.cpu(), made.state.SCB.cpu()
    return seen(made(x()))


@case()
def codes_after_moving():
    """A layer moved to the CPU after a call, and called with a GPU input."""
    made = layer()
    made.to("cpu")
    found = parts(made)
    try:
        found["call"] = str(made(x()).device)
    except Exception as error:
        found["call"] = f"{type(error).__name__}: {str(error)[:60]}"
    return found


@case()
def codes_odd_on_cpu():
    """A width that is no multiple of four, which has a way of its own: codes on the CPU."""
    import bitsandbytes

    made = bitsandbytes.nn.Linear8bitLt(66, 8, has_fp16_weights=False).to("cuda").eval()
    some = torch.ones(2, 66, dtype=torch.float16, device="cuda")
    made(some)
    made.state.CB = made.state.CB.cpu()
    return seen(made(some))


@case()
def kernel_product_on_cpu():
    """`int8_linear_matmul` with the codes on the CPU."""
    a, b = torch.ones(4, 64, dtype=torch.int8, device="cuda"), torch.ones(8, 64, dtype=torch.int8)
    import bitsandbytes.functional as functional

    return seen(functional.int8_linear_matmul(a, b))


@case()
def kernel_product_input_on_cpu():
    """The other way round: the input on the CPU."""
    a, b = torch.ones(4, 64, dtype=torch.int8), torch.ones(8, 64, dtype=torch.int8, device="cuda")
    import bitsandbytes.functional as functional

    return seen(functional.int8_linear_matmul(a, b))


@case()
def kernel_dequant_on_cpu():
    """`int8_mm_dequant` with sums on the GPU and scales on the CPU."""
    import bitsandbytes.functional as functional

    sums = torch.ones(4, 8, dtype=torch.int32, device="cuda")
    result = functional.int8_mm_dequant(sums, torch.ones(4), torch.ones(8))
    torch.cuda.synchronize()
    return seen(result)


@case()
def codes_four_bits_on_cpu():
    """A 4-bit layer whose codes are on the CPU."""
    import bitsandbytes

    made = bitsandbytes.nn.Linear4bit(64, 64, quant_type="nf4", compute_dtype=torch.float16).to("cuda")
    made(x())
    made.weight.data = made.weight.data.cpu()
    result = made(x(8))
    torch.cuda.synchronize()
    return seen(result)


@case()
def codes_group_offload():
    """Group offload of an 8-bit transformer, without a stream: two calls."""
    from diffusers import SanaTransformer2DModel

    from . import tiny

    transformer = tiny.quantized()["transformer"]
    assert isinstance(transformer, SanaTransformer2DModel)
    transformer.enable_group_offload(onload_device=torch.device("cuda"), offload_type="leaf_level")
    inputs = (
        torch.ones(1, 4, 4, 4, device="cuda", dtype=torch.bfloat16),
        torch.ones(1, 8, 64, device="cuda", dtype=torch.bfloat16),
        torch.tensor([500], device="cuda"),
    )
    found = []
    for _ in range(2):
        try:
            found.append(seen(transformer(*inputs).sample))
        except Exception as error:
            found.append(f"{type(error).__name__}: {str(error)[:60]}")
    return found
