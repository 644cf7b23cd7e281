"""Libraries that are asked for, and bitsandbytes' own library under the names of other systems and versions."""

from __future__ import annotations

from .install import FAMILY

entry = FAMILY.failure(
    id="attention-library-missing",
    title="FlashAttention or xFormers is asked for and not installed",
    error="ImportError|ModuleNotFoundError",
    pattern=r"FlashAttention\d has been toggled on, but it cannot be used|more information on how to install xformers|"
    r"package flash_attn seems to be not installed",
    gpus=0,
    messages={
        "transformers 5.23.0": "ImportError: FlashAttention2 has been toggled on, but it cannot be used due to the "
        "following error: the package for FlashAttention2 doesn't seem to be installed.",
        "diffusers 0.42.1": "ModuleNotFoundError: Refer to https://github.com/facebookresearch/xformers for more "
        "information on how to install xformers",
    },
    cause="Both are libraries of their own, with binaries for one PyTorch and one CUDA each. PyTorch 2 has the same "
    "kernels inside: what they are asked for is there already.",
    references=["transformers 5.23.0: modeling_utils.py, _flash_attn_import_error"],
)


@entry.reproduce
def _(FOLDER):
    from transformers import AutoModel

    AutoModel.from_pretrained(FOLDER, subfolder="text_encoder", attn_implementation="flash_attention_2")


@entry.fix("Leave it out: each model then takes the best that is there.")
def _(FOLDER):
    from transformers import AutoModel

    AutoModel.from_pretrained(FOLDER, subfolder="text_encoder")


# ---- bitsandbytes is asked for ----------------------------------------------------------------------------------

entry = FAMILY.failure(
    id="bitsandbytes-required",
    title="`requires the latest version of bitsandbytes`, although it is installed",
    error="ImportError",
    pattern=r"Using bitsandbytes [48]-bit quantization requires (?:the latest version of )?bitsandbytes|requires the "
    r"bitsandbytes library but it was not found|bitsandbytes>=?[\d.]+ .{0,40}to use bitsandbytes quantizer",
    chinese=["找不到bitsandbytes", "bitsandbytes版本太旧", "版本不匹配"],
    messages={
        "bitsandbytes#1530": "ImportError: Using `bitsandbytes` 8-bit quantization requires the latest version of "
        "bitsandbytes: `pip install -U bitsandbytes`",
        "diffusers 0.40.0": "ImportError: Using `bitsandbytes` 4-bit quantization requires the latest version of "
        "bitsandbytes: `pip install -U bitsandbytes`",
        "transformers 5.23.0": "ImportError: Using `bitsandbytes` 8-bit quantization requires bitsandbytes: `pip "
        "install "
        "-U bitsandbytes>=0.46.1`",
    },
    cause="The library was looked for once, when transformers or diffusers was imported. In a notebook an installation "
    "after that is not seen until the kernel restarts. Otherwise it is missing in this very Python, too old "
    "(transformers 5 wants 0.46.1), or, before 0.43.1, there is no CUDA.",
    references=["bitsandbytes#1530", "AIAnytime/Fine-Tune-DeepSeek#1", "transformers 4.51.3: utils/import_utils.py"],
    evidence="source",
)
entry.fix(
    "Install it with the Python that runs the program, and restart the runtime.",
    command="python -m pip install -U bitsandbytes && python -m bitsandbytes",
)

entry = FAMILY.failure(
    id="accelerate-and-bitsandbytes-required",
    title="`requires Accelerate … and the latest version of bitsandbytes`, both installed",
    error="ImportError",
    pattern=r"requires Accelerate: pip install accelerate and the latest version of bitsandbytes",
    chinese=["需要Accelerate", "版本不匹配"],
    messages={
        "bitsandbytes#1213": "ImportError: Using `bitsandbytes` 8-bit quantization requires Accelerate: `pip install "
        "accelerate` and the latest version of bitsandbytes: `pip install -i https://pypi.org/simple/ bitsandbytes`",
        "transformers 4.37.2": "ImportError: Using `load_in_8bit=True` requires Accelerate: `pip install "
        "accelerate` and "
        "the latest version of bitsandbytes `pip install -i https://test.pypi.org/simple/ bitsandbytes` or pip install "
        "bitsandbytes`",
    },
    cause="These versions take bitsandbytes for missing wherever `torch.cuda.is_available()` is false, and say so in "
    "one sentence with accelerate. A PyTorch without CUDA, a runtime without a GPU, or a notebook that was not "
    "restarted after the installation are behind it.",
    affects={"transformers": "<4.44"},
    elsewhere="a PyTorch without CUDA",
    references=["bitsandbytes#1213", "transformers#30887", "transformers 4.37.2: utils/import_utils.py"],
    evidence="source",
)
entry.fix("Look at torch first; then upgrade, and restart the runtime.",
          command="python -c 'import torch; print(torch.version.cuda, torch.cuda.is_available())'")  # fmt: skip

entry = FAMILY.failure(
    id="accelerate-required",
    title="accelerate is asked for: `low_cpu_mem_usage`, a device map, quantization",
    error="ImportError|NotImplementedError|ValueError",
    pattern=r"requires Accelerate: pip install '?accelerate(?!\S* and the latest)|[Uu]sing device_map requires the "
    r"accelerate library|requires accelerate\. You can install it|because accelerate was not found in the environment|"
    r"low_cpu_mem_usage=True or a device_map requires Accelerate(?!: pip)",
    messages={
        "diffusers 0.40.0": "ImportError: Using `bitsandbytes` 8-bit quantization requires Accelerate: `pip install "
        "'accelerate>=0.26.0'`",
        "transformers 4.44.2": "ImportError: Using `low_cpu_mem_usage=True` or a `device_map` requires Accelerate: "
        "`pip "
        "install accelerate`",
        "diffusers 0.42.1": "NotImplementedError: Using `device_map` requires the `accelerate` library. Please "
        "install it "
        "using: `pip install accelerate`.",
    },
    cause="Weights that go to their device while they load, maps and offloading are accelerate's. It is a library of "
    "its own, and diffusers and transformers can be installed without it.",
    references=["diffusers 0.40.0: pipelines/pipeline_utils.py", "transformers 4.44.2: modeling_utils.py"],
    evidence="source",
)
entry.fix("Install it, and restart the runtime.", command="pip install -U accelerate")

entry = FAMILY.failure(
    id="bitsandbytes-metadata-missing",
    title="`No package metadata was found for bitsandbytes`",
    error="PackageNotFoundError|ModuleNotFoundError",
    pattern=r"No package metadata was found for (?:The '?)?bitsandbytes|The 'bitsandbytes\S*' distribution was not "
    r"found"
    r"|No module named 'bitsandbytes'",
    chinese=["找不到bitsandbytes"],
    messages={
        "diffusers#3194": "PackageNotFoundError: No package metadata was found for bitsandbytes",
        "Python": "ModuleNotFoundError: No module named 'bitsandbytes'",
    },
    cause="The model's configuration says that it is quantized with bitsandbytes, the loader asks for its version, and "
    "it is not installed in this Python. The words come from Python's packaging and name no way out.",
    references=["diffusers#3194", "Comfy-Org/ComfyUI#11766", "transformers 4.44.2: quantizers/quantizer_bnb_8bit.py"],
    evidence="report",
)
entry.fix("Install it with the Python that runs the program.", command="python -m pip install -U bitsandbytes")

entry = FAMILY.failure(
    id="init-empty-weights-undefined",
    title="`name 'init_empty_weights' is not defined`",
    error="NameError",
    pattern=r"name 'init_empty_weights' is not defined",
    messages={"2noise/ChatTTS#926": "NameError: name 'init_empty_weights' is not defined"},
    cause="transformers imports this function from accelerate if that is there, and uses it without asking again. "
    "accelerate is missing, or was installed into a notebook that was not restarted.",
    affects={"transformers": "<5"},
    elsewhere="transformers without accelerate",
    references=["2noise/ChatTTS#926", "docling-project/docling#1310"],
    evidence="report",
)
entry.fix("Install it, and restart.", command="pip install -U accelerate")

entry = FAMILY.failure(
    id="peft-required",
    title="`PEFT backend is required`: LoRA without peft",
    error="ValueError",
    pattern=r"PEFT backend is required",
    chinese=["加载LoRA报错"],
    messages={
        "diffusers 0.36.0": "ValueError: PEFT backend is required for this method.",
        "diffusers 0.42.1": "ValueError: PEFT backend is required for `load_lora_weights()`.",
    },
    cause="diffusers loads a LoRA through the library peft, which it does not install. It looks once, while it is "
    "imported.",
    references=["diffusers 0.42.1: utils/peft_utils.py"],
    evidence="source",
)
entry.fix("Install it, and restart.", command="pip install -U peft")

# ---- its library does not load ----------------------------------------------------------------------------------

entry = FAMILY.failure(
    id="triton-ops-missing",
    title="`No module named 'triton.ops'`: bitsandbytes before 0.45.3 with a newer triton",
    error="ModuleNotFoundError|RuntimeError|ImportError",
    pattern=r"No module named 'triton\.ops'",
    messages={
        "bitsandbytes#1768": "ModuleNotFoundError: No module named 'triton.ops'",
        "diffusers 0.32.0": "RuntimeError: Failed to import diffusers.loaders.lora_pipeline because of the "
        "following error "
        "(look up to see its traceback):\nFailed to import diffusers.quantizers because of the following error: No "
        "module "
        "named 'triton.ops'",
    },
    cause="triton 3.2, which comes with torch 2.6, no longer has this part, and bitsandbytes imported it. diffusers "
    "imports bitsandbytes, so the error names whatever was to be loaded.",
    affects={"bitsandbytes": "<0.45.3"},
    elsewhere="triton 3.2 or newer",
    references=["bitsandbytes#1768", "cocktailpeanut/fluxgym#411"],
    evidence="report",
)
entry.fix("Upgrade.", command="pip install -U 'bitsandbytes>=0.46'")

entry = FAMILY.failure(
    id="bitsandbytes-compiled-without-gpu",
    title="`bitsandbytes was compiled without GPU support`",
    shows="warning",
    pattern=r"bitsandbytes was compiled without GPU support|Could not find the bitsandbytes CUDA binary at",
    chinese=["bitsandbytes没有GPU支持"],
    messages={
        "bitsandbytes 0.45.5": "Could not find the bitsandbytes CUDA binary at PosixPath('/venv/lib/python3.11/"
        "site-packages/bitsandbytes/libbitsandbytes_cuda125.so')\nThe installed version of bitsandbytes was compiled "
        "without GPU support. 8-bit optimizers, 8-bit multiplication, and GPU quantization are unavailable.",
    },
    cause="Up to 0.45 bitsandbytes looks for a library with exactly the CUDA version of PyTorch, finds none, takes "
    "the one "
    "for the CPU and says this. What fails is the first layer, much later.",
    affects={"bitsandbytes": "<0.46.2"},
    elsewhere="a CUDA that the wheel does not have",
    references=["bitsandbytes#1768", "bitsandbytes 0.45.5: cextension.py"],
    evidence="source",
)
entry.fix("Upgrade: newer wheels bring more CUDA versions and take a near one.",
          command="pip install -U 'bitsandbytes>=0.50'")  # fmt: skip

entry = FAMILY.failure(
    id="bitsandbytes-undefined-symbol",
    title="`undefined symbol: cget_col_row_stats` and its like",
    error="AttributeError|OSError|NameError",
    pattern=r"undefined symbol: c(?:get|igemm|quant|dequant|adam|block|op|lib)\w+|'NoneType' object has no attribute "
    r"'c(?:get|igemm|quant|dequant|adam|block|op|double)\w+'|name 'str2optimizer8bit_blockwise' is not defined",
    chinese=["bitsandbytes未定义符号"],
    messages={
        "bitsandbytes#459": "AttributeError: "
        "/opt/conda/lib/python3.10/site-packages/bitsandbytes/libbitsandbytes_cpu.so: "
        "undefined symbol: cget_col_row_stats",
        "bitsandbytes#1427": "AttributeError: 'NoneType' object has no attribute 'cget_col_row_stats'",
    },
    cause="bitsandbytes loaded its library for the CPU, or none at all, because it found none for PyTorch's CUDA; the "
    "first layer then asks for a function that only the other one has. Copying one library over the other, which "
    "circulates as advice, breaks the next upgrade.",
    affects={"bitsandbytes": "<0.46"},
    elsewhere="a CUDA that the wheel does not have",
    references=["bitsandbytes#399", "bitsandbytes#459", "bitsandbytes#1427"],
    evidence="report",
)
entry.fix("Upgrade, then let it say what it finds.", command="pip install -U bitsandbytes && python -m bitsandbytes")

entry = FAMILY.failure(
    id="rocm-setup-failed",
    title="AMD: `ROCm Setup failed`, undefined symbol in `libbitsandbytes_rocm62.so`",
    error="RuntimeError|OSError",
    pattern=r"ROCm Setup failed despite ROCm being available|libbitsandbytes_(?:rocm|hip)\w*\.\w+: (?:undefined symbol|"
    r"cannot open)|No compatible ROCm library found|Could not detect ROCm|No prebuilt binary for ROCm",
    chinese=["AMD显卡报错", "ROCm报错"],
    messages={
        "bitsandbytes#1508": "ROCm Setup failed despite ROCm being available. Please run the following command to "
        "get more "
        "information:",
        "bitsandbytes#1519": "OSError: /opt/venv/lib/python3.10/site-packages/bitsandbytes/libbitsandbytes_rocm62.so: "
        "undefined symbol: _Z36__device_stub__kOptimizer32bit1State",
        "bitsandbytes 0.50.0": "No compatible ROCm library found (tried: libbitsandbytes_rocm72.so).",
    },
    cause="The library for AMD does not fit the ROCm of this PyTorch: another version, or a build from sources that "
    "was "
    "not whole. Wheels for ROCm came late; before that everyone built for himself.",
    references=["bitsandbytes#1508", "bitsandbytes#1519", "bitsandbytes#1550", "bitsandbytes 0.50.0: cextension.py"],
    evidence="report",
    elsewhere="an AMD GPU",
)
entry.fix("Take a release whose wheels hold your ROCm, and let it say what it finds.",
          command="pip install -U 'bitsandbytes>=0.50' && python -m bitsandbytes")  # fmt: skip

entry = FAMILY.failure(
    id="windows-library-not-found",
    title="Windows: `Could not find module … libbitsandbytes_….dll`, error 126",
    error="FileNotFoundError|OSError",
    pattern=r"Could not find module .{0,300}libbitsandbytes\w*\.dll|WinError "
    r"126\].{0,400}(?:bitsandbytes|c10|torch|cudart)|"
    r"argument of type 'WindowsPath' is not iterable",
    chinese=["找不到指定的模块", "Windows找不到dll"],
    messages={
        "bitsandbytes#1524": "FileNotFoundError: Could not find module 'C:\\venv\\lib\\site-packages\\bitsandbytes\\"
        "libbitsandbytes_cpu.dll' (or one of its dependencies). Try using the full path with constructor syntax.",
        "Windows in Chinese": "OSError: [WinError 126] 找不到指定的模块。 Error loading "
        '"C:\\venv\\lib\\site-packages\\torch\\lib\\c10_cuda.dll" or one of its dependencies.',
    },
    cause="Windows says the same of a library that is missing and of one whose own libraries are: a wheel for another "
    "CUDA, a package made for Linux, or no Visual C++ runtime. bitsandbytes has wheels for Windows since 0.43.",
    references=["bitsandbytes#1524", "bitsandbytes#1641"],
    evidence="report",
    elsewhere="Windows",
)
entry.fix("Install the wheel of the project, and Microsoft's Visual C++ runtime if it is not there.",
          command="pip install -U bitsandbytes && python -m bitsandbytes")  # fmt: skip
