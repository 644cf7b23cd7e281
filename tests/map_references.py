"""Numbers from torchao and gguf for the toys of book/map.md, recorded because the book does not install either.

In an environment with torch, torchao and gguf: `python tests/map_references.py`, which writes `map_references.json`
next to this file. `test_map.py` compares.
"""

from __future__ import annotations

import json
import types
from importlib.metadata import version
from pathlib import Path

import gguf
import numpy as np
import torch
import torchao
from torchao.core.config import AOBaseConfig
from torchao.prototype.awq.core import AWQObserver
from torchao.prototype.mx_formats.mx_tensor import MXTensor
from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor, per_tensor_amax_to_scale
from torchao.prototype.smoothquant.core import SmoothQuantObserver
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_
from torchao.quantization.transform_module import register_quantize_module_handler

FILE = Path(__file__).with_suffix(".json")
CLASSES = (
    "quantization.Float8DynamicActivationFloat8WeightConfig",
    "quantization.Int4WeightOnlyConfig",
    "quantization.Int8DynamicActivationInt8WeightConfig",
    "quantization.Int8StaticActivationInt8WeightConfig",
    "quantization.PerRow",
    "quantization.qat.QATConfig",
    "prototype.awq.AWQConfig",
    "prototype.gptq.GPTQConfig",
    "prototype.mx_formats.MXDynamicActivationMXWeightConfig",
    "prototype.mx_formats.NVFP4DynamicActivationNVFP4WeightConfig",
    "prototype.smoothquant.SmoothQuantConfig",
)


class Nearest(AOBaseConfig):
    """Four bits in groups of 128, symmetric: what the toy searches a scale for. The search is torchao's."""


@register_quantize_module_handler(Nearest)
def _nearest(module, config):
    blocks = module.weight.reshape(-1, 128)
    step = (blocks.abs().amax(dim=1, keepdim=True) / 7).half().float()
    rounded = (blocks / step).round().clamp(-7, 7) * step
    return types.SimpleNamespace(weight=rounded.reshape(module.weight.shape))


def inputs():
    """Activations (4, 128), weights (8, 128) and samples (24, 128) whose channels differ in size."""
    draw = torch.Generator().manual_seed(5)
    size = torch.exp(torch.randn(128, generator=draw))
    x, w, seen = (torch.randn(n, 128, generator=draw) for n in (4, 8, 24))
    return x * size, 0.02 * w / size.sqrt(), seen * size


def references(x, w, seen):
    """What torchao and gguf make of them, as lists of numbers."""
    found = {
        "mxfp8": MXTensor.to_mx(x, torch.float8_e4m3fn, 32).dequantize(torch.float32),
        "mxfp4": MXTensor.to_mx(x, torch.float4_e2m1fn_x2, 32).dequantize(torch.float32),
        "nvfp4": NVFP4Tensor.to_nvfp4(x, per_tensor_scale=per_tensor_amax_to_scale(x.abs().max())).dequantize(
            torch.float32
        ),
    }
    linear = torch.nn.Linear(128, 8, bias=False)
    linear.weight.data = w.clone()
    quantize_(linear, Int8DynamicActivationInt8WeightConfig())
    found["int8 product"] = linear(x)
    smooth = SmoothQuantObserver(w, alpha=0.5)
    smooth(seen)
    found["smoothing"] = smooth.calculate_qparams()[0]
    observer = AWQObserver(w, None, Nearest())
    observer(seen, None)
    s = observer.calculate_qparams()
    found["awq weights"] = _nearest(types.SimpleNamespace(weight=w * s), None).weight / s
    q8_0 = gguf.GGMLQuantizationType.Q8_0
    found["q8_0"] = gguf.quants.dequantize(gguf.quants.quantize(x.numpy(), q8_0), q8_0)
    return found


def plain(values):
    """Nested lists with no more digits than a float32 has."""
    array = np.asarray(values.detach() if isinstance(values, torch.Tensor) else values, dtype=np.float32)
    return np.vectorize(lambda value: float(str(value)), otypes=[float])(array).tolist()


def main():
    """Write the record."""
    for name in CLASSES:
        module, _, attribute = f"torchao.{name}".rpartition(".")
        getattr(__import__(module, fromlist=[attribute]), attribute)
    given = inputs()
    tensors = dict(zip(("x", "w", "seen"), given, strict=True)) | references(*given)
    record = {
        "versions": {name: version(name) for name in ("torch", "torchao", "gguf")},
        "classes": [f"torchao.{name}" for name in CLASSES],
        "numbers": {name: plain(values) for name, values in tensors.items()},
    }
    FILE.write_text(json.dumps(record) + "\n", encoding="utf-8")
    print(f"{FILE.name}: torchao {torchao.__version__}, {len(tensors)} tensors")


if __name__ == "__main__":
    main()
