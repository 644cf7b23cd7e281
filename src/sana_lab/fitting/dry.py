"""A checkpoint run without weights: on the meta device, where tensors have a shape and no data, counting bytes.

`Counted` is what the virtual GPU's ledger is for tensors with data: it counts each new storage as CUDA's allocator
would, and gives its bytes back when the last tensor that uses it goes. So a decode at 1024 pixels is counted in less
than a second on any machine, whatever the size of the model. What kernels take for themselves does not show.

`python -m sana_lab.fitting.dry` runs every released transformer and writes the record `dry_runs`.

Chapter 9.
"""

from __future__ import annotations

import copy
import sys
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .. import accounting, evidence, slim
from ..accelerator.memory import block_size, rounded
from ..checkpoints import Source, resolve
from ..commandline import run_command
from ..float8_layers import ROWS, has_product

RECORD = "dry_runs"
COMMAND = "python -m sana_lab.fitting.dry"

FORMS = ("16", "int8", "int8-slim", "fp8-slim", "nf4", "nf4-slim", "cast")
"""Forms of the weights: 16 bits, bitsandbytes' with what `slim` adds, FP8 codes that are multiplied as such
(`sana_lab.float8_layers`), and 8-bit floats that are cast back for each product (diffusers' layerwise casting)."""

TOKENS = 512
"""Of a prompt with the instruction that Sana puts before it, in the encoder. It pads to 300 plus the instruction."""

CAPTION = 300
"""Tokens of a prompt that the transformer sees."""


ROUNDING = 12
"""Bytes that a number takes beside its own while it is rounded to FP8: three float32 (`float8.quantize_rows`)."""


class Counted(TorchDispatchMode):
    """Counts the bytes of all storages that come to be inside of the block. `peak` is the most at a time."""

    def __init__(self, known: Iterable[nn.Module] = ()):
        """`known`: modules whose weights are not counted."""
        super().__init__()
        tensors = (t for module in known for t in [*module.parameters(), *module.buffers()])
        self._known = {tensor.untyped_storage()._cdata for tensor in tensors}
        self._live: dict[int, weakref.ref] = {}
        self.used = self.peak = 0

    def add(self, size: int) -> None:
        """Count bytes that no tensor shows, or fewer with a negative number."""
        self.used += size
        self.peak = max(self.peak, self.used)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Run an operator, and count what it made."""
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                key = storage._cdata
                if key not in self._known and key not in self._live:
                    size = block_size(storage.nbytes())

                    def gone(_: Any, key: int = key, size: int = size) -> None:
                        del self._live[key]
                        self.used -= size

                    self._live[key] = weakref.ref(storage, gone)
                    self.add(size)
        return out


class _OneKernel(TorchFunctionMode):
    """Attention as one kernel, as CUDA has it: the scores are never in memory."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention:
            query, _, value, *_ = args if len(args) > 2 else (kwargs["query"], kwargs["key"], kwargs["value"])
            return query.new_empty(*query.shape[:-1], value.shape[-1])
        return func(*args, **(kwargs or {}))


def run(module: nn.Module, call: Callable[[], object], extra: Callable[[nn.Module, torch.Tensor], int] | None) -> int:
    """The most bytes that a call has at a time beside the module's weights.

    Args:
        module: on the meta device.
        call: calls it.
        extra: bytes that a linear layer or convolution takes while it runs, from the layer and its input.
    """
    counted, hooks, taken = Counted([module]), [], []
    if extra is not None:
        for layer in module.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):

                def before(layer: nn.Module, inputs: tuple) -> None:
                    taken.append(extra(layer, inputs[0]))
                    counted.add(taken[-1])

                def after(layer: nn.Module, inputs: tuple, output: object) -> None:
                    counted.add(-taken.pop())

                hooks += [layer.register_forward_pre_hook(before), layer.register_forward_hook(after)]
    try:
        with torch.no_grad(), _OneKernel(), counted:
            call()
    finally:
        for hook in hooks:
            hook.remove()
    return counted.peak


def _int8_extra(layer: nn.Module, inputs: torch.Tensor) -> int:
    """Inputs as codes, products as int32 (bitsandbytes 0.50.2, autograd/_functions.py, `MatMul8bitLt.forward`)."""
    if not isinstance(layer, nn.Linear):
        return 0
    rows = inputs.numel() // layer.in_features  # of a 1x1 convolution the channels do not come last
    return rows * (layer.in_features + 4 * layer.out_features)


def _weight_extra(layer: nn.Module, inputs: torch.Tensor) -> int:
    """The weight in 16 bits, for the one product."""
    return block_size(2 * layer.weight.numel())


def _nf4_extra(layer: nn.Module, inputs: torch.Tensor) -> int:
    return _weight_extra(layer, inputs) if isinstance(layer, nn.Linear) else 0


def _fp8_extra(layer: nn.Module, inputs: torch.Tensor) -> int:
    """Inputs as codes, with a step a row: one kernel rounds them (`sana_lab.row_kernels`).

    Without Triton (Windows) PyTorch rounds in several passes, with inputs in float32 three times between them.

    A layer that has no FP8 product turns its codes into float32 twice, and multiplies in 16 bits.
    """
    if not isinstance(layer, nn.Linear):
        return 0
    if not has_product(layer.out_features, layer.in_features):
        return 8 * layer.weight.numel()
    rows = inputs.numel() // layer.in_features
    copied = 2 * layer.in_features * (inputs.dim() == 4)  # on the meta device; elsewhere channels come last as they are
    return rows * (layer.in_features + 4 - copied)


EXTRA = {
    "int8": _int8_extra,
    "int8-slim": _int8_extra,
    "fp8-slim": _fp8_extra,
    "nf4": _nf4_extra,
    "nf4-slim": _nf4_extra,
    "cast": _weight_extra,
}


def look(model: str | Path | Source) -> dict[str, Any]:
    """All that `peaks` needs to know of a checkpoint, counted without weights.

    Returns:
        `weights`: component -> form -> bytes, in blocks of 512; `leaf`: component -> the two largest layers' bytes;
        `encode` and `step`: form -> what a call makes beside the weights, for one picture of `PIXELS` pixels and for
        two, with guidance; `decode`: the same in 16 bits; `load`: form -> the most while encoder and transformer load,
        where that is more than they hold.

    Raises:
        ValueError: there is no such model.
    """
    source = resolve(model)
    models = accounting.build(source)
    encoder, vae = models["text_encoder"], models["vae"]
    slimmed, cast = (copy.deepcopy(models["transformer"]) for _ in range(2))
    slim.pointwise_as_linear_(slimmed)
    cast.enable_layerwise_casting(torch.float8_e4m3fn, torch.bfloat16)
    weights: dict[str, dict[str, int]] = {name: {"16": _bytes(accounting.held(m))} for name, m in models.items()}
    for form in ("int8", "int8-slim", "fp8-slim", "nf4", "nf4-slim"):
        precision, _, slims = form.partition("-")
        for name in ("text_encoder", "transformer"):
            model = slimmed if slims and name == "transformer" else models[name]
            tensors = accounting.quantized(accounting.held(model), model, precision)
            slim_rows = encoder.get_input_embeddings().num_embeddings if slims and name == "text_encoder" else 0
            weights[name][form] = _bytes(tensors, slim_rows, factor=precision != "fp8")
    weights["transformer"]["cast"] = _bytes(accounting.held(cast))
    encode = {
        form: [run(encoder, lambda n=n: _encode(encoder, n), EXTRA.get(form)) for n in (1, 2)]
        for form in weights["text_encoder"]
    }
    step = {}
    for form in weights["transformer"]:
        transformer = slimmed if form.endswith("slim") else models["transformer"]
        step[form] = [run(transformer, lambda n=n, t=transformer: _step(t, n), EXTRA.get(form)) for n in (1, 2)]
    decode = [run(vae, lambda n=n: _decode(vae, n), None) for n in (1, 2)]
    return {
        "weights": weights,
        "leaf": {name: _largest(module) for name, module in models.items()},
        "encode": encode,
        "step": step,
        "decode": decode,
        "load": {"fp8-slim": _loading_fp8(slimmed, encoder, weights)},
    }


PIXELS = 512
"""A side of the pictures of the dry runs."""


def _bytes(tensors: Iterable[accounting.Stored], rows: int = 0, *, factor: bool = True) -> int:
    """Bytes in blocks of 512; with `rows`, the embedding has so many and is in 8 bits with a scale for each.

    Without `factor`, what Gemma multiplies its embedding with is no tensor (`Float8Embedding.factor`).
    """
    sizes = []
    for stored in tensors:
        if rows and not factor and stored.tensor == "embed_scale":
            continue
        eight = rows and stored.kind == "Embedding" and stored.tensor == "weight"
        sizes += [stored.parameters, 4 * rows] if eight else [stored.bytes]
    return sum(map(rounded, sizes))


def _loading_fp8(transformer: nn.Module, encoder: nn.Module, weights: dict[str, dict[str, int]]) -> int:
    """The most bytes on the GPU while `load_sana` makes both models FP8, layer by layer.

    A layer comes in 16 bits and is rounded there; the embedding comes in portions, and its codes are there twice as the
    portions are joined (`Float8Embedding.of`).
    """
    done = weights["transformer"]["fp8-slim"]
    table = encoder.get_input_embeddings()
    codes = table.weight.numel() + 4 * table.num_embeddings
    encoded = weights["text_encoder"]["fp8-slim"]
    portion = (2 + ROUNDING) * min(ROWS, table.num_embeddings) * table.embedding_dim

    def largest(model: nn.Module) -> int:
        return max((2 + ROUNDING) * layer.weight.numel() for layer in model.modules() if isinstance(layer, nn.Linear))

    return max(largest(transformer), done + encoded - codes + max(largest(encoder), codes + max(codes, portion)))


def _largest(module: nn.Module) -> list[int]:
    """Bytes of the two layers that hold the most themselves."""
    own = [sum(block_size(p.nbytes) for p in layer.parameters(recurse=False)) for layer in module.modules()]
    return sorted(own)[-2:][::-1]


def _encode(encoder: nn.Module, pictures: int) -> object:
    ids = torch.ones(pictures, TOKENS, dtype=torch.int64, device="meta")
    return encoder(ids, attention_mask=torch.ones_like(ids))


def _step(transformer: nn.Module, pictures: int) -> object:
    config, rows = transformer.config, 2 * pictures
    like = {"device": "meta", "dtype": torch.bfloat16}
    inputs = {
        "hidden_states": torch.empty(rows, config.in_channels, PIXELS // 32, PIXELS // 32, **like),
        "encoder_hidden_states": torch.empty(rows, CAPTION, config.caption_channels, **like),
        "encoder_attention_mask": torch.ones(rows, CAPTION, device="meta"),
        "timestep": torch.ones(rows, device="meta"),
    }
    if config.guidance_embeds:
        inputs["guidance"] = torch.ones(rows, device="meta")
    return transformer(**inputs, return_dict=False)


def _decode(vae: nn.Module, pictures: int) -> object:
    side = PIXELS // vae.spatial_compression_ratio
    latents = torch.empty(pictures, vae.config.latent_channels, side, side, device="meta", dtype=torch.bfloat16)
    return vae.decode(latents, return_dict=False)


def _command() -> None:
    """Run every released transformer without weights, and write the record."""
    from tqdm import tqdm

    names = ("shapes", *accounting.CHECKPOINTS)
    results = {name: look(name) for name in tqdm(names, unit="model")}
    what = "Bytes of weights and of what a call makes beside them, counted on the meta device"
    print(evidence.save(RECORD, what=what, command=COMMAND, results=results))


def main(arguments: list[str] | None = None) -> int:
    """Run the command and give its exit status."""
    return run_command(_command, COMMAND, arguments)


if __name__ == "__main__":
    sys.exit(main())
