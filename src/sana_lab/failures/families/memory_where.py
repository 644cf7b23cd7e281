"""Out of memory, told apart by the frames; weights that were left on the meta device; the main memory."""

from __future__ import annotations

from .memory import FAMILY

_GPU = r"(?:CUDA|HIP|XPU|MPS backend) out of memory|(?:CUDA|HIP) error: out of memory"

entry = FAMILY.failure(
    id="out-of-memory-while-moved",
    section="chapter-two-devices",
    title="Out of memory while the pipeline is moved to the GPU",
    error="OutOfMemoryError|RuntimeError|AcceleratorError",
    pattern=_GPU,
    wants=r"pipeline_utils\.py.{0,40} in to\b|in _apply\b|in convert\b|\.to\([\"']cuda|\.cuda\(\)",
    alike=["cuda-out-of-memory"],
    vram="32MiB",
    chinese=["显存不足", "移动模型时显存不足", "加载模型爆显存"],
    messages={
        "torch 2.13.0": '    pipe.to("cuda")\n  File "torch/nn/modules/module.py", line 1339, in convert\n'
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.25 MiB. GPU 0 has a total capacity of "
        "32.00 MiB "
        "of which 0 bytes is free.",
    },
    cause="All components are on the GPU together, in the format in which they were loaded. The number to compare with "
    "the GPU's is the sum over components, not the size of the transformer alone: in Sana the text encoder is the "
    "largest.",
    references=["pytorch 2.13.0: c10/cuda/CUDACachingAllocator.cpp", "Sana#128"],
)


@entry.reproduce
def _(FOLDER):
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(FOLDER)
    pipe.to("cuda")


@entry.fix("Load in 16 bits, and bring one component at a time to the GPU.")
def _(FOLDER):
    import torch
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(FOLDER, dtype=torch.bfloat16)
    pipe.enable_model_cpu_offload()
    print(f"{torch.cuda.memory_allocated()} bytes on the GPU between calls")


entry = FAMILY.failure(
    id="out-of-memory-while-decoding",
    section="chapter-two-devices",
    title="Out of memory at the very end, while the picture is decoded",
    error="OutOfMemoryError|RuntimeError|AcceleratorError",
    pattern=_GPU,
    wants=r"autoencoder_\w+\.py|vae\.decode|tiled_decode",
    alike=["cuda-out-of-memory"],
    vram="60MiB",
    chinese=["显存不足", "解码显存不足", "VAE解码爆显存"],
    messages={
        "Sana#139": '  File "diffusers/models/autoencoders/autoencoder_dc.py", line 573, in decode\n'
        "    decoded = self._decode(z)\ntorch.OutOfMemoryError: CUDA out of memory. Tried to allocate 64.00 GiB. "
        "GPU 0 has "
        "a total capacity of 79.14 GiB of which 12.38 GiB is free.",
    },
    cause="The autoencoder works on the picture in full size, with many channels, so its peak grows with the pixels "
    "and "
    "is the pipeline's: 4096 × 4096 is more than 80 GB hold. Offloading the other components does not change it.",
    references=["Sana#139", "Sana#144", "diffusers 0.42.1: models/autoencoders/autoencoder_dc.py, tiled_decode"],
)


@entry.reproduce
def _(FOLDER):
    import torch
    from diffusers import AutoencoderDC

    vae = AutoencoderDC.from_pretrained(FOLDER, subfolder="vae", dtype=torch.bfloat16).to("cuda")
    vae.decode(torch.zeros(4, 32, 16, 16, dtype=torch.bfloat16, device="cuda"))


@entry.fix("Decode in tiles, and pictures one by one.")
def _(FOLDER):
    import torch
    from diffusers import AutoencoderDC

    vae = AutoencoderDC.from_pretrained(FOLDER, subfolder="vae", dtype=torch.bfloat16).to("cuda")
    vae.enable_slicing()
    vae.enable_tiling(
        tile_sample_min_width=256,
        tile_sample_min_height=256,
        tile_sample_stride_width=192,
        tile_sample_stride_height=192,
    )
    with torch.no_grad():
        vae.decode(torch.zeros(4, 32, 16, 16, dtype=torch.bfloat16, device="cuda"))


entry = FAMILY.failure(
    id="main-memory-exhausted",
    section="chapter-where-the-bytes-are",
    title="The main memory runs out: `DefaultCPUAllocator`",
    error="RuntimeError",
    pattern=r"DefaultCPUAllocator: (?:can't allocate memory|not enough memory)",
    gpus=0,
    chinese=["内存不足", "内存溢出"],
    messages={
        "torch 2.13.0": "RuntimeError: [enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't "
        "allocate "
        "memory: you tried to allocate 4000000000000000 bytes. Error code 12 (Cannot allocate memory)",
        "torch 2.5.1, Windows": "RuntimeError: [enforce fail at alloc_cpu.cpp:114] data. DefaultCPUAllocator: not "
        "enough "
        "memory: you tried to allocate 67108864 bytes.",
    },
    cause="This is the computer's memory and not the GPU's. Weights pass through it while they load, offloaded "
    "components "
    "stay in it, and without a `dtype` they are twice as large there. More often than this message the system ends "
    "the program.",
    references=["pytorch 2.13.0: c10/core/impl/alloc_cpu.cpp"],
)


@entry.reproduce
def _():
    import torch

    torch.empty(10**15)


@entry.fix("Load in 16 bits, one component after the other, and ask for what fits.")
def _():
    import torch

    torch.empty(10**6, dtype=torch.bfloat16)


entry = FAMILY.failure(
    id="killed-by-the-system",
    section="chapter-where-the-bytes-are",
    title="`Killed`, exit status 137: the system ended the program",
    error="Killed",
    pattern=r"^Killed\b(?! [a-z])|\d Killed\b|exit (?:code|status):? ?(?:137|-9)\b|SIGKILL|signal 9\b",
    chinese=["进程被杀死", "内存不足"],
    messages={
        "a shell": "run.sh: line 3: 12345 Killed                  python run.py",
        "torchrun": "exitcode: -9, traceback: Signal 9 (SIGKILL) received by PID 1234",
    },
    cause="Linux ends the program that takes most when the main memory is full, and the program cannot say a word. It "
    "happens while weights load, with offloading, and in containers with a limit. Exit status 137 is 128 + 9.",
    references=["pytorch 2.13.0: torch/distributed/elastic/multiprocessing/errors/__init__.py"],
    evidence="report",
    elsewhere="a full main memory",
)
entry.fix("Look who ended it, and load less: a `dtype`, no second copy.", command="dmesg | tail")

entry = FAMILY.failure(
    id="parameters-on-meta-line",
    section="chapter-device-maps",
    title="`Some parameters are on the meta device because they were offloaded`",
    shows="warning",
    pattern=r"Some parameters are on the meta device because they were offloaded to the",
    messages={
        "accelerate 1.15.0": "Some parameters are on the meta device because they were offloaded to the cpu.",
    },
    cause="A model did not fit where the map put it, and accelerate keeps a part on the CPU or the disk and brings it "
    "when it is called. It runs, slowly; moving, saving or quantizing such a model does not.",
    affects={"accelerate": ">=0.34"},
    references=["accelerate 1.15.0: big_modeling.py, dispatch_model"],
)


@entry.reproduce
def _():
    import torch
    from accelerate import dispatch_model

    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    dispatch_model(model, device_map={"0": 0, "1": "cpu"}, main_device=0)


@entry.fix("Where it fits, put all of it on the GPU.")
def _():
    import torch
    from accelerate import dispatch_model

    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    dispatch_model(model, device_map={"": 0})


entry = FAMILY.failure(
    id="weight-on-meta-needs-value",
    section="chapter-device-maps",
    title="`weight is on the meta device, we need a value to put in on 0`",
    error="ValueError",
    pattern=r"is on the meta device, we need a value to put in on",
    chinese=["meta设备报错", "权重在meta设备"],
    gpus=0,
    messages={
        "accelerate#1289": "ValueError: weight is on the meta device, we need a `value` to put in on 0.",
    },
    cause="The model was built empty and a weight was never filled: a file is missing from the folder, the map names a "
    "module that the file has under another name, or a second thread was loading at the same time.",
    references=["accelerate#1289", "accelerate 1.15.0: utils/modeling.py, set_module_tensor_to_device"],
)


@entry.reproduce
def _():
    import torch
    from accelerate import init_empty_weights
    from accelerate.utils import set_module_tensor_to_device

    with init_empty_weights():
        layer = torch.nn.Linear(4, 4)
    set_module_tensor_to_device(layer, "weight", "cpu")


@entry.fix("Load the weights first: give the value, or load the whole checkpoint with `from_pretrained`.")
def _():
    import torch
    from accelerate import init_empty_weights
    from accelerate.utils import set_module_tensor_to_device

    with init_empty_weights():
        layer = torch.nn.Linear(4, 4)
    set_module_tensor_to_device(layer, "weight", "cpu", value=torch.zeros(4, 4))
