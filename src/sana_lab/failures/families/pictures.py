"""Black, noisy and missing pictures, and calls that Sana's pipelines refuse."""

from __future__ import annotations

from ..entry import Family

FAMILY = Family(
    "pictures",
    "Black pictures, and calls that Sana refuses",
    "The program runs to its end and the picture is black; or the pipeline looks at its arguments and declines.",
    section="chapter-still-draws",
)

entry = FAMILY.failure(
    id="black-picture",
    title="The picture is black: `invalid value encountered in cast`",
    shows="warning",
    pattern=r"invalid value encountered in cast|\b[Bb]lack (?:image|picture|output)s?\b",
    chinese=["黑图", "全黑", "黑色图片", "生成黑图", "图片是黑的", "图像全黑", "全是黑的"],
    gpus=0,
    messages={
        "diffusers#6815": "RuntimeWarning: invalid value encountered in cast\n"
        '  images = (images * 255).round().astype("uint8")',
        "diffusers 0.42.1": "RuntimeWarning: invalid value encountered in cast",
    },
    cause="The decoded picture holds NaN, which becomes 0 when it is turned into bytes. With Sana it comes from "
    "float16: "
    "the text encoder or the autoencoder passes 65504, and so does a transformer whose checkpoint is a bfloat16 one. "
    "8-bit layers keep the type that was given while loading, so `dtype=torch.float16` reaches all of them.",
    references=["diffusers#6815", "diffusers#10336", "diffusers 0.42.1: image_processor.py, numpy_to_pil"],
)


@entry.reproduce
def _():
    import torch
    from diffusers.image_processor import VaeImageProcessor

    decoded = torch.full((1, 3, 8, 8), 7e4).half()  # beyond 65504: infinite
    decoded = decoded - decoded  # infinite minus infinite: NaN
    VaeImageProcessor().postprocess(decoded)


@entry.fix("Compute in bfloat16, which has float32's range; text encoder and autoencoder need it in any case.")
def _():
    import torch
    from diffusers.image_processor import VaeImageProcessor

    decoded = torch.full((1, 3, 8, 8), 7e4).bfloat16()
    decoded = decoded - decoded
    VaeImageProcessor().postprocess(decoded)


entry = FAMILY.failure(
    id="autoencoder-overflows-in-float16",
    title="The autoencoder in float16 decodes large latents to NaN",
    shows="output",
    pattern=r"any NaN in the decoded picture: True",
    chinese=["黑图", "解码出现NaN", "半精度溢出"],
    messages={"diffusers 0.42.1": "any NaN in the decoded picture: True"},
    cause="Float16 ends at 65504. A value beyond it is infinite, and a normalization or a product makes NaN of it, "
    "which "
    "spreads over the picture. bfloat16 has float32's range and fewer digits, which pictures do not miss.",
    references=["diffusers#10336", "diffusers 0.42.1: models/autoencoders/autoencoder_dc.py"],
)


@entry.reproduce
def _(FOLDER):
    import torch
    from diffusers import AutoencoderDC

    vae = AutoencoderDC.from_pretrained(FOLDER, subfolder="vae", dtype=torch.float16).to("cuda")
    latents = torch.full((1, 32, 2, 2), 6e4, dtype=torch.float16, device="cuda")
    print("any NaN in the decoded picture:", vae.decode(latents).sample.isnan().any().item())


@entry.fix("Load it in bfloat16. It is never quantized, so it can also be cast later: `pipe.vae.to(torch.bfloat16)`.")
def _(FOLDER):
    import torch
    from diffusers import AutoencoderDC

    vae = AutoencoderDC.from_pretrained(FOLDER, subfolder="vae", dtype=torch.bfloat16).to("cuda")
    latents = torch.full((1, 32, 2, 2), 6e4, dtype=torch.bfloat16, device="cuda")
    print("any NaN in the decoded picture:", vae.decode(latents).sample.isnan().any().item())


entry = FAMILY.failure(
    id="probabilities-are-nan",
    title="`probability tensor contains either inf, nan or element < 0`",
    error="RuntimeError",
    pattern=r"probability tensor contains either inf, nan or element < 0",
    chinese=["概率出现NaN", "采样报错"],
    gpus=0,
    messages={
        "oobabooga/textgen#200": "RuntimeError: probability tensor contains either `inf`, `nan` or element < 0",
        "torch 2.13.0": "RuntimeError: probability tensor contains either `inf`, `nan` or element < 0",
    },
    cause="A language model that draws its next token got NaN for a probability. The logits overflowed float16: the "
    "layers around the 8-bit ones are in float16 unless another type is given, and some models were trained beyond its "
    "range.",
    references=["pytorch 2.13.0: aten/src/ATen/native/Distributions.cpp"],
)


@entry.reproduce
def _():
    import torch

    logits = torch.tensor([7e4, 1.0]).half()
    torch.multinomial(torch.softmax(logits.float(), 0), 1)


@entry.fix("Load with `dtype=torch.bfloat16`.")
def _():
    import torch

    logits = torch.tensor([7e4, 1.0]).bfloat16()
    torch.multinomial(torch.softmax(logits.float(), 0), 1)


# ---- arguments --------------------------------------------------------------------------------------------------

entry = FAMILY.failure(
    id="sprint-with-four-steps",
    title="SANA-Sprint with another number of steps than two",
    error="ValueError",
    pattern=r"Intermediate timesteps for SCM is not supported when num_inference_steps != 2",
    messages={
        "diffusers 0.42.1": "ValueError: Intermediate timesteps for SCM is not supported when num_inference_steps "
        "!= 2.",
    },
    cause="The pipeline's default `intermediate_timesteps=1.3` says where the second of two steps begins. With any "
    "other "
    "number of steps it has no meaning, and must be taken away by hand.",
    affects={"diffusers": ">=0.33"},
    references=["diffusers#11136", "diffusers#13614", "diffusers 0.42.1: pipelines/sana/pipeline_sana_sprint.py"],
)


@entry.reproduce
def _(FOLDER):
    import torch
    from diffusers import SanaSprintPipeline, SCMScheduler

    pipe = SanaSprintPipeline.from_pretrained(FOLDER, scheduler=SCMScheduler(), dtype=torch.bfloat16).to("cuda")
    pipe("a red star", num_inference_steps=4, height=64, width=64, use_resolution_binning=False)


@entry.fix("Say `intermediate_timesteps=None`, or take two steps.")
def _(FOLDER):
    import torch
    from diffusers import SanaSprintPipeline, SanaTransformer2DModel, SCMScheduler

    config = SanaTransformer2DModel.load_config(FOLDER, subfolder="transformer")  # Sprint's has guidance inside
    sprint = SanaTransformer2DModel.from_config({**config, "guidance_embeds": True}).to(torch.bfloat16)
    parts = {"transformer": sprint, "scheduler": SCMScheduler()}
    pipe = SanaSprintPipeline.from_pretrained(FOLDER, **parts, dtype=torch.bfloat16).to("cuda")
    few = {"height": 64, "width": 64, "use_resolution_binning": False}
    pipe("a red star", num_inference_steps=4, intermediate_timesteps=None, **few)


entry = FAMILY.failure(
    id="sprint-pipeline-for-sana",
    title="The Sprint pipeline with the scheduler of a Sana that is no Sprint",
    error="TypeError",
    pattern=r"set_timesteps\(\) got an unexpected keyword argument 'max_timesteps'",
    messages={
        "Sana#254": "TypeError: set_timesteps() got an unexpected keyword argument 'max_timesteps'",
        "diffusers 0.42.1": "TypeError: DPMSolverMultistepScheduler.set_timesteps() got an unexpected keyword argument "
        "'max_timesteps'",
    },
    cause="`SanaSprintPipeline` loads any Sana folder and takes the scheduler that is in it. Only Sprint's own, "
    "`SCMScheduler`, knows this argument; and only Sprint's weights can draw in two steps.",
    affects={"diffusers": ">=0.33"},
    references=["Sana#254", "diffusers 0.42.1: pipelines/sana/pipeline_sana_sprint.py, retrieve_timesteps"],
)


@entry.reproduce
def _(FOLDER):
    import torch
    from diffusers import SanaSprintPipeline

    pipe = SanaSprintPipeline.from_pretrained(FOLDER, dtype=torch.bfloat16).to("cuda")
    pipe("a red star", num_inference_steps=2, height=64, width=64, use_resolution_binning=False)


@entry.fix("Use the pipeline that fits the folder: `SanaPipeline`, or `DiffusionPipeline`, which reads it from there.")
def _(FOLDER, SMALL):
    import torch
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(FOLDER, dtype=torch.bfloat16).to("cuda")
    pipe("a red star", **SMALL)


entry = FAMILY.failure(
    id="scheduler-without-own-schedule",
    title="`set_timesteps` does not support custom timesteps or sigmas",
    error="ValueError",
    pattern=r"set_timesteps does not support custom (?:timesteps?|sigmas) schedules",
    messages={
        "diffusers 0.42.1": "ValueError: The current scheduler class <class 'diffusers.schedulers."
        "scheduling_dpmsolver_multistep.DPMSolverMultistepScheduler'>'s `set_timesteps` does not support custom sigmas "
        "schedules. Please check whether you are using the correct scheduler.",
    },
    cause="The pipeline hands `sigmas` or `timesteps` on to its scheduler and looks at its signature first. Sana's "
    "scheduler takes no sigmas; the flow-matching Euler scheduler does.",
    references=["diffusers 0.42.1: pipelines/sana/pipeline_sana.py, retrieve_timesteps"],
)


@entry.reproduce
def _(FOLDER):
    import torch
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(FOLDER, dtype=torch.bfloat16).to("cuda")
    pipe("a red star", sigmas=[1.0, 0.5], height=64, width=64, use_resolution_binning=False)


@entry.fix("Exchange the scheduler, or give the number of steps instead.")
def _(FOLDER):
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler, SanaPipeline

    pipe = SanaPipeline.from_pretrained(FOLDER, dtype=torch.bfloat16).to("cuda")
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipe("a red star", sigmas=[1.0, 0.5], height=64, width=64, use_resolution_binning=False)


entry = FAMILY.failure(
    id="size-not-a-multiple-of-32",
    title="`height` and `width` have to be divisible by 32",
    error="ValueError",
    pattern=r"height and width have to be divisible by \d+ but are",
    chinese=["分辨率必须是32的倍数", "图片尺寸报错"],
    messages={
        "diffusers 0.42.1": "ValueError: `height` and `width` have to be divisible by 32 but are 1000 and 1000.",
    },
    cause="The autoencoder makes 32 × 32 pixels of every latent, so sizes are multiples of 32. With "
    "`use_resolution_binning`, the default, the pipeline takes the nearest size that it was trained on and cuts the "
    "picture; without it the size must fit.",
    references=["diffusers 0.42.1: pipelines/sana/pipeline_sana.py, check_inputs"],
)


@entry.reproduce
def _(FOLDER):
    import torch
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(FOLDER, dtype=torch.bfloat16).to("cuda")
    pipe("a red star", num_inference_steps=1, height=100, width=100, use_resolution_binning=False)


@entry.fix("Round to a multiple of 32.")
def _(FOLDER):
    import torch
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(FOLDER, dtype=torch.bfloat16).to("cuda")
    side = round(100 / 32) * 32
    pipe("a red star", num_inference_steps=1, height=side, width=side, use_resolution_binning=False)


entry = FAMILY.failure(
    id="embeddings-without-mask",
    title="`prompt_embeds` without `prompt_attention_mask`",
    error="ValueError",
    pattern=r"Must provide (?:negative_)?prompt_attention_mask when specifying (?:negative_)?prompt_embeds",
    messages={
        "diffusers 0.42.1": "ValueError: Must provide `prompt_attention_mask` when specifying `prompt_embeds`.",
    },
    cause="Encoding once and drawing often saves the text encoder, and `encode_prompt` returns four things: embeddings "
    "and mask of the prompt, and of the negative prompt. The pipeline wants each pair whole.",
    references=["diffusers 0.42.1: pipelines/sana/pipeline_sana.py, check_inputs"],
)


@entry.reproduce
def _(FOLDER, SMALL):
    import torch
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(FOLDER, dtype=torch.bfloat16).to("cuda")
    embeds, mask, no_embeds, no_mask = pipe.encode_prompt("a red star", device="cuda")
    pipe(prompt=None, negative_prompt=None, prompt_embeds=embeds, negative_prompt_embeds=no_embeds, **SMALL)


@entry.fix("Hand over all four, and `negative_prompt=None`, whose default is not.")
def _(FOLDER, SMALL):
    import torch
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(FOLDER, dtype=torch.bfloat16).to("cuda")
    embeds, mask, no_embeds, no_mask = pipe.encode_prompt("a red star", device="cuda")
    pipe(
        prompt=None,
        negative_prompt=None,
        prompt_embeds=embeds,
        prompt_attention_mask=mask,
        negative_prompt_embeds=no_embeds,
        negative_prompt_attention_mask=no_mask,
        **SMALL,
    )


entry = FAMILY.failure(
    id="as-many-generators-as-pictures",
    title="A list of generators of another length than the batch",
    error="ValueError",
    pattern=r"passed a list of generators of length \d+, but requested an effective batch size of \d+",
    messages={
        "diffusers 0.42.1": "ValueError: You have passed a list of generators of length 2, but requested an effective "
        "batch size of 1. Make sure the batch size matches the length of the generators.",
    },
    cause="A list gives each picture a seed of its own, and the batch is prompts times `num_images_per_prompt`. One "
    "generator that is not in a list serves for all.",
    references=["diffusers 0.42.1: pipelines/sana/pipeline_sana.py, prepare_latents"],
)


@entry.reproduce
def _(FOLDER, SMALL):
    import torch
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(FOLDER, dtype=torch.bfloat16).to("cuda")
    pipe("a red star", generator=[torch.Generator().manual_seed(n) for n in range(2)], **SMALL)


@entry.fix("One for each picture.")
def _(FOLDER, SMALL):
    import torch
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(FOLDER, dtype=torch.bfloat16).to("cuda")
    seeds = [torch.Generator().manual_seed(n) for n in range(2)]
    pipe("a red star", num_images_per_prompt=len(seeds), generator=seeds, **SMALL)


entry = FAMILY.failure(
    id="slicing-moved-to-the-autoencoder",
    title="`'SanaPipeline' object has no attribute 'enable_vae_slicing'`",
    error="AttributeError",
    pattern=r"'Sana\w*Pipeline' object has no attribute '(?:en|dis)able_vae_(?:slicing|tiling)'",
    messages={
        "diffusers 0.42.1": "AttributeError: 'SanaPipeline' object has no attribute 'enable_vae_slicing'",
    },
    cause="Slicing and tiling are the autoencoder's business. Up to 0.35 the pipeline had methods of its own for them, "
    "0.36 said that they would go, and 0.40 has them no more.",
    affects={"diffusers": ">=0.40"},
    references=["diffusers 0.36.0: pipelines/sana/pipeline_sana.py, enable_vae_slicing"],
)


@entry.reproduce
def _(FOLDER):
    import torch
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(FOLDER, dtype=torch.bfloat16)
    pipe.enable_vae_slicing()


@entry.fix("Ask the autoencoder; this works on every version.")
def _(FOLDER):
    import torch
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(FOLDER, dtype=torch.bfloat16)
    pipe.vae.enable_slicing()
    pipe.vae.enable_tiling()


# ---- other versions and machines --------------------------------------------------------------------------------

entry = FAMILY.failure(
    id="slices-are-tensors-already",
    title="Slicing and several pictures: `'Tensor' object has no attribute 'sample'`",
    error="AttributeError",
    pattern=r"'Tensor' object has no attribute 'sample'",
    wants=r"autoencoder_dc\.py|decoded_slices|enable_(?:vae_)?slicing",
    messages={
        "diffusers#12338": '  File "diffusers/models/autoencoders/autoencoder_dc.py", line 607, in decode\n'
        "    decoded_slices = [self._decode(z_slice).sample for z_slice in z.split(1)]\nAttributeError: 'Tensor' "
        "object "
        "has no attribute 'sample'",
    },
    cause="With slicing the autoencoder decodes one picture after the other, and took from each the attribute of an "
    "object that it had not made. A single picture does not go that way, hence the surprise.",
    affects={"diffusers": "<0.36"},
    references=["diffusers#12338", "diffusers 0.33.1: models/autoencoders/autoencoder_dc.py, decode"],
    evidence="source",
)
entry.fix("Upgrade; or decode without slicing.", command="pip install -U 'diffusers>=0.36'")

entry = FAMILY.failure(
    id="tiling-with-sequential-offload",
    title="Tiling and sequential offloading: `Tensor.item() cannot be called on meta tensors`",
    error="RuntimeError",
    pattern=r"Tensor\.item\(\) cannot be called on meta tensors",
    messages={"diffusers#10590": "RuntimeError: Tensor.item() cannot be called on meta tensors"},
    cause="Sequential offloading leaves shells without data on the meta device between two layers. Code between them "
    "that asks a parameter for its value gets nothing; DC-AE's tiled decoding did so.",
    affects={"diffusers": "<0.33"},
    references=["diffusers#10590"],
    evidence="report",
)
entry.fix("Offload whole components instead; tiling goes with that.", command="pipe.enable_model_cpu_offload()")

entry = FAMILY.failure(
    id="sana-grey-on-a-mac",
    title="Sana on a Mac: grey pictures on `mps`, NaN on the CPU",
    shows="output",
    pattern=r"on mps the picture is one grey: True",
    chinese=["Mac生成灰图", "灰图"],
    messages={"what a check would show": "on mps the picture is one grey: True"},
    cause="The mixed recipe of the documentation, a float16 transformer between parts in bfloat16 and float32, left "
    "the "
    "range of float16 on Apple's backend and on the CPU. diffusers clamps the values for float16 only, and only in "
    "one attention processor.",
    affects={"diffusers": "<0.33"},
    references=["diffusers#10334", "diffusers#10336"],
    evidence="report",
)
entry.fix("Take a checkpoint in bfloat16 and load all of it so.", command="pip install -U 'diffusers>=0.33'")
