"""The GPU, its driver and their libraries."""

from __future__ import annotations

from ..entry import Family

FAMILY = Family(
    "gpu-and-driver",
    "The GPU, its driver and their libraries",
    "Words of CUDA and of the libraries behind it. After such an error every further call of the process can fail: "
    "start a fresh one.",
    section="chapter-two-devices",
)

entry = FAMILY.failure(
    id="illegal-memory-access",
    title="`CUDA error: an illegal memory access was encountered`",
    error="AcceleratorError|RuntimeError",
    pattern=r"an illegal memory access was encountered|hipErrorIllegalAddress|CUDA_ERROR_ILLEGAL_ADDRESS",
    chinese=["非法内存访问", "显存非法访问", "内存访问越界"],
    messages={
        "torch 2.6": "RuntimeError: CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be "
        "asynchronously reported at some other API call, so the stacktrace below might be incorrect.",
        "torch 2.13.0": "torch.AcceleratorError: CUDA error: an illegal memory access was encountered",
        "torch 2.13.0, AMD": "torch.AcceleratorError: HIP error: an illegal memory access was encountered",
    },
    cause="A kernel read an address that is not the GPU's. PyTorch looks at the devices of its operands first; kernels "
    "of other libraries take addresses and believe them, so with bitsandbytes think of an 8-bit model of which a part "
    "was moved to another device. The frame is often not the culprit's, and the process is lost.",
    references=["pytorch 2.13.0: c10/cuda/CUDAException.cpp", "bitsandbytes 0.50.2: backends/cuda/ops.py"],
    evidence="source",
    elsewhere="a real GPU",
)
entry.fix(
    "Start a fresh process, let every kernel report for itself, and look where each 8-bit model's parts are.",
    command="CUDA_LAUNCH_BLOCKING=1 python script.py",
)

entry = FAMILY.failure(
    id="device-side-assert",
    title="`CUDA error: device-side assert triggered`",
    error="AcceleratorError|RuntimeError",
    pattern=r"device-side assert(?:ion)? triggered|Assertion srcIndex < srcSelectDimSize failed",
    chinese=["设备端断言", "device-side assert报错"],
    messages={
        "transformers#40409": "AcceleratorError: CUDA error: device-side assert triggered",
        "pytorch#29966": "RuntimeError: CUDA error: device-side assert triggered",
    },
    cause="A kernel checked something and stopped, most often an index: a token id beyond the embedding table, a label "
    "beyond the classes. On the CPU the same line raises `IndexError: index out of range in self`, in the right place.",
    references=["transformers#40409", "pytorch#29966"],
    evidence="report",
    elsewhere="a real GPU",
)
entry.fix("Run the same on the CPU, or with this variable: then the frame is the right one.",
          command="CUDA_LAUNCH_BLOCKING=1 python script.py")  # fmt: skip

entry = FAMILY.failure(
    id="token-id-out-of-range",
    title="A token id beyond the embedding table: `index out of range in self`",
    error="IndexError",
    pattern=r"index out of range in self",
    gpus=0,
    messages={"torch 2.13.0": "IndexError: index out of range in self"},
    cause="Tokenizer and text encoder are of two models, or tokens were added to the one and the table of the other "
    "was "
    "not made longer. On a GPU the same mistake is a device-side assert, which ends the process.",
    references=["pytorch 2.13.0: aten/src/ATen/native/Embedding.cpp", "transformers#1848"],
)


@entry.reproduce
def _():
    import torch

    table = torch.nn.Embedding(16, 4)
    table(torch.tensor([3, 40]))


@entry.fix("Compare the largest id with the table before the call.")
def _():
    import torch

    table, ids = torch.nn.Embedding(64, 4), torch.tensor([3, 40])
    assert ids.max() < table.num_embeddings
    table(ids)


entry = FAMILY.failure(
    id="no-kernel-image",
    title="`no kernel image is available`: a new card and an older PyTorch",
    error="RuntimeError|AcceleratorError",
    pattern=r"no kernel image is available for execution on the device|with CUDA capability sm_\d+ is not compatible "
    r"with the current PyTorch|hipErrorNoBinaryForGpu|invalid device function",
    chinese=["50系显卡不支持", "显卡太新", "没有可用的内核"],
    messages={
        "diffusers#12489": "RuntimeError: CUDA error: no kernel image is available for execution on the device",
        "torch 2.13.0, warning": "NVIDIA GeForce RTX 5070 with CUDA capability sm_120 is not compatible with the "
        "current "
        "PyTorch installation.",
        "torch 2.13.0, AMD": "RuntimeError: HIP error: invalid device function",
    },
    cause="A build of PyTorch has kernels for a list of architectures, and this card's is not in it: RTX 50 wants a "
    "build for CUDA 12.8 or newer, and old cards drop out of new builds. On AMD the same is said of a card that ROCm "
    "does not list.",
    references=["diffusers#12489", "pytorch#167244", "pytorch 2.13.0: torch/cuda/__init__.py, _check_capability"],
    evidence="report",
    elsewhere="a card that PyTorch's build does not know",
)
entry.fix(
    "Install a build for a CUDA that knows the card; `torch.cuda.get_arch_list()` says what yours has.",
    command="pip install -U torch --index-url https://download.pytorch.org/whl/cu128",
)

entry = FAMILY.failure(
    id="driver-too-old",
    title="The driver is older than PyTorch's CUDA",
    error="RuntimeError|AssertionError|AcceleratorError",
    pattern=r"NVIDIA driver on your system is too old|CUDA driver version is insufficient for CUDA runtime version|"
    r"forward compatibility was attempted on non supported HW",
    chinese=["驱动太旧", "显卡驱动版本过低"],
    messages={
        "zai-org/ChatGLM3#100": "RuntimeError: The NVIDIA driver on your system is too old (found version 11060). "
        "Please "
        "update your GPU driver",
        "torch 2.13.0": "RuntimeError: CUDA driver version is insufficient for CUDA runtime version",
    },
    cause="pip's PyTorch brings its own CUDA and takes the driver that is there. The number in the message is the "
    "newest "
    "CUDA that the driver serves: 11060 means 11.6. A GPU is there, so this is not a missing one.",
    references=["zai-org/ChatGLM3#100", "pytorch#4546"],
    evidence="report",
    elsewhere="an old driver",
)
entry.fix("Update the driver; or take a PyTorch that was built for an older CUDA.", command="nvidia-smi")

entry = FAMILY.failure(
    id="cublaslt-error",
    section="chapter-costs",
    title="`cublasLt ran into an error!`: a card without integer products, or a full one",
    error="RuntimeError|Exception",
    pattern=r"cublasLt ran into an error|cuBLAS API failed with status 15",
    chinese=["cublasLt报错", "显卡不支持int8"],
    messages={
        "bitsandbytes#538": "Exception: cublasLt ran into an error!",
        "bitsandbytes 0.50.2": "RuntimeError: cublasLt ran into an error!\n\tshapeA=torch.Size([4096, 4096])",
    },
    cause="The library behind the 8-bit product refused. Cards before compute capability 7.5 (V100, GTX 10) have no "
    "units for it; new cards met it with an old bitsandbytes, and AMD's cards with builds of their own. It is also "
    "what a full card says.",
    references=["bitsandbytes#538", "bitsandbytes#1428", "bitsandbytes 0.50.2: backends/cuda/ops.py"],
    evidence="report",
    elsewhere="a card that cannot multiply in 8 bits",
)
entry.fix("Upgrade bitsandbytes; on an old card use 4 bits, which need no such product.",
          command="pip install -U 'bitsandbytes>=0.50'")  # fmt: skip

entry = FAMILY.failure(
    id="int8-product-of-few-rows",
    section="chapter-costs",
    title="A product of 8-bit integers has too few rows, or a side that is no multiple of 8",
    error="RuntimeError",
    pattern=r"self\.size\(0\) needs to be greater than 16, but got|"
    r"(?:self|mat2)\.size\(1\) needs to be greater than 0 and a multiple of 8",
    messages={
        "pytorch#178469": "RuntimeError: self.size(0) needs to be greater than 16, but got 8",
        "torch 2.11.0, the input's channels": "RuntimeError: self.size(1) needs to be greater than 0 and a multiple of "
        "8, but got 12",
        "torch 2.11.0, the outputs": "RuntimeError: mat2.size(1) needs to be greater than 0 and a multiple of 8, but "
        "got 12",
    },
    cause="`torch._int_mm` hands its matrices to cuBLASLt, which wants more than 16 rows and sides that are multiples "
    "of 8. In a transformer that draws, the layers of the timestep see one row a picture: quantized with the others, "
    "they raise this at the first step. The layers of bitsandbytes take any number of rows.",
    references=["pytorch 2.11.0: aten/src/ATen/native/cuda/Blas.cpp, _int_mm_out_cuda", "pytorch#178469"],
)


@entry.reproduce
def _():
    import torch

    codes, weight = torch.ones(1, 64, dtype=torch.int8), torch.ones(32, 64, dtype=torch.int8)
    torch._int_mm(codes.to("cuda"), weight.to("cuda").t())


@entry.fix("Leave layers that see few rows in 16 bits, or fill the rows up with zeros and cut the result.")
def _():
    import torch

    codes, weight = torch.ones(1, 64, dtype=torch.int8), torch.ones(32, 64, dtype=torch.int8)
    filled = torch.nn.functional.pad(codes, (0, 0, 0, 31))
    torch._int_mm(filled.to("cuda"), weight.to("cuda").t())[: len(codes)]


entry = FAMILY.failure(
    id="cublas-alloc-failed",
    section="chapter-two-devices",
    title="`CUBLAS_STATUS_ALLOC_FAILED`: out of memory in other words",
    error="RuntimeError",
    pattern=r"CUBLAS_STATUS_ALLOC_FAILED|CUBLAS_STATUS_NOT_INITIALIZED|CUDNN_STATUS_ALLOC_FAILED",
    chinese=["显存不足", "cublas报错"],
    messages={
        "QwenLM/Qwen3#873": "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    },
    cause="cuBLAS takes its workspace from the driver and not from PyTorch's store, when the first product runs. If "
    "the "
    "weights have filled the card, that is the moment at which it shows. A wrong index earlier on can say the same.",
    references=["QwenLM/Qwen3#873", "zai-org/CogVideo#665"],
    evidence="report",
    elsewhere="a real GPU",
)
entry.fix("Make room, as for any out of memory: offload, or a smaller type.", command="pipe.enable_model_cpu_offload()")

entry = FAMILY.failure(
    id="graph-capture-failed",
    section="chapter-costs",
    title="Recording a CUDA graph of an 8-bit model fails",
    error="AcceleratorError|RuntimeError",
    pattern=r"operation failed due to a previous error during capture|operation not permitted when stream is capturing",
    messages={
        "torch 2.11.0": "AcceleratorError: CUDA error: operation failed due to a previous error during capture",
        "torch 2.6": "RuntimeError: CUDA error: operation not permitted when stream is capturing",
    },
    cause="A graph holds launches and nothing that asks the GPU for an answer. LLM.int8() asks in every layer whether "
    "there are outliers, and copies the answer to the CPU; that ends the recording.",
    references=["pytorch 2.13.0: torch/cuda/graphs.py", "bitsandbytes 0.50.2: autograd/_functions.py, MatMul8bitLt"],
    evidence="source",
    elsewhere="a real GPU",
)
entry.fix("Take the question out: `llm_int8_threshold=0.0`, with what that costs in precision; or 16 bits.",
          command="BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0)")  # fmt: skip

entry = FAMILY.failure(
    id="flash-attention-wants-ampere",
    title="`FlashAttention only supports Ampere GPUs or newer`",
    error="RuntimeError",
    pattern=r"FlashAttention only supports Ampere GPUs or newer",
    chinese=["T4不支持FlashAttention", "显卡不支持flash attention"],
    messages={
        "Dao-AILab/flash-attention#762": "RuntimeError: FlashAttention only supports Ampere GPUs or newer.",
    },
    cause="The library flash-attn has kernels from compute capability 8.0 on; a T4 is 7.5 and does 8-bit products "
    "nevertheless. PyTorch's own attention picks a kernel that the card has.",
    references=["Dao-AILab/flash-attention#762"],
    evidence="report",
    elsewhere="a GPU before Ampere",
)
entry.fix("Leave it out.", command='AutoModel.from_pretrained(..., attn_implementation="sdpa")')

entry = FAMILY.failure(
    id="named-symbol-not-found",
    title="Jetson: `named symbol not found`",
    error="RuntimeError",
    pattern=r"[Ee]rror:? named symbol not found",
    messages={"bitsandbytes 0.45.5": "Error named symbol not found in /src/csrc/ops.cu"},
    cause="The wheel for ARM servers was installed on a Jetson, whose GPU has another architecture: the library loads "
    "and has no kernel for it.",
    references=["bitsandbytes 0.45.5: docs, installation"],
    evidence="report",
    elsewhere="a Jetson",
)
entry.fix("Build bitsandbytes from its sources on the device.", command="cmake -DCOMPUTE_BACKEND=cuda -S . && make")

entry = FAMILY.failure(
    id="torch-without-xpu-or-mps",
    title="This PyTorch was not built for Intel's GPUs, or for Apple's",
    error="AssertionError|RuntimeError",
    pattern=r"Torch not compiled with XPU enabled|PyTorch is not linked with support for mps devices",
    gpus=0,
    messages={
        "torch 2.13.0": "AssertionError: Torch not compiled with XPU enabled",
        "torch 2.13.0, mps": "RuntimeError: PyTorch is not linked with support for mps devices",
    },
    cause="A build of PyTorch serves one maker's GPUs. Intel's want a wheel from PyTorch's index for xpu; Apple's "
    "are in "
    "every wheel for macOS and in no other.",
    references=["pytorch 2.13.0: torch/xpu/__init__.py, _lazy_init"],
)


@entry.reproduce
def _():
    import torch

    torch.ones(1).to("xpu")


@entry.fix("Ask which accelerator this build has, and use that.")
def _():
    import torch

    there = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    torch.ones(1).to(there)


entry = FAMILY.failure(
    id="device-name-unknown",
    title="A device called `gpu`, or `cuda0`",
    error="RuntimeError",
    pattern=r"Expected one of cpu, cuda, .{0,300}device type at start of device string|Invalid device string: '",
    chinese=["设备名写错"],
    gpus=0,
    messages={
        "torch 2.13.0": "RuntimeError: Expected one of cpu, cuda, ipu, xpu, mkldnn, opengl, opencl, ideep, hip, ve, "
        "fpga, "
        "maia, xla, lazy, vulkan, mps, meta, hpu, mtia, privateuseone device type at start of device string: gpu",
        "torch 2.13.0, index": "RuntimeError: Invalid device string: 'cuda:first'",
    },
    cause="A device is a type and perhaps a number behind a colon: `cuda`, `cuda:1`, `cpu`. AMD's GPUs are called "
    "`cuda`, too.",
    references=["pytorch 2.13.0: c10/core/Device.cpp"],
)


@entry.reproduce
def _():
    import torch

    torch.ones(1).to("gpu")


@entry.fix("Write `cuda`, and leave the choice to one line of the program.")
def _():
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.ones(1).to(device)


entry = FAMILY.failure(
    id="mps-has-no-float64",
    title="On a Mac: `MPS framework doesn't support float64`",
    error="TypeError",
    pattern=r"MPS framework doesn't support float64",
    messages={
        "diffusers#358": "TypeError: Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support "
        "float64. Please use float32 instead.",
    },
    cause="Apple's backend has no 64-bit floats. They come from NumPy, whose numbers are float64 unless told "
    "otherwise: "
    "the time steps of a scheduler, or your own.",
    references=["diffusers#358", "diffusers#940"],
    evidence="report",
    elsewhere="a Mac",
)
entry.fix("Convert before moving.", command='x = x.to(torch.float32).to("mps")')

entry = FAMILY.failure(
    id="event-was-not-recorded",
    section="chapter-costs",
    title="Timing with events that nobody recorded",
    error="ValueError|RuntimeError",
    pattern=r"Both events must be recorded before calculating elapsed time",
    messages={"torch 2.13.0": "ValueError: Both events must be recorded before calculating elapsed time."},
    cause="An event marks a place in the GPU's queue once `record()` was called on it. Time passes between two marks.",
    references=["pytorch 2.13.0: torch/csrc/cuda/Event.cpp"],
)


@entry.reproduce
def _():
    import torch

    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.elapsed_time(end)


@entry.fix("Record both, and wait for the second.")
def _():
    import torch

    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    torch.ones(8, device="cuda") * 2
    end.record()
    torch.cuda.synchronize()
    start.elapsed_time(end)
