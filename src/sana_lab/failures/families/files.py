"""Files, the Hub, and formats of other libraries."""

from __future__ import annotations

from ..entry import Family

FAMILY = Family(
    "files-and-formats",
    "Files, the Hub, and other formats",
    "What is not there, may not be had, came down damaged, or is in a format that bitsandbytes has nothing to do with.",
    section="chapter-loading",
)

# ---- the Hub ----------------------------------------------------------------------------------------------------

entry = FAMILY.failure(
    id="gated-repository",
    title="A gated repository: 401, 403, `Access to model … is restricted`",
    error="GatedRepoError|OSError|HfHubHTTPError",
    pattern=r"Cannot access gated repo for url|trying to access a gated repo|is a gated repository|Access to model \S+ "
    r"is restricted",
    messages={
        "city96/ComfyUI_ExtraModels#99": "401 Client Error. (Request ID: Root=1)\n\nCannot access gated repo for url "
        "https://huggingface.co/google/gemma-2-2b-it/resolve/main/config.json.\nAccess to model "
        "google/gemma-2-2b-it is "
        "restricted. You must have access to it and be authenticated to access it. Please log in.",
        "transformers 5.23.0": "OSError: You are trying to access a gated repo.\nMake sure to have access to it at "
        "https://huggingface.co/google/gemma-2-2b-it.",
    },
    cause="Google's Gemma is given out to those who accepted its terms, and the token must belong to such an account. "
    "401 means no token or a wrong one, 403 an account that was not granted. Sana's own folders hold a copy of the "
    "encoder that is not gated.",
    references=["city96/ComfyUI_ExtraModels#99", "transformers 5.23.0: utils/hub.py, cached_files"],
    evidence="report",
    elsewhere="a network, and an account without access",
)
entry.fix(
    "Accept the terms on the model's page and log in; or load the encoder from Sana's folder, "
    "`subfolder='text_encoder'`.",
    command="hf auth login",
)

entry = FAMILY.failure(
    id="hub-out-of-reach",
    title="No network, or offline mode, and the model is not in the cache",
    error="OSError|LocalEntryNotFoundError|OfflineModeIsEnabled|ConnectionError",
    pattern=r"the model is not fully cached locally|[Cc]annot find (?:the requested files in the disk cache|an "
    r"appropriate "
    r"cached snapshot)|We couldn't connect to '?https://huggingface\.co|offline mode is enabled",
    gpus=0,
    chinese=["连不上huggingface", "无法下载模型"],
    messages={
        "transformers 4.57.6": "OSError: We couldn't connect to 'https://huggingface.co' to load the files, and "
        "couldn't "
        "find them in the cached files.",
        "diffusers 0.42.1": "OSError: Cannot load model nobody/no-sana: the model is not fully cached locally (Cannot "
        "find an appropriate cached snapshot folder for the specified revision on the local disk and outgoing traffic "
        "has been disabled.",
    },
    cause="The name is one of the Hub's, and neither the cache of this user on this machine has it whole nor can it be "
    "fetched: no network, a firewall, or `HF_HUB_OFFLINE=1`. A download that stopped half-way counts as not there.",
    references=["diffusers 0.42.1: pipelines/pipeline_utils.py, download", "transformers 5.23.0: utils/hub.py"],
)


@entry.reproduce
def _():
    import os

    os.environ["HF_HUB_OFFLINE"] = "1"
    from diffusers import SanaPipeline

    SanaPipeline.from_pretrained("nobody/no-sana", local_files_only=True)


@entry.fix("Fetch it once where there is a network (`hf download REPO --local-dir FOLDER`), and give the folder.")
def _(FOLDER):
    import torch
    from diffusers import SanaPipeline

    SanaPipeline.from_pretrained(FOLDER, dtype=torch.bfloat16)


entry = FAMILY.failure(
    id="file-not-in-folder",
    title="`no file named model_index.json`, `config.json`: the wrong folder",
    error="OSError",
    pattern=r"no file named (?:model_index|config)\.json found in directory|does not appear to have a file named \S+",
    gpus=0,
    messages={
        "diffusers 0.42.1": "OSError: Error no file named model_index.json found in directory /models/sana/vae.",
        "diffusers 0.42.1, model": "OSError: Error no file named config.json found in directory /models/sana.",
        "transformers 5.23.0": "OSError: nobody/sana does not appear to have a file named config.json. Checkout "
        "'https://huggingface.co/nobody/sana/tree/main' for available files.",
    },
    cause="A pipeline's folder has a `model_index.json` and a folder for each component; a component's folder has a "
    "`config.json`. Pipelines want the one, models the other and `subfolder=` where the pipeline's is given. "
    "Checkpoints of NVlabs without `_diffusers` in their names have neither.",
    references=["diffusers 0.42.1: configuration_utils.py, load_config"],
)


@entry.reproduce
def _(FOLDER):
    from diffusers import SanaPipeline

    SanaPipeline.from_pretrained(FOLDER + "/vae")


@entry.fix("Give the folder of the pipeline, and name the component with `subfolder`.")
def _(FOLDER):
    import torch
    from diffusers import AutoencoderDC

    AutoencoderDC.from_pretrained(FOLDER, subfolder="vae", dtype=torch.bfloat16)


entry = FAMILY.failure(
    id="text-encoder-without-subfolder",
    title="`Unrecognized model`: a transformers model from a pipeline's folder",
    error="ValueError",
    pattern=r"Unrecognized model in \S+ Should have a model_type key in its config\.json",
    gpus=0,
    messages={
        "transformers 5.23.0": "ValueError: Unrecognized model in /models/sana. Should have a `model_type` key in its "
        "config.json.",
    },
    cause="`AutoModel` looks for a `config.json` that says which model it is, and a pipeline's folder has one for each "
    "component, one level deeper.",
    references=["transformers 5.23.0: models/auto/configuration_auto.py, from_pretrained"],
)


@entry.reproduce
def _(FOLDER):
    from transformers import AutoModel

    AutoModel.from_pretrained(FOLDER)


@entry.fix("Name the component.")
def _(FOLDER):
    from transformers import AutoModel

    AutoModel.from_pretrained(FOLDER, subfolder="text_encoder")


# ---- damaged files ----------------------------------------------------------------------------------------------

entry = FAMILY.failure(
    id="safetensors-damaged",
    title="`Error while deserializing header`: a download that is not whole",
    error="SafetensorError|OSError",
    pattern=r"[Ee]rror while deserializing header|HeaderTooLarge|MetadataIncompleteBuffer|InvalidHeaderDeserialization|"
    r"cloned a repository without having git-lfs installed|Unable to load weights from checkpoint file",
    gpus=0,
    chinese=["模型文件损坏", "权重文件不完整"],
    messages={
        "safetensors 0.4": "safetensors_rust.SafetensorError: Error while deserializing header: "
        "MetadataIncompleteBuffer",
        "torch 2.13.0": "safetensors._safetensors_rust.SafetensorError: Error while deserializing header: incomplete "
        "metadata, file not fully covered",
        "diffusers 0.42.1": "OSError: You seem to have cloned a repository without having git-lfs installed. Please "
        "install git-lfs and run `git lfs install` followed by `git lfs pull` in the folder you cloned.",
    },
    cause="The file is shorter than its header says, or is no weights at all: a download that stopped, a disk that was "
    "full, or a pointer of git-lfs, 130 bytes of text in place of gigabytes.",
    references=["diffusers 0.42.1: models/model_loading_utils.py, load_state_dict"],
)


@entry.reproduce
def _():
    import pathlib
    import tempfile

    import torch
    from safetensors.torch import load_file, save_file

    with tempfile.TemporaryDirectory() as place:
        file = pathlib.Path(place) / "weights.safetensors"
        save_file({"weight": torch.ones(100)}, file)
        file.write_bytes(file.read_bytes()[:-50])
        load_file(file)


@entry.fix("Fetch the file again, and compare its size with that on its page.")
def _():
    import pathlib
    import tempfile

    import torch
    from safetensors.torch import load_file, save_file

    with tempfile.TemporaryDirectory() as place:
        file = pathlib.Path(place) / "weights.safetensors"
        save_file({"weight": torch.ones(100)}, file)
        load_file(file)


entry = FAMILY.failure(
    id="weights-only-load-failed",
    title="`torch.load` refuses: `Weights only load failed`",
    error="UnpicklingError",
    pattern=r"Weights only load failed",
    gpus=0,
    messages={
        "torch 2.13.0": "_pickle.UnpicklingError: Weights only load failed. This file can still be loaded, to do so "
        "you "
        "have two options, do those steps only if you trust the source of the checkpoint.",
    },
    cause="Since 2.6 `torch.load` takes tensors and nothing that could run code. A whole model, saved as an object, is "
    "such a thing; so are 8-bit parameters with their state.",
    affects={"torch": ">=2.6"},
    references=["pytorch 2.13.0: torch/serialization.py, load"],
)


@entry.reproduce
def _():
    import io

    import torch

    file = io.BytesIO()
    torch.save(torch.nn.Linear(2, 2), file)
    file.seek(0)
    torch.load(file)


@entry.fix("Save the state dict, or use `save_pretrained`, which writes safetensors.")
def _():
    import io

    import torch

    file = io.BytesIO()
    torch.save(torch.nn.Linear(2, 2).state_dict(), file)
    file.seek(0)
    torch.load(file)


entry = FAMILY.failure(
    id="torch-load-needs-2-6",
    title="`.bin` files: transformers asks for torch 2.6",
    error="ValueError",
    pattern=r"serious vulnerability issue in torch\.load",
    messages={
        "transformers 4.53.2": "ValueError: Due to a serious vulnerability issue in `torch.load`, even with "
        "`weights_only=True`, we now require users to upgrade torch to at least v2.6 in order to use the function.",
    },
    cause="Weights in `.bin` files are pickles. transformers loads them only with a PyTorch in which a hole is closed; "
    "safetensors files are not concerned.",
    affects={"torch": "<2.6", "transformers": ">=4.51"},
    elsewhere="a checkpoint of `.bin` files",
    references=["transformers 4.53.2: utils/import_utils.py, check_torch_load_is_safe"],
    evidence="source",
)
entry.fix("Upgrade torch, or take the safetensors files of the same model.", command="pip install -U 'torch>=2.6'")

# ---- tokenizers -------------------------------------------------------------------------------------------------

entry = FAMILY.failure(
    id="sentencepiece-missing",
    title="The tokenizer wants SentencePiece",
    error="ImportError|ValueError",
    pattern=r"requires the SentencePiece library but it was not found|Cannot instantiate this tokenizer from a slow "
    r"version|The component <class '\S*Placeholder'> of <class .{0,120} cannot be loaded",
    messages={
        "transformers 4.47.1": "ImportError: GemmaTokenizer requires the SentencePiece library but it was not found in "
        "your environment.",
        "diffusers 0.34.0 with transformers 4.53.2": "ValueError: The component <class 'transformers.models.gemma."
        "tokenization_gemma._LazyModule.__getattr__.<locals>.Placeholder'> of <class 'diffusers.pipelines.sana."
        "pipeline_sana.SanaPipeline'> cannot be loaded as it does not seem to have any of the loading methods "
        "defined in",
    },
    cause="Sana's folders name `GemmaTokenizer`, which in transformers 4 is the slow one, made of SentencePiece. Where "
    "that is not installed a placeholder stands in its place, and the pipeline does not know what to do with it.",
    affects={"transformers": "<5"},
    elsewhere="transformers 4 without sentencepiece",
    references=[
        "transformers 4.47.1: models/gemma/tokenization_gemma.py",
        "transformers 4.53.2: utils/import_utils.py",
    ],
    evidence="source",
)
entry.fix("Install it.", command="pip install sentencepiece")

# ---- other ways to quantize -------------------------------------------------------------------------------------

entry = FAMILY.failure(
    id="gguf-library-missing",
    title="A GGUF file, or its configuration, without the library gguf",
    error="ImportError",
    pattern=r"To load GGUF format files you must have gguf installed|Please install torch and gguf>=|"
    r"Loading GGUF Parameters requires",
    gpus=1,
    messages={
        "diffusers 0.32.0": "ImportError: Please install torch and gguf>=0.10.0 to load a GGUF checkpoint in PyTorch.",
        "diffusers 0.42.1": "ImportError: To load GGUF format files you must have `gguf` installed in your "
        "environment: "
        "`pip install gguf>=0.10.0`",
    },
    cause="GGUF is llama.cpp's format: one file that is quantized already, read with `from_single_file`. It is no "
    "way to "
    "quantize Sana's folders while they load, and bitsandbytes has no part in it.",
    affects={"diffusers": ">=0.32"},
    references=["diffusers#9964", "diffusers 0.42.1: quantizers/gguf/gguf_quantizer.py, validate_environment"],
)


@entry.reproduce
def _(FOLDER):
    import torch
    from diffusers import GGUFQuantizationConfig, SanaTransformer2DModel

    SanaTransformer2DModel.from_pretrained(
        FOLDER, subfolder="transformer", quantization_config=GGUFQuantizationConfig(compute_dtype=torch.bfloat16)
    )


@entry.fix("For a folder in 16 bits take bitsandbytes' configuration.")
def _(FOLDER):
    import torch
    from diffusers import BitsAndBytesConfig, SanaTransformer2DModel

    SanaTransformer2DModel.from_pretrained(
        FOLDER, subfolder="transformer", quantization_config=BitsAndBytesConfig(load_in_8bit=True), dtype=torch.bfloat16
    )


entry = FAMILY.failure(
    id="torchao-missing",
    title="A configuration of torchao without torchao",
    error="ModuleNotFoundError|ImportError|ValueError",
    pattern=r"No module named 'torchao|TorchAoConfig requires torchao|torchao quantized model requires the torchao|"
    r"requires the torchao library",
    gpus=0,
    messages={
        "diffusers 0.33.1": "ValueError: TorchAoConfig requires torchao to be installed, please install with `pip "
        "install "
        "torchao`",
        "diffusers 0.42.1": "ModuleNotFoundError: No module named 'torchao'",
    },
    cause="torchao is another library for the same purpose, and not a part of bitsandbytes; diffusers has a "
    "configuration for each. A saved model remembers with which it was made, so loading one can ask for it, too.",
    affects={"diffusers": ">=0.32"},
    references=["diffusers 0.42.1: quantizers/quantization_config.py, TorchAoConfig"],
)


@entry.reproduce
def _():
    import sys

    sys.modules["torchao"] = None  # as where it is not installed
    from diffusers import TorchAoConfig

    TorchAoConfig("int8wo")


@entry.fix("Install it (`pip install torchao`), or take bitsandbytes' configuration.")
def _():
    from diffusers import BitsAndBytesConfig

    BitsAndBytesConfig(load_in_8bit=True)


entry = FAMILY.failure(
    id="quanto-missing",
    title="A configuration of quanto without optimum-quanto",
    error="ImportError",
    pattern=r"optimum-quanto quantized model requires|Using quanto .{0,40}requires|requires optimum-quanto library",
    gpus=0,
    messages={
        "diffusers 0.42.1": "ImportError: Loading an optimum-quanto quantized model requires optimum-quanto library "
        "(`pip install optimum-quanto`)",
    },
    cause="quanto is a third library for eight-bit weights. Its configuration can be made without it, and only loading "
    "asks.",
    affects={"diffusers": ">=0.33"},
    references=["diffusers 0.42.1: quantizers/quanto/quanto_quantizer.py, validate_environment"],
)


@entry.reproduce
def _(FOLDER):
    from diffusers import QuantoConfig, SanaTransformer2DModel

    SanaTransformer2DModel.from_pretrained(FOLDER, subfolder="transformer", quantization_config=QuantoConfig("int8"))


@entry.fix("Install it (`pip install optimum-quanto`), or use bitsandbytes on a GPU.")
def _(FOLDER):
    import torch
    from diffusers import BitsAndBytesConfig, SanaTransformer2DModel

    from sana_lab import use_accelerator

    use_accelerator()
    SanaTransformer2DModel.from_pretrained(
        FOLDER, subfolder="transformer", quantization_config=BitsAndBytesConfig(load_in_8bit=True), dtype=torch.bfloat16
    )


entry = FAMILY.failure(
    id="windows-page-file-too-small",
    title="Windows: the paging file is too small (error 1455)",
    error="OSError",
    pattern=r"(?:os error|WinError) 1455|[Tt]he paging file is too small|页面文件太小|ページング ファイルが小さすぎ",
    chinese=["页面文件太小", "虚拟内存不足", "内存不足"],
    messages={
        "VectorSpaceLab/OmniGen#181": "OSError: The paging file is too small for this operation to complete. (os error "
        "1455)",
        "Comfy-Org/ComfyUI#6606": "OSError: 页面文件太小，无法完成操作。 (os error 1455)",
        "Windows in Japanese": "OSError: [WinError 1455] ページング ファイルが小さすぎるため、"
        "この操作を完了できません。",
    },
    cause="safetensors maps a file into memory, and Windows wants room for all of it in memory and paging file "
    "together, "
    "also for what is never touched. It is the main memory that is short, not the GPU's.",
    references=["VectorSpaceLab/OmniGen#181", "Comfy-Org/ComfyUI#6606"],
    evidence="report",
    elsewhere="Windows",
)
entry.fix("Let Windows manage the paging file, on a disk with room; close what fills the memory.",
          command="systempropertiesadvanced")  # fmt: skip
