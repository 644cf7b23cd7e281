"""A look at a picture: is it one at all?"""

from __future__ import annotations

from typing import Any

LEAST = 1 / 255
"""What the lightest and the darkest value of a picture must differ by, of 1: a step of 8-bit color."""


def wrong_with(picture: Any) -> str:
    """What is wrong with a picture in a few words; "" if nothing is.

    A pipeline that returns files' colors has hidden a NaN already: cast to bytes it is black (numpy warns of an
    "invalid value encountered in cast"). So ask for `output_type="pt"` and look before the cast.

    Args:
        picture: a tensor or array of values from 0 to 1, any shape; or a PIL picture.

    Raises:
        TypeError: it is something else.

    Example:
        >>> import torch
        >>> wrong_with(torch.full((3, 32, 32), float("nan")))
        'it has no numbers (NaN) in 3072 of 3072 values'
        >>> wrong_with(torch.zeros(3, 32, 32))
        'it is black'
        >>> wrong_with(torch.rand(3, 32, 32))
        ''

    Chapter 13.
    """
    import numpy as np
    import torch
    from PIL import Image

    if isinstance(picture, Image.Image):
        values = np.asarray(picture.convert("RGB"), dtype=np.float32) / 255
    elif isinstance(picture, torch.Tensor):
        values = picture.detach().to("cpu", torch.float32).numpy()
    elif isinstance(picture, np.ndarray) and picture.dtype.kind in "fiu":
        values = picture.astype(np.float32) / (255 if picture.dtype == np.uint8 else 1)
    else:
        raise TypeError(f"wrong_with looks at a tensor, an array or a PIL picture, not at {type(picture).__name__}")
    if not values.size:
        return "it is empty"
    if broken := int((~np.isfinite(values)).sum()):
        return f"it has no numbers (NaN) in {broken} of {values.size} values"
    low, high = float(values.min()), float(values.max())
    if high < LEAST * 2:
        return "it is black"
    if high - low < LEAST:
        return "it has one color everywhere"
    return ""
