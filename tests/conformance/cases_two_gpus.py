"""Two GPUs: which is current, moving between them, mixing them, their memory, and models spread over both."""

from __future__ import annotations

import torch

from . import tiny
from .registry import Meter, case, places, seen


@case(gpus=2)
def two_devices():
    """Both are there, with different indices; device 0 is current."""
    x, y = torch.ones(2, device="cuda"), torch.ones(2, device="cuda:1")
    return {"count": torch.cuda.device_count(), "x": str(x.device), "y": str(y.device), "index": y.get_device()}


@case(gpus=2)
def two_current():
    """`"cuda"` means the current device."""
    with torch.cuda.device(1):
        made, moved = torch.ones(1, device="cuda"), torch.ones(1).cuda()
        inside = [str(made.device), str(moved.device), torch.cuda.current_device()]
    torch.cuda.set_device(1)
    after = [str(torch.ones(1, device="cuda").device), torch.cuda.current_device()]
    here = torch.ones(1, device="cuda:0")
    return {"inside": inside, "set": after, "stays": str(here.to("cuda").device), "result": str((here + 1).device)}


@case(gpus=2)
def two_move():
    """From one to the other."""
    x = torch.arange(3.0, device="cuda:0")
    y = x.to("cuda:1")
    back = torch.zeros(3, device="cuda:0").copy_(y)
    return {"y": seen(y), "values": y.tolist(), "x": str(x.device), "copy_": back.tolist()}


@case(gpus=2)
def two_add():
    """Elementwise over two GPUs."""
    return seen(torch.ones(2, device="cuda:0") + torch.ones(2, device="cuda:1"))


@case(gpus=2)
def two_add_reversed():
    """The other way round."""
    return seen(torch.ones(2, device="cuda:1") + torch.ones(2, device="cuda:0"))


@case(gpus=2)
def two_add_scalar():
    """A 0-dim tensor on the other GPU is refused too."""
    return seen(torch.ones(2, device="cuda:0") + torch.tensor(1.0, device="cuda:1"))


@case(gpus=2)
def two_matmul():
    """A product over two GPUs."""
    return seen(torch.ones(2, 2, device="cuda:0") @ torch.ones(2, 2, device="cuda:1"))


@case(gpus=2)
def two_linear():
    """A Linear on the other GPU."""
    return seen(torch.nn.Linear(2, 2).to("cuda:1")(torch.ones(1, 2, device="cuda:0")))


@case(gpus=2)
def two_conv():
    """A convolution on the other GPU: the types agree, the devices do not."""
    return seen(torch.nn.Conv2d(2, 2, 1).to("cuda:1")(torch.ones(1, 2, 4, 4, device="cuda:0")))


@case(gpus=2)
def two_cat():
    """`cat` over two GPUs."""
    return seen(torch.cat([torch.ones(2, device="cuda:0"), torch.ones(2, device="cuda:1")]))


@case(gpus=2)
def two_index():
    """An index on the other GPU."""
    return seen(torch.ones(3, device="cuda:0")[torch.tensor([0], device="cuda:1")])


@case(gpus=2)
def two_embedding():
    """Ids on the other GPU."""
    return seen(torch.nn.Embedding(4, 2).to("cuda:0")(torch.tensor([1], device="cuda:1")))


@case(gpus=2)
def two_memory():
    """Each GPU has its own bytes."""
    first, second = Meter(0), Meter(1)
    x = torch.empty(1000, device="cuda:1")
    found = {"first": first.read(), "second": second.read()}
    x = x.to("cuda:0")
    return {**found, "first after": first.read(), "second after": second.read(), "on": str(x.device)}


@case(gpus=2)
def two_generator():
    """A generator of the second GPU."""
    g = torch.Generator(device="cuda:1").manual_seed(0)
    return {"device": str(g.device), "draw": seen(torch.randn(2, device="cuda:1", generator=g))}


@case(gpus=2)
def two_save_and_load():
    """The index survives saving; `map_location` may translate it."""
    import io

    file = io.BytesIO()
    torch.save(torch.ones(2, device="cuda:1"), file)
    file.seek(0)
    plain = str(torch.load(file).device)
    file.seek(0)
    return {"plain": plain, "mapped": str(torch.load(file, map_location={"cuda:1": "cuda:0"}).device)}


@case(gpus=2)
def two_dispatched_model():
    """accelerate spreads a model over two GPUs; the output comes back to where the input was."""
    from accelerate import dispatch_model

    m = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    m = dispatch_model(m, device_map={"0": 0, "1": 1})
    y = m(torch.ones(1, 4, device="cuda:0"))
    return {"devices": places(m), "map": {k: str(v) for k, v in m.hf_device_map.items()}, "y": seen(y)}


@case(gpus=2)
def two_sana_balanced():
    """`device_map="balanced"` spreads an unquantized pipeline."""
    pipe = tiny.pipeline(device_map="balanced")
    return {"placed": tiny.placed(pipe), "map": {k: str(v) for k, v in sorted(pipe.hf_device_map.items())}}


@case(gpus=2)
def two_sana_8bit_balanced():
    """8-bit components that are passed in stay on the first GPU, whatever the map says."""
    pipe = tiny.pipeline_8bit(device_map="balanced")
    return {"placed": tiny.placed(pipe), "map": {k: str(v) for k, v in sorted(pipe.hf_device_map.items())}}


@case(gpus=2)
def two_sana_balanced_call():
    """The spread pipeline draws."""
    return tiny.draw(tiny.pipeline_8bit(device_map="balanced"))


@case(gpus=2)
def two_sana_transformer_map():
    """A Sana transformer spread over two GPUs by an explicit map."""
    from diffusers import SanaTransformer2DModel

    names = ["patch_embed", "time_embed", "caption_projection", "caption_norm", "transformer_blocks.0"]
    last = ["transformer_blocks.1", "norm_out", "proj_out", "scale_shift_table"]
    device_map = {**dict.fromkeys(names, 0), **dict.fromkeys(last, 1)}
    m = SanaTransformer2DModel.from_pretrained(tiny.FOLDER, subfolder="transformer", device_map=device_map)
    y = m(**tiny.transformer_inputs("cuda:0"), return_dict=False)[0]
    return {"devices": places(m), "y": seen(y)}


@case(gpus=2)
def two_gemma_map():
    """A Gemma encoder spread over two GPUs by an explicit map."""
    from transformers import Gemma2Model

    device_map = {"embed_tokens": 0, "rotary_emb": 0, "layers.0": 0, "layers.1": 1, "norm": 1}
    m = Gemma2Model.from_pretrained(tiny.FOLDER, subfolder="text_encoder", device_map=device_map)
    y = m(torch.tensor([[1, 2, 3]], device="cuda:0"))[0]
    return {"devices": places(m), "y": seen(y), "map": {k: str(v) for k, v in m.hf_device_map.items()}}


@case(gpus=2)
def two_sana_to_second():
    """`.to("cuda:1")` moves an 8-bit pipeline to the second GPU."""
    pipe = tiny.pipeline_8bit()
    before = tiny.placed(pipe)
    pipe.to("cuda:1")
    return {"before": before, "after": tiny.placed(pipe), "draw": tiny.draw(pipe)}
