"""What PyTorch says when an FP8 product is impossible, from torch 2.1 to 2.13, and the entry that explains it.

The words are those of aten/src/ATen/native/cuda/Blas.cpp (later ScaledBlas.cpp and RowwiseScaledMM.cu) and of
torch/_meta_registrations.py, which speaks under `torch.compile`. Products of 8-bit integers have sizes of their own.
"""

from __future__ import annotations

import pytest

from sana_lab.failures import explain

HEURISTIC = (
    "`cublasLtMatmulAlgoGetHeuristic( ltHandle, computeDesc.descriptor(), Adesc.descriptor(), Bdesc.descriptor(), "
    "Cdesc.descriptor(), {}.descriptor(), preference.descriptor(), 1, &heuristicResult, &returnedResult)`"
)
FRAME = 'Traceback (most recent call last):\n  File "run.py", line 5, in <module>\n    out = torch._scaled_mm(a, b.t(), sa, sb)\n'
UNCLEAR = "  (Could this error message be improved?  If so, please report an enhancement request to PyTorch.)"

ANSWERS = {
    "fp8-needs-compute-capability-8-9": [
        "RuntimeError: torch._scaled_mm is only supported on devices with compute capability >= 9.0)",
        "RuntimeError: torch._scaled_mm is only supported on CUDA devices with compute capability >= 9.0 or 8.9, or ROCm MI300+",
        "NotImplementedError: torch._scaled_mm is only supported on CUDA devices with compute capability >= 9.0 or 8.9, or ROCm MI300+",
        "RuntimeError: torch._scaled_grouped_mm is only supported on CUDA devices with compute capability = [9.0, 10.0], or ROCm MI300+",
        "ValueError: type fp8e4nv not supported in this architecture. The supported fp8 dtypes are ('fp8e4b15', 'fp8e5')",
    ],
    "fp8-sizes-are-multiples-of-16": [
        "RuntimeError: Expected trailing dimension of mat1 to be divisible by 16 but got mat1 shape: (32x40.",
        "RuntimeError: mat2 shape (64x40 must be divisible by 16",
        "ValueError: mat2 shape (64x40) must be divisible by 16",
        "RuntimeError: Expected self.size(1) to be divisible by 16, but got self.size(1)=40",
        "RuntimeError: Expected both dimensions of mat2 to be divisble by 16 but got torch.Size([64, 40])",  # codespell:ignore divisble
        "RuntimeError: Expected both dimensions of mat2 to be divisible by 16 but got torch.Size([64, 40])",
        "ValueError: M, N must be multiples of 16 and K must be multiple of 128 for block-wise scaling",
        "ValueError: Matrix dimensions must be multiples of 32 for block-wise scaling",
        "torch._dynamo.exc.TorchRuntimeError: Dynamo failed to run FX node with fake tensors: call_function <built-in function _scaled_mm>(*(FakeTensor(..., device='cuda:0', size=(32, 40), dtype=torch.float8_e4m3fn),), **{}): got RuntimeError('Expected self.size(1) to be divisible by 16, but got self.size(1)=40')",
    ],
    "fp8-weight-is-row-major": [
        "RuntimeError: Only multiplication of row-major and column-major matrices is supported by cuBLASLt",
        "RuntimeError: mat2 must be col_major, got stride (48, 1)",
        "RuntimeError: self must be row_major, got stride (1, 32)",
        f"RuntimeError: Expected b.stride(0) == 1 to be true, but got false.{UNCLEAR}",
        f"RuntimeError: Expected a.stride(1) == 1 to be true, but got false.{UNCLEAR}",
    ],
    "fp8-two-e5m2": [
        "RuntimeError: Multiplication of two Float8_e5m2 matrices is not supported",
        f"RuntimeError: Expected b.dtype() == at::kFloat8_e4m3fn to be true, but got false.{UNCLEAR}",
        "ValueError: Expected b.dtype() == at::kFloat8_e4m3fnuz, got: Float8_e5m2fnuz",
    ],
    "fp8-scales-do-not-fit": [
        "RuntimeError: scale_a must be float scalar",
        "RuntimeError: scale_b must be a float scalar",
        "RuntimeError: scale_result must be a float scalar",
        "RuntimeError: Both scale_a and scale_b must be float (fp32) tensors.",
        "RuntimeError: Both scale_a and scale_b must be 1-dimensional tensors",
        "RuntimeError: For row-wise scaling, scale_b must have size 48 but got 32.",
        "RuntimeError: For non-TensorWise scaling, scale tensors must be 2-dimensional, but got scale_a.dim()=1 and scale_b.dim()=1",
        "RuntimeError: For non-tensorwise scaling, scale tensors must be 2D, but got scale_a.dim()=1 and scale_b.dim()=1",
        "RuntimeError: Both scale_a and scale_b must be contiguous for RowWise scaling.",
        "RuntimeError: For tensorwise scaling, both scale_a and scale_b must be float (fp32) tensors.",
        "RuntimeError: Invalid scaling configuration. For TensorWise scaling, both scales should be scalar. For RowWise scaling, scale_a should be (1024, 1) and scale_b should be (1, 8192). Got scale_a.size()=(8192, 1) and scale_b.size()=(1, 8192)",
        "RuntimeError: Invalid blockwise scaling configuration. For blockwise scaling, scale_a should have 512 elements, got 1024, scale_b should have 512 elements, got 1024.",
        "RuntimeError: Invalid scaling configuration.\n- For TensorWise scaling, a and b should be float8, scales should be float and singletons.\nGot a.dtype()=Float8_e4m3fn, scale_a.dtype()=BFloat16, scale_a.size()=[32], scale_a.stride()=[1], b.dtype()=Float8_e4m3fn, scale_b.dtype()=Float, scale_b.size()=[1, 48] and scale_b.stride()=[1, 1]",
        "ValueError: Invalid scaling configuration.",
        "ValueError: scale_a must have shape [32, 1], got [[1, 32]]",
        "ValueError: scale_a must have 1 Float element",
        "ValueError: scale_a must be swizzled to SWIZZLE_32_4_4 format",
        "ValueError: scale_b must have 48 Float elements, got 1",
        "ValueError: expected scale_b.stride(1) to be 1, but got 2",
        "ValueError: scale_a strides must be (1, 32); got: [2, 1]",
        "ValueError: For Blockwise scaling scale_a should have 1024 elements, got: 512",
        'TypeError: _scaled_mm() missing 2 required positional argument: "scale_a", "scale_b"',
    ],
    "fp8-matrix-is-not-fp8": [
        "RuntimeError: Expected mat1 to be Float8 matrix got BFloat16",
        "RuntimeError: Expected mat2 to be Float8 or Float4_x2 matrix got Half",
        "RuntimeError: Expected both inputs to be fp8 types but got self.dtype=torch.bfloat16 and mat2.dtype=torch.float8_e4m3fn",
        "ValueError: Invalid scaling configuration.\n- For TensorWise scaling, a and b should be float8, scales should be float and singletons.\nGot mat_a.dtype()=Float8_e4m3fn, scale_a.dtype()=Float, scale_a.size()=[32, 1], scale_a.stride()=[1, 1], mat_b.dtype()=Half, scale_b.dtype()=Float, scale_b.size()=[1, 48] and scale_b.stride()=[48, 1]",
        "ValueError: mat_a and mat_b must be fp8 types, got: BFloat16Float8_e4m3fn",
    ],
    "fp8-input-is-not-a-matrix": [
        "RuntimeError: mat1 must be a matrix",
        "ValueError: mat_a must be a matrix",
        "RuntimeError: Inputs must be 2D but got self.dim()=3 and mat2.dim()=2",
    ],
    "fp8-bias-of-another-type": [
        "RuntimeError: Bias must be either Half or BFloat16, but got Float",
        "ValueError: Bias must be BFloat16 or Half, but got Float",
        "RuntimeError: Bias must be Float32 or BFloat16 or Half, but got Double",
        "RuntimeError: Bias must be BFloat16 to compute Float8_e4m3fn output, but got Half",
        "RuntimeError: Bias must be Float16 to compute Half output, but got BFloat16",
        "ValueError: Bias is not supported when out_dtype is set to Float32",
        "RuntimeError: Output should be Float16 when bias is Float16",
        "RuntimeError: Bias must be size 48 but got 32",
    ],
    "fp8-result-type-has-no-kernel": [
        f"RuntimeError: CUDA error: CUBLAS_STATUS_INVALID_VALUE when calling {HEURISTIC.format('Ddesc')}",
        f"{FRAME}RuntimeError: CUDA error: CUBLAS_STATUS_INVALID_VALUE when calling `cublasLtMatmulAlgoGetHeuristic(...)`",
        "RuntimeError: Only bf16 high precsion output types are supported for row-wise scaling.",  # codespell:ignore precsion
        "ValueError: Only bf16 and fp16 high precision output types are supported for row-wise scaling.",
        "ValueError: Only bf16, fp16, and fp32 high precision output types are supported for row-wise scaling.",
        "ValueError: hipblaslt rowwise _scaled_mm only supports BFloat16 output but got Half",
        "ValueError: Block-wise scaling only supports BFloat16 or Half output types",
    ],
    "fp8-scaling-has-no-kernel-here": [
        f"RuntimeError: CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling {HEURISTIC.format('Ddesc')}",
        f"{FRAME}RuntimeError: CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `CUBLAS_STATUS_NOT_SUPPORTED`",
        "RuntimeError: Rowwise scaling is not currently supported on your device",
        "RuntimeError: Per-row scaling is not supported for this platform!",
        "NotImplementedError: DeepSeek style (1x128, 128x128) scaling requires cublasLt >= 12.9",
        "NotImplementedError: MXFP4 scaling only supported in CUDA for B200/B300",
        "NotImplementedError: Block-wise scaling for Float8_e8m0fnu is only supported on gfx950",
    ],
    "int8-product-of-few-rows": [
        "RuntimeError: self.size(0) needs to be greater than 16, but got 1",
        "RuntimeError: torch._int_mm: self.size(0) needs to be greater than 16, but got 1",
        "RuntimeError: mat2.size(1) needs to be greater than 0 and a multiple of 8, but got 30",
    ],
    "fp8-tensor-in-a-plain-operation": [
        "NotImplementedError: \"addmm_cuda\" not implemented for 'Float8_e4m3fn'",
        "RuntimeError: \"silu_cuda\" not implemented for 'Float8_e5m2'",
        "RuntimeError: Promotion for Float8 Types is not supported, attempted to promote BFloat16 and Float8_e4m3fn",
    ],
}


@pytest.mark.parametrize(("id", "text"), [(id, text) for id, texts in ANSWERS.items() for text in texts])
def test_the_words_lead_to_the_entry(id, text):
    alone = text.rpartition("Error: ")[2] if "Traceback" not in text else text  # a paste often lacks the class
    for paste in (text, alone):
        answers = [match.failure.id for match in explain(paste).answers]
        assert answers[:1] == [id], (answers, paste)


PLAIN = f"CUDA error: CUBLAS_STATUS_INVALID_VALUE when calling {HEURISTIC.format('Cdesc')}"


@pytest.mark.parametrize(
    "text",
    [
        f"RuntimeError: {PLAIN}",
        f"RuntimeError: {PLAIN.replace('INVALID_VALUE', 'NOT_SUPPORTED')}",
        "RuntimeError: CUDA error: CUBLAS_STATUS_INVALID_VALUE when calling `cublasLtMatmulAlgoGetHeuristic(...)`",
        "RuntimeError: mat1 must be a matrix, got 3-D tensor",
        "ValueError: Invalid scaling configuration: min is larger than max",
        "RuntimeError: Expected a.stride(0) == b.stride(0) to be true, but got false.",
    ],
)
def test_products_of_other_types_are_not_taken_for_fp8(text):
    """cuBLAS has one name for a product without a kernel; a plain one hands on the description of C twice."""
    assert not [match.failure.id for match in explain(text).answers if match.failure.id.startswith("fp8-")]
