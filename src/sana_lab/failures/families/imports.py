"""Names that a release does not have, and packages that do not go together."""

from __future__ import annotations

from .versions import FAMILY

entry = FAMILY.failure(
    id="bitsandbytes-config-from-bitsandbytes",
    section="chapter-loading",
    title="`cannot import name 'BitsAndBytesConfig' from 'bitsandbytes'`",
    error="ImportError|AttributeError",
    pattern=r"cannot import name 'BitsAndBytesConfig' from 'bitsandbytes|module '?bitsandbytes'? has no attribute "
    r"'?BitsAndBytesConfig",
    gpus=0,
    messages={
        "transformers#38832": "ImportError: cannot import name 'BitsAndBytesConfig' from 'bitsandbytes'",
        "bitsandbytes 0.50.2": "AttributeError: module 'bitsandbytes' has no attribute 'BitsAndBytesConfig'",
    },
    cause="bitsandbytes has layers and kernels. The configuration that tells a loader to use them belongs to the "
    "loader, "
    "so transformers has one and diffusers another.",
    references=["transformers#38832", "transformers 5.23.0: utils/quantization_config.py"],
)


@entry.reproduce
def _():
    from bitsandbytes import BitsAndBytesConfig  # noqa: F401


@entry.fix("Import it from the library whose model is loaded.")
def _():
    from diffusers import BitsAndBytesConfig as DiffusersConfig
    from transformers import BitsAndBytesConfig as TransformersConfig

    DiffusersConfig(load_in_8bit=True)
    TransformersConfig(load_in_8bit=True)


entry = FAMILY.failure(
    id="class-not-in-this-diffusers",
    section="chapter-loading",
    title="`cannot import name 'SanaPipeline' from 'diffusers'`: a newer class than diffusers",
    error="ImportError|AttributeError",
    pattern=r"cannot import name '(?!BitsAndBytes|Long)\w*(?:Sana|SCM|PipelineQuantization|AutoencoderDC|GGUF|TorchAo)"
    r"\w*' from 'diffusers|module '?diffusers'? has no attribute '?(?:Sana|SCM|PipelineQuantization|AutoencoderDC)|"
    r"module '?diffusers'? has no attribute '?\w*Sana",
    gpus=0,
    chinese=["diffusers版本太旧", "版本不匹配", "找不到SanaPipeline"],
    messages={
        "Sana#90": "ImportError: cannot import name 'SanaPipeline' from 'diffusers'",
        "diffusers 0.33.1": "ImportError: cannot import name 'PipelineQuantizationConfig' from 'diffusers' "
        "(diffusers/__init__.py)",
        "diffusers 0.34.0": "AttributeError: module diffusers has no attribute PipelineQuantizationConfig",
        "diffusers#11648": "ImportError: cannot import name 'PipelineQuantizationConfig' from 'diffusers.quantizers'",
    },
    cause="Sana came to diffusers with 0.32 (`SanaPipeline`, `AutoencoderDC`), Sprint with 0.33, ControlNet and "
    "`diffusers.quantizers.PipelineQuantizationConfig` with 0.34, that name in `diffusers` itself with 0.35, video "
    "with "
    "0.36. A new installation helps only if it is the one that runs: ask `diffusers.__file__`.",
    references=["Sana#90", "diffusers#11648", "diffusers 0.35.1: __init__.py"],
)


@entry.reproduce
def _():
    from diffusers import SanaHolographyPipeline  # noqa: F401


@entry.fix("Upgrade (`pip install -U diffusers`), restart, and ask before use where older ones must do.")
def _():
    import diffusers

    print(diffusers.__version__, diffusers.__file__)
    assert hasattr(diffusers, "SanaPipeline"), "pip install -U diffusers"


entry = FAMILY.failure(
    id="class-never-released",
    section="chapter-loading",
    title="`cannot import name 'LongSanaVideoPipeline'`: a class that no release has",
    error="ImportError",
    pattern=r"cannot import name 'LongSana\w*' from 'diffusers",
    gpus=0,
    messages={"Sana#354": "ImportError: cannot import name 'LongSanaVideoPipeline' from 'diffusers'"},
    cause="The example that imports it belongs to a pull request that was not merged, so no version of diffusers "
    "helps. "
    "The authors' own repository has the code.",
    references=["Sana#354", "diffusers#12723"],
)


@entry.reproduce
def _():
    from diffusers import LongSanaVideoPipeline  # noqa: F401


@entry.fix("Use the pipeline for video that was released.")
def _():
    from diffusers import SanaVideoPipeline

    print(SanaVideoPipeline.__name__)


# ---- other versions ---------------------------------------------------------------------------------------------

entry = FAMILY.failure(
    id="huggingface-hub-out-of-range",
    title="`huggingface-hub>=0.34.0,<1.0 is required`, but another was found",
    error="ImportError|RuntimeError",
    pattern=r"huggingface-hub\S{0,40} is required for a normal functioning of this module, but found",
    chinese=["huggingface_hub版本不匹配", "版本不匹配"],
    messages={
        "transformers 4.57.6": "ImportError: huggingface-hub>=0.34.0,<1.0 is required for a normal functioning of this "
        "module, but found huggingface-hub==2.4.0.\nTry: `pip install transformers -U` or `pip install -e '.[dev]'` if "
        "you're working with git main",
    },
    cause="transformers 4 wants huggingface-hub below 1, diffusers from 0.40 on wants it above, and pip installs the "
    "second without asking the first. transformers looks while it is imported.",
    affects={"transformers": "<5"},
    elsewhere="a huggingface-hub beside transformers that does not fit it",
    references=["transformers 4.57.6: dependency_versions_check.py", "diffusers 0.40.0: METADATA"],
    evidence="source",
)
entry.fix(
    "Take both from one side: transformers 5, or diffusers before 0.40.", command="pip install -U 'transformers>=5'"
)

entry = FAMILY.failure(
    id="name-not-in-huggingface-hub",
    title="`cannot import name 'cached_download'`, `'resolve_revision'` from `huggingface_hub`",
    error="ImportError|RuntimeError",
    pattern=r"cannot import name '\w+' from 'huggingface_hub",
    gpus=0,
    chinese=["huggingface_hub版本不匹配"],
    messages={
        "easydiffusion/easydiffusion#1851": "ImportError: cannot import name 'cached_download' from 'huggingface_hub'",
        "transformers 5.23.0 with huggingface-hub 1.33": "ImportError: cannot import name 'resolve_revision' from "
        "'huggingface_hub' (huggingface_hub/__init__.py)",
    },
    cause="huggingface_hub is older or newer than the library that imports from it. `cached_download` went with "
    "0.26 and "
    "is asked for by diffusers before 0.29; `resolve_revision` is new in 2 and is asked for by transformers 5.23.",
    references=["easydiffusion/easydiffusion#1851", "transformers 5.23.0: utils/hub.py"],
)


@entry.reproduce
def _():
    from huggingface_hub import cached_download  # noqa: F401


@entry.fix("Upgrade the library that imports, and let pip choose its hub (`pip install -U diffusers transformers`).")
def _():
    from huggingface_hub import hf_hub_download

    print(hf_hub_download.__name__)


entry = FAMILY.failure(
    id="pip-finds-no-set",
    title="pip or uv: the requirements contradict each other",
    error="ResolutionImpossible",
    pattern=r"ResolutionImpossible|Cannot install .{0,200}because these package versions have conflicting dependencies|"
    r"we can conclude that .{0,200} are incompatible",
    chinese=["依赖冲突", "版本冲突"],
    messages={
        "pip 24": "ERROR: Cannot install diffusers==0.42.1 and transformers==4.57.6 because these package versions "
        "have "
        "conflicting dependencies.\nERROR: ResolutionImpossible: for help visit "
        "https://pip.pypa.io/en/latest/topics/dependency-resolution/#dealing-with-dependency-conflicts",
        "uv 0.5": "Because transformers==4.57.6 depends on huggingface-hub>=0.34.0,<1.0 and diffusers>=0.42.1 "
        "depends on "
        "huggingface-hub>=1.32.0,<3.0, we can conclude that diffusers>=0.42.1 and transformers==4.57.6 are "
        "incompatible.",
    },
    cause="Two of the packages want a third in ranges that do not meet. Between Sana's libraries it is "
    "huggingface-hub: "
    "transformers 4 wants it below 1, diffusers from 0.40 on above.",
    affects={"transformers": "<5", "diffusers": ">=0.40"},
    references=["diffusers 0.42.1: METADATA", "transformers 4.57.6: setup.py"],
    evidence="source",
)
entry.fix("Let go of one pin.", command="pip install 'diffusers>=0.40' 'transformers>=5'")

entry = FAMILY.failure(
    id="dtype-is-not-json",
    section="chapter-loading",
    title="`Object of type dtype is not JSON serializable`: `dtype=` on an older transformers",
    error="TypeError",
    pattern=r"Object of type dtype is not JSON serializable",
    messages={"transformers 4.53.2": "TypeError: Object of type dtype is not JSON serializable"},
    cause="Before 4.56 the argument is called `torch_dtype`. `dtype` is taken for a field of the model's "
    "configuration, "
    "which is printed as JSON while an 8-bit model loads, and a type is no JSON.",
    affects={"transformers": "<4.56"},
    references=["transformers#39782", "transformers 4.53.2: modeling_utils.py, from_pretrained"],
    evidence="source",
)
entry.fix("Write `torch_dtype`, which newer versions still take.", command="pip install -U 'transformers>=4.56'")

entry = FAMILY.failure(
    id="load-in-8bit-deprecated",
    section="chapter-loading",
    title="`load_in_8bit` arguments are deprecated",
    shows="warning",
    pattern=r"The load_in_4bit and load_in_8bit arguments are deprecated",
    messages={
        "transformers 4.57.6": "The `load_in_4bit` and `load_in_8bit` arguments are deprecated and will be removed "
        "in the "
        "future versions. Please, pass a `BitsAndBytesConfig` object in `quantization_config` argument instead.",
    },
    cause="The shorthand still works with transformers 4 and is gone in 5, where the same line raises "
    "(`load-in-8bit-keyword-removed`).",
    affects={"transformers": "<5"},
    references=["transformers#41287", "transformers 4.57.6: modeling_utils.py, from_pretrained"],
    evidence="source",
)
entry.fix("Give a configuration.", command="BitsAndBytesConfig(load_in_8bit=True)")

entry = FAMILY.failure(
    id="numpy-1-and-2",
    title="`A module that was compiled using NumPy 1.x cannot be run in NumPy 2`",
    shows="warning",
    pattern=r"compiled using NumPy 1\.x cannot be run in NumPy 2|Numpy is not available|numpy\.dtype size changed",
    messages={
        "huggingface/datasets#7354": "A module that was compiled using NumPy 1.x cannot be run in NumPy 2.0.2 as it "
        "may "
        "crash.",
        "securefederatedai/openfederatedlearning#999": "RuntimeError: Numpy is not available",
    },
    cause="NumPy 2 changed its binary interface, and PyTorch before 2.3 was built for NumPy 1. The import prints this "
    "and goes on; the first `.numpy()` then fails, which is when a picture is made.",
    affects={"torch": "<2.3"},
    elsewhere="NumPy 2 beside a PyTorch for NumPy 1",
    references=["huggingface/datasets#7354", "securefederatedai/openfederatedlearning#999"],
    evidence="report",
)
entry.fix("Upgrade torch; or stay with NumPy 1.", command="pip install 'numpy<2'")
