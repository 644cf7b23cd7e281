"""What CUDA says when something goes wrong, word for word. Nothing here decides; see `mismatch` and `memory` for when.

The words are PyTorch's (2.11): the source file stands beside each. The conformance record compares them with a real
GPU's.
"""

from __future__ import annotations

import torch

AcceleratorError: type[RuntimeError] = getattr(torch, "AcceleratorError", RuntimeError)
"""What a failed CUDA call raises: `torch.AcceleratorError` since 2.8, before that a plain `RuntimeError`."""

OLDER_WORDS = tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 8)
"""Whether a checked argument is described as up to 2.7 (the strings of libtorch 2.5.1, 2.7.1, 2.8.0 and 2.9.1)."""


def two_devices(common: torch.device, other: torch.device) -> RuntimeError:
    """Elementwise operators and all others that go through `TensorIterator` (ATen/TensorIterator.cpp)."""
    return RuntimeError(
        f"Expected all tensors to be on the same device, but found at least two devices, {common} and {other}!"
    )


def wrong_argument(
    argument: str, device: torch.device, common: torch.device, kernel: str, backend: str = "CUDA"
) -> RuntimeError:
    """Kernels with a generated device check (c10/core/impl: `common_device_check_failure`)."""
    if OLDER_WORDS:
        return RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, {common} and {device}! "
            f"(when checking argument for argument {argument} in method wrapper_{backend}_{kernel})"
        )
    return RuntimeError(
        f"Expected all tensors to be on the same device, but got {argument} is on {device}, different from other "
        f"tensors on {common} (when checking argument in method wrapper_{backend}_{kernel})"
    )


def sparse_on_cpu(operator: str, argument: str, alone: bool) -> RuntimeError:
    """Sums and products of sparse tensors (ATen/native/sparse/cuda/SparseCUDATensorMath.cu); `alone`: both sparse."""
    if alone:
        return RuntimeError(f"{operator}: expected '{argument}' to be CUDA, but got CPU")
    return RuntimeError(f"{operator}: expected '{argument}' to be a CUDA tensor, but got a CPU tensor")


def convolution_types(what: str, input_type: str, other_type: str, mkldnn: bool) -> RuntimeError:
    """Convolutions compare tensor types (ATen/native/Convolution.cpp, `check_input_same_type_as_parameters`)."""
    tail = f" or input should be a MKLDNN tensor and {what} is a dense tensor" if mkldnn else ""
    return RuntimeError(f"Input type ({input_type}) and {what} type ({other_type}) should be the same{tail}")


def mask_device(mask: torch.device, masked: torch.device) -> RuntimeError:
    """`masked_fill` (ATen/native/cuda/Indexing.cu, `masked_fill__cuda`)."""
    return RuntimeError(f"expected self and mask to be on the same device, but got mask on {mask} and self on {masked}")


def no_kernel(operator: str, backend: str = "CUDA") -> NotImplementedError:
    """An operator without a kernel for a backend (ATen/core/dispatch/OperatorEntry.cpp, `reportError`)."""
    return NotImplementedError(
        f"Could not run 'aten::{operator}' with arguments from the '{backend}' backend. This could be because the "
        "operator doesn't exist for this backend, or was omitted during the selective/custom build process (if using "
        "custom build)."
    )


def lengths_device(dims: int, device: torch.device) -> RuntimeError:
    """Lengths of sequences on a GPU (ATen/native/PackedSequence.cpp, `checkLongTensor`)."""
    return RuntimeError(f"'lengths' argument should be a 1D CPU int64 tensor, but got {dims}D {device} Long tensor")


def recurrent_device(what: str, source: torch.device, other: torch.device) -> RuntimeError:
    """Recurrent layers (ATen/native/RNN.cpp, `check_attributes`)."""
    tensors = f"Input and {what} tensors are not at the same device"
    return RuntimeError(f"{tensors}, found input tensor at {source} and {what} tensor at {other}")


def no_stream_on_cpu() -> RuntimeError:
    """What bitsandbytes' CUDA kernels meet first when they look for the stream of a CPU tensor (torch/csrc/cuda)."""
    return RuntimeError("invalid argument to getCurrentStream")


def not_a_gpu(device: torch.device) -> ValueError:
    """What `torch.cuda.set_device` says of another device (torch/cuda/_utils.py, `_get_device_index`)."""
    return ValueError(f"Expected a cuda device, but got: {device}")


def attention_devices(query: torch.device, key: torch.device, value: torch.device) -> RuntimeError:
    """`scaled_dot_product_attention` (ATen/native/transformers/attention.cpp, `validate_sdpa_input`)."""
    return RuntimeError(
        "Expected query, key, and value to have the same device type, but got "
        f"query.device: {query} key.device: {key} and value.device: {value} instead."
    )


def index_device(indexed: torch.device) -> RuntimeError:
    """Indexing with a tensor from elsewhere (ATen/native/TensorAdvancedIndexingUtils.h)."""
    return RuntimeError(f"indices should be either on cpu or on the same device as the indexed tensor ({indexed})")


def generator_device(expected: str, found: str) -> RuntimeError:
    """A generator of another kind of device (ATen/core/Generator.h, `check_generator`)."""
    return RuntimeError(f"Expected a '{expected}' device type for generator but found '{found}'")


def to_numpy(device: torch.device) -> TypeError:
    """`Tensor.numpy()` (torch/csrc/utils/tensor_numpy.cpp)."""
    return TypeError(
        f"can't convert {device} device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first."
    )


def gradient_device(gradient: torch.device, tensor: torch.device) -> RuntimeError:
    """Setting `.grad` (torch/csrc/autograd/python_variable.cpp)."""
    if gradient.type == tensor.type:
        return RuntimeError("assigned grad has data located on a different device")
    return RuntimeError(
        f"attempting to assign a gradient with device type '{gradient.type}' to a tensor with device type "
        f"'{tensor.type}'. Please ensure that the gradient and the tensor are on the same device"
    )


def invalid_gradient(position: int, device: torch.device, found: torch.device, function: str = "") -> RuntimeError:
    """A gradient from another device than its tensor's (torch/csrc/autograd/engine.cpp, `validate_outputs`)."""
    returned = f"Function {function} returned an " if function else ""
    return RuntimeError(f"{returned}invalid gradient at index {position} - expected device {device} but got {found}")


def other_type(name: str, tensors: int, number: int, own: str, other: str) -> TypeError:
    """`map_` with tensors of two types (torch/csrc/utils/tensor_apply.cpp)."""
    label = "other" if tensors == 2 else ("x", "y")[number]
    return TypeError(f"{name}: expected {own} for '{label}' (got {other})")


def hook_changed(hook: str, before: str, after: str) -> RuntimeError:
    """A hook that returns a gradient of another type or device (torch/csrc/autograd/python_hook.cpp)."""
    return RuntimeError(f"hook '{hook}' has changed the type of value (was {before} got {after})")


def invalid_ordinal() -> RuntimeError:
    """A GPU that is not there (`cudaErrorInvalidDevice` through c10/cuda/CUDAException.cpp)."""
    return _cuda_error("invalid device ordinal", "GPU device may be out of range, do you have enough GPUs?")


def illegal_access() -> RuntimeError:
    """A kernel that reads another GPU's memory (`cudaErrorIllegalAddress`)."""
    return _cuda_error(
        "an illegal memory access was encountered",
        "Search for `cudaErrorIllegalAddress' in https://docs.nvidia.com/cuda/cuda-runtime-api/"
        "group__CUDART__TYPES.html for more information.",
    )


def invalid_device_argument(index: int) -> RuntimeError:
    """Counters of a GPU that is not there (c10/cuda/CUDACachingAllocator.cpp, `assertValidDevice`)."""
    return RuntimeError(f"Invalid device argument {_as_character(index)}: did you call init?")


def allocator_not_initialized(index: int) -> RuntimeError:
    """A share of the memory of a GPU that is not there (same file, `setMemoryFraction`)."""
    return RuntimeError(f"Allocator not initialized for device {_as_character(index)}: did you call init?")


def _as_character(index: int) -> str:
    """An index as a stream of C++ prints it: it is kept in one byte, and so taken for a character."""
    return chr(index) if 0 <= index < 128 else str(index)


def stream_index(index: int, gpus: int) -> RuntimeError:
    """The stream of a GPU that is not there (c10/cuda/CUDAStream.cpp, `check_gpu`)."""
    return RuntimeError(f"Device index value {index} is out of index range [0, {gpus})")


def device_side_assert() -> RuntimeError:
    """A kernel that has met an index or a value out of range (`cudaErrorAssert`)."""
    return _cuda_error(
        "device-side assert triggered",
        "Search for `cudaErrorAssert' in https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html for "
        "more information.",
    )


def _cuda_error(what: str, hint: str) -> RuntimeError:
    return AcceleratorError(
        f"CUDA error: {what}\n{hint}\n"
        "CUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be "
        "incorrect.\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1\n"
        "Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.\n"
    )


def out_of_memory(
    size: int, index: int, total: int, used: int, reserved: int, allowed: int | None = None
) -> torch.OutOfMemoryError:
    """Not enough room on a GPU, sizes in bytes (c10/cuda/CUDACachingAllocator.cpp, `malloc`).

    `allowed` is what `set_per_process_memory_fraction` leaves, None where nobody has called it.
    """
    limit = "" if allowed is None else f"{human(allowed)} allowed; "
    return torch.OutOfMemoryError(
        f"CUDA out of memory. Tried to allocate {human(size)}. GPU {index} has a total capacity of {human(total)} of "
        f"which {human(total - reserved)} is free. Including non-PyTorch memory, this process has {human(reserved)} "
        f"memory in use. {limit}Of the allocated memory {human(used)} is allocated by PyTorch, and "
        f"{human(reserved - used)} is reserved by PyTorch but unallocated. If reserved but unallocated memory is "
        "large try setting PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid fragmentation.  See documentation "
        "for Memory Management  (https://docs.pytorch.org/docs/stable/notes/cuda.html"
        "#optimizing-memory-usage-with-pytorch-cuda-alloc-conf)"
    )


CPU_WORDS = {"expected m1 and m2 to have the same dtype": "expected mat1 and mat2 to have the same dtype"}
"""What a CPU kernel says -> what the CUDA kernel of the same operator says (ATen/native/cuda/Blas.cpp)."""


def explain(error: RuntimeError) -> None:
    """Raise what CUDA says instead of `error`, where a CPU kernel has words of its own."""
    for here, there in CPU_WORDS.items():
        if str(error).startswith(here):
            raise RuntimeError(str(error).replace(here, there)) from None


def human(nbytes: int) -> str:
    """A size as CUDA prints it: `512 bytes`, `20.00 MiB`, `2.00 GiB` (`format_size`, same file)."""
    if nbytes <= 1024:
        return f"{nbytes} bytes"
    if nbytes <= 1048576:
        return f"{nbytes / 1024:.2f} KiB"
    if nbytes <= 1073741824:
        return f"{nbytes / 1048576:.2f} MiB"
    return f"{nbytes / 1073741824:.2f} GiB"
