"""What accelerate, bitsandbytes, transformers and diffusers do with devices: the calls of this book, on a tiny Sana."""

from __future__ import annotations

import torch

from . import tiny
from .registry import Meter, case, places, seen


def linear_8bit(**kwargs):
    """A bitsandbytes layer with known weights, on the CPU and not quantized yet."""
    import bitsandbytes as bnb

    torch.manual_seed(0)
    plain = torch.nn.Linear(64, 128, bias=False)
    layer = bnb.nn.Linear8bitLt(64, 128, bias=False, has_fp16_weights=False, **kwargs)
    layer.load_state_dict(plain.state_dict())
    return plain, layer.eval()


@case()
def bnb_quantizes_when_moved():
    """The weight becomes int8 at the moment it reaches the GPU."""
    _, layer = linear_8bit()
    before = seen(layer.weight)
    layer.cuda()
    return {"before": before, "after": seen(layer.weight), "scales": seen(layer.weight.SCB)}


@case()
def bnb_bytes():
    """An 8-bit layer takes one byte a weight, plus one float a row."""
    meter = Meter()
    _, layer = linear_8bit()
    layer.to("cuda")
    return {"bytes": meter.read(), "device": str(layer.weight.device)}


@case()
def bnb_product():
    """The 8-bit product is close to the plain one."""
    plain, layer = linear_8bit(threshold=6.0)
    layer.cuda()
    x = torch.randn(4, 64, generator=torch.Generator().manual_seed(1))
    y = layer(x.half().cuda())
    error = (y.float().cpu() - plain(x)).norm() / plain(x).norm()
    return {**seen(y), "close": bool(error < 0.05)}


@case()
def bnb_moves_back():
    """An 8-bit layer can move to the CPU and stays int8."""
    _, layer = linear_8bit()
    layer.cuda().to("cpu")
    return {"weight": seen(layer.weight), "scales": str(layer.weight.SCB.device)}


@case()
def bnb_state_dict():
    """The state dict of an 8-bit layer is on the GPU."""
    _, layer = linear_8bit()
    layer.cuda()
    return {name: seen(t) for name, t in sorted(layer.state_dict().items()) if name in ("weight", "SCB")}


@case()
def bnb_4bit():
    """A 4-bit layer packs two weights in a byte."""
    import bitsandbytes as bnb

    meter = Meter()
    torch.manual_seed(0)
    layer = bnb.nn.Linear4bit(64, 128, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4")
    layer.load_state_dict(torch.nn.Linear(64, 128, bias=False).state_dict())
    layer.to("cuda")
    weight = layer.weight
    held = meter.read()
    y = layer(torch.ones(1, 64, device="cuda", dtype=torch.bfloat16))
    return {"weight": seen(weight), "absmax": seen(weight.quant_state.absmax), "bytes": held, "y": seen(y)}


@case()
def bnb_functional():
    """Row-wise quantization and its inverse are on the GPU."""
    import bitsandbytes.functional as F

    x = torch.randn(4, 64, generator=torch.Generator().manual_seed(0)).half().cuda()
    q, scales, _ = F.int8_vectorwise_quant(x)
    back = F.int8_vectorwise_dequant(q, scales)
    return {"q": seen(q), "scales": seen(scales), "close": bool((back - x.float()).abs().max() <= scales.max() / 127)}


@case()
def bnb_mixed():
    """An 8-bit layer on the GPU gets a CPU input."""
    _, layer = linear_8bit()
    return seen(layer.cuda()(torch.ones(1, 64).half()))


@case()
def accelerate_max_memory():
    """accelerate counts the GPU and the CPU."""
    from accelerate.utils import get_max_memory

    return {"keys": [str(key) for key in get_max_memory()]}


@case()
def accelerate_cpu_offload():
    """A hooked module computes on the GPU and rests on the meta device."""
    from accelerate import cpu_offload

    m = cpu_offload(torch.nn.Linear(4, 4), execution_device="cuda")
    y = m(torch.ones(1, 4))
    return {"y": seen(y), "rests": places(m)}


@case()
def accelerate_offload_hook():
    """`cpu_offload_with_hook` brings a module to the GPU when it is called."""
    from accelerate import cpu_offload_with_hook

    m, hook = cpu_offload_with_hook(torch.nn.Linear(4, 4), "cuda")
    before = places(m)
    y = m(torch.ones(1, 4))
    during = places(m)
    hook.offload()
    return {"before": before, "during": during, "after": places(m), "y": seen(y)}


@case()
def accelerate_dispatch_with_cpu():
    """A model spread over GPU and CPU: what is on the CPU visits the GPU."""
    from accelerate import dispatch_model

    m = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    m = dispatch_model(m, device_map={"0": 0, "1": "cpu"}, main_device=0)
    return {"devices": places(m), "y": seen(m(torch.ones(1, 4)))}


@case()
def transformers_device_map():
    """`device_map="cuda"` loads straight to the GPU."""
    from transformers import AutoModel

    m = AutoModel.from_pretrained(tiny.FOLDER, subfolder="text_encoder", device_map="cuda")
    return {"devices": places(m), "y": seen(m(torch.tensor([[1, 2]], device="cuda"))[0])}


@case()
def transformers_wrong_ids():
    """Ids on the CPU for a model on the GPU."""
    from transformers import AutoModel

    m = AutoModel.from_pretrained(tiny.FOLDER, subfolder="text_encoder", device_map="cuda")
    return seen(m(torch.tensor([[1, 2]]))[0])


@case()
def transformers_8bit():
    """8-bit loading puts the text encoder on the GPU by itself."""
    m = tiny.quantized()["text_encoder"]
    kinds = sorted({type(p).__name__ for p in m.parameters()})
    return {"devices": places(m), "kinds": kinds, "dtype": str(m.dtype), "loaded": m.is_loaded_in_8bit}


@case()
def transformers_8bit_cuda():
    """`.cuda()` is refused on an 8-bit encoder."""
    return {"devices": places(tiny.quantized()["text_encoder"].cuda())}


@case()
def transformers_8bit_cast():
    """So is a cast."""
    return {"devices": places(tiny.quantized()["text_encoder"].to(torch.float32))}


@case()
def diffusers_8bit():
    """8-bit loading puts the transformer on the GPU by itself."""
    m = tiny.quantized()["transformer"]
    kinds = sorted({type(p).__name__ for p in m.parameters()})
    return {
        "devices": places(m),
        "kinds": kinds,
        "dtype": str(m.dtype),
        "y": seen(m(**tiny.transformer_inputs("cuda", torch.bfloat16), return_dict=False)[0]),
    }


@case()
def diffusers_8bit_bytes():
    """What an 8-bit transformer weighs on the GPU."""
    from diffusers import BitsAndBytesConfig, SanaTransformer2DModel

    meter = Meter()
    m = SanaTransformer2DModel.from_pretrained(
        tiny.FOLDER,
        subfolder="transformer",
        torch_dtype=torch.bfloat16,
        quantization_config=BitsAndBytesConfig(load_in_8bit=True),
    )
    return {"bytes": meter.read(), "footprint": m.get_memory_footprint()}


@case()
def diffusers_nf4():
    """4-bit loading."""
    from diffusers import BitsAndBytesConfig, SanaTransformer2DModel

    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
    m = SanaTransformer2DModel.from_pretrained(
        tiny.FOLDER, subfolder="transformer", torch_dtype=torch.bfloat16, quantization_config=config
    )
    y = m(**tiny.transformer_inputs("cuda", torch.bfloat16), return_dict=False)[0]
    return {"devices": places(m), "kinds": sorted({type(p).__name__ for p in m.parameters()}), "y": seen(y)}


@case()
def diffusers_strategies():
    """The device maps that pipelines offer."""
    from diffusers.pipelines import pipeline_utils

    return {"strategies": list(pipeline_utils.SUPPORTED_DEVICE_MAP)}


@case()
def diffusers_randn():
    """`randn_tensor`: a CPU generator draws on the CPU and moves."""
    from diffusers.utils.torch_utils import randn_tensor

    x = randn_tensor((1, 2), generator=torch.Generator().manual_seed(0), device=torch.device("cuda"))
    y = randn_tensor((1, 2), generator=torch.Generator("cuda").manual_seed(0), device=torch.device("cuda"))
    return {"cpu": [seen(x), [round(v, 4) for v in x.flatten().tolist()]], "cuda": seen(y)}


@case()
def diffusers_cuda_generator_cpu_latents():
    """A CUDA generator for CPU latents is refused."""
    from diffusers.utils.torch_utils import randn_tensor

    return seen(randn_tensor((1, 2), generator=torch.Generator("cuda"), device=torch.device("cpu")))


@case()
def sana_recipe():
    """The official recipe with no device map: quantized parts on the GPU, the autoencoder on the CPU."""
    return tiny.placed(tiny.pipeline_8bit())


@case()
def sana_recipe_call():
    """... which fails where the latents meet the autoencoder."""
    return tiny.draw(tiny.pipeline_8bit())


@case()
def sana_recipe_to():
    """`.to("cuda")` moves the rest, and it draws."""
    pipe = tiny.pipeline_8bit().to("cuda")
    return {"placed": tiny.placed(pipe), "draw": tiny.draw(pipe)}


@case()
def sana_balanced():
    """`device_map="balanced"`: all on one GPU, and it draws."""
    pipe = tiny.pipeline_8bit(device_map="balanced")
    placed = tiny.placed(pipe)
    return {"placed": placed, "map": {k: str(v) for k, v in pipe.hf_device_map.items()}, "draw": tiny.draw(pipe)}


@case()
def sana_balanced_to():
    """... after which `.to()` is refused."""
    return tiny.placed(tiny.pipeline_8bit(device_map="balanced").to("cuda"))


@case()
def sana_reset():
    """`reset_device_map()` takes everything to the CPU; `.to("cuda")` brings it back."""
    pipe = tiny.pipeline_8bit(device_map="balanced")
    pipe.reset_device_map()
    reset = tiny.placed(pipe)
    pipe.to("cuda")
    return {"reset": reset, "back": tiny.placed(pipe), "draw": tiny.draw(pipe)}


@case()
def sana_cuda_map():
    """`device_map="cuda"`."""
    pipe = tiny.pipeline_8bit(device_map="cuda")
    return {"placed": tiny.placed(pipe), "map": str(pipe.hf_device_map), "draw": tiny.draw(pipe)}


@case()
def sana_auto_map():
    """`device_map="auto"` is not for pipelines."""
    return tiny.placed(tiny.pipeline(device_map="auto"))


@case()
def sana_indexed_map():
    """Nor is `"cuda:0"`."""
    return tiny.placed(tiny.pipeline(device_map="cuda:0"))


@case()
def sana_balanced_offload():
    """Device map and offload exclude each other."""
    tiny.pipeline(device_map="balanced").enable_model_cpu_offload()
    return {}


@case()
def sana_model_offload():
    """`enable_model_cpu_offload()`: it draws, and everything rests on the CPU."""
    pipe = tiny.pipeline()
    pipe.enable_model_cpu_offload()
    drawn = tiny.draw(pipe)
    pipe.maybe_free_model_hooks()
    return {"draw": drawn, "rests": tiny.placed(pipe), "execution": str(pipe._execution_device)}


@case()
def sana_model_offload_8bit():
    """The same with 8-bit parts."""
    pipe = tiny.pipeline_8bit()
    pipe.enable_model_cpu_offload()
    drawn = tiny.draw(pipe)
    return {"draw": drawn, "rests": tiny.placed(pipe)}


@case()
def sana_sequential_offload():
    """`enable_sequential_cpu_offload()`: it draws, and everything rests on the meta device."""
    pipe = tiny.pipeline()
    pipe.enable_sequential_cpu_offload()
    drawn = tiny.draw(pipe)
    return {"draw": drawn, "rests": tiny.placed(pipe)}


@case()
def sana_sequential_offload_then_to():
    """... after which `.to("cuda")` is refused."""
    pipe = tiny.pipeline()
    pipe.enable_sequential_cpu_offload()
    return tiny.placed(pipe.to("cuda"))


@case()
def sana_group_offload():
    """Group offloading, leaf by leaf."""
    pipe = tiny.pipeline()
    pipe.enable_group_offload(onload_device=torch.device("cuda"), offload_type="leaf_level")
    return {"draw": tiny.draw(pipe), "rests": tiny.placed(pipe)}


@case()
def sana_group_offload_stream():
    """The same with a stream of its own for the transfers."""
    pipe = tiny.pipeline()
    pipe.enable_group_offload(onload_device=torch.device("cuda"), offload_type="leaf_level", use_stream=True)
    return {"draw": tiny.draw(pipe), "rests": tiny.placed(pipe)}


@case()
def sana_quantization_config():
    """`PipelineQuantizationConfig` with a map of configurations."""
    from diffusers import BitsAndBytesConfig as DiffusersConfig
    from diffusers import PipelineQuantizationConfig
    from transformers import BitsAndBytesConfig as TransformersConfig

    config = PipelineQuantizationConfig(
        quant_mapping={
            "transformer": DiffusersConfig(load_in_8bit=True),
            "text_encoder": TransformersConfig(load_in_8bit=True),
        }
    )
    pipe = tiny.pipeline(quantization_config=config, device_map="cuda")
    loaded = getattr(pipe.transformer, "is_loaded_in_8bit", None)
    return {"placed": tiny.placed(pipe), "8bit": loaded, "draw": tiny.draw(pipe)}


@case()
def sana_cast_8bit():
    """An 8-bit transformer cannot be cast."""
    return tiny.placed(tiny.pipeline_8bit().transformer.to(torch.float32))


@case()
def sana_vae_left_behind():
    """The autoencoder on the CPU, all else on the GPU."""
    pipe = tiny.pipeline().to("cuda")
    pipe.vae.to("cpu")
    return tiny.draw(pipe)


@case()
def sana_transformer_left_behind():
    """The transformer on the CPU, all else on the GPU."""
    pipe = tiny.pipeline().to("cuda")
    pipe.transformer.to("cpu")
    return tiny.draw(pipe)


@case()
def sana_text_encoder_left_behind():
    """The text encoder on the CPU, all else on the GPU."""
    pipe = tiny.pipeline().to("cuda")
    pipe.text_encoder.to("cpu")
    return tiny.draw(pipe)


@case()
def sana_bytes():
    """What the 16-bit pipeline weighs on the GPU."""
    meter = Meter()
    pipe = tiny.pipeline(device_map="cuda")
    return {"bytes": meter.read(), "placed": tiny.placed(pipe)}
