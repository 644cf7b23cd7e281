"""FP8: products that a card or a size forbids, and libraries that quantize to it."""

from __future__ import annotations

from .gpu import FAMILY

entry = FAMILY.failure(
    id="fp8-needs-compute-capability-8-9",
    title="The GPU has no units for FP8 products",
    error="RuntimeError|NotImplementedError|AssertionError|ValueError",
    pattern=r"torch\._scaled_(?:grouped_)?mm is only supported on (?:CUDA )?devices with compute capability|"
    r"Float8 dynamic (?:activation )?quantization (?:is only supported on CUDA|requires CUDA compute capability)|"
    r"type fp8e4nv not supported in this architecture",
    chinese=["不支持FP8", "显卡不支持FP8"],
    messages={
        "Comfy-Org/ComfyUI#4531": "RuntimeError: torch._scaled_mm is only supported on devices with compute capability "
        ">= 9.0",
        "torch 2.13.0": "RuntimeError: torch._scaled_mm is only supported on CUDA devices with compute capability "
        ">= 9.0 or 8.9, or ROCm MI300+",
        "torch 2.13.0, torch.nn.functional.scaled_mm": "NotImplementedError: torch._scaled_mm is only supported on "
        "CUDA devices with compute capability >= 9.0 or 8.9, or ROCm MI300+",
        "torchao 0.18.0": "AssertionError: Float8 dynamic activation quantization is only supported on CUDA>=8.9 and "
        "MI300+",
        "torchao 0.18.0, by another way": "AssertionError: Float8 dynamic quantization requires CUDA compute "
        "capability ≥8.9 or MI300+ or XPU.",
    },
    cause="Tensor cores multiply FP8 from Ada (GeForce 40, L4) and Hopper (H100) on. An A100 or a GeForce 30 can keep "
    "weights in FP8, and has to turn them back into 16 bits before it multiplies. An old PyTorch refuses Ada, too: "
    "there a newer one helps. torchao says the same where it finds no CUDA at all, on the virtual GPU too, because it "
    "asks PyTorch's build.",
    references=[
        "pytorch 2.13.0: aten/src/ATen/native/cuda/ScaledBlas.cpp, _scaled_mm_out_cuda",
        "Comfy-Org/ComfyUI#4531",
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
    error="RuntimeError|ValueError",
    pattern=r"Expected trailing dimension of mat1 to be divisible by 16 but got mat1 shape|"
    r"mat2 shape \(\d+x\d+\)? must be divisible by 16|Expected self\.size\(1\) to be divisible by 16|"
    r"Expected both dimensions of mat2 to be divisi?ble by 16|"
    r"must be multiples? of \d+(?: and K must be multiple of 128)? for block-wise scaling",
    messages={
        "torch 2.13.0": "RuntimeError: Expected trailing dimension of mat1 to be divisible by 16 but got mat1 shape: "
        "(32x40).",
        "torch 2.13.0, the other side": "RuntimeError: mat2 shape (64x40) must be divisible by 16",
        "torch 2.13.0, compiled": "RuntimeError: Expected self.size(1) to be divisible by 16, but got self.size(1)=40",
        "torch 2.13.0, compiled, the other side": "RuntimeError: Expected both dimensions of mat2 to be divisible by "
        "16 but got torch.Size([64, 40])",
    },
    cause="FP8 products are made for blocks of 16 bytes: inputs and outputs of the layer must both be multiples of "
    "16. torchao leaves such a layer in 16 bits without a word. A layer that is split over several GPUs must keep that "
    "multiple in each part.",
    references=[
        "pytorch 2.13.0: aten/src/ATen/native/cuda/ScaledBlas.cpp, _scaled_mm_out_cuda",
        "pytorch 2.13.0: torch/_meta_registrations.py, _check_scaled_mm_sizes",
    ],
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
    pattern=r"Only multiplication of row-major and column-major matrices is supported by cuBLASLt|"
    r"mat2 must be col_major, got stride|self must be row_major, got stride|"
    r"Expected (?:b\.stride\(0\)|a\.stride\(1\)) == 1 to be true",
    messages={
        "torch 2.13.0": "RuntimeError: Only multiplication of row-major and column-major matrices is supported by "
        "cuBLASLt",
        "torch 2.13.0, compiled": "RuntimeError: mat2 must be col_major, got stride (48, 1)",
        "torch 2.13.0, the input": "RuntimeError: self must be row_major, got stride (1, 32)",
        "torch 2.13.0, Ada and Blackwell": "RuntimeError: Expected b.stride(0) == 1 to be true, but got false.  (Could "
        "this error message be improved?  If so, please report an enhancement request to PyTorch.)",
    },
    cause="On Hopper the kernel takes the input row by row and the weight column by column, which is what `.t()` of a "
    "weight (out, in) is. `.contiguous()` after it spoils that. Where CUTLASS multiplies rows with a scale each, on "
    "Ada and Blackwell, it asks the same of both strides.",
    references=[
        "pytorch 2.13.0: aten/src/ATen/native/cuda/ScaledBlas.cpp, _scaled_gemm",
        "pytorch 2.13.0: aten/src/ATen/native/cuda/RowwiseScaledMM.cu, check_inputs",
        "pytorch 2.13.0: torch/_meta_registrations.py, _check_scaled_mm_sizes",
    ],
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
    error="ValueError|RuntimeError",
    pattern=r"Multiplication of two Float8_e5m2 matrices is not supported|"
    r"[Ee]xpected (?:mat_)?b\.dtype\(\) (?:==|to be) at::kFloat8_e4m3fn",
    messages={
        "pytorch#132005": "RuntimeError: Multiplication of two Float8_e5m2 matrices is not supported",
        "torch 2.13.0": "ValueError: Multiplication of two Float8_e5m2 matrices is not supported",
        "torch 2.13.0, Ada and Blackwell": "RuntimeError: Expected b.dtype() == at::kFloat8_e4m3fn to be true, but got "
        "false.  (Could this error message be improved?  If so, please report an enhancement request to PyTorch.)",
    },
    cause="e5m2 has range and little precision, and is made for gradients. cuBLASLt multiplies e4m3 by e4m3, or one of "
    "each, and has no product of two e5m2. Where CUTLASS multiplies rows with a scale each, on Ada and Blackwell, the "
    "weight must be e4m3 whatever the input is.",
    references=[
        "pytorch 2.13.0: aten/src/ATen/native/cuda/ScaledBlas.cpp, _scaled_mm_out_cuda",
        "pytorch 2.13.0: aten/src/ATen/native/cuda/RowwiseScaledMM.cu, check_inputs",
        "pytorch#132005",
    ],
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


_SCALES_MUST = r"(?:not )?be (?:swizzled|contiguous|(?:a )?float scalar)|have (?:shape|strides|\d+ (?:Float|\(got))"
"""What is said of `scale_a` and `scale_b`, from torch 2.1 to 2.13."""

entry = FAMILY.failure(
    id="fp8-scales-do-not-fit",
    title="The scales of an FP8 product have another shape or type than the kernel takes",
    error="RuntimeError|ValueError|TypeError",
    pattern=r"Invalid (?:blockwise )?scaling configuration(?:\.|$)|"
    rf"\bscale_(?:[ab]|result) must (?:{_SCALES_MUST})|"
    r"[Bb]oth scale_a and scale_b must be (?:float \(fp32\) tensors|contiguous|1-dimensional tensors)|"
    r"For non-[Tt]ensor[Ww]ise scaling, scale tensors must be 2|For row-wise scaling, scale_b must have size|"
    r"For Blockwise scaling (?:scale_[ab] should have \d+ elements|both scales should be contiguous)|"
    r"scale_[ab] strides must be \(|[Ee]xpected scale_[ab]\.\w{3,6}\(\d?\) (?:==|to be)|"
    r"_scaled_mm\(\) missing \d required positional arguments?: \"scale_",
    messages={
        "meta-pytorch/float8_experimental#141": "RuntimeError: scale_a must be float scalar",
        "pytorch#130059": "RuntimeError: For non-TensorWise scaling, scale tensors must be 2-dimensional, but got "
        "scale_a.dim()=1 and scale_b.dim()=1",
        "pytorch#136866": "RuntimeError: Invalid scaling configuration. For TensorWise scaling, both scales should be "
        "scalar. For RowWise scaling, scale_a should be (1024, 1) and scale_b should be (1, 8192). Got "
        "scale_a.size()=(8192, 1) and scale_b.size()=(1, 8192)",
        "torch 2.11.0": "RuntimeError: Invalid scaling configuration.\n- For TensorWise scaling, a and b should be "
        "float8, scales should be float and singletons.\n- For RowWise scaling, a and b should be float8, scales "
        "should be float, scale_a should be (32, 1) and scale_b should be (1, 48), and both should be contiguous.",
        "torch 2.13.0, compiled": "RuntimeError: For rowwise scaling, both scale_a and scale_b must be float (fp32) "
        "tensors.",
        "torch 2.13.0, torch.nn.functional.scaled_mm": "ValueError: scale_a must have shape [32, 1], got [[1, 32]]",
        "torch 2.13.0, without scales": 'TypeError: _scaled_mm() missing 2 required positional argument: "scale_a", '
        '"scale_b"',
    },
    cause="From the shape of the scales the kernel reads how they are meant: one number for a matrix, one for each row "
    "(`(rows, 1)`, and `(1, outputs)` for the weight), or one for each block. They must be float32, with two "
    "dimensions unless there is only one number, and contiguous; since torch 2.5 they may not be left out. bfloat16 "
    "scales come from a model that was cast as a whole.",
    references=[
        "pytorch 2.13.0: aten/src/ATen/native/cuda/ScaledBlas.cpp, get_joint_scaling",
        "pytorch 2.13.0: torch/_meta_registrations.py, _check_scaled_mm_sizes",
        "pytorch#128683",
        "pytorch#130059",
    ],
)


@entry.reproduce
def _():
    import torch

    codes = torch.ones(32, 64, device="cuda").to(torch.float8_e4m3fn)
    scales = torch.ones(32, device="cuda")
    torch._scaled_mm(codes, codes.t(), scales, scales, out_dtype=torch.bfloat16)


@entry.fix("Give float32 scales of two dimensions: a column for the input's rows, a row for the weight's outputs.")
def _():
    import torch

    codes = torch.ones(32, 64, device="cuda").to(torch.float8_e4m3fn)
    scales = torch.ones(32, device="cuda").float()[:, None]
    torch._scaled_mm(codes, codes.t(), scales, scales.t(), out_dtype=torch.bfloat16)


entry = FAMILY.failure(
    id="fp8-matrix-is-not-fp8",
    title="An FP8 product gets a matrix that is still in 16 or 32 bits",
    error="RuntimeError|ValueError",
    pattern=r"Invalid scaling configuration\..{0,3000}(?:mat_|(?<!_))[ab]\.dtype\(\)=(?!Float[48])\w|"
    r"Expected mat(?:_a|_b|1|2) to be Float8 (?:or Float4_x2 )?matrix got|"
    r"Expected both inputs to be fp8 (?:or fp4 )?types but got self\.dtype|mat_a and mat_b must be fp8 types, got",
    messages={
        "torch 2.6": "RuntimeError: Expected mat1 to be Float8 matrix got BFloat16",
        "torch 2.13.0": "RuntimeError: Invalid scaling configuration.\n- For TensorWise scaling, a and b should be "
        "float8, scales should be float and singletons.\n- For RowWise scaling, a and b should be float8, scales "
        "should be float, scale_a should be (32, 1) and scale_b should be (1, 32), and both should be contiguous.\nGot "
        "a.dtype()=BFloat16, scale_a.dtype()=Float, scale_a.size()=[32, 1], scale_a.stride()=[1, 1], "
        "b.dtype()=Float8_e4m3fn, scale_b.dtype()=Float, scale_b.size()=[1, 32] and scale_b.stride()=[1, 1]",
        "torch 2.13.0, compiled": "RuntimeError: Expected both inputs to be fp8 or fp4 types but got "
        "self.dtype=torch.bfloat16 and mat2.dtype=torch.float8_e4m3fn",
    },
    cause="The FP8 units multiply codes by codes: beside a weight in FP8 the input must be quantized, too, with scales "
    "of its own. New versions look for a way of scaling that fits both matrices first, and so speak of the scales; "
    "`Got a.dtype()=` at the end of the message says which matrix it is.",
    references=[
        "pytorch 2.13.0: aten/src/ATen/native/cuda/ScaledBlas.cpp, get_joint_scaling",
        "pytorch 2.13.0: torch/_meta_registrations.py, _check_scaled_mm_sizes",
    ],
    alike=["fp8-scales-do-not-fit"],
)


@entry.reproduce
def _():
    import torch

    x = torch.ones(32, 64, dtype=torch.bfloat16, device="cuda")
    weight, scales = x.to(torch.float8_e4m3fn), torch.ones(32, 1, device="cuda")
    torch._scaled_mm(x, weight.t(), scales, scales.t(), out_dtype=torch.bfloat16)


@entry.fix("Round the input to FP8 before the product, each row divided by a scale of its own.")
def _():
    import torch

    x = torch.ones(32, 64, dtype=torch.bfloat16, device="cuda")
    weight, scales = x.to(torch.float8_e4m3fn), torch.ones(32, 1, device="cuda")
    input_scales = x.float().abs().amax(1, keepdim=True) / 448
    codes = (x.float() / input_scales).clamp(-448, 448).to(torch.float8_e4m3fn)
    torch._scaled_mm(codes, weight.t(), input_scales, scales.t(), out_dtype=torch.bfloat16)


entry = FAMILY.failure(
    id="fp8-input-is-not-a-matrix",
    title="An FP8 product gets an input with a batch",
    error="RuntimeError|ValueError",
    pattern=r"\bmat(?:1|2|_a|_b) must be a matrix(?!, got)|Inputs must be 2D but got self\.dim\(\)",
    messages={
        "torch 2.13.0": "RuntimeError: mat1 must be a matrix",
        "torch 2.13.0, compiled": "RuntimeError: Inputs must be 2D but got self.dim()=3 and mat2.dim()=2",
    },
    cause="`torch._scaled_mm` multiplies two matrices and nothing else. The input of a `Linear` layer in a transformer "
    "is (pictures, tokens, channels), and no wrapper flattens it here.",
    references=[
        "pytorch 2.13.0: aten/src/ATen/native/cuda/ScaledBlas.cpp, _scaled_mm_out_cuda",
        "pytorch 2.13.0: torch/_meta_registrations.py, _check_scaled_mm_sizes",
    ],
)


@entry.reproduce
def _():
    import torch

    x = torch.ones(2, 16, 64, device="cuda").to(torch.float8_e4m3fn)
    weight, one = torch.ones(32, 64, device="cuda").to(torch.float8_e4m3fn), torch.ones((), device="cuda")
    torch._scaled_mm(x, weight.t(), one, one, out_dtype=torch.bfloat16)


@entry.fix("Put pictures and tokens into one dimension for the product, and take them apart after it.")
def _():
    import torch

    x = torch.ones(2, 16, 64, device="cuda").to(torch.float8_e4m3fn)
    weight, one = torch.ones(32, 64, device="cuda").to(torch.float8_e4m3fn), torch.ones((), device="cuda")
    out = torch._scaled_mm(x.flatten(0, -2), weight.t(), one, one, out_dtype=torch.bfloat16)
    out = out.unflatten(0, x.shape[:-1])


entry = FAMILY.failure(
    id="fp8-bias-of-another-type",
    title="An FP8 product refuses its bias",
    error="RuntimeError|ValueError",
    pattern=r"Bias must be (?:either )?(?:BFloat16 or Half|Half or BFloat16|Float32 or BFloat16 or Half), but got|"
    r"Bias must be (?:BFloat16|Float16) to compute \w+ output|Bias must be size \d+ but got|"
    r"Bias is not supported when out_dtype is set to Float32|Output should be Float16 when bias is Float16",
    messages={
        "logtd/ComfyUI-Fluxtapoz#18": "RuntimeError: Bias is not supported when out_dtype is set to Float32",
        "torch 2.11.0": "RuntimeError: Bias must be BFloat16 or Half, but got Float",
        "torch 2.11.0, two kinds": "RuntimeError: Bias must be BFloat16 to compute BFloat16 output, but got Half",
        "torch 2.13.0, float16": "RuntimeError: Bias must be Float16 to compute Half output, but got BFloat16",
        "torch 2.13.0, another length": "RuntimeError: Bias must be size 48 but got 32",
    },
    cause="The kernel adds the bias while it writes the result, so it wants one number for each output in the type of "
    "the result: bfloat16 beside bfloat16, float16 beside float16. Beside a float32 result it takes none. The kernel "
    "names types as PyTorch's C++ does: `Half` is float16, `Float` float32.",
    references=[
        "pytorch 2.13.0: aten/src/ATen/native/cuda/ScaledBlas.cpp, _scaled_mm_out_cuda",
        "pytorch#108097",
        "logtd/ComfyUI-Fluxtapoz#18",
    ],
)


@entry.reproduce
def _():
    import torch

    codes = torch.ones(32, 64, device="cuda").to(torch.float8_e4m3fn)
    scales, bias = torch.ones(32, 1, device="cuda"), torch.ones(32, device="cuda")
    torch._scaled_mm(codes, codes.t(), scales, scales.t(), bias=bias, out_dtype=torch.bfloat16)


@entry.fix("Cast the bias to the type of the result.")
def _():
    import torch

    codes = torch.ones(32, 64, device="cuda").to(torch.float8_e4m3fn)
    scales, bias = torch.ones(32, 1, device="cuda"), torch.ones(32, device="cuda")
    bias = bias.to(torch.bfloat16)
    torch._scaled_mm(codes, codes.t(), scales, scales.t(), bias=bias, out_dtype=torch.bfloat16)


@entry.fix("For a float32 result, add the bias after the product.")
def _():
    import torch

    codes = torch.ones(32, 64, device="cuda").to(torch.float8_e4m3fn)
    scales, bias = torch.ones(32, 1, device="cuda"), torch.ones(32, device="cuda")
    out = torch._scaled_mm(codes, codes.t(), scales, scales.t(), out_dtype=torch.float32)
    out += bias


_HEURISTIC = r"(?:cu|hip)blasLtMatmulAlgoGetHeuristic"
_FP8_FRAMES = r"Ddesc\.descriptor|scaled_mm|scaled_gemm"
"""What tells an FP8 product from a plain one in cuBLAS' words: a plain one hands on `Cdesc` twice."""

entry = FAMILY.failure(
    id="fp8-result-type-has-no-kernel",
    title="An FP8 product shall be written in a type that its kernel does not write",
    error="RuntimeError|ValueError",
    pattern=rf"BLAS_STATUS_INVALID_VALUE when calling {_HEURISTIC}|"
    r"Only bf16(?: and fp16|, fp16, and fp32)? high preci?sion output types are supported for row-wise scaling|"
    r"hipblaslt rowwise _scaled_mm only supports BFloat16 output|"
    r"Block-wise scaling only supports BFloat16 or Half output types|Output dtype must be bfloat16, float16",
    wants=rf"{_FP8_FRAMES}|-wise scaling|Output dtype must be",
    messages={
        "pytorch/ao#2431": "RuntimeError: Only bf16 high precision output types are supported for row-wise scaling.",
        "torch 2.11.0": "RuntimeError: CUDA error: CUBLAS_STATUS_INVALID_VALUE when calling "
        "`cublasLtMatmulAlgoGetHeuristic( ltHandle, computeDesc.descriptor(), Adesc.descriptor(), Bdesc.descriptor(), "
        "Cdesc.descriptor(), Ddesc.descriptor(), preference.descriptor(), 1, &heuristicResult, &returnedResult)`",
        "torch 2.10, Ada and Blackwell": "ValueError: Only bf16 and fp16 high precision output types are supported for "
        "row-wise scaling.",
    },
    cause="Without `out_dtype` the result has the type of the input, which is FP8, and with a scale a row there is no "
    "kernel that writes FP8: cuBLAS says only that a value is invalid. Where CUTLASS multiplies, on Ada, on Blackwell "
    "and before CUDA 12.9, old versions write bfloat16 alone.",
    references=[
        "pytorch 2.13.0: aten/src/ATen/native/cuda/ScaledBlas.cpp, _scaled_mm_cuda",
        "pytorch 2.13.0: aten/src/ATen/cuda/CUDABlas.cpp, scaled_gemm",
        "pytorch#160816",
        "pytorch#166744",
        "pytorch/ao#2431",
    ],
)


@entry.reproduce
def _():
    import torch

    codes = torch.ones(32, 64, device="cuda").to(torch.float8_e4m3fn)
    scales = torch.ones(32, 1, device="cuda")
    torch._scaled_mm(codes, codes.t(), scales, scales.t())


@entry.fix("Say `out_dtype=torch.bfloat16`, which every kernel writes, and cast its result.")
def _():
    import torch

    codes = torch.ones(32, 64, device="cuda").to(torch.float8_e4m3fn)
    scales = torch.ones(32, 1, device="cuda")
    torch._scaled_mm(codes, codes.t(), scales, scales.t(), out_dtype=torch.bfloat16).to(torch.float16)


entry = FAMILY.failure(
    id="fp8-scaling-has-no-kernel-here",
    title="The card multiplies FP8, but not with a scale for each row or block",
    error="RuntimeError|NotImplementedError",
    pattern=rf"BLAS_STATUS_NOT_SUPPORTED when calling (?:{_HEURISTIC}|(?:CU|HIP)BLAS_STATUS_NOT_SUPPORTED)|"
    r"Rowwise scaling is not currently supported on your device|Per-row scaling is not supported for this|"
    r"DeepSeek style \(1x128, 128x128\) scaling (?:only supported in CUDA|requires cublasLt)|"
    r"Block-wise scaling for Float8_e8m0fnu (?:is only supported on|requires ROCm)|"
    r"(?:MX|NV)FP[48] scaling (?:only supported|not supported|supported on)|"
    r"1x128 and 128x128 scaling not available with ROCm",
    wants=rf"{_FP8_FRAMES}|scaling",
    messages={
        "vllm-project/vllm#7184": "RuntimeError: CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling "
        "`cublasLtMatmulAlgoGetHeuristic( ltHandle, computeDesc.descriptor(), Adesc.descriptor(), Bdesc.descriptor(), "
        "Cdesc.descriptor(), Ddesc.descriptor(), preference.descriptor(), 1, &heuristicResult, &returnedResult)`",
        "pytorch#194606": "RuntimeError: Rowwise scaling is not currently supported on your device",
        "torch 2.13.0": "NotImplementedError: DeepSeek style (1x128, 128x128) scaling only supported in CUDA for SM90",
    },
    cause="One scale a matrix is multiplied wherever there are FP8 units. A scale a row wants a kernel of its own: "
    "cuBLAS has it for Hopper from CUDA 12.9 on, elsewhere it is CUTLASS, which Windows builds of PyTorch lack, and "
    "which had nothing for an L4 until 2025 and nothing for Blackwell for longer. Scales of 128 numbers are Hopper's, "
    "those of 16 or 32 Blackwell's.",
    references=[
        "pytorch 2.13.0: aten/src/ATen/native/cuda/RowwiseScaledMM.cu, f8f8bf16_rowwise",
        "pytorch 2.13.0: aten/src/ATen/native/cuda/ScaledBlas.cpp, _check_deepseek_support",
        "pytorch#194606",
        "pytorch#192707",
        "pytorch#130359",
    ],
    evidence="source",
    elsewhere="a card or a build of PyTorch without that kernel",
)


@entry.fix("Give one scale for the whole input and one for the whole weight.")
def _():
    import torch

    codes, one = torch.ones(32, 64, device="cuda").to(torch.float8_e4m3fn), torch.ones((), device="cuda")
    torch._scaled_mm(codes, codes.t(), one, one, out_dtype=torch.bfloat16)


@entry.fix("Keep the scales of rows, and the weights alone in FP8: they are turned back before they multiply.")
def _(FOLDER):
    from sana_lab import load_sana

    load_sana(FOLDER, "fp8", activations=16)


entry = FAMILY.failure(
    id="fp8-tensor-in-a-plain-operation",
    title="FP8 tensors are multiplied or added as if they were numbers",
    error="NotImplementedError|RuntimeError",
    pattern=r"\"\w+\" not implemented for 'Float8_\w+'|Promotion for Float8 Types is not supported",
    messages={
        "capitan01R/ComfyUI-Flux2Klein-Enhancer#16": 'NotImplementedError: "addmm_cuda" not implemented for '
        "'Float8_e4m3fn'",
        "torch 2.13.0": "RuntimeError: Promotion for Float8 Types is not supported, attempted to promote Float8_e4m3fn "
        "and BFloat16",
    },
    cause="FP8 is a type to store: a code means a number only together with its scale, and `torch._scaled_mm` alone "
    "takes both. PyTorch has few kernels that compute with the codes, and does not turn them into a wider type by "
    "itself.",
    references=[
        "pytorch 2.13.0: c10/core/ScalarType.cpp, promoteTypes",
        "pytorch#158313",
        "capitan01R/ComfyUI-Flux2Klein-Enhancer#16",
    ],
)


@entry.reproduce
def _():
    import torch

    x = torch.ones(32, 64, device="cuda").to(torch.float8_e4m3fn)
    weight = torch.ones(32, 64, device="cuda").to(torch.float8_e4m3fn)
    torch.nn.functional.linear(x, weight)


@entry.fix("Turn the codes back into numbers first: cast them, and multiply them by their scale.")
def _():
    import torch

    x = torch.ones(32, 64, device="cuda").to(torch.float8_e4m3fn)
    weight, scales = torch.ones(32, 64, device="cuda").to(torch.float8_e4m3fn), torch.ones(32, 1, device="cuda")
    torch.nn.functional.linear(x.to(torch.bfloat16), (weight.float() * scales).to(torch.bfloat16))


@entry.fix("Or multiply the codes with their scales.")
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
