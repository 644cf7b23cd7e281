"""Configuration objects."""

from __future__ import annotations

from ..entry import Family

FAMILY = Family(
    "configuration",
    "Configuration objects",
    "diffusers and transformers each have a `BitsAndBytesConfig`, pipelines have a third class, and not every mistake "
    "raises.",
    section="chapter-loading",
)

entry = FAMILY.failure(
    id="diffusers-config-for-transformers",
    title="The `BitsAndBytesConfig` of diffusers given to a transformers model",
    error="TypeError",
    pattern=r"Found quant_method=bitsandbytes but quantization_config is not a BitsAndBytesConfig",
    messages={
        "transformers 5.23.0": "TypeError: Found `quant_method=bitsandbytes` but `quantization_config` is not a "
        "`BitsAndBytesConfig`.",
    },
    cause="There are two classes of the same name, one in each library. transformers wants its own and says so, as if "
    "the object were of another name; up to 5.3 it did not look. The other way round nothing is checked: diffusers "
    "takes the class of transformers and works.",
    affects={"transformers": ">=5.4"},
    references=["transformers 5.23.0: quantizers/auto.py, from_config"],
)


@entry.reproduce
def _(FOLDER):
    from diffusers import BitsAndBytesConfig
    from transformers import AutoModel

    AutoModel.from_pretrained(
        FOLDER, subfolder="text_encoder", quantization_config=BitsAndBytesConfig(load_in_8bit=True)
    )


@entry.fix("Import each under a name of its own.")
def _(FOLDER):
    from transformers import AutoModel
    from transformers import BitsAndBytesConfig as TransformersConfig

    AutoModel.from_pretrained(
        FOLDER, subfolder="text_encoder", quantization_config=TransformersConfig(load_in_8bit=True)
    )


entry = FAMILY.failure(
    id="model-config-for-pipeline",
    title="`BitsAndBytesConfig` given to the pipeline",
    error="ValueError",
    pattern=r"quantization_config must be an instance of PipelineQuantizationConfig",
    messages={
        "diffusers 0.42.1": "ValueError: `quantization_config` must be an instance of `PipelineQuantizationConfig`.",
    },
    cause="A pipeline has several models from two libraries, so it takes a `PipelineQuantizationConfig` that says "
    "which component gets which configuration.",
    affects={"diffusers": ">=0.34"},
    references=["diffusers 0.42.1: pipelines/pipeline_utils.py, from_pretrained", "diffusers#11130"],
)


@entry.reproduce
def _(FOLDER):
    import torch
    from diffusers import BitsAndBytesConfig, SanaPipeline

    SanaPipeline.from_pretrained(
        FOLDER, quantization_config=BitsAndBytesConfig(load_in_8bit=True), dtype=torch.bfloat16
    )


@entry.fix("Map component names to configurations.")
def _(FOLDER, EIGHT_BIT):
    import torch
    from diffusers import SanaPipeline

    SanaPipeline.from_pretrained(FOLDER, quantization_config=EIGHT_BIT, dtype=torch.bfloat16)


entry = FAMILY.failure(
    id="pipeline-backend-name",
    title='`quant_backend="bitsandbytes"` was not found',
    error="ValueError",
    pattern=r"Provided quant_backend=\S+ was not found",
    messages={
        "diffusers 0.42.1": "ValueError: Provided quant_backend=bitsandbytes was not found.\nAvailable ones "
        "(transformers): ['awq', 'bitsandbytes_4bit', 'bitsandbytes_8bit', 'eetq', 'gptq'].\nAvailable ones "
        "(diffusers): ['bitsandbytes_4bit', 'bitsandbytes_8bit', 'gguf', 'quanto', 'torchao'].",
    },
    cause="The backend's name holds the width: `bitsandbytes_8bit`. And the width must be said once more in "
    "`quant_kwargs`, because that is all the configuration class gets to see.",
    affects={"diffusers": ">=0.34"},
    references=["diffusers 0.42.1: quantizers/pipe_quant_config.py, _check_backend_availability"],
)


@entry.reproduce
def _():
    from diffusers import PipelineQuantizationConfig

    PipelineQuantizationConfig(quant_backend="bitsandbytes", quant_kwargs={"load_in_8bit": True})


@entry.fix("Name the backend with its width, and the components.")
def _():
    from diffusers import PipelineQuantizationConfig

    PipelineQuantizationConfig(
        quant_backend="bitsandbytes_8bit",
        quant_kwargs={"load_in_8bit": True},
        components_to_quantize=["text_encoder", "transformer"],
    )


entry = FAMILY.failure(
    id="pipeline-config-arguments",
    title="`PipelineQuantizationConfig` wants a backend or a mapping, and not both",
    error="ValueError",
    pattern=r"Must provide a quant_backend when not|Both quant_backend and quant_mapping cannot|"
    r"Both quant_kwargs and quant_mapping cannot",
    messages={
        "diffusers 0.42.1": "ValueError: Must provide a `quant_backend` when not providing a `quant_mapping`.",
        "diffusers 0.42.1, both": "ValueError: Both `quant_backend` and `quant_mapping` cannot be specified at the "
        "same time.",
        "diffusers 0.42.1, no arguments": "ValueError: Both `quant_kwargs` and `quant_mapping` cannot be None.",
    },
    cause="The class has two forms: one backend with its arguments for a list of components, or a mapping from "
    "component to configuration. These three messages are what half of one form, or halves of both, lead to.",
    affects={"diffusers": ">=0.34"},
    references=["diffusers 0.42.1: quantizers/pipe_quant_config.py, _validate_init_args"],
)


@entry.reproduce
def _():
    from diffusers import PipelineQuantizationConfig

    PipelineQuantizationConfig(quant_kwargs={"load_in_8bit": True}, components_to_quantize=["transformer"])


@entry.fix("The mapping is the longer form and leaves nothing to guess.")
def _():
    from diffusers import BitsAndBytesConfig, PipelineQuantizationConfig

    PipelineQuantizationConfig(quant_mapping={"transformer": BitsAndBytesConfig(load_in_8bit=True)})


entry = FAMILY.failure(
    id="pipeline-config-signatures",
    title="The signatures of diffusers and transformers do not match",
    error="ValueError",
    pattern=r"signatures of the __init__ methods of the quantization config classes in diffusers and transformers "
    r"don't match",
    messages={
        "diffusers 0.42.1": "ValueError: The signatures of the __init__ methods of the quantization config classes in "
        "`diffusers` and `transformers` don't match. Please provide a `quant_mapping` instead, in the "
        "PipelineQuantizationConfig class.",
    },
    cause="With `quant_backend` one set of arguments must do for the classes of both libraries, and diffusers compares "
    "their signatures. bitsandbytes matches with the versions of this book; torchao does not, and any release of "
    "either library may change that.",
    affects={"diffusers": ">=0.34"},
    references=["diffusers 0.42.1: quantizers/pipe_quant_config.py, _validate_init_kwargs_in_backends"],
)


@entry.reproduce
def _():
    from diffusers import PipelineQuantizationConfig

    PipelineQuantizationConfig(quant_backend="torchao", quant_kwargs={"quant_type": "int8wo"})


@entry.fix("Use `quant_mapping`, which does not compare.")
def _():
    from diffusers import BitsAndBytesConfig as DiffusersConfig
    from diffusers import PipelineQuantizationConfig
    from transformers import BitsAndBytesConfig as TransformersConfig

    PipelineQuantizationConfig(
        quant_mapping={
            "transformer": DiffusersConfig(load_in_8bit=True),
            "text_encoder": TransformersConfig(load_in_8bit=True),
        }
    )


entry = FAMILY.failure(
    id="misspelled-component-not-quantized",
    title="A wrong component name, such as `transformers`: nothing is quantized",
    shows="warning",
    pattern=r"components in the quantization config .{0,200} will be ignored as they do not belong to the underlying "
    r"pipeline",
    messages={
        "diffusers 0.42.1": "The following components in the quantization config {'transformers'} will be ignored as "
        "they do not belong to the underlying pipeline. Acceptable values for the pipeline components are: vae, "
        "scheduler, tokenizer, text_encoder, transformer.",
    },
    cause="Names that the pipeline does not have are dropped with a line in the log. The pipeline then loads in 16 "
    "bits and works, with twice the memory.",
    affects={"diffusers": ">=0.34"},
    references=[
        "diffusers 0.42.1: pipelines/pipeline_loading_utils.py, _maybe_warn_for_wrong_component_in_quant_config"
    ],
)


@entry.reproduce
def _(FOLDER):
    import torch
    from diffusers import BitsAndBytesConfig, PipelineQuantizationConfig, SanaPipeline

    config = PipelineQuantizationConfig(quant_mapping={"transformers": BitsAndBytesConfig(load_in_8bit=True)})
    SanaPipeline.from_pretrained(FOLDER, quantization_config=config, dtype=torch.bfloat16)


@entry.fix("Ask the loaded model whether it is in 8 bits.")
def _(FOLDER):
    import torch
    from diffusers import BitsAndBytesConfig, PipelineQuantizationConfig, SanaPipeline

    config = PipelineQuantizationConfig(quant_mapping={"transformer": BitsAndBytesConfig(load_in_8bit=True)})
    pipe = SanaPipeline.from_pretrained(FOLDER, quantization_config=config, dtype=torch.bfloat16)
    assert getattr(pipe.transformer, "is_loaded_in_8bit", False)


entry = FAMILY.failure(
    id="autoencoder-quantized-by-default",
    title="No list of components: the autoencoder is quantized as well",
    shows="output",
    pattern=r"in 8 bits: .{0,60}vae",
    messages={"diffusers 0.42.1": "in 8 bits: text_encoder, vae, transformer"},
    cause="A backend without `components_to_quantize` is applied to every model of the pipeline. DC-AE has linear "
    "layers in its attention blocks; quantizing them saves little and costs precision where the pixels are made.",
    affects={"diffusers": ">=0.34"},
    references=["diffusers 0.42.1: quantizers/pipe_quant_config.py, _resolve_quant_config"],
)


@entry.reproduce
def _(FOLDER):
    import torch
    from diffusers import PipelineQuantizationConfig, SanaPipeline

    config = PipelineQuantizationConfig(quant_backend="bitsandbytes_8bit", quant_kwargs={"load_in_8bit": True})
    pipe = SanaPipeline.from_pretrained(FOLDER, quantization_config=config, dtype=torch.bfloat16)
    print("in 8 bits:", ", ".join(k for k, v in pipe.components.items() if getattr(v, "is_loaded_in_8bit", False)))


@entry.fix("Name the components.")
def _(FOLDER):
    import torch
    from diffusers import PipelineQuantizationConfig, SanaPipeline

    config = PipelineQuantizationConfig(
        quant_backend="bitsandbytes_8bit",
        quant_kwargs={"load_in_8bit": True},
        components_to_quantize=["text_encoder", "transformer"],
    )
    pipe = SanaPipeline.from_pretrained(FOLDER, quantization_config=config, dtype=torch.bfloat16)
    print("in 8 bits:", ", ".join(k for k, v in pipe.components.items() if getattr(v, "is_loaded_in_8bit", False)))


entry = FAMILY.failure(
    id="empty-config-means-4bit",
    title="`BitsAndBytesConfig()` without a width loads in 4 bits",
    shows="output",
    pattern=r"the layers are Linear4bit",
    messages={"diffusers 0.42.1": "the layers are Linear4bit"},
    cause="Neither `load_in_8bit` nor `load_in_4bit` is set, and the configuration still names bitsandbytes as its "
    "method. Choosing the quantizer, both libraries ask only whether it is 8 bits, and take 4 otherwise.",
    affects={"diffusers": ">=0.31"},
    references=[
        "diffusers 0.42.1: quantizers/auto.py, from_config",
        "transformers 5.23.0: quantizers/auto.py, from_config",
    ],
)


@entry.reproduce
def _(FOLDER):
    import torch
    from diffusers import BitsAndBytesConfig, SanaTransformer2DModel

    transformer = SanaTransformer2DModel.from_pretrained(
        FOLDER, subfolder="transformer", quantization_config=BitsAndBytesConfig(), dtype=torch.bfloat16
    )
    print("the layers are", type(transformer.transformer_blocks[0].attn1.to_q).__name__)


@entry.fix("Say the width.")
def _(FOLDER):
    import torch
    from diffusers import BitsAndBytesConfig, SanaTransformer2DModel

    transformer = SanaTransformer2DModel.from_pretrained(
        FOLDER, subfolder="transformer", quantization_config=BitsAndBytesConfig(load_in_8bit=True), dtype=torch.bfloat16
    )
    print("the layers are", type(transformer.transformer_blocks[0].attn1.to_q).__name__)


entry = FAMILY.failure(
    id="both-widths-at-once",
    title="`load_in_4bit` and `load_in_8bit` together",
    error="ValueError",
    pattern=r"load_in_4bit and load_in_8bit are both True",
    messages={
        "transformers 5.23.0": "ValueError: load_in_4bit and load_in_8bit are both True, but only one can be used at "
        "the same time",
    },
    cause="A layer is stored in one width. Both flags at once come from a configuration that was copied and added to; "
    "different widths for different components need one configuration each.",
    references=["transformers 5.23.0: utils/quantization_config.py, BitsAndBytesConfig"],
)


@entry.reproduce
def _():
    from transformers import BitsAndBytesConfig

    BitsAndBytesConfig(load_in_8bit=True, load_in_4bit=True)


@entry.fix("One configuration for each width.")
def _():
    from transformers import BitsAndBytesConfig

    BitsAndBytesConfig(load_in_8bit=True)
    BitsAndBytesConfig(load_in_4bit=True)


entry = FAMILY.failure(
    id="config-field-of-wrong-type",
    title='`llm_int8_threshold=6` and `llm_int8_skip_modules="proj_out"` are refused',
    error="TypeError",
    pattern=r"llm_int8_threshold must be a float|llm_int8_skip_modules must be a list of strings",
    messages={
        "transformers 5.23.0": "TypeError: llm_int8_threshold must be a float",
        "diffusers 0.42.1": "TypeError: llm_int8_skip_modules must be a list of strings",
    },
    cause="The fields are checked by type, not by value: a whole number is no float, and one name is no list.",
    references=[
        "transformers 5.23.0: utils/quantization_config.py, post_init",
        "diffusers 0.42.1: quantizers/quantization_config.py, post_init",
    ],
)


@entry.reproduce
def _():
    from transformers import BitsAndBytesConfig

    BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=6)


@entry.fix("Write `6.0`, and a list.")
def _():
    from transformers import BitsAndBytesConfig

    BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=6.0, llm_int8_skip_modules=["proj_out"])


entry = FAMILY.failure(
    id="load-in-8bit-to-pipeline",
    title="`load_in_8bit=True` given to the pipeline is ignored",
    shows="warning",
    pattern=r"Keyword arguments \{.{0,200}load_in_8bit.{0,200}\} are not expected by \w+ and will be ignored",
    messages={
        "diffusers 0.42.1": "Keyword arguments {'load_in_8bit': True} are not expected by SanaPipeline and will be "
        "ignored.",
    },
    cause="Pipelines never had this argument. What `from_pretrained` does not know it drops with a line in the log, "
    "and loads in full width.",
    references=["diffusers 0.42.1: pipelines/pipeline_utils.py, from_pretrained"],
)


@entry.reproduce
def _(FOLDER):
    import torch
    from diffusers import SanaPipeline

    SanaPipeline.from_pretrained(FOLDER, load_in_8bit=True, dtype=torch.bfloat16)


@entry.fix("Give it a `PipelineQuantizationConfig`.")
def _(FOLDER, EIGHT_BIT):
    import torch
    from diffusers import SanaPipeline

    SanaPipeline.from_pretrained(FOLDER, quantization_config=EIGHT_BIT, dtype=torch.bfloat16)


entry = FAMILY.failure(
    id="load-in-8bit-to-model",
    title="`load_in_8bit=True` given to a diffusers model does nothing, and nothing is said",
    shows="output",
    pattern=r"asked for 8 bits, got torch\.float32",
    messages={"diffusers 0.42.1": "asked for 8 bits, got torch.float32 on cpu"},
    cause="transformers once took this argument, diffusers' models never did. Their `from_pretrained` hands what it "
    "does not know to the configuration, which drops it without the warning that pipelines give: the model is in 32 "
    "bits on the CPU.",
    references=[
        "diffusers 0.42.1: models/modeling_utils.py, from_pretrained",
        "diffusers 0.42.1: configuration_utils.py, extract_init_dict",
    ],
)


@entry.reproduce
def _(FOLDER):
    from diffusers import SanaTransformer2DModel

    transformer = SanaTransformer2DModel.from_pretrained(FOLDER, subfolder="transformer", load_in_8bit=True)
    print(f"asked for 8 bits, got {transformer.dtype} on {transformer.device}")


@entry.fix("Give it a `BitsAndBytesConfig` of diffusers, and look at a layer.")
def _(FOLDER):
    import torch
    from diffusers import BitsAndBytesConfig, SanaTransformer2DModel

    transformer = SanaTransformer2DModel.from_pretrained(
        FOLDER, subfolder="transformer", quantization_config=BitsAndBytesConfig(load_in_8bit=True), dtype=torch.bfloat16
    )
    print("asked for 8 bits, got", type(transformer.transformer_blocks[0].attn1.to_q).__name__)


entry = FAMILY.failure(
    id="text-encoder-with-language-head",
    title="The text encoder was loaded with `AutoModelForCausalLM`",
    error="RuntimeError",
    pattern=r"mat1 and mat2 shapes cannot be multiplied \(\d+x\d+ and \d+x\d+\)",
    wants=r"PixArtAlphaTextProjection|caption_projection|self\.linear_1\(|\(\d+x25\d\d\d\d and \d+x\d+\)",
    alike=["matrix-shapes-differ"],
    messages={
        "diffusers#10489": "RuntimeError: mat1 and mat2 shapes cannot be multiplied (600x256000 and 2304x1152)",
    },
    cause="Sana reads the first output of its text encoder as hidden states. A model with a language head gives logits "
    "there, one column for each word of the vocabulary, and the projection that follows has no use for 256000 columns. "
    "diffusers' documentation once showed this class.",
    references=["diffusers#10489", "diffusers#10507"],
)


@entry.reproduce
def _(FOLDER, SMALL):
    import torch
    from diffusers import SanaPipeline
    from transformers import AutoModelForCausalLM

    encoder = AutoModelForCausalLM.from_pretrained(FOLDER, subfolder="text_encoder", dtype=torch.bfloat16)
    pipe = SanaPipeline.from_pretrained(FOLDER, text_encoder=encoder, dtype=torch.bfloat16).to("cuda")
    pipe("a red star", **SMALL)


@entry.fix("Load it with `AutoModel`.")
def _(FOLDER, SMALL):
    import torch
    from diffusers import SanaPipeline
    from transformers import AutoModel

    encoder = AutoModel.from_pretrained(FOLDER, subfolder="text_encoder", dtype=torch.bfloat16)
    pipe = SanaPipeline.from_pretrained(FOLDER, text_encoder=encoder, dtype=torch.bfloat16).to("cuda")
    pipe("a red star", **SMALL)
