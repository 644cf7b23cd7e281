"""More operands on two devices: convolutions, attention, masks, generators, gradients."""

from __future__ import annotations

from .mismatch import FAMILY

_GPU = r"(?:torch\.(?:cuda|xpu)\.\w+|(?:CUDA|XPU|HIP|MPS)\w+)"
_CPU = r"(?:torch\.(?!cuda|xpu)\w+|CPU\w+)"

entry = FAMILY.failure(
    id="convolution-on-two-devices",
    section="chapter-two-devices",
    title="A convolution has its weights on one device and its input on another",
    error="RuntimeError",
    pattern=rf"Input type \((?:{_GPU}\) and (?:weight|bias) type \({_CPU}|{_CPU}\) and (?:weight|bias) type "
    rf"\({_GPU})\)",
    chinese=["设备不匹配", "输入和权重不在同一设备", "卷积设备不匹配"],
    messages={
        "alvinliu0/HumanGaussian#25": "RuntimeError: Input type (torch.cuda.HalfTensor) and weight type "
        "(torch.HalfTensor) should be the same",
        "torch 2.6, the other way": "RuntimeError: Input type (torch.FloatTensor) and weight type "
        "(torch.cuda.FloatTensor) should be the same",
        "torch 2.13.0": "RuntimeError: Input type (torch.cuda.FloatTensor) and weight type (torch.FloatTensor) "
        "should be "
        "the same",
        "torch 2.13.0, bfloat16": "RuntimeError: Input type (CUDABFloat16Type) and weight type (CPUBFloat16Type) "
        "should be "
        "the same",
    },
    cause="Convolutions compare tensor types, which hold the device, and so speak of types where other operators speak "
    "of devices. The frames tell whose convolution it is: `autoencoder_dc.py` is the autoencoder, `patch_embed` the "
    "transformer. The first type is the input's, the second the weights'.",
    references=["pytorch 2.13.0: aten/src/ATen/native/Convolution.cpp", "diffusers#11086"],
)


@entry.reproduce
def _():
    import torch

    layer = torch.nn.Conv2d(3, 4, 3)
    layer(torch.ones(1, 3, 8, 8, device="cuda"))


@entry.fix("Move the module that stayed behind, or send the input to where its weights are.")
def _():
    import torch

    layer = torch.nn.Conv2d(3, 4, 3).to("cuda")
    layer(torch.ones(1, 3, 8, 8, device="cuda").to(layer.weight.device))


entry = FAMILY.failure(
    id="attention-on-two-devices",
    section="chapter-two-devices",
    title="Attention gets query, key and value from two devices",
    error="RuntimeError",
    pattern=r"Expected query, key, and value to have the same device type",
    chinese=["注意力设备不匹配", "设备不匹配"],
    messages={
        "torch 2.13.0": "RuntimeError: Expected query, key, and value to have the same device type, but got "
        "query.device: cuda:0 key.device: cuda:0 and value.device: cpu instead.",
    },
    cause="`scaled_dot_product_attention` looks at its three inputs itself, in words of its own. In a pipeline it is "
    "most often the text: prompt embeddings that were made and kept on the CPU become key and value, the latents on "
    "the GPU the query.",
    references=["pytorch 2.13.0: aten/src/ATen/native/transformers/sdp_utils_cpp.h"],
)


@entry.reproduce
def _():
    import torch

    query, text = torch.ones(1, 1, 4, 8, device="cuda"), torch.ones(1, 1, 6, 8)
    torch.nn.functional.scaled_dot_product_attention(query, text, text)


@entry.fix("Bring all three to the query's device.")
def _():
    import torch

    query, text = torch.ones(1, 1, 4, 8, device="cuda"), torch.ones(1, 1, 6, 8)
    text = text.to(query.device)
    torch.nn.functional.scaled_dot_product_attention(query, text, text)


entry = FAMILY.failure(
    id="mask-on-other-device",
    section="chapter-two-devices",
    title="A mask on the CPU for a tensor on the GPU",
    error="RuntimeError",
    pattern=r"expected (?:self and mask|condition, x and y|condition) to be on the same device",
    chinese=["掩码设备不匹配", "mask在CPU", "设备不匹配"],
    messages={
        "torch 2.13.0": "RuntimeError: expected self and mask to be on the same device, but got mask on cpu and self "
        "on cuda:0",
    },
    cause="`masked_fill` and its like have a check and words of their own. Attention masks come from the tokenizer, "
    "which returns everything on the CPU; a mask is easily forgotten where the token ids were moved by hand.",
    references=["pytorch 2.13.0: aten/src/ATen/native/cuda/Indexing.cu"],
)


@entry.reproduce
def _():
    import torch

    torch.ones(3, device="cuda").masked_fill(torch.tensor([True, False, True]), 0.0)


@entry.fix("Move the mask, too.")
def _():
    import torch

    x = torch.ones(3, device="cuda")
    x.masked_fill(torch.tensor([True, False, True], device=x.device), 0.0)


entry = FAMILY.failure(
    id="generator-device-type",
    section="chapter-two-devices",
    title="A CPU generator for a tensor that is drawn on the GPU",
    error="RuntimeError",
    pattern=r"Expected an? '\w+(?::\d+)?' (?:device type for generator|generator device) but found '\w+",
    chinese=["随机数生成器设备不匹配", "设备不匹配"],
    messages={
        "torch 2.13.0": "RuntimeError: Expected a 'cuda' device type for generator but found 'cpu'",
        "torch 2.13.0, second GPU": "RuntimeError: Expected a 'cuda:1' generator device but found 'cuda:0'",
    },
    cause="A generator draws on the device on which it was made. `torch.randn` refuses another one outright; diffusers "
    "helps out in one direction only, and draws on the CPU for a pipeline on the GPU.",
    references=[
        "pytorch 2.13.0: aten/src/ATen/core/Generator.h",
        "diffusers 0.42.1: utils/torch_utils.py, randn_tensor",
    ],
)


@entry.reproduce
def _():
    import torch

    torch.randn(4, device="cuda", generator=torch.Generator().manual_seed(0))


@entry.fix("Draw on the CPU, where a seed means the same on every machine, and move the noise.")
def _():
    import torch

    torch.randn(4, generator=torch.Generator().manual_seed(0)).to("cuda")


entry = FAMILY.failure(
    id="gradient-on-other-device",
    section="chapter-two-devices",
    title="A gradient on the CPU for a parameter on the GPU",
    error="RuntimeError",
    pattern=r"attempting to assign a gradient with device type|invalid gradient at index \d+ - expected device",
    chinese=["梯度设备不匹配"],
    messages={
        "torch 2.13.0": "RuntimeError: attempting to assign a gradient with device type 'cpu' to a tensor with device "
        "type 'cuda'. Please ensure that the gradient and the tensor are on the same device",
        "torch 2.11.0, backward": "RuntimeError: Function AddBackward0 returned an invalid gradient at index 0 - "
        "expected device cuda:0 but got cpu",
    },
    cause="A gradient belongs to its parameter and must lie beside it. It comes apart when a model is moved after its "
    "optimizer or its gradients were made, or when a loss is computed on the CPU by hand.",
    references=["pytorch 2.13.0: torch/csrc/autograd/python_variable.cpp"],
)


@entry.reproduce
def _():
    import torch

    weight = torch.ones(3, device="cuda", requires_grad=True)
    weight.grad = torch.ones(3)


@entry.fix("Make it like the parameter.")
def _():
    import torch

    weight = torch.ones(3, device="cuda", requires_grad=True)
    weight.grad = torch.ones_like(weight)


# ---- elsewhere --------------------------------------------------------------------------------------------------

entry = FAMILY.failure(
    id="8bit-codes-on-cpu",
    section="chapter-device-maps",
    title="An 8-bit layer's codes are on the CPU and its input is on the GPU",
    error="ValueError",
    pattern=r"Expected a cuda device, but got: ?\w+",
    chinese=["8bit权重在CPU", "设备不匹配"],
    messages={"bitsandbytes#1791": "ValueError: Expected a cuda device, but got: cpu"},
    cause="bitsandbytes makes the device of its operands current before it starts a kernel, and PyTorch refuses to "
    "make "
    "the CPU current. It is the layer that is not where its input is, not the other way round: a hook brought the "
    "module to the GPU and left codes and scales on the CPU. `torch.cuda.set_device('cpu')` says the same.",
    references=["bitsandbytes#1791", "pytorch 2.13.0: torch/cuda/_utils.py, _get_device_index"],
    evidence="report",
    elsewhere="a real GPU",
)
entry.fix(
    "Leave 8-bit models on the GPU and offload the others; or call the layer's own `.to()`, which moves its state.",
    command="pip install -U 'bitsandbytes>=0.48.2' 'diffusers>=0.37' 'transformers>=5'",
)

entry = FAMILY.failure(
    id="mps-placeholder-storage",
    section="chapter-two-devices",
    title="On a Mac: the model is on `mps`, its input on the CPU",
    error="RuntimeError",
    pattern=r"Placeholder storage has not been allocated on MPS device|slow_conv2d_forward_mps: input\(device=",
    chinese=["Mac设备不匹配", "苹果芯片设备不匹配"],
    messages={
        "pytorch#130790": "RuntimeError: Placeholder storage has not been allocated on MPS device!",
    },
    cause="The words of Apple's backend for what CUDA calls two devices: an operator on `mps` was given a tensor that "
    "is still on the CPU.",
    references=["pytorch#130790"],
    evidence="report",
    elsewhere="a Mac",
)
entry.fix("Move the input to the model's device.", command='x = x.to("mps")')
