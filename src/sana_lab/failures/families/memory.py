"""Memory: too little of it, or less saved than expected."""

from __future__ import annotations

from ..entry import Family

FAMILY = Family(
    "memory",
    "Memory",
    "Running out, and the quieter disappointments. The small sizes below are those of the Shapes model; the calls are "
    "the same.",
    section="two-devices-small",
)

_SANA = '  File "diffusers/pipelines/sana/pipeline_sana.py", line 966, in __call__\n'

entry = FAMILY.failure(
    id="cuda-out-of-memory",
    title="The GPU runs out of memory",
    error="OutOfMemoryError|RuntimeError|AcceleratorError",
    pattern=r"(?:CUDA|HIP|XPU|MPS backend) out of memory|(?:CUDA|HIP) error: out of memory|(?i:cuda out of memory)",
    vram="32MiB",
    chinese=["显存不足", "显存不够", "爆显存", "显存溢出", "内存不足", "CUDA内存不足", "OOM显存"],
    alike=["out-of-memory-while-moved"],
    messages={
        "torch 2.13.0, in its example": '    pipe.to("cuda")\n  File "torch/nn/modules/module.py", line 1339, in '
        "convert\n"
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.25 MiB. GPU 0 has a total capacity of "
        "32.00 MiB "
        "of which 0 bytes is free.",
        "torch 2.13.0, driver": "torch.AcceleratorError: CUDA error: out of memory",
        "torch 2.5.1, AMD": "torch.OutOfMemoryError: HIP out of memory. Tried to allocate 64.00 MiB. GPU 0 has a total "
        "capacity of 15.98 GiB of which 40.00 MiB is free.",
        "torch 2.7.1, Intel": "torch.OutOfMemoryError: XPU out of memory. Tried to allocate 2.00 GiB. GPU 0 has a "
        "total "
        "capacity of 15.56 GiB.",
        "ZichengDuan/TheChosenOne#18": "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB "
        "(GPU 0; 14.76 GiB total capacity; 13.90 GiB already allocated; 14.75 MiB free; 14.14 GiB reserved in total by "
        "PyTorch)",
        "torch 2.13.0": "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.25 MiB. GPU 0 has a total "
        "capacity of 32.00 MiB of which 0 bytes is free.",
    },
    cause="Weights, activations and what the libraries hold are more than the card has. Which of them, the frames "
    "tell: while the pipeline is moved it is the sum over components, and in Sana the text encoder is the largest; in "
    "`decode` it is the picture in full size; in a step the batch. Another program on the card counts as well.",
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
    id="decode-out-of-memory-unbound-image",
    title="`cannot access local variable 'image'` at the end of a Sana call",
    error="UnboundLocalError",
    pattern=r"(?:cannot access local variable 'image' where it is not associated|local variable 'image' referenced "
    r"before)",
    wants=r"pipeline_sana|pipelines.sana|[Oo]ut of memory|enable_tiling",
    vram="60MiB",
    chinese=["解码显存不足", "解码时爆显存"],
    messages={
        "Python 3.10": _SANA + "UnboundLocalError: local variable 'image' referenced before assignment",
        "Sana#197": _SANA + "UnboundLocalError: cannot access local variable 'image' where it is not associated "
        "with a value",
    },
    cause="The autoencoder ran out of memory while decoding. The pipeline catches that error, warns, and goes on to "
    "use the picture that it does not have. The true message is in the warning above the traceback.",
    affects={"diffusers": ">=0.33"},
    references=["Sana#197", "diffusers 0.42.1: pipelines/sana/pipeline_sana.py, __call__"],
)


@entry.reproduce
def _(FOLDER):
    import torch
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(FOLDER, dtype=torch.bfloat16).to("cuda")
    pipe("a red star", num_inference_steps=1)


@entry.fix("Decode in tiles.")
def _(FOLDER):
    import torch
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(FOLDER, dtype=torch.bfloat16).to("cuda")
    pipe.vae.enable_tiling(
        tile_sample_min_width=256,
        tile_sample_min_height=256,
        tile_sample_stride_width=192,
        tile_sample_stride_height=192,
    )
    pipe("a red star", num_inference_steps=1)


entry = FAMILY.failure(
    id="8bit-does-not-fit-map",
    title="`Some modules are dispatched on the CPU or the disk`",
    error="ValueError",
    pattern=r"Some modules are dispatched on the CPU or the disk",
    messages={
        "diffusers 0.42.1": "ValueError: Some modules are dispatched on the CPU or the disk. Make sure you have enough "
        "GPU RAM to fit the quantized model. If you want to dispatch the model on the CPU or the disk while keeping "
        "these modules in 32-bit, you need to set `load_in_8bit_fp32_cpu_offload=True` and pass a custom `device_map` "
        "to `from_pretrained`.",
        "transformers 5.23.0": "ValueError: Some modules are dispatched on the CPU or the disk. Make sure you have "
        "enough GPU RAM to fit the quantized model. If you want to dispatch the model on the CPU or the disk while "
        "keeping these modules in 32-bit, you need to set `llm_int8_enable_fp32_cpu_offload=True` and pass a custom "
        "`device_map` to `from_pretrained`.",
    },
    chinese=["显存不足", "部分模块在CPU或磁盘"],
    cause="The map that was worked out does not fit all layers on the GPU, and 8-bit layers are for the GPU. "
    "diffusers' text names a flag that does not exist; `BitsAndBytesConfig` drops it with a line in the log. The real "
    "one is called `llm_int8_enable_fp32_cpu_offload` in both libraries.",
    references=["diffusers 0.42.1: quantizers/bitsandbytes/bnb_quantizer.py, validate_environment"],
)


@entry.reproduce
def _(FOLDER):
    import torch
    from diffusers import BitsAndBytesConfig, SanaTransformer2DModel

    SanaTransformer2DModel.from_pretrained(
        FOLDER,
        subfolder="transformer",
        quantization_config=BitsAndBytesConfig(load_in_8bit=True),
        dtype=torch.bfloat16,
        device_map="auto",
        max_memory={0: "1MB", "cpu": "8GB"},
    )


@entry.fix("Free the GPU and load without a map: an 8-bit model goes to the current GPU by itself.")
def _(FOLDER):
    import torch
    from diffusers import BitsAndBytesConfig, SanaTransformer2DModel

    SanaTransformer2DModel.from_pretrained(
        FOLDER, subfolder="transformer", quantization_config=BitsAndBytesConfig(load_in_8bit=True), dtype=torch.bfloat16
    )


entry = FAMILY.failure(
    id="8bit-saves-less-than-half",
    section="chapter-where-the-bytes-are",
    title="8 bits save far less than half of the transformer",
    shows="output",
    pattern=r"the transformer shrank to (?:[6-9]\d) %",
    messages={"diffusers 0.42.1": "the transformer shrank to 73 %"},
    cause="bitsandbytes replaces `nn.Linear` and nothing else. Nearly half of Sana's transformer is convolutions in "
    "the feed-forward blocks, which stay in 16 bits, and the text encoder keeps its embedding.",
    references=["diffusers 0.42.1: quantizers/bitsandbytes/utils.py, replace_with_bnb_linear"],
)


@entry.reproduce
def _(FOLDER):
    import torch
    from diffusers import BitsAndBytesConfig, SanaTransformer2DModel

    plain = SanaTransformer2DModel.from_pretrained(FOLDER, subfolder="transformer", dtype=torch.bfloat16)
    eight = SanaTransformer2DModel.from_pretrained(
        FOLDER, subfolder="transformer", quantization_config=BitsAndBytesConfig(load_in_8bit=True), dtype=torch.bfloat16
    )
    print(
        f"the transformer shrank to {eight.get_memory_footprint() / plain.get_memory_footprint():.0%}".replace(
            "%", " %"
        )
    )


@entry.fix("Quantize the text encoder too, the largest part, and count before you promise: here the linear share.")
def _(FOLDER):
    import torch
    from diffusers import SanaTransformer2DModel

    plain = SanaTransformer2DModel.from_pretrained(FOLDER, subfolder="transformer", dtype=torch.bfloat16)
    linear = sum(m.weight.numel() for m in plain.modules() if isinstance(m, torch.nn.Linear))
    print(f"{linear / sum(p.numel() for p in plain.parameters()):.0%} of the weights are in linear layers")


entry = FAMILY.failure(
    id="variant-files-missing",
    section="chapter-loading",
    title='`variant="fp16"` or `"bf16"`, and there are no such files',
    error="ValueError|OSError",
    pattern=r"trying to load (?:the )?model files of the variant=\S+, but no such modeling files are available|"
    r"no file named \S+\.(?:fp16|bf16)\.\w+ found",
    messages={
        "Sana#203": "ValueError: You are trying to load model files of the `variant=fp16`, but no such modeling files "
        "are available.",
        "diffusers 0.42.1": "ValueError: You are trying to load the model files of the `variant=bf16`, but no such "
        "modeling files are available.",
        "diffusers 0.42.1, model": "OSError: Error no file named diffusion_pytorch_model.bf16.bin found in directory "
        "/models/sana.",
    },
    cause="`variant` is part of the file names, not a type to convert to. Sana's older checkpoints have `fp16` or "
    "`bf16` files beside those in float32; SANA1.5 and Sprint have one set only.",
    references=["Sana#203", "diffusers 0.42.1: pipelines/pipeline_utils.py, from_pretrained"],
)


@entry.reproduce
def _(FOLDER):
    import torch
    from diffusers import SanaPipeline

    SanaPipeline.from_pretrained(FOLDER, variant="bf16", dtype=torch.bfloat16)


@entry.fix("Leave `variant` out; `dtype` alone says in what format to load.")
def _(FOLDER):
    import torch
    from diffusers import SanaPipeline

    SanaPipeline.from_pretrained(FOLDER, dtype=torch.bfloat16)


entry = FAMILY.failure(
    id="memory-not-freed-by-removing-component",
    title="`pipe.text_encoder = None` frees nothing",
    shows="output",
    pattern=r"bytes freed: 0",
    messages={"torch 2.13.0": "bytes freed: 0"},
    cause="Memory is given back when the last reference goes. A variable from loading, a notebook's `Out[...]`, or the "
    "traceback of the last error still holds the model; `torch.cuda.empty_cache()` cannot change that.",
    references=["pytorch 2.13.0: torch/cuda/memory.py, empty_cache"],
)


@entry.reproduce
def _(FOLDER):
    import torch
    from diffusers import SanaPipeline
    from transformers import AutoModel

    encoder = AutoModel.from_pretrained(FOLDER, subfolder="text_encoder", dtype=torch.bfloat16)
    pipe = SanaPipeline.from_pretrained(FOLDER, text_encoder=encoder, dtype=torch.bfloat16).to("cuda")
    before = torch.cuda.memory_allocated()
    pipe.text_encoder = None
    torch.cuda.empty_cache()
    print("bytes freed:", before - torch.cuda.memory_allocated())


@entry.fix("Delete the other names as well.")
def _(FOLDER):
    import torch
    from diffusers import SanaPipeline
    from transformers import AutoModel

    encoder = AutoModel.from_pretrained(FOLDER, subfolder="text_encoder", dtype=torch.bfloat16)
    pipe = SanaPipeline.from_pretrained(FOLDER, text_encoder=encoder, dtype=torch.bfloat16).to("cuda")
    before = torch.cuda.memory_allocated()
    pipe.text_encoder = None
    del encoder
    torch.cuda.empty_cache()
    print("bytes freed:", before - torch.cuda.memory_allocated())
