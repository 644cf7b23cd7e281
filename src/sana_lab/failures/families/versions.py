"""What changed between versions."""

from __future__ import annotations

from ..entry import Family

FAMILY = Family(
    "version-drift",
    "What changed between versions",
    "The same line, another release. Pin torch, diffusers, transformers, accelerate and bitsandbytes together.",
    section="chapter-version-pitfalls",
)

entry = FAMILY.failure(
    id="load-in-8bit-keyword-removed",
    section="chapter-loading",
    title="`from_pretrained(..., load_in_8bit=True)` on a transformers model",
    error="TypeError",
    pattern=r"__init__\(\) got an unexpected keyword argument 'load_in_[48]bit'",
    messages={
        "transformers 5.23.0": "TypeError: Gemma2Model.__init__() got an unexpected keyword argument 'load_in_8bit'",
    },
    cause="The keyword was a shorthand, deprecated in transformers 4 and removed in 5, where it is handed on to the "
    "model's class.",
    affects={"transformers": ">=5"},
    references=["transformers#41287", "transformers 4.57.6: modeling_utils.py, from_pretrained"],
)


@entry.reproduce
def _(FOLDER):
    from transformers import AutoModel

    AutoModel.from_pretrained(FOLDER, subfolder="text_encoder", load_in_8bit=True)


@entry.fix("Give it a configuration object.")
def _(FOLDER):
    import torch
    from transformers import AutoModel, BitsAndBytesConfig

    AutoModel.from_pretrained(
        FOLDER,
        subfolder="text_encoder",
        quantization_config=BitsAndBytesConfig(load_in_8bit=True),
        dtype=torch.bfloat16,
    )


entry = FAMILY.failure(
    id="torch-dtype-deprecated",
    title="`torch_dtype` is deprecated",
    shows="warning",
    pattern=r"(?<!only pass dtype, )torch_dtype is deprecated",
    messages={
        "transformers 4.57.6": "`torch_dtype` is deprecated! Use `dtype` instead!",
        "diffusers 0.42.1": "FutureWarning: `torch_dtype` is deprecated and will be removed in version 1.0.0. Please "
        "use `dtype` instead.",
    },
    cause="Both libraries renamed the argument: transformers from 4.56 on, diffusers from 0.40 on. The old name still "
    "works. The new one does not work everywhere: diffusers before 0.40 ignores it in pipelines and raises in models.",
    affects=[{"transformers": ">=4.56"}, {"diffusers": ">=0.40"}],
    references=["transformers#39782", "diffusers#14205", "diffusers 0.42.1: utils/deprecation_utils.py"],
)


@entry.reproduce
def _(FOLDER):
    import torch
    from diffusers import SanaPipeline

    SanaPipeline.from_pretrained(FOLDER, torch_dtype=torch.bfloat16)


@entry.fix("Write `dtype` with diffusers ≥ 0.40, and `torch_dtype` with older ones.")
def _(FOLDER):
    import torch
    from diffusers import SanaPipeline

    SanaPipeline.from_pretrained(FOLDER, dtype=torch.bfloat16)


entry = FAMILY.failure(
    id="both-dtype-spellings",
    title="`dtype` and `torch_dtype` together",
    error="ValueError",
    pattern=r"You have passed both dtype and torch_dtype",
    messages={
        "diffusers 0.42.1": "ValueError: You have passed both `dtype` and `torch_dtype`. Please only pass `dtype`, "
        "`torch_dtype` is deprecated.",
    },
    cause="A script that names both, to be on the safe side on every version, is refused by pipelines from 0.40 on. "
    "Models do not complain.",
    affects={"diffusers": ">=0.40"},
    references=["diffusers 0.42.1: utils/deprecation_utils.py"],
)


@entry.reproduce
def _(FOLDER):
    import torch
    from diffusers import SanaPipeline

    SanaPipeline.from_pretrained(FOLDER, dtype=torch.bfloat16, torch_dtype=torch.bfloat16)


@entry.fix("Choose the spelling by version.")
def _(FOLDER):
    import diffusers
    import torch

    newer = tuple(int(part) for part in diffusers.__version__.split(".")[:2]) >= (0, 40)
    spelling = "dtype" if newer else "torch_dtype"
    diffusers.SanaPipeline.from_pretrained(FOLDER, **{spelling: torch.bfloat16})


entry = FAMILY.failure(
    id="no-hf-device-map-on-one-gpu",
    title="The text encoder has no attribute `hf_device_map`",
    error="AttributeError",
    pattern=r"object has no attribute 'hf_device_map'",
    messages={
        "transformers 5.23.0": "AttributeError: 'Gemma2Model' object has no attribute 'hf_device_map'",
    },
    cause="transformers 5 spreads a model only where there is more than one place to put it; a model on a single GPU "
    "has no map. transformers 4 wrote `{'': device}`, and scripts came to rely on it.",
    affects={"transformers": ">=5"},
    references=["transformers 5.23.0: integrations/accelerate.py"],
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
    print(encoder.hf_device_map)


@entry.fix("Ask a parameter.")
def _(FOLDER):
    import torch
    from transformers import AutoModel, BitsAndBytesConfig

    encoder = AutoModel.from_pretrained(
        FOLDER,
        subfolder="text_encoder",
        quantization_config=BitsAndBytesConfig(load_in_8bit=True),
        dtype=torch.bfloat16,
    )
    print(next(encoder.parameters()).device)


# ---- other versions ---------------------------------------------------------------------------------------------

entry = FAMILY.failure(
    id="dtype-unknown-to-older-diffusers",
    title="Today's recipe with `dtype=` on an older diffusers",
    error="TypeError",
    pattern=r"Keyword arguments \{'dtype': \S+ are not expected by|__init__\(\) got an unexpected keyword argument "
    r"'dtype'",
    messages={
        "diffusers 0.36.0, pipeline": "Keyword arguments {'dtype': torch.float16} are not expected by SanaPipeline and "
        "will be ignored.",
        "diffusers 0.36.0, model": "TypeError: SanaTransformer2DModel.__init__() got an unexpected keyword argument "
        "'dtype'",
    },
    cause="Before 0.40 the argument is called `torch_dtype`. A model raises; a pipeline writes a line, loads in "
    "float32, and needs twice the memory.",
    affects={"diffusers": "<0.40"},
    references=["diffusers#14205", "diffusers 0.39.0: pipelines/pipeline_utils.py, from_pretrained"],
    evidence="source",
)
entry.fix(
    "Write `torch_dtype`, which newer versions still take; or upgrade.", command="pip install -U 'diffusers>=0.40'"
)

entry = FAMILY.failure(
    id="flax-weights-name-import",
    title="diffusers cannot be imported: `cannot import name 'FLAX_WEIGHTS_NAME'`",
    error="RuntimeError",
    pattern=r"cannot import name 'FLAX_WEIGHTS_NAME' from 'transformers\.utils'",
    messages={
        "diffusers 0.34.0 with transformers 5.2.0": "RuntimeError: Failed to import "
        "diffusers.pipelines.sana.pipeline_sana because of the following error (look up to see its traceback):\ncannot "
        "import name 'FLAX_WEIGHTS_NAME' from 'transformers.utils'",
    },
    cause="transformers 5 dropped Flax, and diffusers up to 0.35.1 imports a constant of it.",
    affects={"diffusers": "<0.35.2", "transformers": ">=5"},
    references=["diffusers#12354", "diffusers 0.35.1: pipelines/pipeline_loading_utils.py"],
    evidence="source",
)
entry.fix("Upgrade diffusers.", command="pip install -U 'diffusers>=0.35.2'")

entry = FAMILY.failure(
    id="int8params-unexpected-keyword",
    title="`Int8Params` gets an unexpected keyword `_is_hf_initialized`",
    error="TypeError",
    pattern=r"got an unexpected keyword argument '_is_hf_initialized'",
    messages={
        "transformers 5.2.0 with bitsandbytes 0.49.2": "TypeError: Int8Params.__new__() got an unexpected keyword "
        "argument '_is_hf_initialized'",
    },
    cause="transformers 5 marks parameters with an attribute. accelerate makes a parameter anew from the attributes of "
    "the old one when it is offloaded, and bitsandbytes before 0.50 does not know this one.",
    affects={"transformers": ">=5", "bitsandbytes": "<0.50"},
    references=["bitsandbytes#1900"],
    evidence="report",
)
entry.fix("Upgrade bitsandbytes.", command="pip install -U 'bitsandbytes>=0.50'")

entry = FAMILY.failure(
    id="8bit-offload-in-0-48-0",
    title="8 bits and CPU offloading break with bitsandbytes 0.48.0 and 0.48.1",
    error="NotImplementedError",
    pattern=r"Cannot copy out of meta tensor; no data!",
    wants=r"bitsandbytes.nn.modules\.py(?!.{0,400}quant_state)",
    alike=["copy-out-of-meta-tensor"],
    messages={
        "bitsandbytes#1786": '  File "bitsandbytes/nn/modules.py", line 700, in to\n'
        "NotImplementedError: Cannot copy out of meta tensor; no data!",
    },
    cause="The two first releases in which 8-bit models can move also moved scales that were on the meta device. "
    "0.48.0 has a worse fault, which raises nothing: `8bit-checkpoints-garbage-in-0-48-0`.",
    affects={"bitsandbytes": ">=0.48, <0.48.2"},
    references=["bitsandbytes#1786", "bitsandbytes#1775"],
    evidence="report",
)
entry.fix("Skip the two.", command="pip install -U 'bitsandbytes>=0.48.2'")

entry = FAMILY.failure(
    id="quantized-param-unexpected-dtype",
    title="`create_quantized_param() got an unexpected keyword argument 'dtype'`",
    error="TypeError",
    pattern=r"create_quantized_param\(\) got an unexpected keyword argument 'dtype'",
    messages={
        "diffusers#11149": "TypeError: BnB4BitDiffusersQuantizer.create_quantized_param() got an unexpected keyword "
        "argument 'dtype'",
    },
    cause="Files of two versions of diffusers lie in one environment, after an upgrade from source over an installed "
    "wheel: one calls a method of the other with an argument that it does not have.",
    affects={"diffusers": ">=0.32, <0.34"},
    references=["diffusers#11149"],
    evidence="report",
)
entry.fix("Install one version afresh.", command="pip uninstall -y diffusers && pip install -U diffusers")

entry = FAMILY.failure(
    id="text-encoder-type-warning",
    title="`Expected types for text_encoder: ['AutoModelForCausalLM'], got Gemma2Model`",
    shows="warning",
    pattern=r"Expected types for text_encoder: .{0,200}AutoModelForCausalLM.{0,200}, got \w*Gemma2Model",
    messages={
        "diffusers#10520": "Expected types for text_encoder: ['AutoModelForCausalLM'], got Gemma2Model.",
    },
    cause="The annotation of Sana's pipeline named the wrong class in 0.32. `Gemma2Model` is right, and doing what the "
    "warning asks leads to `text-encoder-with-language-head`.",
    affects={"diffusers": ">=0.32, <0.33"},
    references=["diffusers#10520", "diffusers 0.32.1: pipelines/pipeline_utils.py, from_pretrained"],
    evidence="report",
)
entry.fix("Ignore it, or upgrade.", command="pip install -U 'diffusers>=0.33'")
