"""No GPU, and the installation of bitsandbytes."""

from __future__ import annotations

from ..entry import Family

FAMILY = Family(
    "installation",
    "No GPU, and the installation of bitsandbytes",
    "Before any model is loaded: is there a GPU that PyTorch sees, and a binary of bitsandbytes that fits?",
)

entry = FAMILY.failure(
    id="quantization-needs-gpu",
    title="`No GPU found. A GPU is needed for quantization.`",
    error="RuntimeError",
    pattern=r"No GPU found\. A GPU is needed for quantization",
    gpus=0,
    messages={"diffusers 0.42.1": "RuntimeError: No GPU found. A GPU is needed for quantization."},
    cause="diffusers refuses 8-bit loading without CUDA or XPU, although bitsandbytes has kernels for the CPU since "
    "0.46. transformers does not refuse: the text encoder loads on the same machine.",
    affects={"diffusers": ">=0.31"},
    references=["diffusers 0.42.1: quantizers/bitsandbytes/bnb_quantizer.py, validate_environment"],
)


@entry.reproduce
def _(FOLDER):
    import torch
    from diffusers import BitsAndBytesConfig, SanaTransformer2DModel

    SanaTransformer2DModel.from_pretrained(
        FOLDER, subfolder="transformer", quantization_config=BitsAndBytesConfig(load_in_8bit=True), dtype=torch.bfloat16
    )


@entry.fix("Use a machine with a GPU, or the virtual one of this book.")
def _(FOLDER):
    import torch
    from diffusers import BitsAndBytesConfig, SanaTransformer2DModel

    from sana_lab import use_accelerator

    use_accelerator()
    SanaTransformer2DModel.from_pretrained(
        FOLDER, subfolder="transformer", quantization_config=BitsAndBytesConfig(load_in_8bit=True), dtype=torch.bfloat16
    )


entry = FAMILY.failure(
    id="torch-without-cuda",
    title="PyTorch was built without CUDA, or finds no driver",
    error="AssertionError|RuntimeError",
    pattern=r"Torch not compiled with CUDA enabled|Found no NVIDIA driver on your system|"
    r"No (?:CUDA|HIP) GPUs are available|CUDA driver initialization failed, you might not have a CUDA gpu",
    gpus=0,
    chinese=["找不到显卡", "没有CUDA", "CUDA不可用"],
    messages={
        "torch 2.13.0, AMD": "RuntimeError: No HIP GPUs are available",
        "torch 2.13.0, CPU build": "AssertionError: Torch not compiled with CUDA enabled",
        "torch 2.13.0, no driver": "RuntimeError: Found no NVIDIA driver on your system. Please check that you have an "
        "NVIDIA GPU and installed a driver",
        "torch 2.13.0, none visible": "RuntimeError: No CUDA GPUs are available",
    },
    cause="The build of PyTorch and the driver are two things. A version that ends in `+cpu`, or `torch.version.cuda` "
    "of None, means the build: pip took the CPU one. The other two messages mean driver, or `CUDA_VISIBLE_DEVICES`.",
    references=["pytorch 2.13.0: torch/cuda/__init__.py, _lazy_init"],
)


@entry.reproduce
def _():
    import torch

    torch.ones(1).to("cuda")


@entry.fix("Ask before, and say what is missing.")
def _():
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    print("CUDA in this build:", torch.version.cuda, "· GPUs:", torch.cuda.device_count())
    torch.ones(1).to(device)


# ---- other versions and machines --------------------------------------------------------------------------------

entry = FAMILY.failure(
    id="no-8bit-on-cpu-before-0-46",
    title="An 8-bit layer on the CPU, with an old bitsandbytes",
    error="RuntimeError",
    pattern=r"nput tensors need to be on the same GPU|Torch not compiled with CUDA enabled",
    wants=r"bitsandbytes.{0,4000}Torch not compiled|\[\(torch(?:(?!cuda).){0,800}\)\)\]",
    alike=["8bit-layer-gets-cpu-input", "torch-without-cuda"],
    messages={
        "bitsandbytes 0.43.3": '  File "bitsandbytes/functional.py", line 2037, in transform\n'
        "AssertionError: Torch not compiled with CUDA enabled",
        "bitsandbytes 0.45.5": "RuntimeError: Input tensors need to be on the same GPU, but found the following tensor "
        "and device combinations:\n [(torch.Size([4, 64]), device(type='cpu'))]",
    },
    cause="The kernels for the CPU came with 0.46. Before, a layer could be made and even loaded, and failed in its "
    "first product.",
    affects={"bitsandbytes": "<0.46"},
    references=["bitsandbytes 0.45.5: functional.py, is_on_gpu"],
    evidence="source",
)
entry.fix("Upgrade.", command="pip install -U 'bitsandbytes>=0.46'")

entry = FAMILY.failure(
    id="bitsandbytes-cuda-setup-failed",
    title="`CUDA Setup failed despite CUDA being available`",
    error="RuntimeError",
    pattern=r"CUDA Setup failed despite (?:GPU|CUDA) being available",
    messages={
        "bitsandbytes#572": "RuntimeError: CUDA Setup failed despite GPU being available. Please run the following "
        "command to get more information:",
        "bitsandbytes 0.45.5": "RuntimeError: CUDA Setup failed despite CUDA being available. Please run the following "
        "command to get more information:\npython -m bitsandbytes",
    },
    cause="PyTorch sees the GPU, and the library that bitsandbytes brings could not be loaded: there is none for the "
    "CUDA version with which PyTorch was built, or the CUDA runtime is not on the path.",
    affects={"bitsandbytes": "<0.46"},
    references=["bitsandbytes#572", "bitsandbytes#1559", "bitsandbytes 0.45.5: cextension.py"],
    evidence="source",
)
entry.fix(
    "Upgrade: the wheels bring more CUDA versions. Then look at what the diagnosis says.",
    command="pip install -U bitsandbytes && python -m bitsandbytes",
)

entry = FAMILY.failure(
    id="bitsandbytes-binary-not-found",
    title="`Configured CUDA binary not found`, `No compatible CUDA binary found`",
    error="RuntimeError",
    pattern=r"Configured (?:CUDA|ROCm|XPU) binary not found at|No compatible (?:CUDA|ROCm|XPU) binary found at",
    messages={
        "bitsandbytes#1688": "RuntimeError: Configured CUDA binary not found at "
        "/usr/lib/python3/site-packages/bitsandbytes/libbitsandbytes_cuda129.so",
        "bitsandbytes 0.50.0": "RuntimeError: No compatible CUDA binary found at "
        "/usr/lib/python3/site-packages/bitsandbytes/libbitsandbytes_cuda140.so",
    },
    cause="Up to 0.49 the binary must carry the very CUDA version of the PyTorch build: 12.9 is not served by the one "
    "for 12.8. From 0.50 on the nearest of the same major version is taken, and the log says so; the second wording is "
    "left for a major version of which there is none.",
    affects=[{"bitsandbytes": ">=0.46, <0.50"}, {"bitsandbytes": ">=0.50"}],
    references=[
        "bitsandbytes#1688",
        "bitsandbytes#1848",
        "bitsandbytes#1980",
        "bitsandbytes 0.50.2: cextension.py, get_cuda_bnb_library_path",
    ],
    evidence="source",
)
entry.fix("Upgrade.", command="pip install -U 'bitsandbytes>=0.50'")
entry.fix("Or name a version that is there.", command="export BNB_CUDA_VERSION=128")

entry = FAMILY.failure(
    id="bitsandbytes-native-missing",
    title="bitsandbytes imports well and fails at the first product",
    error="RuntimeError",
    pattern=r"Attempted to use bitsandbytes native library functionality but it's not available|"
    r"Method '\w+' not available in CPU-only version of bitsandbytes",
    messages={
        "bitsandbytes 0.47.0": "RuntimeError: Attempted to use bitsandbytes native library functionality but it's not "
        "available.",
        "bitsandbytes 0.50.2": "RuntimeError: Method 'cget_managed_ptr' not available in CPU-only version of "
        "bitsandbytes.\nReinstall with GPU support or use CUDA-enabled hardware.",
    },
    cause="A library that cannot be loaded is replaced by one that raises when it is used, so the import succeeds and "
    "the first 8-bit layer fails. The long text behind these words lists the CUDA versions that are there.",
    affects={"bitsandbytes": ">=0.46"},
    references=["bitsandbytes 0.50.2: cextension.py, ErrorHandlerMockBNBNativeLibrary"],
    evidence="source",
)
entry.fix(
    "Run one small layer after every installation; if it fails, reinstall for the CUDA of your PyTorch.",
    command="python -m bitsandbytes",
)

entry = FAMILY.failure(
    id="int8-not-supported-by-gpu",
    title="`Your GPU does not support Int8 Matmul`: an old card, or a wrong library",
    error="RuntimeError",
    pattern=r"Your GPU does not support Int8 Matmul",
    chinese=["显卡不支持int8", "显卡太旧"],
    messages={"bitsandbytes#444": "ERROR: Your GPU does not support Int8 Matmul!"},
    cause="Words of bitsandbytes up to 0.42. They are true of cards before compute capability 7.5 (V100, GTX 10), "
    "which "
    "lack the units; A100 and A6000 got them, too, when the library without cublasLt was loaded. Later versions fall "
    "back to 16 bits, and from 0.45 on say `cublasLt ran into an error` instead.",
    affects={"bitsandbytes": "<0.43"},
    references=["bitsandbytes#444", "bitsandbytes#118", "bitsandbytes#187", "bitsandbytes#239"],
    evidence="report",
)
entry.fix("Upgrade; it helps where the library was the cause.", command="pip install -U 'bitsandbytes>=0.50'")
entry.fix(
    "On an old card use 4 bits, which need no integer product.",
    command="BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type='nf4')",
)

entry = FAMILY.failure(
    id="bitsandbytes-backend-not-available",
    title="transformers finds no device that bitsandbytes supports",
    error="RuntimeError",
    pattern=r"None of the available devices available_devices = .{0,200} are supported by the bitsandbytes version|"
    r"CUDA is required but not available for bitsandbytes",
    messages={
        "transformers 4.57.6": "RuntimeError: CUDA is required but not available for bitsandbytes. Please consider "
        "installing the multi-platform enabled version of bitsandbytes, which is currently a work in progress.",
        "transformers 5.2.0": "RuntimeError: None of the available devices `available_devices = {'mps'}` are supported "
        'by the bitsandbytes version you have installed: `bnb_supported_devices = {\'"cpu" (needs an Intel CPU and '
        "intel_extension_for_pytorch installed and compatible with the PyTorch version)', 'cuda'}`.",
    },
    cause="transformers asks bitsandbytes which devices it serves. An old bitsandbytes serves CUDA only; it has no "
    "build for the CPU before 0.46.",
    affects={"bitsandbytes": "<0.46"},
    references=["transformers 4.57.6: integrations/bitsandbytes.py", "bitsandbytes#1627"],
    evidence="source",
)
entry.fix("Upgrade.", command="pip install -U 'bitsandbytes>=0.46'")
