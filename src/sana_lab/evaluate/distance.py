"""How far two pictures are apart, pixel by pixel: PSNR and SSIM. Neither knows what a picture shows."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW = 7
"""Width of the square in which SSIM compares, in pixels."""


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio of two pictures in decibels, infinity if they are equal.

    ``10 log10(255² / mean squared difference)``: 20 dB is a difference of 26 of 255 a pixel, 40 dB one of 2.6.

    Args:
        a: uint8, any shape, on any device.
        b: the same shape.

    Raises:
        TypeError, ValueError: not uint8, or shapes that differ.

    Example:
        >>> black = torch.zeros(8, 8, 3, dtype=torch.uint8)
        >>> round(psnr(black, black + 26), 1)
        19.8

    Chapter 6.
    """
    _check(a, b)
    error = (a.double() - b.double()).square().mean().item()
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def ssim(a: Tensor, b: Tensor) -> float:
    """Structural similarity of two pictures, 1 if they are equal, mean over windows and colors.

    Wang et al. 2004 (doi 10.1109/TIP.2003.819861), equation 13, over 7 x 7 squares with unbiased variances, which is
    what scikit-image computes by default (`skimage.metrics.structural_similarity`). Not worth a dependency.

    Args:
        a: uint8 (height, width, 3), at least 7 pixels wide and high, on any device.
        b: the same shape.

    Raises:
        TypeError, ValueError: not uint8, or shapes that differ or are too small.

    Chapter 6.
    """
    _check(a, b)
    if a.dim() != 3 or min(a.shape[:2]) < WINDOW:
        raise ValueError(f"ssim compares (height, width, 3) from {WINDOW} pixels up, not {tuple(a.shape)}")
    x, y = (picture.double().movedim(-1, 0) for picture in (a, b))  # variances are small differences of large numbers
    mean_x, mean_y, xx, yy, xy = F.avg_pool2d(torch.stack([x, y, x * x, y * y, x * y]), WINDOW, stride=1)
    unbiased = WINDOW**2 / (WINDOW**2 - 1)
    var_x, var_y = unbiased * (xx - mean_x**2), unbiased * (yy - mean_y**2)
    covariance = unbiased * (xy - mean_x * mean_y)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    likeness = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return (likeness / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean().item()


def _check(a: Tensor, b: Tensor) -> None:
    if not (isinstance(a, Tensor) and isinstance(b, Tensor) and a.dtype == b.dtype == torch.uint8):
        raise TypeError("give two uint8 tensors, values 0 to 255: torch.from_numpy(numpy.array(picture))")
    if a.shape != b.shape or not a.numel():
        raise ValueError(f"pictures must have one size, not {tuple(a.shape)} and {tuple(b.shape)}")
