"""Tensors on two devices."""

from __future__ import annotations

from ..entry import Family

FAMILY = Family(
    "device-mismatch",
    "Tensors on two devices",
    "An operation meets operands that live in different places. Which words PyTorch uses depends on the operator.",
    section="two-devices-ways",
)

_SAME_DEVICE = r"Expected all tensors to be on the same device"

_ENCODING = (
    '  File "diffusers/pipelines/sana/pipeline_sana.py", line 276, in _get_gemma_prompt_embeds\n'
    "    prompt_embeds = self.text_encoder(text_input_ids, attention_mask=prompt_attention_mask)\n"
)
_DECODING = (
    '  File "diffusers/pipelines/sana/pipeline_sana.py", line 961, in __call__\n'
    "    image = self.vae.decode(latents / self.vae.config.scaling_factor, return_dict=False)[0]\n"
)
_DENOISING = (
    '  File "diffusers/models/transformers/transformer_sana.py", line 452, in forward\n'
    "    hidden_states = self.patch_embed(hidden_states)\n"
)

_ISSUE_TEXT_ENCODER = (
    "RuntimeError: Expected all tensors to be on the same device, but found at least two devices, cpu and cuda:0! "
    "(when checking argument for argument index in method wrapper_CUDA__index_select)"
)

# ---- in general -------------------------------------------------------------------------------------------------

entry = FAMILY.failure(
    id="tensors-on-two-devices",
    section="two-devices-words",
    title="The model is on the GPU, its input is on the CPU",
    chinese=[
        "设备不匹配",
        "张量不在同一设备",
        "张量不在同一个设备上",
        "两个设备",
        "模型在GPU输入在CPU",
        "张量都在同一设备",
        "张量都位于同一设备",
    ],  # fmt: skip
    error="RuntimeError",
    pattern=_SAME_DEVICE,
    messages={
        "diffusers#10520": "RuntimeError: Expected all tensors to be on the same device, but found at least two "
        "devices, cuda:0 and cpu!",
        "haotian-liu/LLaVA#1081": "RuntimeError: Expected all tensors to be on the same device, but found at least two "
        "devices, cpu and cuda:0! (when checking argument for argument mat1 in method wrapper_CUDA_addmm)",
        "torch 2.13.0": "RuntimeError: Expected all tensors to be on the same device, but got mat1 is on cpu, "
        "different from other tensors on cuda:0 (when checking argument in method wrapper_CUDA_addmm)",
    },
    cause="PyTorch never moves an operand by itself. The message names the argument that is elsewhere and the kernel "
    "that noticed: `mat1` of `addmm` is the input of a Linear, `index` of `index_select` the ids of an embedding. "
    "Newer versions say which device each is on, older ones only that there are two.",
    references=["pytorch 2.13.0: aten/src/ATen/TensorIterator.cpp", "diffusers#10520"],
)


@entry.reproduce
def _():
    import torch

    layer = torch.nn.Linear(4, 4).to("cuda")
    layer(torch.ones(1, 4))


@entry.fix("Make or move the input to the device of the model's parameters.")
def _():
    import torch

    layer = torch.nn.Linear(4, 4).to("cuda")
    device = next(layer.parameters()).device
    layer(torch.ones(1, 4, device=device))


# ---- the text encoder -------------------------------------------------------------------------------------------

entry = FAMILY.failure(
    id="text-encoder-left-on-cpu",
    title="Only the transformer was loaded in 8 bits; the text encoder stayed on the CPU",
    error="RuntimeError",
    pattern=_SAME_DEVICE + r".{0,200}(?:index is on (?:cuda|xpu)|argument for argument index in method "
    r"wrapper_CUDA__index_select)",
    wants=r"_get_gemma_prompt_embeds|encode_prompt|index is on (?:cuda|xpu)",
    context=r"_get_gemma_prompt_embeds|encode_prompt",
    alike=["tensors-on-two-devices", "token-ids-left-on-cpu"],
    chinese=["文本编码器在CPU", "文本编码器没有移到GPU", "设备不匹配"],
    messages={
        "diffusers#10500": _ENCODING + _ISSUE_TEXT_ENCODER,
        "torch 2.13.0": _ENCODING + "RuntimeError: Expected all tensors to be on the same device, but got index is "
        "on cuda:0, "
        "different from other tensors on cpu (when checking argument in method wrapper_CUDA__index_select)",
    },
    cause="8-bit loading puts the transformer on the GPU at once, and the pipeline leaves every other component on the "
    "CPU. The token ids go to the device that the pipeline takes for its own, and the embedding table is on the CPU. "
    "From diffusers 0.40 on that is the GPU as soon as one component is there; before, where accelerate had hung a "
    "hook on the 8-bit model (accelerate < 1.13 or bitsandbytes < 0.48). In between the ids stay on the CPU, and "
    "another line fails.",
    affects=[{"diffusers": ">=0.40"}, {"accelerate": "<1.13"}, {"bitsandbytes": "<0.48"}],
    references=[
        "diffusers#10500",
        "diffusers#10653",
        "diffusers#14383",
        "diffusers 0.42.1: pipelines/pipeline_utils.py, device",
    ],
)


@entry.reproduce
def _(FOLDER, SMALL):
    import torch
    from diffusers import BitsAndBytesConfig, SanaPipeline, SanaTransformer2DModel

    transformer = SanaTransformer2DModel.from_pretrained(
        FOLDER, subfolder="transformer", quantization_config=BitsAndBytesConfig(load_in_8bit=True), dtype=torch.bfloat16
    )
    pipe = SanaPipeline.from_pretrained(FOLDER, transformer=transformer, dtype=torch.bfloat16)
    pipe("a red star", **SMALL)


@entry.fix('Move the rest: `pipe.to("cuda")`. Where 8-bit models refuse to move (see the versions), move the others.')
def _(FOLDER, SMALL):
    import torch
    from diffusers import BitsAndBytesConfig, SanaPipeline, SanaTransformer2DModel

    transformer = SanaTransformer2DModel.from_pretrained(
        FOLDER, subfolder="transformer", quantization_config=BitsAndBytesConfig(load_in_8bit=True), dtype=torch.bfloat16
    )
    pipe = SanaPipeline.from_pretrained(FOLDER, transformer=transformer, dtype=torch.bfloat16)
    pipe.text_encoder.to("cuda")
    pipe.vae.to("cuda")
    pipe("a red star", **SMALL)


entry = FAMILY.failure(
    id="token-ids-left-on-cpu",
    section="two-devices-words",
    title="The token ids come from the tokenizer and are still on the CPU",
    error="RuntimeError",
    pattern=_SAME_DEVICE
    + r".{0,200}(?:index is on cpu|argument for argument index in method wrapper_CUDA__index_select)",
    wants=r"index is on cpu|modeling_\w+\.py|embed_tokens|input_ids|tokenizer\(",
    alike=["tensors-on-two-devices"],
    chinese=["输入在CPU模型在GPU", "input_ids在CPU", "设备不匹配"],
    messages={
        "HKUDS/LightRAG#249": '  File "transformers/models/gemma2/modeling_gemma2.py", line 520, in forward\n'
        "    inputs_embeds = self.embed_tokens(input_ids)\n" + _ISSUE_TEXT_ENCODER,
        "torch 2.13.0": "RuntimeError: Expected all tensors to be on the same device, but got index is on cpu, "
        "different from other tensors on cuda:0 (when checking argument in method wrapper_CUDA__index_select)",
    },
    cause="A tokenizer knows nothing of devices: what it returns is on the CPU. The encoder's first layer is an "
    "embedding, which looks the ids up with `index_select`, and there the devices meet.",
    references=["diffusers#10797", "transformers 5.23.0: models/gemma2/modeling_gemma2.py, forward"],
)


@entry.reproduce
def _(FOLDER):
    from transformers import AutoModel, AutoTokenizer

    encoder = AutoModel.from_pretrained(FOLDER, subfolder="text_encoder", device_map="cuda")
    tokenizer = AutoTokenizer.from_pretrained(FOLDER, subfolder="tokenizer")
    encoder(**tokenizer("a red star", return_tensors="pt"))


@entry.fix("Send the whole batch: what the tokenizer returns has a `.to()` of its own.")
def _(FOLDER):
    from transformers import AutoModel, AutoTokenizer

    encoder = AutoModel.from_pretrained(FOLDER, subfolder="text_encoder", device_map="cuda")
    tokenizer = AutoTokenizer.from_pretrained(FOLDER, subfolder="tokenizer")
    encoder(**tokenizer("a red star", return_tensors="pt").to(encoder.device))


# ---- convolutions -----------------------------------------------------------------------------------------------

_CONVOLUTION = (
    r"Input type \((?:torch\.(?:cuda|xpu)\.\w+|(?:CUDA|XPU|HIP|MPS)\w+)\) and (?:weight|bias) type "
    r"\((?:torch\.(?!cuda|xpu)\w+|CPU\w+)\) should be the same"
)
_CONVOLUTION_OLD = (
    "RuntimeError: Input type (torch.cuda.HalfTensor) and weight type (torch.HalfTensor) should be the same"
)
_CONVOLUTION_NEW = "RuntimeError: Input type (CUDABFloat16Type) and weight type (CPUBFloat16Type) should be the same"

entry = FAMILY.failure(
    id="autoencoder-left-on-cpu",
    section="two-devices-who",
    title="8-bit Sana fails at the very end, while the picture is decoded",
    error="RuntimeError",
    pattern=_CONVOLUTION,
    wants=r"autoencoder_\w+\.py|vae\.(?:decode|encode)|tiled_decode",
    alike=["convolution-on-two-devices"],
    chinese=["自动编码器在CPU", "解码时设备不匹配", "设备不匹配"],
    messages={
        "torch 2.6, float16": _DECODING + _CONVOLUTION_OLD,
        "torch 2.13.0": _DECODING + _CONVOLUTION_NEW,
    },
    cause="bitsandbytes puts the text encoder and the transformer on the GPU while they load; the autoencoder is "
    "loaded as usual, on the CPU. All steps run, then the latents on the GPU meet the first convolution of the "
    "decoder. Convolutions compare tensor types, which is why the message speaks of types and not of devices.",
    references=["diffusers#10520", "pytorch 2.13.0: aten/src/ATen/native/Convolution.cpp"],
)


@entry.reproduce
def _(FOLDER, EIGHT_BIT, SMALL):
    import torch
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(FOLDER, quantization_config=EIGHT_BIT, dtype=torch.bfloat16)
    pipe("a red star", **SMALL)


@entry.fix("Move the autoencoder. This works on every version, because it is not quantized.")
def _(FOLDER, EIGHT_BIT, SMALL):
    import torch
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(FOLDER, quantization_config=EIGHT_BIT, dtype=torch.bfloat16)
    pipe.vae.to("cuda")
    pipe("a red star", **SMALL)


@entry.fix('Let the pipeline place all it loads: `device_map="cuda"`, and no `.to()` afterwards.')
def _(FOLDER, EIGHT_BIT, SMALL):
    import torch
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(FOLDER, quantization_config=EIGHT_BIT, dtype=torch.bfloat16, device_map="cuda")
    pipe("a red star", **SMALL)


entry = FAMILY.failure(
    id="transformer-left-on-cpu",
    section="two-devices-words",
    title="The first denoising step fails at the patch embedding",
    error="RuntimeError",
    pattern=_CONVOLUTION,
    wants=r"models.embeddings\.py|patch_embed|transformer_sana\.py",
    alike=["convolution-on-two-devices"],
    chinese=["变换器在CPU", "设备不匹配"],
    messages={
        "torch 2.6, float16": _DENOISING + _CONVOLUTION_OLD,
        "torch 2.13.0": _DENOISING + _CONVOLUTION_NEW,
    },
    cause="The latents are made on the device that the pipeline takes for its own, the GPU, while the transformer is "
    'on the CPU, because it was moved there to save memory or was swapped in after `.to("cuda")`. Sana\'s transformer '
    "begins with a convolution, so the words are those of a convolution.",
    references=[
        "diffusers 0.42.1: models/embeddings.py, PatchEmbed",
        "diffusers 0.42.1: pipelines/pipeline_utils.py, device",
    ],
)


@entry.reproduce
def _(FOLDER, SMALL):
    import torch
    from diffusers import SanaPipeline, SanaTransformer2DModel

    pipe = SanaPipeline.from_pretrained(FOLDER, dtype=torch.bfloat16).to("cuda")
    pipe.transformer = SanaTransformer2DModel.from_pretrained(FOLDER, subfolder="transformer", dtype=torch.bfloat16)
    pipe("a red star", **SMALL)


@entry.fix("Move the pipeline once more after a component was exchanged.")
def _(FOLDER, SMALL):
    import torch
    from diffusers import SanaPipeline, SanaTransformer2DModel

    pipe = SanaPipeline.from_pretrained(FOLDER, dtype=torch.bfloat16).to("cuda")
    pipe.transformer = SanaTransformer2DModel.from_pretrained(FOLDER, subfolder="transformer", dtype=torch.bfloat16)
    pipe.to("cuda")
    pipe("a red star", **SMALL)


# ---- other operands ---------------------------------------------------------------------------------------------

entry = FAMILY.failure(
    id="plain-attribute-does-not-move",
    title="A tensor kept as a plain attribute stays behind when the module moves",
    error="RuntimeError",
    pattern=_SAME_DEVICE + r", but found at least two devices, (?:cuda|xpu):\d+ and cpu!(?! \(when)",
    wants=r"[*+/@-] self\.\w+|self\.\w+ [*+/@-] ",
    alike=["tensors-on-two-devices"],
    chinese=["设备不匹配"],
    messages={
        "torch 2.13.0": '  File "model.py", line 12, in forward\n    return super().forward(x) * self.scale\n'
        "RuntimeError: Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!",
    },
    cause="`Module.to()` moves parameters and registered buffers. A tensor that is only an attribute is neither, so it "
    "stays where it was made. An elementwise operation notices, and its message has no argument name.",
    references=[
        "pytorch 2.13.0: aten/src/ATen/TensorIterator.cpp",
        "pytorch 2.13.0: torch/nn/modules/module.py, _apply",
    ],
)


@entry.reproduce
def _():
    import torch

    class Scaled(torch.nn.Linear):
        def __init__(self, width):
            super().__init__(width, width)
            self.scale = torch.ones(width)

        def forward(self, x):
            return super().forward(x) * self.scale

    layer = Scaled(4).to("cuda")
    layer(torch.ones(1, 4, device="cuda"))


@entry.fix("Register it as a buffer; `persistent=False` keeps it out of the state dict.")
def _():
    import torch

    class Scaled(torch.nn.Linear):
        def __init__(self, width):
            super().__init__(width, width)
            self.register_buffer("scale", torch.ones(width), persistent=False)

        def forward(self, x):
            return super().forward(x) * self.scale

    layer = Scaled(4).to("cuda")
    layer(torch.ones(1, 4, device="cuda"))


entry = FAMILY.failure(
    id="components-on-two-gpus",
    title="The pipeline's parts were put on two GPUs by hand",
    error="RuntimeError",
    pattern=_SAME_DEVICE
    + r".{0,200}(?:cuda:\d+, different from other tensors on cuda:\d+|devices, cuda:\d+ and cuda:\d+!)",
    wants=r"pipeline_\w+\.py|diffusers.pipelines",
    alike=["tensors-on-two-devices"],
    chinese=["两张显卡", "多卡设备不匹配", "cuda:0和cuda:1"],
    gpus=2,
    messages={
        "torch 2.6": _DECODING + "RuntimeError: Expected all tensors to be on the same device, but found at least two "
        "devices, cuda:0 and cuda:1! (when checking argument for argument weight in method "
        "wrapper_CUDA__cudnn_convolution)",
        "torch 2.13.0": _DECODING + "RuntimeError: Expected all tensors to be on the same device, but got weight is "
        "on cuda:1, "
        "different from other tensors on cuda:0 (when checking argument in method wrapper_CUDA__cudnn_convolution)",
    },
    cause="A pipeline hands its tensors from component to component and moves none of them. Between components on two "
    "GPUs somebody has to: accelerate's hooks do it, and only `device_map` installs them.",
    references=[
        "accelerate 1.15.0: hooks.py, AlignDevicesHook",
        "diffusers 0.42.1: pipelines/pipeline_utils.py, from_pretrained",
    ],
)


@entry.reproduce
def _(FOLDER, SMALL):
    import torch
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(FOLDER, dtype=torch.bfloat16).to("cuda:0")
    pipe.transformer.to("cuda:1")
    pipe("a red star", **SMALL)


@entry.fix('Let `device_map="balanced"` spread the components: it installs the hooks that move tensors between them.')
def _(FOLDER, SMALL):
    import torch
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(FOLDER, dtype=torch.bfloat16, device_map="balanced")
    pipe("a red star", **SMALL)


entry = FAMILY.failure(
    id="generator-on-wrong-device",
    title="A CUDA generator for a pipeline that is on the CPU",
    error="ValueError",
    pattern=r"Cannot generate a \w+ tensor from a generator of type \w+",
    messages={"diffusers 0.42.1": "ValueError: Cannot generate a cpu tensor from a generator of type cuda."},
    cause="The noise is drawn on the generator's device. diffusers draws on the CPU and moves the result when the "
    "pipeline is on a GPU, but not the other way round: a generator on the GPU for a pipeline on the CPU is refused. "
    "Most often it is the pipeline that is not where it was meant to be.",
    references=["diffusers 0.42.1: utils/torch_utils.py, randn_tensor"],
)


@entry.reproduce
def _(FOLDER, SMALL):
    import torch
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(FOLDER, dtype=torch.bfloat16)
    pipe("a red star", generator=torch.Generator("cuda").manual_seed(0), **SMALL)


@entry.fix("Use a CPU generator: the same seed then gives the same noise on every machine.")
def _(FOLDER, SMALL):
    import torch
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(FOLDER, dtype=torch.bfloat16).to("cuda")
    pipe("a red star", generator=torch.Generator("cpu").manual_seed(0), **SMALL)


entry = FAMILY.failure(
    id="gpu-tensor-to-numpy",
    section="two-devices-words",
    title="Latents or embeddings on the GPU go to NumPy or matplotlib",
    error="TypeError",
    pattern=r"can't convert \w+(?::\d+)? device type tensor to numpy",
    messages={
        "torch 2.13.0": "TypeError: can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the "
        "tensor to host memory first.",
    },
    cause="A NumPy array is memory of the CPU. PyTorch shares its memory with NumPy instead of copying, which it "
    "cannot do for a GPU's memory, and a copy must be asked for.",
    references=["pytorch 2.13.0: torch/csrc/utils/tensor_numpy.cpp"],
)


@entry.reproduce
def _():
    import torch

    torch.ones(2, device="cuda").numpy()


@entry.fix("Copy to the CPU first; `bfloat16`, which NumPy lacks, also needs `.float()`.")
def _():
    import torch

    torch.ones(2, device="cuda", dtype=torch.bfloat16).float().cpu().numpy()


entry = FAMILY.failure(
    id="index-on-gpu",
    section="two-devices-words",
    title="A table on the CPU is indexed with a tensor from the GPU",
    error="RuntimeError",
    pattern=r"indices should be either on .{0,40}cpu.{0,40} or on the same device as the indexed tensor",
    messages={
        "torch 2.13.0": "RuntimeError: indices should be either on cpu or on the same device as the indexed tensor "
        "(cpu)",
    },
    cause="Indexing is lenient one way only: a tensor on the GPU may be indexed with one on the CPU, which is copied, "
    "and not the reverse. Schedulers keep their tables of sigmas on the CPU, so own sampling loops meet this.",
    references=["pytorch 2.13.0: aten/src/ATen/native/TensorAdvancedIndexingUtils.h"],
)


@entry.reproduce
def _():
    import torch

    sigmas = torch.linspace(1, 0, 20)
    sigmas[torch.tensor([3, 4], device="cuda")]


@entry.fix("Bring the index to the table, or the table to the GPU once, before the loop.")
def _():
    import torch

    sigmas = torch.linspace(1, 0, 20)
    steps = torch.tensor([3, 4], device="cuda")
    sigmas[steps.to(sigmas.device)]


entry = FAMILY.failure(
    id="gpu-index-out-of-range",
    title="`cuda:1` on a machine with one GPU",
    error="AcceleratorError|RuntimeError|AssertionError",
    pattern=r"(?:CUDA|HIP) error: invalid device ordinal|\bInvalid device id\b",
    chinese=["显卡编号", "找不到第二张显卡"],
    messages={
        "hpcaitech/Open-Sora#40": "RuntimeError: CUDA error: invalid device ordinal\nCUDA kernel errors might be "
        "asynchronously reported at some other API call, so the stacktrace below might be incorrect.",
        "torch 2.13.0": "torch.AcceleratorError: CUDA error: invalid device ordinal\nGPU device may be out of range, "
        "do you have enough GPUs?",
        "torch 2.13.0, properties": "AssertionError: Invalid device id",
    },
    cause="GPUs are counted from zero among those that `CUDA_VISIBLE_DEVICES` lets through, not among those in the "
    "machine: with `CUDA_VISIBLE_DEVICES=1` the second card is `cuda:0`, and `cuda:1` is none.",
    references=["pytorch 2.13.0: c10/cuda/CUDAException.cpp"],
)


@entry.reproduce
def _():
    import torch

    torch.ones(2, device=f"cuda:{torch.cuda.device_count()}")


@entry.fix("Ask how many there are, and count from zero.")
def _():
    import torch

    torch.ones(2, device=f"cuda:{torch.cuda.device_count() - 1}")


entry = FAMILY.failure(
    id="8bit-layer-gets-cpu-input",
    section="device-map-reset",
    title="An 8-bit layer on the GPU gets an input on the CPU",
    error="RuntimeError",
    pattern=r"invalid argument to getCurrentStream|nput tensors need to be on the same GPU",
    chinese=["8bit层输入在CPU", "设备不匹配"],
    messages={
        "bitsandbytes 0.45.0": "RuntimeError: All input tensors need to be on the same GPU, but found some tensors to "
        "not be on a GPU:\n [(torch.Size([1, 64]), device(type='cpu')), (torch.Size([64, 64]), device(type='cuda', "
        "index=0))]",
        "bitsandbytes 0.45.5": "RuntimeError: Input tensors need to be on the same GPU, but found the following tensor "
        "and device combinations:\n [(torch.Size([1, 64]), device(type='cpu')), (torch.Size([64, 64]), "
        "device(type='cuda', index=0))]",
        "bitsandbytes 0.50.2": "RuntimeError: invalid argument to getCurrentStream",
    },
    cause="bitsandbytes launches its kernels itself and asks PyTorch for the CUDA stream of the input's device. A CPU "
    "tensor has none, hence words that mention neither the layer nor a device. Older versions looked first and said "
    "so.",
    affects={"bitsandbytes": ">=0.43"},
    references=["bitsandbytes 0.50.2: backends/cuda/ops.py", "bitsandbytes 0.45.5: functional.py, is_on_gpu"],
)


@entry.reproduce
def _():
    import bitsandbytes
    import torch

    layer = bitsandbytes.nn.Linear8bitLt(64, 64, has_fp16_weights=False).to("cuda").eval()
    layer(torch.ones(1, 64, dtype=torch.float16))


@entry.fix("Send the input to the device of the weight.")
def _():
    import bitsandbytes
    import torch

    layer = bitsandbytes.nn.Linear8bitLt(64, 64, has_fp16_weights=False).to("cuda").eval()
    layer(torch.ones(1, 64, dtype=torch.float16).to(layer.weight.device))


# ---- other versions ---------------------------------------------------------------------------------------------

entry = FAMILY.failure(
    id="sincos-position-embedding-on-cpu",
    title="Sana for 2K and 4K in 8 bits: the position embedding stays on the CPU",
    error="RuntimeError",
    pattern=_SAME_DEVICE + r", but found at least two devices, (?:cuda|xpu):\d+ and cpu!(?! \(when)",
    wants=r"latent \+ pos_embed",
    alike=["tensors-on-two-devices"],
    messages={
        "diffusers#10520": "    return (latent + pos_embed).to(latent.dtype)\nRuntimeError: Expected all tensors to "
        "be on the same device, but found at least two "
        "devices, cuda:0 and cpu!",
    },
    cause="The 2K and 4K checkpoints add a sine-cosine position embedding that is a buffer outside the state dict. "
    "Loading a quantized model placed parameters and forgot such buffers. The 512 and 1024 px checkpoints have no "
    "position embedding and never met this.",
    affects={"diffusers": ">=0.32, <0.33"},
    references=["diffusers#10520", "diffusers#10523"],
    evidence="report",
)


@entry.reproduce
def _():
    import torch
    from diffusers import BitsAndBytesConfig, SanaTransformer2DModel

    name = "Efficient-Large-Model/Sana_1600M_4Kpx_BF16_diffusers"
    transformer = SanaTransformer2DModel.from_pretrained(
        name,
        subfolder="transformer",
        quantization_config=BitsAndBytesConfig(load_in_8bit=True),
        torch_dtype=torch.bfloat16,
    )
    transformer(
        torch.randn(1, 32, 128, 128, device="cuda", dtype=torch.bfloat16),
        torch.randn(1, 8, 2304, device="cuda", dtype=torch.bfloat16),
        torch.tensor([500], device="cuda"),
    )


entry.fix("Upgrade.", command="pip install -U 'diffusers>=0.33'")
