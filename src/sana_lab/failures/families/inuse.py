"""Calling, moving and saving 8-bit models."""

from __future__ import annotations

from ..entry import Family

FAMILY = Family(
    "8bit-in-use",
    "Calling, moving and saving 8-bit models",
    "The model is loaded, and nothing is said: what it computes is nonsense, its codes stay where they were, or what "
    "it saves cannot be read. The most expensive failures have no message.",
    section="transposed-input",
)

# ---- calling ----------------------------------------------------------------------------------------------------

entry = FAMILY.failure(
    id="transposed-input-read-as-contiguous",
    title="An 8-bit layer computes nonsense from a transposed input, without a word",
    shows="output",
    pattern=r"less than 10 dB of the layer's output are right: True",
    messages={"bitsandbytes 0.50.2": "less than 10 dB of the layer's output are right: True"},
    cause="The kernel that rounds activations gets the address of the input and takes for granted that rows lie one "
    "after the other. In a view made by `transpose` or `permute` they do not, so every row is a mixture of others. "
    "`MatMul8bitLt` reshapes a 3-D input to two dimensions first, which copies a batch of two and not a batch of one. "
    "The CPU's kernel is right.",
    affects={"bitsandbytes": ">=0.43"},
    references=[
        "bitsandbytes 0.50.2: backends/cuda/ops.py, int8_vectorwise_quant",
        "bitsandbytes 0.50.2: autograd/_functions.py, MatMul8bitLt",
        "bitsandbytes 0.43.3: functional.py, get_colrow_absmax and double_quant",
        "bitsandbytes#1690",
    ],
)


@entry.reproduce
def _():
    import bitsandbytes
    import torch

    torch.manual_seed(0)
    plain = torch.nn.Linear(640, 256)
    layer = bitsandbytes.nn.Linear8bitLt(640, 256, has_fp16_weights=False, threshold=6.0)
    layer.load_state_dict(plain.state_dict())
    layer.to("cuda").eval()
    x = torch.randn(1, 640, 192, device="cuda").transpose(1, 2)  # (batch, rows, channels), channels outermost in memory
    with torch.no_grad():
        exact, found = plain(x.cpu()), layer(x).cpu()
    decibels = 10 * (exact.square().sum() / (found - exact).square().sum()).log10().item()
    print("less than 10 dB of the layer's output are right:", decibels < 10)
    print(f"{decibels:.0f} dB")


@entry.fix("Let a hook copy the input of every 8-bit layer of the model, where it needs it.")
def _():
    import bitsandbytes
    import torch

    torch.manual_seed(0)
    plain = torch.nn.Linear(640, 256)
    layer = bitsandbytes.nn.Linear8bitLt(640, 256, has_fp16_weights=False, threshold=6.0)
    layer.load_state_dict(plain.state_dict())
    layer.to("cuda").eval()
    for module in layer.modules():  # of a whole model: model.modules()
        if isinstance(module, bitsandbytes.nn.Linear8bitLt):
            module.register_forward_pre_hook(lambda module, inputs: (inputs[0].contiguous(), *inputs[1:]))
    x = torch.randn(1, 640, 192, device="cuda").transpose(1, 2)
    with torch.no_grad():
        exact, found = plain(x.cpu()), layer(x).cpu()
    decibels = 10 * (exact.square().sum() / (found - exact).square().sum()).log10().item()
    print("less than 10 dB of the layer's output are right:", decibels < 10)
    print(f"{decibels:.0f} dB")


@entry.fix("In code of your own, copy where the view is made: `.contiguous()`.")
def _():
    import bitsandbytes
    import torch

    torch.manual_seed(0)
    plain = torch.nn.Linear(640, 256)
    layer = bitsandbytes.nn.Linear8bitLt(640, 256, has_fp16_weights=False, threshold=6.0)
    layer.load_state_dict(plain.state_dict())
    layer.to("cuda").eval()
    x = torch.randn(1, 640, 192, device="cuda").transpose(1, 2).contiguous()
    with torch.no_grad():
        exact, found = plain(x.cpu()), layer(x).cpu()
    decibels = 10 * (exact.square().sum() / (found - exact).square().sum()).log10().item()
    print("less than 10 dB of the layer's output are right:", decibels < 10)
    print(f"{decibels:.0f} dB")


@entry.fix("A batch of two is copied by the library itself.")
def _():
    import bitsandbytes
    import torch

    torch.manual_seed(0)
    plain = torch.nn.Linear(640, 256)
    layer = bitsandbytes.nn.Linear8bitLt(640, 256, has_fp16_weights=False, threshold=6.0)
    layer.load_state_dict(plain.state_dict())
    layer.to("cuda").eval()
    x = torch.randn(2, 640, 192, device="cuda").transpose(1, 2)
    with torch.no_grad():
        exact, found = plain(x.cpu()), layer(x).cpu()
    decibels = 10 * (exact.square().sum() / (found - exact).square().sum()).log10().item()
    print("less than 10 dB of the layer's output are right:", decibels < 10)
    print(f"{decibels:.0f} dB")


@entry.fix("Or leave the kernel out: make the weight from its codes and multiply in 16 bits, which takes any view.")
def _():
    import bitsandbytes
    import torch

    torch.manual_seed(0)
    plain = torch.nn.Linear(640, 256)
    layer = bitsandbytes.nn.Linear8bitLt(640, 256, has_fp16_weights=False, threshold=6.0)
    layer.load_state_dict(plain.state_dict())
    layer.to("cuda").eval()
    x = torch.randn(1, 640, 192, device="cuda").transpose(1, 2)
    with torch.no_grad():
        weight = layer.weight.CB.float() * layer.weight.SCB[:, None] / 127
        exact, found = plain(x.cpu()), torch.nn.functional.linear(x, weight, layer.bias.float()).cpu()
    decibels = 10 * (exact.square().sum() / (found - exact).square().sum()).log10().item()
    print("less than 10 dB of the layer's output are right:", decibels < 10)
    print(f"{decibels:.0f} dB")


entry = FAMILY.failure(
    id="8bit-sana-draws-nonsense-without-guidance",
    title="8-bit Sana draws nonsense with `guidance_scale=1.0`, and so does Sprint",
    shows="output",
    pattern=r"less than 10 dB of the first attention are right: True",
    messages={"bitsandbytes 0.50.2": "less than 10 dB of the first attention are right: True"},
    cause="Without guidance the transformer draws a batch of one, and its attention hands transposed views to "
    "`to_out` in every block and to `to_q` in the first. The int8 kernel of bitsandbytes reads them as if they were "
    "contiguous. With guidance the batch is two, and the library copies. SANA-Sprint has no guidance of this kind, so "
    "its batch is one always. PAG, ControlNet, image-to-image and video are hit likewise.",
    affects={"bitsandbytes": ">=0.43", "diffusers": ">=0.32"},
    references=[
        "bitsandbytes 0.50.2: backends/cuda/ops.py, int8_vectorwise_quant",
        "diffusers 0.42.1: models/attention_processor.py, SanaLinearAttnProcessor2_0",
        "diffusers 0.42.1: pipelines/sana/pipeline_sana.py, do_classifier_free_guidance",
    ],
)


@entry.reproduce
def _(FOLDER, EIGHT_BIT, SMALL):
    import torch
    from diffusers import SanaPipeline

    outputs = []
    for config in (None, EIGHT_BIT):
        pipe = SanaPipeline.from_pretrained(FOLDER, quantization_config=config, dtype=torch.bfloat16).to("cuda")
        layer = pipe.transformer.transformer_blocks[0].attn1.to_out[0]
        layer.register_forward_hook(lambda layer, inputs, output: outputs.append(output.float()))
        pipe("a red star", guidance_scale=1.0, generator=torch.Generator().manual_seed(0), **SMALL)
    exact, found = outputs
    decibels = 10 * (exact.square().sum() / (found - exact).square().sum()).log10().item()
    print("less than 10 dB of the first attention are right:", decibels < 10)


@entry.fix("Let a hook copy the input of every 8-bit layer, where it needs it.")
def _(FOLDER, EIGHT_BIT, SMALL):
    import torch
    from bitsandbytes.nn import Linear8bitLt
    from diffusers import SanaPipeline

    outputs = []
    for config in (None, EIGHT_BIT):
        pipe = SanaPipeline.from_pretrained(FOLDER, quantization_config=config, dtype=torch.bfloat16).to("cuda")
        for module in pipe.transformer.modules():
            if isinstance(module, Linear8bitLt):
                module.register_forward_pre_hook(lambda module, inputs: (inputs[0].contiguous(), *inputs[1:]))
        layer = pipe.transformer.transformer_blocks[0].attn1.to_out[0]
        layer.register_forward_hook(lambda layer, inputs, output: outputs.append(output.float()))
        pipe("a red star", guidance_scale=1.0, generator=torch.Generator().manual_seed(0), **SMALL)
    exact, found = outputs
    decibels = 10 * (exact.square().sum() / (found - exact).square().sum()).log10().item()
    print("less than 10 dB of the first attention are right:", decibels < 10)


@entry.fix("Draw two pictures a call.")
def _(FOLDER, EIGHT_BIT, SMALL):
    import torch
    from diffusers import SanaPipeline

    outputs = []
    for config in (None, EIGHT_BIT):
        pipe = SanaPipeline.from_pretrained(FOLDER, quantization_config=config, dtype=torch.bfloat16).to("cuda")
        layer = pipe.transformer.transformer_blocks[0].attn1.to_out[0]
        layer.register_forward_hook(lambda layer, inputs, output: outputs.append(output.float()))
        noise = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
        pipe("a red star", guidance_scale=1.0, num_images_per_prompt=2, generator=noise, **SMALL)
    exact, found = outputs
    decibels = 10 * (exact.square().sum() / (found - exact).square().sum()).log10().item()
    print("less than 10 dB of the first attention are right:", decibels < 10)


@entry.fix("Draw with guidance, if the model may: any scale above 1.")
def _(FOLDER, EIGHT_BIT, SMALL):
    import torch
    from diffusers import SanaPipeline

    outputs = []
    for config in (None, EIGHT_BIT):
        pipe = SanaPipeline.from_pretrained(FOLDER, quantization_config=config, dtype=torch.bfloat16).to("cuda")
        layer = pipe.transformer.transformer_blocks[0].attn1.to_out[0]
        layer.register_forward_hook(lambda layer, inputs, output: outputs.append(output.float()))
        pipe("a red star", guidance_scale=4.5, generator=torch.Generator().manual_seed(0), **SMALL)
    exact, found = outputs
    decibels = 10 * (exact.square().sum() / (found - exact).square().sum()).log10().item()
    print("less than 10 dB of the first attention are right:", decibels < 10)


@entry.fix("Or use this book's fast ways, which do without that kernel.")
def _(FOLDER, SMALL):
    import torch
    from diffusers import SanaPipeline

    from sana_lab import load_sana
    from sana_lab.fast import speed_up_

    exact_pipe = SanaPipeline.from_pretrained(FOLDER, dtype=torch.bfloat16).to("cuda")
    fast_pipe = speed_up_(load_sana(FOLDER, "int8"), activations=16, graphs=False)
    outputs = []
    for pipe in (exact_pipe, fast_pipe):
        layer = pipe.transformer.transformer_blocks[0].attn1.to_out[0]
        layer.register_forward_hook(lambda layer, inputs, output: outputs.append(output.float()))
        pipe("a red star", guidance_scale=1.0, generator=torch.Generator().manual_seed(0), **SMALL)
    exact, found = outputs
    decibels = 10 * (exact.square().sum() / (found - exact).square().sum()).log10().item()
    print("less than 10 dB of the first attention are right:", decibels < 10)


# ---- moving -----------------------------------------------------------------------------------------------------

entry = FAMILY.failure(
    id="8bit-moved-to-another-gpu",
    section="device-map-moving",
    title="An 8-bit pipeline moved to the second GPU ends in an illegal memory access",
    error="AcceleratorError",
    pattern=r"CUDA error: an illegal memory access was encountered",
    wants=r"cuda:[1-9]|bitsandbytes/",
    alike=["illegal-memory-access"],
    gpus=2,
    messages={
        "torch 2.13.0": '  File "bitsandbytes/autograd/_functions.py", line 162, in forward\n'
        "torch.AcceleratorError: CUDA error: an illegal memory access was encountered",
    },
    cause='`.to("cuda:1")` moves the weights; the codes and scales that bitsandbytes keeps beside them (`CB`, `SCB`) '
    "stay on the first GPU. The 8-bit kernels check no devices and follow an address into the other card's memory. "
    "Afterwards nothing that uses CUDA works in this process: restart it. The same words can come from any kernel "
    "that reads where it may not.",
    affects={"bitsandbytes": ">=0.48", "diffusers": ">=0.37", "transformers": ">=5"},
    references=[
        "bitsandbytes 0.50.2: nn/modules.py, Int8Params",
        "pytorch 2.13.0: torch/nn/modules/module.py, _apply",
        "bitsandbytes#1332",
    ],
)


@entry.reproduce
def _(FOLDER, EIGHT_BIT, SMALL):
    import torch
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(FOLDER, quantization_config=EIGHT_BIT, dtype=torch.bfloat16)
    pipe.to("cuda:1")
    pipe("a red star", **SMALL)
    torch.cuda.synchronize()


@entry.fix("Load it on that GPU. Or start the program with `CUDA_VISIBLE_DEVICES=1`; the card is then `cuda:0`.")
def _(FOLDER, EIGHT_BIT, SMALL):
    import torch
    from diffusers import SanaPipeline

    with torch.cuda.device(1):  # quantized weights go to the current device
        pipe = SanaPipeline.from_pretrained(FOLDER, quantization_config=EIGHT_BIT, dtype=torch.bfloat16)
    pipe.vae.to("cuda:1")
    pipe("a red star", **SMALL)
    torch.cuda.synchronize()


entry = FAMILY.failure(
    id="8bit-codes-stay-on-the-gpu",
    section="device-map-moving",
    title='`.to("cpu")` of an 8-bit model frees too little: its codes stay on the GPU',
    shows="output",
    pattern=r"8-bit codes after \.to\(\"cpu\"\): on cuda",
    messages={"bitsandbytes 0.50.2": '8-bit codes after .to("cpu"): on cuda'},
    cause="After its first call an 8-bit layer computes from `layer.state.CB`, before it from `weight.CB`. `model.to` "
    "replaces the data of parameters and calls no layer's own `.to`, which would move the state. So the weight that "
    "one sees is on the CPU, and the codes keep their memory on the GPU; model offload frees none of them either. "
    "Before the first call not even the layer's own `.to` brings them: `layer.init_8bit_state()` makes it do so.",
    affects={"bitsandbytes": ">=0.48", "diffusers": ">=0.37"},
    references=[
        "bitsandbytes 0.50.2: nn/modules.py, Linear8bitLt.to",
        "pytorch 2.13.0: torch/nn/modules/module.py, _apply",
        "bitsandbytes#1332",
        "bitsandbytes#1793",
        "diffusers#11329",
    ],
)


@entry.reproduce
def _(FOLDER, EIGHT_BIT, SMALL):
    import torch
    from bitsandbytes.nn import Linear8bitLt
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(FOLDER, quantization_config=EIGHT_BIT, dtype=torch.bfloat16).to("cuda")
    pipe("a red star", **SMALL)
    pipe.transformer.to("cpu")
    layers = [layer for layer in pipe.transformer.modules() if isinstance(layer, Linear8bitLt)]
    print('8-bit codes after .to("cpu"): on', *{layer.state.CB.device.type for layer in layers})


@entry.fix("Move the layers as well: each one's own `.to` takes its state along.")
def _(FOLDER, EIGHT_BIT, SMALL):
    import torch
    from bitsandbytes.nn import Linear8bitLt
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(FOLDER, quantization_config=EIGHT_BIT, dtype=torch.bfloat16).to("cuda")
    pipe("a red star", **SMALL)
    pipe.transformer.to("cpu")
    layers = [layer for layer in pipe.transformer.modules() if isinstance(layer, Linear8bitLt)]
    for layer in layers:
        layer.to("cpu")
    print('8-bit codes after .to("cpu"): on', *{layer.state.CB.device.type for layer in layers})


@entry.fix("To be rid of it, drop it: without references the codes go, too.")
def _(FOLDER, EIGHT_BIT, SMALL):
    import gc

    import torch
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(FOLDER, quantization_config=EIGHT_BIT, dtype=torch.bfloat16).to("cuda")
    pipe("a red star", **SMALL)
    held = torch.cuda.memory_allocated()
    pipe.transformer = None
    gc.collect()
    print("freed more than the codes hold:", held - torch.cuda.memory_allocated() > 4_800_000)


# ---- saving -----------------------------------------------------------------------------------------------------

entry = FAMILY.failure(
    id="dequantized-model-cannot-be-loaded",
    section="chapter-loading",
    title="`dequantize()`, save, load: `Missing quantization component`",
    error="ValueError",
    pattern=r"Missing quantization component SCB",
    messages={"diffusers 0.42.1": "ValueError: Missing quantization component `SCB`"},
    cause="`dequantize()` of a diffusers model puts 16-bit layers in and leaves `quantization_config` in the model's "
    "config. `save_pretrained` writes that config, so the folder says that its weights are 8-bit codes, and loading "
    "looks for their scales. transformers removes the entry.",
    affects={"diffusers": ">=0.31"},
    references=[
        "diffusers 0.42.1: quantizers/bitsandbytes/bnb_quantizer.py, create_quantized_param",
        "diffusers 0.42.1: quantizers/bitsandbytes/utils.py, dequantize_and_replace",
    ],
)


@entry.reproduce
def _(FOLDER):
    import tempfile

    import torch
    from diffusers import BitsAndBytesConfig, SanaTransformer2DModel

    transformer = SanaTransformer2DModel.from_pretrained(
        FOLDER, subfolder="transformer", quantization_config=BitsAndBytesConfig(load_in_8bit=True), dtype=torch.bfloat16
    )
    transformer.dequantize()
    with tempfile.TemporaryDirectory() as saved:
        transformer.save_pretrained(saved)
        SanaTransformer2DModel.from_pretrained(saved, dtype=torch.bfloat16)


@entry.fix("Take the entry out of the saved `config.json`.")
def _(FOLDER):
    import json
    import pathlib
    import tempfile

    import torch
    from diffusers import BitsAndBytesConfig, SanaTransformer2DModel

    transformer = SanaTransformer2DModel.from_pretrained(
        FOLDER, subfolder="transformer", quantization_config=BitsAndBytesConfig(load_in_8bit=True), dtype=torch.bfloat16
    )
    transformer.dequantize()
    with tempfile.TemporaryDirectory() as saved:
        transformer.save_pretrained(saved)
        file = pathlib.Path(saved, "config.json")
        config = json.loads(file.read_text())
        del config["quantization_config"]
        file.write_text(json.dumps(config, indent=2))
        print(SanaTransformer2DModel.from_pretrained(saved, dtype=torch.bfloat16).dtype)
