"""FP8: products that a card or a size forbids, and libraries that quantize to it."""

from __future__ import annotations

from .gpu import FAMILY

entry = FAMILY.failure(
    id="fp8-needs-compute-capability-8-9",
    title="The GPU has no units for FP8 products",
    error="RuntimeError|AssertionError",
    pattern=r"torch\._scaled_mm is only supported on CUDA devices with compute capability|"
    r"Float8 dynamic (?:activation )?quantization (?:is only supported on CUDA|requires CUDA compute capability)",
    chinese=["不支持FP8", "显卡不支持FP8"],
    messages={
        "torch 2.13.0": "RuntimeError: torch._scaled_mm is only supported on CUDA devices with compute capability "
        ">= 9.0 or 8.9, or ROCm MI300+",
        "torchao 0.18.0": "AssertionError: Float8 dynamic activation quantization is only supported on CUDA>=8.9 and "
        "MI300+",
        "torchao 0.18.0, by another way": "AssertionError: Float8 dynamic quantization requires CUDA compute "
        "capability ≥8.9 or MI300+ or XPU.",
    },
    cause="Tensor cores multiply FP8 from Ada (GeForce 40, L4) and Hopper (H100) on. An A100 or a GeForce 30 can keep "
    "weights in FP8, and has to turn them back into 16 bits before it multiplies. torchao says the same where it "
    "finds no CUDA at all, on the virtual GPU too, because it asks PyTorch's build.",
    references=[
        "pytorch 2.13.0: aten/src/ATen/native/cuda/ScaledBlas.cpp, _scaled_mm_out_cuda",
        "torchao 0.18.0: quantization/quant_api.py, float8/inference.py",
    ],
    evidence="source",
    elsewhere="a GPU before compute capability 8.9",
)


@entry.fix("Keep the weights alone in FP8, or choose 8-bit integers, which every card since Turing multiplies.")
def _(FOLDER):
    from sana_lab import load_sana

    load_sana(FOLDER, "fp8", activations=16)


entry = FAMILY.failure(
    id="fp8-sizes-are-multiples-of-16",
    title="A weight has a side that is no multiple of 16",
    error="RuntimeError",
    pattern=r"Expected trailing dimension of mat1 to be divisible by 16 but got mat1 shape|"
    r"mat2 shape \(\d+x\d+\) must be divisible by 16",
    messages={
        "torch 2.13.0": "RuntimeError: Expected trailing dimension of mat1 to be divisible by 16 but got mat1 shape: "
        "(32x40).",
        "torch 2.13.0, the other side": "RuntimeError: mat2 shape (64x40) must be divisible by 16",
    },
    cause="FP8 products are made for blocks of 16 bytes: inputs and outputs of the layer must both be multiples of "
    "16. torchao leaves such a layer in 16 bits without a word.",
    references=["pytorch 2.13.0: aten/src/ATen/native/cuda/ScaledBlas.cpp, _scaled_mm_out_cuda"],
)


@entry.reproduce
def _():
    import torch

    codes = torch.ones(32, 40, device="cuda").to(torch.float8_e4m3fn)
    scales = torch.ones(32, 1, device="cuda")
    torch._scaled_mm(codes, codes.t(), scales, scales.t(), out_dtype=torch.bfloat16)


@entry.fix("Leave the layer in 16 bits, or fill its weight up with zeros to a multiple of 16.")
def _():
    import torch

    codes = torch.nn.functional.pad(torch.ones(32, 40, device="cuda"), (0, 8)).to(torch.float8_e4m3fn)
    scales = torch.ones(32, 1, device="cuda")
    torch._scaled_mm(codes, codes.t(), scales, scales.t(), out_dtype=torch.bfloat16)


entry = FAMILY.failure(
    id="fp8-weight-is-row-major",
    title="An FP8 product gets its second matrix row by row",
    error="RuntimeError",
    pattern=r"Only multiplication of row-major and column-major matrices is supported by cuBLASLt",
    messages={
        "torch 2.13.0": "RuntimeError: Only multiplication of row-major and column-major matrices is supported by "
        "cuBLASLt",
    },
    cause="On Hopper the kernel takes the input row by row and the weight column by column, which is what `.t()` of a "
    "weight (out, in) is. `.contiguous()` after it spoils that.",
    references=["pytorch 2.13.0: aten/src/ATen/native/cuda/ScaledBlas.cpp, _scaled_gemm"],
)


@entry.reproduce
def _():
    import torch

    codes = torch.ones(32, 64, device="cuda").to(torch.float8_e4m3fn)
    scales = torch.ones(32, 1, device="cuda")
    torch._scaled_mm(codes, codes.t().contiguous(), scales, scales.t(), out_dtype=torch.bfloat16)


@entry.fix("Hand the weight on as `weight.t()`, without a copy.")
def _():
    import torch

    codes = torch.ones(32, 64, device="cuda").to(torch.float8_e4m3fn)
    scales = torch.ones(32, 1, device="cuda")
    torch._scaled_mm(codes, codes.t(), scales, scales.t(), out_dtype=torch.bfloat16)


entry = FAMILY.failure(
    id="fp8-two-e5m2",
    title="Both matrices of an FP8 product are e5m2",
    error="ValueError",
    pattern=r"Multiplication of two Float8_e5m2 matrices is not supported",
    messages={
        "torch 2.13.0": "ValueError: Multiplication of two Float8_e5m2 matrices is not supported",
    },
    cause="e5m2 has range and little precision, and is made for gradients. cuBLASLt multiplies e4m3 by e4m3, or one of "
    "each, and has no product of two e5m2.",
    references=["pytorch 2.13.0: aten/src/ATen/native/cuda/ScaledBlas.cpp, _scaled_gemm"],
)


@entry.reproduce
def _():
    import torch

    codes = torch.ones(32, 64, device="cuda").to(torch.float8_e5m2)
    scales = torch.ones(32, 1, device="cuda")
    torch._scaled_mm(codes, codes.t(), scales, scales.t(), out_dtype=torch.bfloat16)


@entry.fix("Keep weights and inputs in e4m3: its three bits of mantissa round twice as finely as e5m2's two.")
def _():
    import torch

    codes = torch.ones(32, 64, device="cuda").to(torch.float8_e4m3fn)
    scales = torch.ones(32, 1, device="cuda")
    torch._scaled_mm(codes, codes.t(), scales, scales.t(), out_dtype=torch.bfloat16)


entry = FAMILY.failure(
    id="torchao-float8-wants-bfloat16",
    title="torchao's float8 with a scale a row takes bfloat16 weights alone",
    error="AssertionError",
    pattern=r"PerRow quantization only works for bfloat16 precision input weight",
    messages={
        "torchao 0.18.0": "AssertionError: PerRow quantization only works for bfloat16 precision input weight",
    },
    cause="A checkpoint that was trained in float16 draws well in float16 only (diffusers#10336), so the two do not go "
    "together: load another checkpoint, or take code that quantizes float16.",
    references=["torchao 0.18.0: quantization/quant_api.py, _float8_dynamic_activation_float8_weight_quantize_tensor"],
    evidence="source",
    elsewhere="a machine with torchao",
)


@entry.fix("Load the weights in bfloat16 first, or quantize float16 with `load_sana`.")
def _(FOLDER):
    from sana_lab import load_sana

    load_sana(FOLDER, "fp8")


entry = FAMILY.failure(
    id="fp8-folder-and-diffusers",
    title="A pipeline that was saved in FP8 by this package is read by `from_pretrained`",
    error="ValueError",
    pattern=r"Unknown quantization type, got sana_lab_float8",
    messages={
        "diffusers 0.42.1": "ValueError: Unknown quantization type, got sana_lab_float8 - supported types are: "
        "['bitsandbytes_4bit', 'bitsandbytes_8bit', 'gguf', 'torchao']",
    },
    cause="The codes and scales of FP8 are this package's own format, which the libraries do not know. The mark in "
    "config.json keeps them from filling the layers with random numbers.",
    references=["diffusers 0.42.1: quantizers/auto.py"],
)


@entry.reproduce
def _(FOLDER):
    import tempfile

    from diffusers import SanaTransformer2DModel

    from sana_lab import load_sana

    with tempfile.TemporaryDirectory() as saved:
        load_sana(FOLDER, "fp8", activations=16).save_pretrained(saved)
        SanaTransformer2DModel.from_pretrained(saved, subfolder="transformer")


@entry.fix("Read it with `load_sana`.")
def _(FOLDER):
    import tempfile

    from sana_lab import load_sana

    with tempfile.TemporaryDirectory() as saved:
        load_sana(FOLDER, "fp8", activations=16).save_pretrained(saved)
        load_sana(saved, "fp8", activations=16)
