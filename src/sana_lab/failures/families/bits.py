"""Layers of 4 and 8 bits used by what does not know them: other layers, loaders, training, LoRA."""

from __future__ import annotations

from .eightbit import FAMILY

entry = FAMILY.failure(
    id="4bit-weight-in-plain-layer",
    section="chapter-loading",
    title="A 4-bit weight is multiplied as if it were a matrix",
    error="RuntimeError",
    pattern=r"mat1 and mat2 shapes cannot be multiplied \(\d+x\d+ and 1x\d{3,}\)",
    alike=["matrix-shapes-differ"],
    chinese=["4bit权重形状不匹配"],
    messages={
        "transformers#31098": "RuntimeError: mat1 and mat2 shapes cannot be multiplied (1024x3072 and 1x4718592)",
        "torch 2.13.0": "RuntimeError: mat1 and mat2 shapes cannot be multiplied (1x64 and 1x2048)",
    },
    cause="A 4-bit weight is stored as one column of bytes, two values in each, so its transpose has one row and half "
    "as many columns as there are values. Code that hands `layer.weight` to a plain product, or copies it into a "
    "plain Linear, meets that shape: an adapter, an attention processor, a model made from another's state.",
    references=["transformers#31098", "bitsandbytes 0.50.2: nn/modules.py, Linear4bit"],
)


@entry.reproduce
def _():
    import bitsandbytes
    import torch

    layer = bitsandbytes.nn.Linear4bit(64, 64, compute_dtype=torch.float16).to("cuda")
    x = torch.ones(1, 64, dtype=torch.float16, device="cuda")
    torch.nn.functional.linear(x, layer.weight)


@entry.fix("Call the layer, which knows its format; or take the weight back to 16 bits first.")
def _():
    import bitsandbytes
    import torch

    layer = bitsandbytes.nn.Linear4bit(64, 64, compute_dtype=torch.float16).to("cuda")
    x = torch.ones(1, 64, dtype=torch.float16, device="cuda")
    layer(x)
    weight = bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    torch.nn.functional.linear(x, weight.to(x.dtype))


entry = FAMILY.failure(
    id="matrix-shapes-differ",
    section="chapter-loading",
    title="A linear layer gets rows of another length than it was made for",
    error="RuntimeError",
    pattern=r"mat1 and mat2 shapes cannot be multiplied \(\d+x\d+ and \d+x\d+\)",
    chinese=["矩阵形状不匹配", "维度不匹配"],
    messages={
        "torch 2.13.0": "RuntimeError: mat1 and mat2 shapes cannot be multiplied (1x5 and 4x4)",
    },
    cause="The second number is the length of the rows that came, the third the length that the layer takes. Any "
    "program can raise this; which layer it was, the frames tell. With Sana: embeddings of another text encoder, or "
    "a transformer and an encoder of two checkpoints.",
    references=["pytorch 2.13.0: aten/src/ATen/native/LinearAlgebra.cpp"],
    gpus=0,
)


@entry.reproduce
def _():
    import torch

    torch.nn.Linear(4, 4)(torch.ones(1, 5))


@entry.fix("Compare the two lengths before the call.")
def _():
    import torch

    layer, x = torch.nn.Linear(5, 4), torch.ones(1, 5)
    assert x.shape[-1] == layer.in_features
    layer(x)


entry = FAMILY.failure(
    id="4bit-offloaded-to-meta",
    section="chapter-device-maps",
    title="A 4-bit model that does not fit is spread to the CPU, or offloaded layer by layer",
    error="NotImplementedError",
    pattern=r"Cannot copy out of meta tensor; no data!",
    wants=r"quant_state|Params4bit|functional\.py.{0,40} in to\b|in to\b.{0,80}self\.(?:code|absmax|offset)",
    alike=["copy-out-of-meta-tensor"],
    chinese=["4bit模型放不下", "显存不足", "4bit卸载"],
    messages={
        "diffusers#12719": '  File "bitsandbytes/nn/modules.py", line 331, in to\n    self.quant_state.to(device)\n'
        "NotImplementedError: Cannot copy out of meta tensor; no data!",
    },
    cause="accelerate's hooks put a layer's weight on the meta device while it is away. A 4-bit weight has a second "
    "half, its `quant_state`, which went along and lost its data: the codes come back, the scales do not. Taking "
    "hooks off does not bring them back either.",
    references=["diffusers#12719", "accelerate 1.15.0: utils/modeling.py, set_module_tensor_to_device"],
)


@entry.reproduce
def _(FOLDER, SMALL):
    import torch
    from diffusers import BitsAndBytesConfig, SanaPipeline, SanaTransformer2DModel

    transformer = SanaTransformer2DModel.from_pretrained(
        FOLDER, subfolder="transformer", quantization_config=BitsAndBytesConfig(load_in_4bit=True), dtype=torch.bfloat16
    )
    pipe = SanaPipeline.from_pretrained(FOLDER, transformer=transformer, dtype=torch.bfloat16)
    pipe.enable_sequential_cpu_offload()
    pipe("a red star", **SMALL)


@entry.fix("Offload whole components: a 4-bit model goes to the GPU and back as one.")
def _(FOLDER, SMALL):
    import torch
    from diffusers import BitsAndBytesConfig, SanaPipeline, SanaTransformer2DModel

    transformer = SanaTransformer2DModel.from_pretrained(
        FOLDER, subfolder="transformer", quantization_config=BitsAndBytesConfig(load_in_4bit=True), dtype=torch.bfloat16
    )
    pipe = SanaPipeline.from_pretrained(FOLDER, transformer=transformer, dtype=torch.bfloat16)
    pipe.enable_model_cpu_offload()
    pipe("a red star", **SMALL)


entry = FAMILY.failure(
    id="4bit-file-without-config",
    section="chapter-loading",
    title="4-bit weights are loaded without saying so: `expected shape [256, 128], got [16384, 1]`",
    error="ValueError",
    pattern=r"expected shape (?:torch\.Size\()?\[[\d, ]+\]\)?, but got (?:torch\.Size\()?\[\d+, 1\]",
    messages={
        "diffusers 0.42.1": "ValueError: Cannot load  because caption_projection.linear_1.weight expected shape "
        "torch.Size([256, 128]), but got torch.Size([16384, 1]). If you want to instead overwrite randomly initialized "
        "weights, please make sure to pass both `low_cpu_mem_usage=False` and `ignore_mismatched_sizes=True`.",
    },
    cause="The file holds 4-bit codes, a column of bytes for each matrix, and the `config.json` beside it has no "
    "`quantization_config`, so the loader expects matrices. It happens when a config was copied from the 16-bit model, "
    "or weights were taken out of their folder.",
    references=["diffusers 0.42.1: models/model_loading_utils.py, load_model_dict_into_meta"],
)


@entry.reproduce
def _(FOLDER):
    import json
    import pathlib
    import tempfile

    import torch
    from diffusers import BitsAndBytesConfig, SanaTransformer2DModel

    transformer = SanaTransformer2DModel.from_pretrained(
        FOLDER, subfolder="transformer", quantization_config=BitsAndBytesConfig(load_in_4bit=True), dtype=torch.bfloat16
    )
    with tempfile.TemporaryDirectory() as place:
        transformer.save_pretrained(place)
        config = pathlib.Path(place) / "config.json"
        config.write_text(json.dumps({k: v for k, v in json.loads(config.read_text()).items() if "quant" not in k}))
        SanaTransformer2DModel.from_pretrained(place)


@entry.fix("Keep the `config.json` that was saved with the weights.")
def _(FOLDER):
    import tempfile

    import torch
    from diffusers import BitsAndBytesConfig, SanaTransformer2DModel

    transformer = SanaTransformer2DModel.from_pretrained(
        FOLDER, subfolder="transformer", quantization_config=BitsAndBytesConfig(load_in_4bit=True), dtype=torch.bfloat16
    )
    with tempfile.TemporaryDirectory() as place:
        transformer.save_pretrained(place)
        SanaTransformer2DModel.from_pretrained(place)


entry = FAMILY.failure(
    id="4bit-compute-dtype-float32",
    section="chapter-loading",
    title="4 bits compute in float32: `Input type into Linear4bit is torch.float16`",
    shows="warning",
    pattern=r"Input type into Linear4bit is torch\.float16, but bnb_4bit_compute_d?type=torch\.float32",
    messages={
        "bitsandbytes 0.50.2": "UserWarning: Input type into Linear4bit is torch.float16, but "
        "bnb_4bit_compute_dtype=torch.float32 (default). This will lead to slow inference or training speed.",
    },
    cause="A 4-bit layer takes its weights back to a floating type before it multiplies, and the default type is "
    "float32. The result is right and the product slow: it uses none of the GPU's 16-bit units.",
    references=["bitsandbytes 0.50.2: nn/modules.py, Linear4bit.set_compute_type"],
)


@entry.reproduce
def _():
    import bitsandbytes
    import torch

    layer = bitsandbytes.nn.Linear4bit(64, 64).to("cuda")
    layer(torch.ones(2, 64, dtype=torch.float16, device="cuda"))


@entry.fix("Say `bnb_4bit_compute_dtype`, in the configuration or in the layer.")
def _():
    import bitsandbytes
    import torch

    layer = bitsandbytes.nn.Linear4bit(64, 64, compute_dtype=torch.float16).to("cuda")
    layer(torch.ones(2, 64, dtype=torch.float16, device="cuda"))


entry = FAMILY.failure(
    id="8bit-weight-lost-its-scales",
    section="chapter-loading",
    title="`'Parameter' object has no attribute 'SCB'` or `'CB'`",
    error="AttributeError",
    pattern=r"'(?:Parameter|Tensor|Int8Params)' object has no attribute 'S?CB'",
    messages={
        "bitsandbytes#1268": "AttributeError: 'Parameter' object has no attribute 'SCB'",
        "bitsandbytes 0.50.2": "AttributeError: 'Parameter' object has no attribute 'CB'",
    },
    cause="Codes and scales of an 8-bit layer hang on its weight, which is an `Int8Params`. Something put a plain "
    "`Parameter` in its place: a state dict loaded with `assign=True`, a merge, a wrapper that rebuilds parameters.",
    references=["bitsandbytes#1268", "bitsandbytes 0.50.2: nn/modules.py, Linear8bitLt.init_8bit_state"],
)


@entry.reproduce
def _():
    import bitsandbytes
    import torch

    layer = bitsandbytes.nn.Linear8bitLt(64, 64, has_fp16_weights=False).to("cuda").eval()
    layer.weight = torch.nn.Parameter(layer.weight.data, requires_grad=False)
    layer(torch.ones(1, 64, dtype=torch.float16, device="cuda"))


@entry.fix("Change nothing of an 8-bit layer but through its own methods; to get one, load the 16-bit weights again.")
def _():
    import bitsandbytes
    import torch

    plain = torch.nn.Linear(64, 64, dtype=torch.float16)
    layer = bitsandbytes.nn.Linear8bitLt(64, 64, has_fp16_weights=False)
    layer.load_state_dict(plain.state_dict())
    layer.to("cuda").eval()
    layer(torch.ones(1, 64, dtype=torch.float16, device="cuda"))


entry = FAMILY.failure(
    id="8bit-file-without-config",
    section="chapter-loading",
    title="8-bit weights are loaded as if they were numbers: `SCB` was not used",
    shows="output",
    pattern=r"were not used when initializing \w+: .{0,60}(?:\.SCB|\.weight_format)|codes were taken for weights: True",
    messages={
        "diffusers 0.42.1": "the codes were taken for weights: True",
        "diffusers 0.42.1, in the log": "Some weights of the model checkpoint at out/transformer were not used "
        "when initializing SanaTransformer2DModel: \n ['caption_projection.linear_1.SCB, "
        "transformer_blocks.4.attn2.to_k.weight_format']",
    },
    cause="The folder's `config.json` has no `quantization_config`. The codes from -127 to 127 are then taken for the "
    "weights themselves and the scales for spare parts: the model loads, and draws noise.",
    references=["diffusers 0.42.1: models/modeling_utils.py, from_pretrained"],
)


@entry.reproduce
def _(FOLDER):
    import json
    import pathlib
    import tempfile

    import torch
    from diffusers import BitsAndBytesConfig, SanaTransformer2DModel

    transformer = SanaTransformer2DModel.from_pretrained(
        FOLDER, subfolder="transformer", quantization_config=BitsAndBytesConfig(load_in_8bit=True), dtype=torch.bfloat16
    )
    with tempfile.TemporaryDirectory() as place:
        transformer.save_pretrained(place)
        config = pathlib.Path(place) / "config.json"
        config.write_text(json.dumps({k: v for k, v in json.loads(config.read_text()).items() if "quant" not in k}))
        loaded = SanaTransformer2DModel.from_pretrained(place)
    largest = loaded.transformer_blocks[0].attn1.to_q.weight.abs().max().item()
    print("the codes were taken for weights:", largest > 10)


@entry.fix("Keep the `config.json` that was saved with the weights.")
def _(FOLDER):
    import tempfile

    import torch
    from diffusers import BitsAndBytesConfig, SanaTransformer2DModel

    transformer = SanaTransformer2DModel.from_pretrained(
        FOLDER, subfolder="transformer", quantization_config=BitsAndBytesConfig(load_in_8bit=True), dtype=torch.bfloat16
    )
    with tempfile.TemporaryDirectory() as place:
        transformer.save_pretrained(place)
        SanaTransformer2DModel.from_pretrained(place)


entry = FAMILY.failure(
    id="codes-cannot-be-trained",
    section="chapter-loading",
    title="Integers cannot require gradients",
    error="RuntimeError",
    pattern=r"[Oo]nly Tensors of floating point (?:and complex )?dtype can require gradients",
    gpus=0,
    messages={
        "bitsandbytes#1232": "RuntimeError: only Tensors of floating point dtype can require gradients",
        "torch 2.13.0": "RuntimeError: Only Tensors of floating point and complex dtype can require gradients",
    },
    cause="A quantized weight is a tensor of integers, and `Parameter` asks for a gradient unless told not to. It "
    "happens in code that makes parameters anew: a deep copy by hand, `requires_grad_(True)` on a whole model, an old "
    "accelerate that moves layers.",
    references=["bitsandbytes#1232", "accelerate#2813"],
)


@entry.reproduce
def _():
    import torch

    torch.nn.Parameter(torch.ones(3, dtype=torch.int8))


@entry.fix("Say that it needs none; train adapters on top of the codes.")
def _():
    import torch

    torch.nn.Parameter(torch.ones(3, dtype=torch.int8), requires_grad=False)


entry = FAMILY.failure(
    id="no-kernel-for-codes",
    section="chapter-loading",
    title="`\"normal_kernel_cpu\" not implemented for 'Char'`",
    error="NotImplementedError|RuntimeError",
    pattern=r"\"\w+\" not implemented for '(?:Char|Byte|Int|Long)'",
    gpus=0,
    messages={
        "bitsandbytes#80": "RuntimeError: \"normal_kernel_cpu\" not implemented for 'Char'",
        "torch 2.11.0": "NotImplementedError: \"addmm_cuda\" not implemented for 'Long'",
    },
    cause="`Char` is PyTorch's name for int8: a function for floating numbers got the codes of a quantized weight. "
    "Most "
    "often a loader draws random numbers into weights that it takes for missing ones, or a layer that does not know "
    "about quantization multiplies them.",
    references=["bitsandbytes#80", "pytorch 2.13.0: aten/src/ATen/Dispatch.h"],
)


@entry.reproduce
def _():
    import torch

    torch.nn.init.normal_(torch.zeros(3, dtype=torch.int8))


@entry.fix("Initialize before quantizing, and leave quantized weights alone.")
def _():
    import torch

    torch.nn.init.normal_(torch.zeros(3, dtype=torch.float32))


entry = FAMILY.failure(
    id="pin-gpu-tensor",
    section="chapter-device-maps",
    title="`cannot pin 'torch.cuda.CharTensor'`: group offloading with a stream and 8-bit weights",
    error="RuntimeError",
    pattern=r"cannot pin '?\S{1,60}?'?,? only dense CPU tensors can be pinned",
    chinese=["锁页内存"],
    messages={
        "diffusers#14433": "RuntimeError: cannot pin 'torch.cuda.CharTensor' only dense CPU tensors can be pinned",
        "torch 2.13.0": "RuntimeError: cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned",
    },
    cause="Pinning is for memory of the CPU. Group offloading with a stream pins every weight on the CPU first, and "
    "the "
    "codes of an 8-bit layer went to the GPU while they were loaded and stayed there.",
    references=["diffusers#14433", "diffusers 0.42.1: hooks/group_offloading.py"],
)


@entry.reproduce
def _():
    import torch

    torch.ones(3, device="cuda").pin_memory()


@entry.fix("Pin on the CPU; offload 8-bit models as whole components and without a stream.")
def _():
    import torch

    torch.ones(3).pin_memory()


# ---- other versions and machines --------------------------------------------------------------------------------

entry = FAMILY.failure(
    id="4bit-model-cannot-move",
    section="chapter-device-maps",
    title="`.to()` on a 4-bit model is refused by an old bitsandbytes",
    error="ValueError",
    pattern=r"Calling (?:to|cuda)\(\) is not supported for 4-bit quantized models with the installed version",
    chinese=["4bit模型不能移动", "量化模型不能移动"],
    messages={
        "transformers 4.57.6": "ValueError: Calling `to()` is not supported for `4-bit` quantized models with the "
        "installed version of bitsandbytes. The current device is `cuda:0`. If you intended to move the model, please "
        "install bitsandbytes >= 0.43.2.",
    },
    cause="A 4-bit weight carries its scales in a state of its own, which moves along since bitsandbytes 0.43.2. Both "
    "libraries look at the version.",
    affects={"bitsandbytes": "<0.43.2"},
    references=["transformers 4.57.6: modeling_utils.py, to", "diffusers 0.36.0: models/modeling_utils.py, to"],
    evidence="source",
)
entry.fix("Upgrade.", command="pip install -U 'bitsandbytes>=0.48.2'")

entry = FAMILY.failure(
    id="lora-loader-moves-8bit",
    section="chapter-device-maps",
    title="`load_lora_weights()` itself calls `.to()` on an 8-bit text encoder",
    error="ValueError",
    pattern=r"\.to is not supported for (?:4-bit or )?8-bit bitsandbytes models",
    wants=r"loaders.lora_|load_lora_weights|load_lora_into",
    alike=["8bit-model-cannot-move"],
    chinese=["加载LoRA报错", "量化模型加载LoRA"],
    messages={
        "diffusers#11570": '  File "diffusers/loaders/lora_base.py", line 421, in _load_lora_into_text_encoder\n'
        "    text_encoder.to(device=text_encoder.device, dtype=text_encoder.dtype)\nValueError: `.to` is not supported "
        "for `8-bit` bitsandbytes models. Please use the model as it is, since the model has already been set to the "
        "correct devices and casted to the correct `dtype`.",
    },
    cause="After it has added the adapter the loader moves the text encoder to where it already is, and on these "
    "versions an 8-bit model refuses every move. You did not call `.to()`; the adapter is in place already.",
    affects=[{"diffusers": "<0.37"}, {"transformers": "<5"}],
    references=["diffusers#11570", "diffusers 0.35.1: loaders/lora_base.py, _load_lora_into_text_encoder"],
    evidence="report",
)
entry.fix(
    "Upgrade; or load a LoRA that has nothing for the text encoder, or the encoder in 16 bits.",
    command="pip install -U 'diffusers>=0.37' 'transformers>=5' 'bitsandbytes>=0.48.2'",
)

entry = FAMILY.failure(
    id="quantizing-codes-again",
    section="chapter-device-maps",
    title="`Blockwise quantization only supports 16/32-bit floats, but got torch.uint8`",
    error="ValueError|RuntimeError",
    pattern=r"Blockwise quantization only supports 16/32-bit floats, but got torch\.u?int8",
    messages={
        "diffusers#10800": "ValueError: Blockwise quantization only supports 16/32-bit floats, but got torch.uint8",
    },
    cause="A 4-bit weight that is moved to the GPU quantizes itself there, and this one was quantized already: "
    "sequential offloading takes the codes to the CPU and brings them back as a new parameter.",
    affects={"bitsandbytes": "<0.50"},
    elsewhere="4 bits with sequential offloading",
    references=["diffusers#10800", "bitsandbytes 0.45.5: functional.py, quantize_4bit"],
    evidence="report",
)
entry.fix("Offload whole components.", command="pipe.enable_model_cpu_offload()")

entry = FAMILY.failure(
    id="8bit-checkpoints-garbage-in-0-48-0",
    section="chapter-loading",
    title="Saved 8-bit models compute garbage with bitsandbytes 0.48.0",
    shows="output",
    pattern=r"relative error of a saved 8-bit layer with 0\.48\.0: (?!0\.0)",
    messages={"what a check would show": "relative error of a saved 8-bit layer with 0.48.0: 1.00"},
    cause="The first release in which 8-bit models can move read checkpoints that were quantized already in the wrong "
    "way. Models that are quantized while they load are right, saved ones are not; 0.48.1 repaired it, and 0.48.2 "
    "what it left of offloading.",
    affects={"bitsandbytes": ">=0.48.0, <0.48.1"},
    references=["bitsandbytes#1775", "bitsandbytes#1776"],
    evidence="report",
)
entry.fix("Skip it.", command="pip install -U 'bitsandbytes>=0.48.2'")

entry = FAMILY.failure(
    id="training-purely-quantized",
    section="chapter-device-maps",
    title="`You cannot perform fine-tuning on purely quantized models`",
    error="ValueError",
    pattern=r"You cannot perform fine-tuning on purely quantized models",
    messages={
        "transformers 4.57.6": "ValueError: You cannot perform fine-tuning on purely quantized models. Please attach "
        "trainable adapters on top of the quantized model to correctly perform fine-tuning.",
    },
    cause="The codes are integers and have no gradient. transformers' Trainer looks whether anything on top of them "
    "can "
    "be trained; adapters of peft can, and they alone are trained then.",
    references=["transformers 4.57.6: trainer.py", "unslothai/unsloth#1110"],
    evidence="source",
    elsewhere="the library peft, and transformers' Trainer",
)
entry.fix("Add adapters before training.", command="model = peft.get_peft_model(model, peft.LoraConfig(...))")
