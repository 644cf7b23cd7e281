"""Number formats."""

from __future__ import annotations

from ..entry import Family

FAMILY = Family(
    "dtypes",
    "Number formats",
    "What is computed in which format: the traps that raise, and those that only draw worse pictures.",
    section="chapter-loading",
)

entry = FAMILY.failure(
    id="linear-two-dtypes",
    title="A linear layer gets another dtype than its weights have",
    error="RuntimeError",
    pattern=r"mat1 and mat2 must have the same dtype|expected (?:mat1 and mat2|m1 and m2) to have the same dtype|"
    r"expected scalar type \w+ but found \w+",
    chinese=["数据类型不匹配", "精度不匹配"],
    messages={
        "diffusers#6079": "RuntimeError: expected scalar type Half but found Float",
        "torch 2.11.0, batched": "RuntimeError: expected mat1 and mat2 to have the same dtype, but got: c10::Half != "
        "c10::BFloat16",
        "pytorch#105243": "RuntimeError: mat1 and mat2 must have the same dtype",
        "torch 2.13.0": "RuntimeError: mat1 and mat2 must have the same dtype, but got Float and BFloat16",
        "torch 2.13.0, CPU": "RuntimeError: expected m1 and m2 to have the same dtype, but got: float != c10::BFloat16",
    },
    cause="A plain Linear does not convert its input. The 8-bit layers of bitsandbytes do, so code that ran with a "
    "quantized model can fail here once quantization is taken away.",
    references=["pytorch 2.13.0: aten/src/ATen/native/cuda/Blas.cpp"],
)


@entry.reproduce
def _():
    import torch

    layer = torch.nn.Linear(4, 4, dtype=torch.bfloat16, device="cuda")
    layer(torch.ones(1, 4, device="cuda"))


@entry.fix("Convert the input to the type of the weight.")
def _():
    import torch

    layer = torch.nn.Linear(4, 4, dtype=torch.bfloat16, device="cuda")
    layer(torch.ones(1, 4, device="cuda").to(layer.weight.dtype))


entry = FAMILY.failure(
    id="convolution-two-dtypes",
    title="Latents in float32 for an autoencoder or transformer in bfloat16",
    error="RuntimeError",
    pattern=r"Input type \((?:float|double)\) and (?:bias|weight) type \(|"
    r"Input type \(torch\.cuda\.(?:Float|Double)Tensor\) and (?:bias|weight) type \(torch\.cuda\.(?!Float)|"
    r"Input type \((CUDA|CPU|MPS|XPU)(?:Float|Double)Type\) and (?:bias|weight) type \(\1(?!Float)",
    chinese=["数据类型不匹配", "精度不匹配"],
    messages={
        "torch 2.6, no bias": "RuntimeError: Input type (torch.cuda.FloatTensor) and weight type "
        "(torch.cuda.HalfTensor) should be the same",
        "torch 2.13.0": "RuntimeError: Input type (float) and bias type (c10::BFloat16) should be the same",
        "DepthAnything/Depth-Anything-V2#264": "Input type (float) and bias type (struct c10::Half) should be the same",
    },
    cause="Sana's pipeline converts latents on its way from the loop, which runs in float32, to the autoencoder. Code "
    "that calls `vae.decode()` or the transformer itself has to do the same.",
    references=["diffusers 0.42.1: pipelines/sana/pipeline_sana.py, __call__"],
)


@entry.reproduce
def _(FOLDER):
    import torch
    from diffusers import AutoencoderDC

    vae = AutoencoderDC.from_pretrained(FOLDER, subfolder="vae", dtype=torch.bfloat16).to("cuda")
    vae.decode(torch.randn(1, 32, 4, 4, device="cuda"))


@entry.fix("Convert the latents to `vae.dtype`.")
def _(FOLDER):
    import torch
    from diffusers import AutoencoderDC

    vae = AutoencoderDC.from_pretrained(FOLDER, subfolder="vae", dtype=torch.bfloat16).to("cuda")
    vae.decode(torch.randn(1, 32, 4, 4, device="cuda").to(vae.dtype))


entry = FAMILY.failure(
    id="convolution-weights-not-16-bit",
    title="16-bit latents for a convolution whose weights are float32",
    error="RuntimeError",
    pattern=r"Input type \((?:struct )?c10::(?:Half|BFloat16)\) and (?:bias|weight) type \(|"
    r"Input type \(torch\.cuda\.(?:Half|BFloat16)Tensor\) and (?:bias|weight) type \(torch\.cuda\.(?!Half|BFloat16)|"
    r"Input type \((CUDA|CPU|MPS|XPU)(?:Half|BFloat16)Type\) and (?:bias|weight) type \(\1(?!Half|BFloat16)",
    chinese=["数据类型不匹配", "精度不匹配", "权重是float32"],
    messages={
        "Sana#242": "RuntimeError: Input type (c10::Half) and bias type (float) should be the same",
        "torch 2.6, no bias": "RuntimeError: Input type (torch.cuda.HalfTensor) and weight type "
        "(torch.cuda.FloatTensor) should be the same",
    },
    cause="The first type is the input's, the second the weights': here the *weights* are in another format. A module "
    "was loaded without `dtype`, which means float32, or not cast with the rest: a ControlNet, an autoencoder of one's "
    "own.",
    references=["Sana#242", "pytorch 2.13.0: aten/src/ATen/native/Convolution.cpp"],
)


@entry.reproduce
def _(FOLDER):
    import torch
    from diffusers import AutoencoderDC

    vae = AutoencoderDC.from_pretrained(FOLDER, subfolder="vae").to("cuda")
    vae.decode(torch.randn(1, 32, 4, 4, device="cuda", dtype=torch.float16))


@entry.fix("Load the module in the format of the others, or cast it.")
def _(FOLDER):
    import torch
    from diffusers import AutoencoderDC

    vae = AutoencoderDC.from_pretrained(FOLDER, subfolder="vae", dtype=torch.float16).to("cuda")
    vae.decode(torch.randn(1, 32, 4, 4, device="cuda", dtype=torch.float16))


entry = FAMILY.failure(
    id="attention-two-dtypes",
    title="Attention gets query, key and value of two dtypes",
    error="RuntimeError",
    pattern=r"Expected query, key,? and value to have the same (?:data ?|d)type",
    chinese=["注意力数据类型不匹配", "数据类型不匹配"],
    messages={
        "vladmandic/sdnext#3470": "RuntimeError: Expected query, key, and value to have the same dtype, but got "
        "query.dtype: float key.dtype: c10::Half and value.dtype: c10::Half instead.",
        "torch 2.13.0": "RuntimeError: Expected query, key, and value to have the same dtype, but got query.dtype: "
        "float "
        "key.dtype: c10::Half and value.dtype: float instead.",
    },
    cause="`scaled_dot_product_attention` converts nothing. Two of the three come from the text, so an encoder in one "
    "format and a transformer in another meet here; a LoRA in float32 on a 16-bit projection does the same.",
    references=["vladmandic/sdnext#3470", "pytorch 2.13.0: aten/src/ATen/native/transformers/sdp_utils_cpp.h"],
)


@entry.reproduce
def _():
    import torch

    query, text = torch.ones(1, 1, 4, 8, device="cuda"), torch.ones(1, 1, 6, 8, device="cuda").half()
    torch.nn.functional.scaled_dot_product_attention(query, text, text)


@entry.fix("Convert the text to the format of the transformer.")
def _():
    import torch

    query, text = torch.ones(1, 1, 4, 8, device="cuda"), torch.ones(1, 1, 6, 8, device="cuda").half()
    text = text.to(query.dtype)
    torch.nn.functional.scaled_dot_product_attention(query, text, text)


entry = FAMILY.failure(
    id="matmul8bit-casts-inputs",
    section="chapter-one-outlier",
    title="The log fills with `MatMul8bitLt: inputs will be cast`",
    shows="warning",
    pattern=r"MatMul8bitLt: inputs will be cast from \S+ to float16 during quantization",
    messages={
        "bitsandbytes 0.49.2": "UserWarning: MatMul8bitLt: inputs will be cast from torch.bfloat16 to float16 during "
        "quantization",
        "bitsandbytes 0.50.2": "MatMul8bitLt: inputs will be cast from torch.bfloat16 to float16 during quantization",
    },
    cause="bitsandbytes quantizes activations from float16, so anything else is converted first, in every layer at "
    "every step. With bfloat16 that is expected and harmless, unless a value is above 65504. Up to 0.49 it is a "
    "warning, from 0.50 on a line of the `bitsandbytes` logger.",
    references=[
        "bitsandbytes 0.50.2: autograd/_functions.py, MatMul8bitLt",
        "bitsandbytes 0.49.2: autograd/_functions.py, MatMul8bitLt",
    ],
)


@entry.reproduce
def _():
    import bitsandbytes
    import torch

    layer = bitsandbytes.nn.Linear8bitLt(64, 64, has_fp16_weights=False).to("cuda").eval()
    layer(torch.ones(1, 64, dtype=torch.bfloat16, device="cuda"))


@entry.fix("Silence both forms of it.")
def _():
    import logging
    import warnings

    import bitsandbytes
    import torch

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="MatMul8bitLt")
    layer = bitsandbytes.nn.Linear8bitLt(64, 64, has_fp16_weights=False).to("cuda").eval()
    layer(torch.ones(1, 64, dtype=torch.bfloat16, device="cuda"))


entry = FAMILY.failure(
    id="nan-with-threshold-zero",
    section="chapter-one-outlier",
    title="NaN with `llm_int8_threshold=0` and a large activation",
    shows="output",
    pattern=r"any NaN: True",
    messages={"bitsandbytes 0.50.2": "any NaN: True"},
    cause="Activations are converted to float16 before they are quantized, and a bfloat16 value above 65504 becomes "
    "infinite: its row's scale is infinite, its products NaN. With a threshold the column counts as an outlier and is "
    "multiplied in the original format. Sana's activations do reach such values.",
    references=["bitsandbytes 0.50.2: autograd/_functions.py, MatMul8bitLt", "diffusers#10336"],
)


@entry.reproduce
def _():
    import bitsandbytes
    import torch

    layer = bitsandbytes.nn.Linear8bitLt(64, 64, has_fp16_weights=False, threshold=0.0).to("cuda").eval()
    x = torch.ones(1, 64, dtype=torch.bfloat16, device="cuda")
    x[0, 0] = 1e5
    print("any NaN:", layer(x).isnan().any().item())


@entry.fix("Keep the default threshold of 6.0.")
def _():
    import bitsandbytes
    import torch

    layer = bitsandbytes.nn.Linear8bitLt(64, 64, has_fp16_weights=False, threshold=6.0).to("cuda").eval()
    x = torch.ones(1, 64, dtype=torch.bfloat16, device="cuda")
    x[0, 0] = 1e5
    print("any NaN:", layer(x).isnan().any().item())


entry = FAMILY.failure(
    id="precision-lost-with-threshold-zero",
    section="chapter-one-outlier",
    title="`llm_int8_threshold=0` is faster, and a single outlier channel spoils every row",
    shows="output",
    pattern=r"relative error above 2 %: True",
    messages={"bitsandbytes 0.50.2": "relative error above 2 %: True"},
    cause="Each row of activations has one step, a 127th of its largest value. One channel far above the others makes "
    "the step so coarse that the rest rounds to a few levels. The threshold takes such columns out of the 8-bit "
    "product.",
    references=["bitsandbytes 0.50.2: backends/default/ops.py"],
)


@entry.reproduce
def _():
    import bitsandbytes
    import torch

    torch.manual_seed(0)
    plain = torch.nn.Linear(256, 256, bias=False)
    x = torch.randn(8, 256)
    x[:, 0] = 60.0
    layer = bitsandbytes.nn.Linear8bitLt(256, 256, bias=False, has_fp16_weights=False, threshold=0.0)
    layer.load_state_dict(plain.state_dict())
    layer.to("cuda").eval()
    exact = plain(x)
    error = (layer(x.half().to("cuda")).float().cpu() - exact).norm() / exact.norm()
    print("relative error above 2 %:", (error > 0.02).item())


@entry.fix("Keep the default threshold of 6.0.")
def _():
    import bitsandbytes
    import torch

    torch.manual_seed(0)
    plain = torch.nn.Linear(256, 256, bias=False)
    x = torch.randn(8, 256)
    x[:, 0] = 60.0
    layer = bitsandbytes.nn.Linear8bitLt(256, 256, bias=False, has_fp16_weights=False, threshold=6.0)
    layer.load_state_dict(plain.state_dict())
    layer.to("cuda").eval()
    exact = plain(x)
    error = (layer(x.half().to("cuda")).float().cpu() - exact).norm() / exact.norm()
    print("relative error above 2 %:", (error > 0.02).item())


entry = FAMILY.failure(
    id="pipeline-loads-float32",
    title="No dtype given: half of the pipeline is in float32",
    shows="output",
    pattern=r"transformer in torch\.float32",
    messages={"diffusers 0.42.1": "transformer in torch.float32, text encoder in torch.bfloat16"},
    cause="Without `dtype` diffusers loads in float32, whatever the files hold, and transformers 5 in the format of "
    "the files (transformers 4: float32). The pipeline is a mixture of twice the size.",
    affects={"transformers": ">=5"},
    references=[
        "diffusers 0.42.1: models/modeling_utils.py, from_pretrained",
        "transformers 5.23.0: modeling_utils.py, from_pretrained",
    ],
)


@entry.reproduce
def _(FOLDER):
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(FOLDER)
    print(f"transformer in {pipe.transformer.dtype}, text encoder in {pipe.text_encoder.dtype}")


@entry.fix("Always say the dtype.")
def _(FOLDER):
    import torch
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(FOLDER, dtype=torch.bfloat16)
    print(f"transformer in {pipe.transformer.dtype}, text encoder in {pipe.text_encoder.dtype}")


entry = FAMILY.failure(
    id="8bit-default-dtypes-differ",
    title="8 bits and no dtype: float16 in one model, bfloat16 in the other",
    shows="output",
    pattern=r"around the 8-bit layers: torch\.float16 and torch\.bfloat16",
    messages={"diffusers 0.42.1": "around the 8-bit layers: torch.float16 and torch.bfloat16"},
    cause="The layers that stay in 16 bits need a format. diffusers forces float16 for bitsandbytes; transformers 4 "
    "did too, transformers 5 takes that of the checkpoint. The same script changed its text encoder with the upgrade.",
    affects={"transformers": ">=5"},
    references=["diffusers 0.42.1: quantizers/bitsandbytes/bnb_quantizer.py, update_torch_dtype"],
)


@entry.reproduce
def _(FOLDER):
    from diffusers import BitsAndBytesConfig as DiffusersConfig
    from diffusers import SanaTransformer2DModel
    from transformers import AutoModel
    from transformers import BitsAndBytesConfig as TransformersConfig

    transformer = SanaTransformer2DModel.from_pretrained(
        FOLDER, subfolder="transformer", quantization_config=DiffusersConfig(load_in_8bit=True)
    )
    encoder = AutoModel.from_pretrained(
        FOLDER, subfolder="text_encoder", quantization_config=TransformersConfig(load_in_8bit=True)
    )
    print("around the 8-bit layers:", transformer.dtype, "and", encoder.dtype)


@entry.fix("Always say the dtype.")
def _(FOLDER, EIGHT_BIT):
    import torch
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(FOLDER, quantization_config=EIGHT_BIT, dtype=torch.bfloat16)
    print("around the 8-bit layers:", pipe.transformer.dtype, "and", pipe.text_encoder.dtype)


entry = FAMILY.failure(
    id="float16-pipeline-on-cpu",
    title="A float16 pipeline is moved to the CPU",
    shows="warning",
    pattern=r"Pipelines loaded with (?:torch_)?dtype=torch\.float16 cannot run with cpu device",
    messages={
        "diffusers 0.36.0": "Pipelines loaded with `torch_dtype=torch.float16` cannot run with `cpu` device. It is not "
        "recommended to move them to `cpu` as running them will fail.",
        "diffusers 0.42.1": "Pipelines loaded with `dtype=torch.float16` cannot run with `cpu` device. It is not "
        "recommended to move them to `cpu` as running them will fail.",
    },
    cause="The words are older than PyTorch's float16 kernels for the CPU: today it runs, several times slower than "
    "bfloat16 or float32. The line also appears on the way out, when memory on the GPU is freed.",
    references=["diffusers 0.42.1: pipelines/pipeline_utils.py, to"],
)


@entry.reproduce
def _(FOLDER):
    import torch
    from diffusers import SanaPipeline

    SanaPipeline.from_pretrained(FOLDER, dtype=torch.float16).to("cpu")


@entry.fix("On the CPU, use bfloat16 or float32.")
def _(FOLDER):
    import torch
    from diffusers import SanaPipeline

    SanaPipeline.from_pretrained(FOLDER, dtype=torch.bfloat16).to("cpu")


entry = FAMILY.failure(
    id="8bit-train-mode-on-cpu",
    section="chapter-eight-bits",
    title="On the CPU the 8-bit layer gives another result in training mode",
    shows="output",
    pattern=r"same in train and eval mode: False",
    gpus=0,
    messages={"bitsandbytes 0.50.2": "same in train and eval mode: False"},
    cause="On the CPU a layer in training mode takes its weights back to floats and multiplies without quantizing the "
    "activations. A test that forgets `.eval()` measures weight-only quantization and reports a smaller error.",
    affects={"bitsandbytes": ">=0.46"},
    references=["bitsandbytes 0.50.2: autograd/_functions.py, matmul"],
)


@entry.reproduce
def _():
    import bitsandbytes
    import torch

    torch.manual_seed(0)
    layer = bitsandbytes.nn.Linear8bitLt(64, 64, bias=False, has_fp16_weights=False).to("cpu")
    x = torch.randn(4, 64)
    print("same in train and eval mode:", torch.equal(layer.train()(x), layer.eval()(x)))


@entry.fix("Call `.eval()` before measuring. `from_pretrained` does.")
def _():
    import bitsandbytes
    import torch

    torch.manual_seed(0)
    layer = bitsandbytes.nn.Linear8bitLt(64, 64, bias=False, has_fp16_weights=False).to("cpu").eval()
    x = torch.randn(4, 64)
    print("same in two calls:", torch.equal(layer(x), layer(x)))
