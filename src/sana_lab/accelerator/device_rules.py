"""What functions say of their own about devices, before any kernel is reached or after all of them ran.

`before` holds checks that PyTorch's own C++ makes at the start of a function, `after` what comes of a call that no
kernel refused: an `out=` on another device than the result, gradients that would go to another device. The words and
the cases are those of the record of PyTorch's table of operators on a real GPU (2.11; `operators_h200`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from . import words

CPU = torch.device("cpu")

RESULT_AND_INPUT = {
    "linalg_pinv": "linalg.pinv",
    "linalg_cond": "linalg.cond",
    "matrix_power": "matrix_power",
    "linalg_matrix_power": "matrix_power",
    "linalg_matrix_rank": "torch.linalg.matrix_rank",
    "linalg_tensorinv": "tensorinv",
    "linalg_tensorsolve": "tensorsolve",
    "linalg_lstsq": "torch.linalg.lstsq",
}
"""Function -> its name in "Expected result and input tensors to be on the same device" (`checkSameDevice`)."""

MADE_LIKE_INPUT = frozenset(["linalg_norm", "linalg_matrix_norm", "linalg_vecdot"])
"""The same, with the two named the other way round: these say "result" of what they computed."""

OUT_TEXT = {
    "mode": "expected device '{input}' but got '{out}' for values output",
    "quantile": "quantile() out tensor must be on the same device as the input tensor",
    "nanquantile": "quantile() out tensor must be on the same device as the input tensor",
    **dict.fromkeys(["diff", "cummax", "cummin", "logcumsumexp"], "expected device {input} but found {out}"),
}
"""Function -> its words for an `out=` on another device than the input."""

REDUCTIONS = frozenset("all any cumprod cumsum logsumexp max min mean renorm aminmax".split())
"""Structured kernels without a device check: where the result goes decides which device's kernel runs."""

TOWARDS_REPORT = " to be true, but got false. (Could this error message be improved? If so, please report an "
TOWARDS_REPORT += "enhancement request to PyTorch.)"

WITHOUT_SCALARS = {
    "mse_loss": None,
    **dict.fromkeys(["binary_cross_entropy", "binary_cross_entropy_with_logits", "bilinear"], "cuda first"),
}
"""Elementwise functions to which a 0-dim CPU tensor is one from another device like any other."""

ASSERTING = frozenset(["lerp", "smooth_l1_loss", "huber_loss"])
"""Elementwise functions whose CUDA kernel meets a 0-dim CPU tensor and fails an assertion."""

LIKE_THE_FIRST = frozenset(["logical_and", "logical_or", "logical_xor"])
"""Functions that make their result where the first tensor is, a 0-dim CPU tensor included."""

SENDING_BACK = {
    "select_scatter": "SelectScatterBackward0",
    "slice_scatter": "SliceScatterBackward0",
    "diagonal_scatter": "DiagonalScatterBackward0",
}
"""Functions that copy between devices, whose gradients do not find the way back (their node's name)."""

FREE_OUT = frozenset(["bernoulli", "lu"])
"""Functions that copy into an `out=` on any device."""


def before(name: str, given: list[Any], extra: dict[str, Any]) -> None:
    """Raise what the function itself says. `given` are the call's tensors (`mismatch.Given`), `extra` its `out=`.

    Raises:
        RuntimeError: CUDA refuses the call.
    """
    out = next((g for g in given if g.name == "out"), None)
    inputs = [g for g in given if g.name != "out"]
    if name in FUNCTIONS:
        FUNCTIONS[name](inputs)
    if out is not None and inputs:
        _out(name, inputs, out, isinstance(extra.get("out"), (tuple, list)))
    if out is None and len(inputs) > 1:
        _scalars(name, inputs)


def _out(name: str, inputs: list[Any], out: Any, several: bool) -> None:
    """Raise what a function itself says of an `out=` on another device than its inputs; `several`: a tuple of them."""
    here, there = inputs[0].device, out.device
    if name in ("dot", "vdot") or name == "matmul" and all(g.tensor.dim() == 1 for g in inputs[:2]):
        which = "vdot" if name == "vdot" else "dot"
        raise RuntimeError(
            f"{which}: Expected the output and input tensors to be on the same device, but got the output tensor on "
            f"{there}, the 'input' tensor on {here}, and the 'other' tensor on {inputs[1].device}"
        )
    if name == "tensordot" and here == inputs[1].device:
        raise RuntimeError(
            f"tensordot: Expected the output and input tensors to be on the same device, but got the output tensor on "
            f"{there}, input tensor a on {here}, and input tensor b on {inputs[1].device}"
        )
    if any(g.device != here for g in inputs) or here == there:
        return
    if name in RESULT_AND_INPUT:
        raise _on_two(RESULT_AND_INPUT[name], "result", there, here)
    if name == "cholesky_solve":
        raise _on_two(name, "result", there, here)
    if name in MADE_LIKE_INPUT:
        raise _on_two(name.replace("_", ".", 1), "result", here, there)
    if name in OUT_TEXT:
        raise RuntimeError(OUT_TEXT[name].format(input=here, out=there))
    if name == "inner":
        raise _other_type(here, there, name)
    if name in REDUCTIONS and len(inputs) == 1:
        if name in ("max", "min") and not several:
            raise RuntimeError(f"Expected self.device() == out.device(){TOWARDS_REPORT}")
        raise wrong_guard() if here == CPU else out_device(here, there)


def _scalars(name: str, inputs: list[Any]) -> None:
    """Raise what an elementwise function says of a 0-dim CPU tensor that it does not take beside tensors on a GPU."""
    scalars = [n for n, g in enumerate(inputs) if g.device == CPU and g.tensor.dim() == 0]
    if not scalars:
        return
    gpu = next(g.device for g in inputs if g.device != CPU)
    if name in WITHOUT_SCALARS:
        pair = (gpu, CPU) if WITHOUT_SCALARS[name] else (inputs[0].device, inputs[1].device)
        raise words.two_devices(*pair)
    if name in LIKE_THE_FIRST and 0 in scalars:
        raise words.two_devices(gpu, CPU)
    scalars = [number for number in scalars if number < 2]
    if name in ASSERTING and scalars and len(scalars) == sum(g.device == CPU for g in inputs):
        raise RuntimeError(
            'iter.device(arg).is_cuda() INTERNAL ASSERT FAILED at "/pytorch/aten/src/ATen/native/cuda/Loops.cuh":109, '
            f"please report a bug to PyTorch. argument {scalars[0] + 1}: expected a CUDA device but found cpu"
        )


def after(name: str, given: list[Any], result: Any) -> None:
    """What comes of a call that no kernel has refused.

    Raises:
        RuntimeError: its `out=` is on another device than its result.
    """
    inputs = [g for g in given if g.name != "out"]
    gpu = next((g.device for g in inputs if g.device != CPU), CPU)
    expected = inputs[0].device if inputs and name in SENDING_BACK else gpu
    for g in given:
        free = name in FREE_OUT or name.startswith("_foreach")
        if g.name == "out" and g.device != expected and inputs and not free:
            raise out_device(expected, g.device)
    if name in SENDING_BACK and isinstance(result, torch.Tensor) and result.grad_fn is not None and len(inputs) > 1:
        expected, found = inputs[1].device, inputs[0].device
        if inputs[1].tensor.requires_grad and expected != found:
            _refuse_backward(result, words.invalid_gradient(1, expected, found, SENDING_BACK[name]))
    base = _base_of_power(name, inputs)
    if base is not None and isinstance(result, torch.Tensor) and result.grad_fn is not None:
        if base.tensor.requires_grad and base.device == CPU and inputs[0].tensor is not inputs[1].tensor:
            _refuse_backward(result, words.two_devices(gpu, CPU))
    if name == "copysign" and isinstance(result, torch.Tensor) and result.grad_fn is not None:
        if inputs[0].device == CPU and inputs[0].tensor.requires_grad:
            _refuse_backward(result, words.mask_device(CPU, gpu))


def _base_of_power(name: str, inputs: list[Any]) -> Any:
    if len(inputs) != 2:
        return None
    if name in ("pow", "__pow__", "float_power"):
        return inputs[0]
    return inputs[1] if name == "__rpow__" else None


def _refuse_backward(result: torch.Tensor, error: RuntimeError) -> None:
    def refuse(*_: Any) -> None:
        raise error

    result.grad_fn.register_hook(refuse)


# ---- functions with words of their own -----------------------------------------------------------------------------


def _block_diag(given: list[Any]) -> None:
    for number, g in enumerate(given):
        if g.device != given[0].device:
            raise RuntimeError(
                "torch.block_diag: input tensors must all be on the same device. Input 0 is on device "
                f"{given[0].device} and input {number} is on device {g.device}"
            )


def _meshgrid(given: list[Any]) -> None:
    if len({g.device for g in given}) > 1:
        raise RuntimeError("meshgrid expects all tensors to have the same device")


def _multi_dot(given: list[Any]) -> None:
    for number, g in enumerate(given):
        if g.device != given[0].device:
            raise RuntimeError(
                f"multi_dot(): all tensors must be on the same device but tensor 0 is on {given[0].device} and tensor "
                f"{number} on {g.device}"
            )


def _inner(given: list[Any]) -> None:
    a, b = given[:2]
    if a.device.type != b.device.type:
        raise _other_type(a.device, b.device, "inner")


def _cholesky_solve(given: list[Any]) -> None:
    b, a = given[:2]
    if a.device != b.device:
        raise RuntimeError(
            f"Expected b and A to be on the same device, but found b on {b.device} and A on {a.device} instead."
        )


def _take_along_dim(given: list[Any]) -> None:
    a, index = given[:2]
    if a.device != index.device:
        raise RuntimeError(
            f"Expected tensor to have {a.device} Device, but got tensor with {index.device} Device (while checking "
            "arguments for torch.take_along_dim():)"
        )


def _segment_reduce(given: list[Any]) -> None:
    for what in ("lengths", "offsets"):
        other = next((g for g in given[1:] if g.name == what), None)
        if other is not None and other.device != given[0].device:
            raise RuntimeError(f"Expected data.get_device() == {what}_value.get_device(){TOWARDS_REPORT}")


def _gradient(given: list[Any]) -> None:
    other = next((g for g in given if g.device != given[0].device), None)
    if other is not None:
        raise RuntimeError(
            "torch.gradient expected each tensor to be on the same device, but got devices "
            f"{given[0].device} and {other.device}!"
        )


def _quantile(given: list[Any]) -> None:
    if len(given) > 1 and given[1].device != given[0].device:
        raise RuntimeError("quantile() q tensor must be on the same device as the input tensor")


def _soft_margin_loss(given: list[Any]) -> None:
    source, target = given[:2]
    if source.device != target.device and (source.device == CPU or target.tensor.dim()):
        raise words.two_devices(*sorted((source.device, target.device), key=lambda device: device == CPU))


def _bilinear(given: list[Any]) -> None:
    gpu = next(g.device for g in given if g.device != CPU)
    if not given[0].tensor.numel() and given[0].device != gpu:
        raise words.two_devices(gpu, given[0].device)


def _nested(given: list[Any]) -> None:
    for g in given:
        if g.device != given[0].device:
            raise words.wrong_argument("tensors", g.device, given[0].device, "cat")


def _make_dual(given: list[Any]) -> None:
    if given[0].device != given[1].device:
        raise words.two_devices(given[0].device, given[1].device)


def _stft(given: list[Any], name: str = "stft") -> None:
    window = next((g for g in given[1:] if g.name == "window"), None)
    if window is not None and window.device != given[0].device:
        raise RuntimeError(
            f"{name} input and window must be on the same device but got self on {given[0].device} and window on "
            f"{window.device}"
        )


def _cosine_similarity(given: list[Any]) -> None:
    if given[0].device != given[1].device:
        raise words.wrong_argument("min", given[0].device, given[1].device, "clamp_min__Tensor")


def _matrix_rank(given: list[Any]) -> None:
    for g in given[1:]:
        if g.device != given[0].device:
            what = g.name if g.name in ("rtol", "atol") else "tol"
            raise _on_two("torch.linalg.matrix_rank", what, g.device, given[0].device)


def _searchsorted(given: list[Any]) -> None:
    sorter = next((g for g in given if g.name == "sorter"), None)
    if sorter is not None and sorter.device != given[0].device and given[0].device == given[1].device:
        raise RuntimeError(
            "torch.searchsorted(): sorter and boundary tensors should have same device type, but got sorter tensor "
            f"device type {sorter.device} and input value tensor device type {given[0].device}"
        )


FUNCTIONS: dict[str, Callable[[list[Any]], None]] = {
    "block_diag": _block_diag,
    "meshgrid": _meshgrid,
    "cartesian_prod": _meshgrid,
    "linalg_multi_dot": _multi_dot,
    "inner": _inner,
    "cholesky_solve": _cholesky_solve,
    "take_along_dim": _take_along_dim,
    "segment_reduce": _segment_reduce,
    "gradient": _gradient,
    "stft": _stft,
    "cosine_similarity": _cosine_similarity,
    "linalg_matrix_rank": _matrix_rank,
    "searchsorted": _searchsorted,
    "quantile": _quantile,
    "nanquantile": _quantile,
    "istft": functools.partial(_stft, name="istft"),
    "_make_dual": _make_dual,
    "soft_margin_loss": _soft_margin_loss,
    "bilinear": _bilinear,
    "_nested_tensor_from_tensor_list": _nested,
}


def _on_two(function: str, what: str, device: torch.device, other: torch.device) -> RuntimeError:
    return RuntimeError(
        f"{function}: Expected {what} and input tensors to be on the same device, but got {what} on {device} and "
        f"input on {other}"
    )


def _other_type(expected: torch.device, found: torch.device, function: str) -> RuntimeError:
    return RuntimeError(
        f"Expected tensor to have {expected.type} DeviceType, but got tensor with {found.type} DeviceType "
        f"(while checking arguments for {function}())"
    )


def out_device(expected: torch.device, out: torch.device) -> RuntimeError:
    """An `out=` elsewhere (ATen/native/Resize.h and torchgen's `check_inplace`, `resize_out`)."""
    return RuntimeError(f"Expected out tensor to have device {expected}, but got {out} instead")


def wrong_guard() -> RuntimeError:
    """A CUDA kernel, chosen for its `out=`, with inputs on the CPU (c10/cuda/impl/CUDAGuardImpl.h)."""
    return RuntimeError("CUDAGuardImpl initialized with non-CUDA DeviceType: cpu")


def factory_out(out: torch.device) -> RuntimeError:
    """A factory with a device and an `out=` elsewhere (torch/csrc/autograd/utils, `check_out_type_matches`)."""
    return RuntimeError(f"device type cuda does not match device type of out parameter ({out})")


def sections_device(device: torch.device) -> RuntimeError:
    """`tensor_split` with its sections on a GPU (ATen/native/TensorShape.cpp)."""
    return RuntimeError(f"tensor_split expected tensor_indices_or_sections to be on cpu, but it's on {device}")
