"""What only imports can tell about torch and bitsandbytes, for `doctor`, as one JSON object.

`python -m sana_lab.versions.smoke` is a process of its own, because an import may crash or hang.
"""

from __future__ import annotations

import json
import math
import os
from typing import Any


def main() -> None:
    """Print one JSON object on stdout, and on stderr whatever libraries print."""
    results = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    print(json.dumps(_devices()), file=results, flush=True)


def _devices() -> dict[str, Any]:
    found: dict[str, Any] = {}
    try:
        import torch
    except Exception as error:
        return {"torch_error": f"{type(error).__name__}: {error}"}
    found["cuda_build"] = torch.version.cuda
    found["cuda"] = torch.cuda.is_available()
    if found["cuda"]:
        found["name"] = torch.cuda.get_device_name(0)
        found["capability"] = list(torch.cuda.get_device_capability(0))
        found["free"], found["total"] = torch.cuda.mem_get_info(0)
    try:
        import bitsandbytes
        from bitsandbytes import cextension

        loaded = getattr(getattr(cextension, "lib", None), "_lib", None)
        found["binary"] = os.path.basename(getattr(loaded, "_name", "") or "")
        found["product"] = _product(torch, bitsandbytes, "cuda" if found["cuda"] else "cpu")
    except Exception as error:
        found["bitsandbytes_error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    return found


def _product(torch: Any, bitsandbytes: Any, device: str) -> float:
    """Relative error of one 8-bit layer against the float layer it was made from.

    The same product as that of `probes.product`, which the page shows as it stands and whose digest must not change.
    """
    torch.manual_seed(0)
    plain = torch.nn.Linear(64, 128)
    layer = bitsandbytes.nn.Linear8bitLt(64, 128, has_fp16_weights=False, threshold=6.0)
    layer.load_state_dict(plain.state_dict())
    layer = layer.to(device).eval()
    x = torch.randn(4, 64)
    y = layer(x.half().to(device)).float().cpu()
    error = ((y - plain(x)).norm() / plain(x).norm()).item()
    return error if math.isfinite(error) else 1e9  # JSON has no NaN


if __name__ == "__main__":
    main()
