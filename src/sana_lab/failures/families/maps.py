"""Device maps of pipelines."""

from __future__ import annotations

from ..entry import Family

FAMILY = Family(
    "device-maps",
    "Device maps",
    "A device map hands placement to the library. It excludes placing by hand, and its plan is not always what "
    "happened.",
    section="device-map-what",
)

entry = FAMILY.failure(
    id="pipeline-to-with-device-map",
    section="device-map-conflict",
    title='`pipe.to("cuda")` after `device_map="balanced"`',
    error="ValueError",
    pattern=r"activated a device mapping strategy on the pipeline which doesn't allow explicit device placement",
    messages={
        "diffusers 0.42.1": "ValueError: It seems like you have activated a device mapping strategy on the pipeline "
        "which doesn't allow explicit device placement using `to()`. You can call `reset_device_map()` to remove the "
        "existing device map from the pipeline.",
    },
    cause='`device_map="balanced"` has placed every component and hung hooks on them that move tensors along; '
    "`.to()` would undo both. Published copies of Sana's 8-bit recipe end in this very pair of lines. The check fires "
    "only if the map has more than one entry, so the same mistake can also pass in silence.",
    affects={"diffusers": ">=0.28"},
    references=["diffusers 0.42.1: pipelines/pipeline_utils.py, to", "diffusers#6857", "Sana#241"],
)


@entry.reproduce
def _(FOLDER, EIGHT_BIT):
    import torch
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(
        FOLDER, quantization_config=EIGHT_BIT, dtype=torch.bfloat16, device_map="balanced"
    )
    pipe.to("cuda")


@entry.fix("Leave out `.to()`: the map has placed everything.")
def _(FOLDER, EIGHT_BIT, SMALL):
    import torch
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(
        FOLDER, quantization_config=EIGHT_BIT, dtype=torch.bfloat16, device_map="balanced"
    )
    pipe("a red star", **SMALL)


@entry.fix("Or leave out the map, and move the pipeline: the 8-bit parts are there already, and the rest follows.")
def _(FOLDER, EIGHT_BIT, SMALL):
    import torch
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(FOLDER, quantization_config=EIGHT_BIT, dtype=torch.bfloat16)
    pipe.to("cuda")
    pipe("a red star", **SMALL)


entry = FAMILY.failure(
    id="pipeline-to-with-cuda-map",
    section="device-map-conflict",
    title='`.to()` after `device_map="cuda"` moves the pipeline and leaves the map',
    shows="output",
    pattern=r"map says cuda, transformer is on cpu",
    messages={"diffusers 0.42.1": "map says cuda, transformer is on cpu"},
    cause="The guard against `.to()` on a mapped pipeline asks for a map with more than one entry. "
    '`device_map="cuda"` leaves a string and passes; up to diffusers 0.36 the length of the string was taken, '
    "and it raised. Afterwards `hf_device_map` still tells the old story.",
    affects={"diffusers": ">=0.37"},
    references=["diffusers 0.42.1: pipelines/pipeline_utils.py, _is_pipeline_device_mapped", "diffusers#12811"],
)


@entry.reproduce
def _(FOLDER):
    import torch
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(FOLDER, dtype=torch.bfloat16, device_map="cuda")
    pipe.to("cpu")
    print(f"map says {pipe.hf_device_map}, transformer is on {pipe.transformer.device}")


@entry.fix("Take the map away first, then move; and ask the parameters, not the map, where things are.")
def _(FOLDER):
    import torch
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(FOLDER, dtype=torch.bfloat16, device_map="cuda")
    pipe.reset_device_map()
    pipe.to("cpu")
    print(f"map says {pipe.hf_device_map}, transformer is on {pipe.transformer.device}")


entry = FAMILY.failure(
    id="reset-device-map-leaves-cpu",
    section="device-map-reset",
    title="After `reset_device_map()` all is on the CPU, and an 8-bit pipeline cannot be called",
    shows="output",
    pattern=r"after the reset: cpu",
    messages={"diffusers 0.42.1": "after the reset: cpu, a call works: False"},
    chinese=["reset_device_map之后变慢", "重置设备映射"],
    cause="`reset_device_map()` removes the hooks and moves every component to the CPU, 8-bit ones too where they can "
    "move, and puts nothing back on a GPU. The codes that an 8-bit layer computes with stay behind on the GPU, so the "
    "next call raises; a pipeline in 16 bits runs on the CPU, many times slower.",
    affects={"diffusers": ">=0.37", "transformers": ">=5", "bitsandbytes": ">=0.48"},
    references=["diffusers 0.42.1: pipelines/pipeline_utils.py, reset_device_map"],
)


@entry.reproduce
def _(FOLDER, EIGHT_BIT, SMALL):
    import torch
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(
        FOLDER, quantization_config=EIGHT_BIT, dtype=torch.bfloat16, device_map="balanced"
    )
    pipe.reset_device_map()
    works = True
    try:
        pipe("a red star", **SMALL)
    except (RuntimeError, ValueError):
        works = False
    print(f"after the reset: {pipe.device}, a call works: {works}")


@entry.fix('Follow it with `.to("cuda")`.')
def _(FOLDER, EIGHT_BIT, SMALL):
    import torch
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(
        FOLDER, quantization_config=EIGHT_BIT, dtype=torch.bfloat16, device_map="balanced"
    )
    pipe.reset_device_map()
    pipe.to("cuda")
    pipe("a red star", **SMALL)
    print("after the reset:", pipe.device)


entry = FAMILY.failure(
    id="pipeline-device-map-auto",
    title='`device_map="auto"` or `"cuda:0"` on a pipeline',
    error="NotImplementedError",
    pattern=r"not supported\. Supported strategies are: balanced",
    messages={
        "diffusers 0.31.0": "NotImplementedError: auto not supported. Supported strategies are: balanced",
        "diffusers 0.36.0": "NotImplementedError: auto not supported. Supported strategies are: balanced, cuda",
        "diffusers 0.42.1": "NotImplementedError: auto not supported. Supported strategies are: balanced, cuda, cpu",
        "diffusers 0.42.1, no GPU": "NotImplementedError: cuda:0 not supported. Supported strategies are: balanced, "
        "cpu, cpu",
    },
    cause='`"auto"` belongs to single models, in diffusers and transformers. Pipelines know `"balanced"`, from 0.35 on '
    'also `"cuda"` and from 0.37 on `"cpu"`; a device with an index is not among them. diffusers\' own page on '
    'bitsandbytes shows `device_map="auto"` on a pipeline.',
    affects={"diffusers": ">=0.28"},
    references=["diffusers#11555", "diffusers#12122", "diffusers 0.42.1: pipelines/pipeline_utils.py, from_pretrained"],
)


@entry.reproduce
def _(FOLDER):
    import torch
    from diffusers import SanaPipeline

    SanaPipeline.from_pretrained(FOLDER, dtype=torch.bfloat16, device_map="auto")


@entry.fix('`"balanced"` spreads components over GPUs, `"cuda"` puts all on one.')
def _(FOLDER):
    import torch
    from diffusers import SanaPipeline

    SanaPipeline.from_pretrained(FOLDER, dtype=torch.bfloat16, device_map="balanced")


entry = FAMILY.failure(
    id="pipeline-device-map-dict",
    title="A dictionary as the device map of a pipeline",
    error="ValueError",
    pattern=r"device_map must be a string",
    messages={"diffusers 0.42.1": "ValueError: `device_map` must be a string."},
    cause="Only models take a dictionary, from module names to devices. A pipeline takes the name of a strategy and "
    "works out its own map from the sizes of the components.",
    affects={"diffusers": ">=0.28"},
    references=["diffusers 0.42.1: pipelines/pipeline_utils.py, from_pretrained"],
)


@entry.reproduce
def _(FOLDER):
    import torch
    from diffusers import SanaPipeline

    SanaPipeline.from_pretrained(FOLDER, dtype=torch.bfloat16, device_map={"transformer": 0, "text_encoder": 0})


@entry.fix("Steer the strategy with `max_memory`: what each device may hold.")
def _(FOLDER):
    import torch
    from diffusers import SanaPipeline

    SanaPipeline.from_pretrained(FOLDER, dtype=torch.bfloat16, device_map="balanced", max_memory={0: "8GB"})


entry = FAMILY.failure(
    id="passed-component-not-in-map",
    section="two-devices-ways",
    title="A component that was passed in is not placed by the device map",
    error="RuntimeError",
    pattern=r"Input type \((?:torch\.cuda\.\w+|CUDA\w+)\) and weight type \((?:torch\.(?!cuda)\w+|CPU\w+)\) should be "
    r"the same|Expected all tensors to be on the same device",
    wants=r"device_map ?= ?[\"'](?:balanced|cuda|auto)",
    alike=["convolution-on-two-devices", "autoencoder-left-on-cpu", "tensors-on-two-devices"],
    chinese=["传入的组件没有移到GPU", "设备不匹配"],
    messages={
        "diffusers#9450": "    pipe = FluxPipeline.from_pretrained(repo, transformer=transformer, "
        'device_map="balanced")\n'
        "RuntimeError: Expected all tensors to be on the same device, but found at least two devices, cuda:1 and "
        "cuda:0! (when checking argument for argument mat1 in method wrapper_CUDA_addmm)",
        "torch 2.13.0": '    SanaPipeline.from_pretrained(FOLDER, vae=vae, device_map="balanced")("a red star")\n'
        '  File "diffusers/models/autoencoders/autoencoder_dc.py", line 573, in decode\nRuntimeError: Input type '
        "(CUDABFloat16Type) and weight type (CPUBFloat16Type) should be the "
        "same",
    },
    cause="`device_map` is applied while the pipeline loads a component. One that you loaded yourself and passed in is "
    "counted in the map and then taken as it is, wherever it is: `hf_device_map` names a GPU that it never reached.",
    affects={"diffusers": ">=0.28"},
    references=["diffusers 0.42.1: pipelines/pipeline_utils.py, from_pretrained"],
)


@entry.reproduce
def _(FOLDER, SMALL):
    import torch
    from diffusers import AutoencoderDC, SanaPipeline

    vae = AutoencoderDC.from_pretrained(FOLDER, subfolder="vae", dtype=torch.bfloat16)
    SanaPipeline.from_pretrained(FOLDER, vae=vae, dtype=torch.bfloat16, device_map="balanced")("a red star", **SMALL)


@entry.fix("Place what you pass in yourself.")
def _(FOLDER, SMALL):
    import torch
    from diffusers import AutoencoderDC, SanaPipeline

    vae = AutoencoderDC.from_pretrained(FOLDER, subfolder="vae", dtype=torch.bfloat16).to("cuda")
    pipe = SanaPipeline.from_pretrained(FOLDER, vae=vae, dtype=torch.bfloat16, device_map="balanced")
    pipe("a red star", **SMALL)


entry = FAMILY.failure(
    id="device-map-contradicts-reality",
    section="device-map-passed",
    title="Two GPUs: `hf_device_map` says GPU 1, the 8-bit transformer is on GPU 0",
    shows="output",
    pattern=r"the map says 1, the transformer is on cuda:0",
    gpus=2,
    messages={"diffusers 0.42.1": "the map says 1, the transformer is on cuda:0"},
    cause="An 8-bit model that is passed in sits on the current GPU since it was loaded. The balancing counts it like "
    "any other component, gives it a GPU in the plan, and never moves it. The other components are then spread as if "
    "the plan were true, so one GPU fills up and the other stays empty.",
    affects={"diffusers": ">=0.28"},
    references=["diffusers 0.42.1: pipelines/pipeline_loading_utils.py, _assign_components_to_devices"],
)


@entry.reproduce
def _(FOLDER):
    import torch
    from diffusers import BitsAndBytesConfig, SanaPipeline, SanaTransformer2DModel

    transformer = SanaTransformer2DModel.from_pretrained(
        FOLDER, subfolder="transformer", quantization_config=BitsAndBytesConfig(load_in_8bit=True), dtype=torch.bfloat16
    )
    pipe = SanaPipeline.from_pretrained(FOLDER, transformer=transformer, dtype=torch.bfloat16, device_map="balanced")
    print(f"the map says {pipe.hf_device_map['transformer']}, the transformer is on {pipe.transformer.device}")


@entry.fix("Let the pipeline load the 8-bit components: then the plan is carried out.")
def _(FOLDER, EIGHT_BIT):
    import torch
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(
        FOLDER, quantization_config=EIGHT_BIT, dtype=torch.bfloat16, device_map="balanced"
    )
    print(f"the map says {pipe.hf_device_map['transformer']}, the transformer is on {pipe.transformer.device}")


entry = FAMILY.failure(
    id="component-missing-from-map",
    section="device-map-vanishes",
    title="Two components do not fit, and one of them vanishes from the map",
    shows="output",
    pattern=r"in the map: [12] of 3",
    messages={"diffusers 0.42.1": "in the map: 1 of 3"},
    cause="Balancing puts a component that fits nowhere on the CPU, by replacing the CPU's list instead of adding to "
    "it. Of several that do not fit only the last is kept; the others have no entry and land on the CPU without hooks.",
    affects={"diffusers": ">=0.28"},
    references=["diffusers 0.42.1: pipelines/pipeline_loading_utils.py, _assign_components_to_devices"],
)


@entry.reproduce
def _(FOLDER):
    import torch
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(
        FOLDER, dtype=torch.bfloat16, device_map="balanced", max_memory={0: "1MB", "cpu": "8GB"}
    )
    print("in the map:", len(pipe.hf_device_map), "of 3")


@entry.fix("Give the map enough room for all components, and offload whole components instead.")
def _(FOLDER, SMALL):
    import torch
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(FOLDER, dtype=torch.bfloat16)
    pipe.enable_model_cpu_offload()
    pipe("a red star", **SMALL)


entry = FAMILY.failure(
    id="device-map-without-gpu",
    section="device-map-balanced",
    title='`device_map="balanced"` without a GPU: no map, no warning, all on the CPU',
    shows="output",
    pattern=r"map None, pipeline on cpu",
    gpus=0,
    messages={"diffusers 0.42.1": "map None, pipeline on cpu"},
    cause="The CPU is taken out of the devices to balance over. Where nothing else is left there is no map, and the "
    "pipeline loads as if none had been asked for. A driver that broke overnight shows as a slow pipeline.",
    affects={"diffusers": ">=0.28"},
    references=["diffusers 0.42.1: pipelines/pipeline_loading_utils.py, _get_final_device_map"],
)


@entry.reproduce
def _(FOLDER):
    import torch
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(FOLDER, dtype=torch.bfloat16, device_map="balanced")
    print(f"map {pipe.hf_device_map}, pipeline on {pipe.device}")


@entry.fix("Ask for the GPU first, and stop in the first line if there is none.")
def _(FOLDER):
    import torch
    from diffusers import SanaPipeline

    if torch.cuda.is_available():
        pipe = SanaPipeline.from_pretrained(FOLDER, dtype=torch.bfloat16, device_map="balanced")
        print(f"map {pipe.hf_device_map}, pipeline on {pipe.device}")
    else:
        print("no GPU: look at `nvidia-smi` and torch.version.cuda =", torch.version.cuda)


# ---- other versions ---------------------------------------------------------------------------------------------

entry = FAMILY.failure(
    id="reset-device-map-raises",
    section="device-map-reset",
    title="The error says to call `reset_device_map()`, and that raises too",
    error="ValueError",
    pattern=r"\.to is not supported for (?:4-bit or )?8-bit bitsandbytes models",
    wants=r"reset_device_map",
    alike=["8bit-model-cannot-move"],
    chinese=["重置设备映射报错"],
    messages={
        "diffusers 0.36.0": "    pipe.reset_device_map()\nValueError: `.to` is not supported for `8-bit` "
        "bitsandbytes models. Please use the model "
        "as it is, since the model has already been set to the correct devices and casted to the correct `dtype`.",
    },
    cause="`reset_device_map()` moves every component to the CPU, and on these versions an 8-bit model refuses to "
    "move. It stops half-way: the hooks are gone, `hf_device_map` is still set, and the pipeline cannot be used or "
    "reset again.",
    affects=[{"diffusers": "<0.37"}, {"transformers": "<5"}, {"bitsandbytes": "<0.48"}],
    references=[
        "diffusers 0.36.0: pipelines/pipeline_utils.py, reset_device_map",
        "transformers 4.57.6: modeling_utils.py, to",
    ],
    evidence="source",
)
entry.fix(
    "Load again without a map, and move the autoencoder alone: see `autoencoder-left-on-cpu`. Or upgrade the three.",
    command="pip install -U 'diffusers>=0.37' 'transformers>=5' 'bitsandbytes>=0.48.2'",
)

entry = FAMILY.failure(
    id="model-device-map-with-quantization",
    title="`device_map` on a quantized diffusers model is refused",
    error="NotImplementedError",
    pattern=r"providing device_map is not supported for quantized models|device_map is automatically inferred for "
    r"quantized bitsandbytes models",
    messages={
        "diffusers 0.32.0": "NotImplementedError: Currently, `device_map` is automatically inferred for quantized "
        "bitsandbytes models. Support for providing `device_map` as an input will be added in the future.",
        "diffusers 0.32.1": "NotImplementedError: Currently, providing `device_map` is not supported for quantized "
        "models. Providing `device_map` as an input will be added in the future.",
    },
    cause="The first releases that could quantize refused the pair outright, 0.31 and 0.32.0 in other words than the "
    "two that followed: an 8-bit model went to the current GPU, and nothing else was foreseen. From 0.33 on it works.",
    affects={"diffusers": ">=0.31, <0.33"},
    references=[
        "diffusers 0.32.0: models/modeling_utils.py, from_pretrained",
        "diffusers 0.32.1: models/modeling_utils.py, from_pretrained",
        "diffusers 0.32.2: models/modeling_utils.py, from_pretrained",
    ],
    evidence="source",
)
entry.fix("Upgrade.", command="pip install -U 'diffusers>=0.33'")
