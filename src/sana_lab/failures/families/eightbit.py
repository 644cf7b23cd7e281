"""Moving and casting 8-bit models."""

from __future__ import annotations

from ..entry import Family

FAMILY = Family(
    "8bit-models",
    "Moving and casting 8-bit models",
    "An 8-bit model gets its device and its data types while it loads. What may be changed later depends on the "
    "versions.",
    section="device-map-moving",
)

_UPGRADE = "pip install -U 'diffusers>=0.37' 'transformers>=5' 'bitsandbytes>=0.48.2'"

# ---- moving -----------------------------------------------------------------------------------------------------

entry = FAMILY.failure(
    id="8bit-text-encoder-cuda",
    title='`.cuda()` on the 8-bit text encoder, although `.to("cuda")` works',
    error="ValueError",
    pattern=r"Calling cuda\(\) is not supported for (?:4-bit or )?8-bit quantized models\.",
    chinese=["8bit模型不能cuda", "量化模型不能移动"],
    messages={
        "transformers 4.44.2": "ValueError: Calling `cuda()` is not supported for `4-bit` or `8-bit` quantized models. "
        "Please use the model as it is, since the model has already been set to the correct devices and casted to the "
        "correct `dtype`.",
        "transformers 4.57.6": "ValueError: Calling `cuda()` is not supported for `8-bit` quantized models.  Please "
        "use the model as it is, since the model has already been set to the correct devices.",
        "transformers 5.23.0": "ValueError: Calling `cuda()` is not supported for `8-bit` quantized models.  Please "
        "use the model as it is, since the model has already been set to the correct devices.",
    },
    cause="transformers 5 lets an 8-bit model move through `.to()` and kept the old refusal in `.cuda()`. diffusers "
    "allows both, so the same line works on the transformer and fails on the text encoder.",
    references=["transformers 5.23.0: modeling_utils.py, cuda", "transformers#43258"],
)


@entry.reproduce
def _(FOLDER):
    import torch
    from transformers import AutoModel, BitsAndBytesConfig

    encoder = AutoModel.from_pretrained(
        FOLDER,
        subfolder="text_encoder",
        quantization_config=BitsAndBytesConfig(load_in_8bit=True),
        dtype=torch.bfloat16,
    )
    encoder.cuda()


@entry.fix("It is on the GPU since it was loaded: leave the line out. To move it later, write `.to()`.")
def _(FOLDER):
    import torch
    from transformers import AutoModel, BitsAndBytesConfig

    encoder = AutoModel.from_pretrained(
        FOLDER,
        subfolder="text_encoder",
        quantization_config=BitsAndBytesConfig(load_in_8bit=True),
        dtype=torch.bfloat16,
    )
    encoder.to("cuda")


entry = FAMILY.failure(
    id="8bit-model-cannot-move",
    title="`.to()` on an 8-bit model is refused",
    error="ValueError",
    pattern=r"\.to is not supported for (?:4-bit or )?8-bit bitsandbytes models",
    chinese=["8bit模型不能移动", "量化模型不能移动", "不能to(cuda)"],
    messages={
        "transformers#38717": "ValueError: `.to` is not supported for `4-bit` or `8-bit` bitsandbytes models. Please "
        "use the model as it is, since the model has already been set to the correct devices and casted to the correct "
        "`dtype`.",
        "diffusers 0.36.0": "ValueError: `.to` is not supported for `8-bit` bitsandbytes models. Please use the model "
        "as it is, since the model has already been set to the correct devices and casted to the correct `dtype`.",
    },
    cause="Before bitsandbytes 0.48 a move lost the scales or quantized the integers a second time, so the libraries "
    "refused. Moving works when bitsandbytes ≥ 0.48, diffusers ≥ 0.37 and transformers ≥ 5 are there; accelerate "
    "has no "
    "say in it. With transformers 4 the text encoder alone keeps refusing. Models in 4 bits move since transformers "
    "4.47.",
    affects=[{"diffusers": "<0.37"}, {"transformers": "<5"}],
    references=[
        "diffusers 0.36.0: models/modeling_utils.py, to",
        "transformers 4.57.6: modeling_utils.py, to",
        "diffusers#12972",
        "transformers#43258",
        "bitsandbytes#1769",
    ],
    evidence="source",
)


@entry.reproduce
def _(FOLDER):
    import torch
    from diffusers import BitsAndBytesConfig, SanaTransformer2DModel

    transformer = SanaTransformer2DModel.from_pretrained(
        FOLDER,
        subfolder="transformer",
        quantization_config=BitsAndBytesConfig(load_in_8bit=True),
        torch_dtype=torch.float16,
    )
    transformer.to("cuda")


entry.fix("Do not move it: it is on the GPU since it was loaded. To be able to, upgrade the three.", command=_UPGRADE)

entry = FAMILY.failure(
    id="8bit-move-needs-bitsandbytes-0-48",
    title="New libraries with an old bitsandbytes: 8-bit models cannot move",
    error="ValueError",
    pattern=r"(?:Calling (?:to|cuda)\(\) is not supported for 8-bit quantized models with the installed version of "
    r"bitsandbytes|if you want to move a 8-bit model across devices using to)",
    messages={
        "diffusers 0.37.1": "ValueError: Calling `to()` is not supported for `8-bit` quantized models with the "
        "installed version of bitsandbytes. The current device is `cuda:0`. If you intended to move the model, please "
        "install bitsandbytes >= 0.48.0.",
        "transformers 5.2.0": "ValueError: You need to install `pip install bitsandbytes>=0.48.0` if you want to move "
        "a 8-bit model across devices using to().",
    },
    cause="diffusers 0.37 and transformers 5 allow the move and look at the version of bitsandbytes, which can do it "
    "from 0.48 on. The two libraries say the same in different words.",
    affects=[
        {"diffusers": ">=0.37", "bitsandbytes": "<0.48"},
        {"transformers": ">=5", "bitsandbytes": "<0.48"},
    ],
    references=["diffusers 0.37.1: models/modeling_utils.py, to", "transformers 5.2.0: modeling_utils.py, to"],
    evidence="source",
)
entry.fix(
    "Upgrade bitsandbytes; 0.48.0 and 0.48.1 have a fault of their own.",
    command="pip install -U 'bitsandbytes>=0.48.2'",
)

entry = FAMILY.failure(
    id="8bit-load-calls-to",
    title="The 8-bit transformer cannot be loaded: `from_pretrained` itself raises about `.to`",
    error="ValueError",
    pattern=r"\.to is not supported for (?:4-bit or )?8-bit bitsandbytes models",
    wants=r"dispatch_model",
    alike=["8bit-model-cannot-move"],
    messages={
        "diffusers 0.36.0": '  File "accelerate/big_modeling.py", line 505, in dispatch_model\n    model.to(device)\n'
        "ValueError: `.to` is not supported for `8-bit` bitsandbytes models. Please use the model "
        "as it is, since the model has already been set to the correct devices and casted to the correct `dtype`.",
    },
    cause="accelerate 1.13 no longer hangs hooks on 8-bit models; it calls `model.to(device)` at the end of loading "
    "instead. diffusers up to 0.36 refuses that call. pip allows the pair, so half an upgrade breaks loading.",
    affects={"diffusers": "<0.37", "accelerate": ">=1.13", "bitsandbytes": ">=0.48"},
    references=["diffusers#12972", "accelerate#3907", "diffusers 0.36.0: models/modeling_utils.py, to"],
    evidence="source",
)
entry.fix("Upgrade diffusers, too.", command="pip install -U 'diffusers>=0.37'")
entry.fix("Or stay with the old pair.", command="pip install 'accelerate<1.13' 'diffusers<0.37'")

entry = FAMILY.failure(
    id="8bit-module-skipped-by-pipeline-to",
    title="`pipe.to()` or offloading leaves the 8-bit modules where they are",
    shows="warning",
    pattern=r"has been loaded in bitsandbytes 8bit and moving it to \S+ via \.to\(\) is not supported",
    messages={
        "diffusers 0.36.0": "The module 'SanaTransformer2DModel' has been loaded in `bitsandbytes` 8bit and moving it "
        "to cpu via `.to()` is not supported. Module is still on cuda:0.",
        "diffusers 0.37.1": "The module 'SanaTransformer2DModel' has been loaded in `bitsandbytes` 8bit and moving it "
        "to cpu via `.to()` is not supported. Module is still on cuda:0.You need to upgrade bitsandbytes to at least "
        "0.48.0",
    },
    cause="A pipeline skips 8-bit modules when it moves, with this line in the log. What follows is either memory that "
    "was meant to be free and is not, or a device mismatch in the next call.",
    affects=[{"diffusers": "<0.37"}, {"bitsandbytes": "<0.48"}],
    references=["diffusers#10653", "diffusers 0.36.0: pipelines/pipeline_utils.py, to"],
    evidence="source",
)
entry.fix("Upgrade; or keep the 8-bit modules on the GPU and offload only the others.", command=_UPGRADE)

entry = FAMILY.failure(
    id="8bit-pipeline-moves-in-part",
    title="`pipe.to()` moves the autoencoder and, in silence, not the 8-bit modules",
    shows="output",
    pattern=r"moved: vae; not moved: text_encoder, transformer",
    messages={"what a check would show": "moved: vae; not moved: text_encoder, transformer"},
    cause="diffusers moves an 8-bit module only with transformers ≥ 5, and warns only with bitsandbytes < 0.48. With "
    "transformers 4.57 and a new bitsandbytes neither happens.",
    affects={"diffusers": ">=0.37", "transformers": "<5", "bitsandbytes": ">=0.48"},
    references=["diffusers 0.37.1: pipelines/pipeline_utils.py, to"],
    evidence="source",
)
entry.fix("Upgrade transformers.", command="pip install -U 'transformers>=5'")

entry = FAMILY.failure(
    id="8bit-garbage-after-move",
    title="8-bit layers draw garbage after a trip to the CPU and back",
    shows="output",
    pattern=r"relative error of an 8-bit layer after a round trip: (?!0\.0)",
    messages={"what a check would show": "relative error of an 8-bit layer after a round trip: 1.00"},
    cause="Before 0.48 `Int8Params.to()` quantized what was quantized already, and the layer's state kept the old "
    "scales on the GPU. This is the reason why diffusers and transformers refused to move 8-bit models at all.",
    affects={"bitsandbytes": "<0.48"},
    references=["bitsandbytes#1332", "bitsandbytes#1769"],
    evidence="report",
)
entry.fix("Upgrade bitsandbytes.", command="pip install -U 'bitsandbytes>=0.48.2'")

# ---- casting ----------------------------------------------------------------------------------------------------

entry = FAMILY.failure(
    id="8bit-text-encoder-cast",
    title="The usual line `pipe.text_encoder.to(torch.bfloat16)` fails on an 8-bit encoder",
    error="ValueError",
    pattern=r"You cannot cast a bitsandbytes model in a new dtype",
    messages={
        "diffusers 0.31.0": "ValueError: You cannot cast a bitsandbytes model in a new `dtype`. Make sure to load the "
        "model using `from_pretrained` using the desired `dtype` by passing the correct `torch_dtype` argument.",
        "transformers 5.23.0": "ValueError: You cannot cast a bitsandbytes model in a new `dtype`. Make sure to load "
        "the model using `from_pretrained` using the desired `dtype` by passing the correct `dtype` argument.",
    },
    cause="The 8-bit weights have no floating type to cast to, and the layers around them were given theirs while "
    "loading. Sana's documentation wants the text encoder in bfloat16 in one place and loads it in float16 in another, "
    "so the line is often added afterwards.",
    references=["transformers 5.23.0: modeling_utils.py, to", "diffusers 0.31.0: models/modeling_utils.py, to"],
)


@entry.reproduce
def _(FOLDER, EIGHT_BIT):
    import torch
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(FOLDER, quantization_config=EIGHT_BIT, dtype=torch.float16)
    pipe.text_encoder.to(torch.bfloat16)


@entry.fix("Say the type while loading, for each component where they differ.")
def _(FOLDER, EIGHT_BIT):
    import torch
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(
        FOLDER, quantization_config=EIGHT_BIT, dtype={"default": torch.bfloat16, "transformer": torch.float16}
    )
    print(pipe.text_encoder.dtype, pipe.transformer.dtype, pipe.vae.dtype)


entry = FAMILY.failure(
    id="8bit-transformer-cast",
    title="`transformer.to(torch.bfloat16)` fails on an 8-bit transformer",
    error="ValueError",
    pattern=r"Casting a quantized model to a new dtype is unsupported",
    messages={
        "diffusers 0.42.1": "ValueError: Casting a quantized model to a new `dtype` is unsupported. To set the dtype "
        "of unquantized layers, please use the `torch_dtype` argument when loading the model using `from_pretrained` "
        "or `from_single_file`",
    },
    cause="diffusers' guard for all quantized models. It fires for a type beside a device as well, as in "
    '`.to("cuda", torch.bfloat16)`.',
    affects={"diffusers": ">=0.32"},
    references=["diffusers 0.42.1: models/modeling_utils.py, to"],
)


@entry.reproduce
def _(FOLDER):
    import torch
    from diffusers import BitsAndBytesConfig, SanaTransformer2DModel

    transformer = SanaTransformer2DModel.from_pretrained(
        FOLDER, subfolder="transformer", quantization_config=BitsAndBytesConfig(load_in_8bit=True), dtype=torch.float16
    )
    transformer.to("cuda", torch.bfloat16)


@entry.fix("Give the type to `from_pretrained`; it is that of the layers that stay in 16 bits.")
def _(FOLDER):
    import torch
    from diffusers import BitsAndBytesConfig, SanaTransformer2DModel

    transformer = SanaTransformer2DModel.from_pretrained(
        FOLDER, subfolder="transformer", quantization_config=BitsAndBytesConfig(load_in_8bit=True), dtype=torch.bfloat16
    )
    transformer.to("cuda")


entry = FAMILY.failure(
    id="8bit-half-or-float",
    title="`.half()` or `.float()` on an 8-bit model",
    error="ValueError",
    pattern=r"\.(?:half|float)\(\) is not supported for quantized model",
    messages={
        "diffusers 0.42.1": "ValueError: `.float()` is not supported for quantized model. Please use the model as it "
        "is, since the model has already been cast to the correct `dtype`.",
        "transformers 5.23.0": "ValueError: `.half()` is not supported for quantized model. Please use the model as it "
        "is, since the model has already been casted to the correct `dtype`.",
    },
    cause="The same guard as for `.to(dtype)`, in the two methods that name a type in their own name. There is no way "
    "to get the old weights back but to load them again: what was rounded is gone.",
    references=["diffusers 0.42.1: models/modeling_utils.py, float", "transformers 5.23.0: modeling_utils.py, half"],
)


@entry.reproduce
def _(FOLDER, EIGHT_BIT):
    import torch
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(FOLDER, quantization_config=EIGHT_BIT, dtype=torch.float16)
    pipe.transformer.float()


@entry.fix(
    "`dequantize()` gives 16-bit layers with the rounded weights, which can be cast. To save it, see "
    "`dequantized-model-cannot-be-loaded`."
)
def _(FOLDER, EIGHT_BIT):
    import torch
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(FOLDER, quantization_config=EIGHT_BIT, dtype=torch.float16)
    pipe.transformer.dequantize()
    pipe.transformer.float()


entry = FAMILY.failure(
    id="8bit-pipeline-cast-ignored",
    title="`pipe.to(torch.bfloat16)` casts only what is not quantized",
    shows="warning",
    pattern=r"loaded in bitsandbytes [48]bit and conversion to \S+ is not supported",
    messages={
        "diffusers 0.42.1": "The module 'SanaTransformer2DModel' has been loaded in `bitsandbytes` 8bit and conversion "
        "to torch.bfloat16 is not supported. Module is still in 8bit precision.",
    },
    cause="A pipeline does not raise as its models do: it writes a line and casts the rest. The 16-bit layers inside "
    "the 8-bit models keep their type, so the pipeline is a mixture afterwards.",
    affects={"diffusers": ">=0.31"},
    references=["diffusers 0.42.1: pipelines/pipeline_utils.py, to"],
)


@entry.reproduce
def _(FOLDER, EIGHT_BIT):
    import torch
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(FOLDER, quantization_config=EIGHT_BIT, dtype=torch.float16)
    pipe.to("cuda", torch.bfloat16)


@entry.fix("Say the type once, while loading.")
def _(FOLDER, EIGHT_BIT):
    import torch
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(FOLDER, quantization_config=EIGHT_BIT, dtype=torch.bfloat16)
    pipe.to("cuda")
