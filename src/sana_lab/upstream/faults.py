"""What is wrong in which library, where in its source, and what was found about it in its issues. Imports no torch.

A script ends in an exception as long as the fault is there: its own assertion, or what the library raises. The tests
run every script twice, as it is and with the fault mended, so they notice when a library mends it, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SCRIPTS = Path(__file__).parent / "scripts"

TRIED = {
    "torch": "2.13.0",
    "diffusers": "0.42.1",
    "transformers": "5.23.0",
    "accelerate": "1.15.0",
    "bitsandbytes": "0.50.2",
}
"""The versions with which the scripts are run."""

SEARCHED = "2026-11-29"
"""When the trackers were searched."""


@dataclass(frozen=True)
class Fault:
    """A fault in a library.

    Args:
        name: of its script, without `.py`; also a label on the page.
        title: of the report.
        library: key of `TRIED`.
        effect: what a user meets, in a sentence.
        cause: why, with the place named.
        source: file and line in the version of `TRIED`.
        raises: regular expression of the last line of the script, as long as the fault is there.
        expected: what should happen instead.
        remedy: what one would change.
        status: what was found in the library's issues.
        other: versions that were tried or read besides.
    """

    name: str
    title: str
    library: str
    effect: str
    cause: str
    source: str
    raises: str
    expected: str
    remedy: str
    status: str
    other: str = ""

    @property
    def script(self) -> str:
        """The program that shows it."""
        return (SCRIPTS / f"{self.name}.py").read_text(encoding="utf-8")


FAULTS = (
    Fault(
        "transposed_input",
        "Linear8bitLt reads a transposed input as if it were contiguous",
        "bitsandbytes",
        "An 8-bit layer returns nonsense for a view made by `transpose` or `permute`, without a word, on CUDA only.",
        "`int8_vectorwise_quant` hands `A.data_ptr()` to C without `contiguous()`. `MatMul8bitLt.forward` reshapes 3-D "
        "inputs to 2-D, which copies only where it must: a batch of two is copied, a batch of one stays a view.",
        "backends/cuda/ops.py, line 240",
        r"AssertionError: the same numbers in another order of memory give another result",
        "The same result for the same numbers, as on the CPU.",
        "`A = A.contiguous()` at the head of `int8_vectorwise_quant` and `int8_double_quant`, as the 4-bit and "
        "blockwise kernels beside them have it.",
        "No report found. The same kind was found three times in other kernels: bitsandbytes#1342, #1690 (both closed "
        "by #1859, which made the inputs of the blockwise and 4-bit kernels contiguous) and #1995 (their CPU twins, "
        "#1996).",
        "Read so in 0.43.3, 0.44.1, 0.45.5, 0.46.1, 0.47.0, 0.48.2, 0.49.2, 0.50.0 and 0.50.1.",
    ),
    Fault(
        "dequantize_blockwise_of_a_view",
        "dequantize_blockwise scrambles its output if the codes are a transposed view",
        "bitsandbytes",
        "Codes that are a view are read back in the wrong order, on CUDA only.",
        "The output is made by `torch.empty_like(A)`, with the strides of the view; only then `A` is made contiguous, "
        "and the kernel fills the output's memory row by row.",
        "backends/cuda/ops.py, line 337",
        r"AssertionError: the same codes in another order of memory give other numbers",
        "The same numbers as for a contiguous copy of the codes.",
        "Make `A` contiguous before the output, or give `empty_like` `memory_format=torch.contiguous_format`.",
        "No report found. It is what bitsandbytes#1859 left; the CPU twin (#1996) makes `A` contiguous first.",
    ),
    Fault(
        "weight_gradient",
        "Linear8bitLt computes a wrong gradient for its weight where the weight is in 16 bits",
        "bitsandbytes",
        "Training a layer with `has_fp16_weights=True`, the default of the class, follows a gradient that is noise, "
        "without a word, on CUDA only. The gradient of the input is right.",
        "Two slips in `MatMul8bitLt.backward`. It passes `CAt.t()`, a transposed view, to `int8_scaled_mm`, which "
        "reads memory as it lies. And it multiplies the codes that were rounded by row (`Cgrad`) with the scales of "
        "the columns (`SCgradt`). Mending the first alone is not enough.",
        "autograd/_functions.py, line 226",
        r"AssertionError: the gradient of a 16-bit weight has nothing to do with its inputs",
        "The gradient that the CPU gives, up to the rounding to 8 bits.",
        "`_, Cgradt, _, SCgradt, _ = F.int8_double_quant(...)`, and `Cgradt.t().contiguous(), CAt.t().contiguous()`.",
        "No report found on 2026-11-30.",
        "Run on an H200 with 0.48.2, 0.49.2 and 0.50.2: the same in all three.",
    ),
    Fault(
        "codes_left_behind",
        "Moving a model leaves the codes of its Linear8bitLt layers on the GPU",
        "bitsandbytes",
        'After the first call, `model.to("cpu")` frees too little memory, and a call on the CPU fails.',
        "`Linear8bitLt.to` moves the layer's `state`, but `nn.Module.to` of a model goes down by `_apply` and calls no "
        "layer's `to`. The weight is then another tensor than the codes in `state.CB`. Before the first call they are "
        "`weight.CB`, which not even `Linear8bitLt.to` moves.",
        "nn/modules.py, `Linear8bitLt.to`",
        r"AssertionError: moving the model moved half of the layer",
        "Codes and scales go where the layer goes.",
        "Move `state.CB` and `state.SCB` in `Linear8bitLt._apply`, which is called for a layer inside a model as well, "
        "and have `init_8bit_state` put them there before.",
        "Known: bitsandbytes#1332 (open), #1793 (closed), diffusers#11329 (closed). The change of 0.48 (#1769) helps "
        "where the layer itself is moved.",
    ),
    Fault(
        "embedding_loses_its_scales",
        "Embedding8bit leaves its scales behind when it moves",
        "bitsandbytes",
        "An 8-bit embedding that was moved cannot be called, and it cannot be saved either.",
        "The scales are an attribute of the weight (`weight.SCB`), which `nn.Module.to` does not move. "
        "`_save_to_state_dict` raises `NotImplementedError`.",
        "nn/modules.py, line 833",
        r"RuntimeError: Expected all tensors to be on the same device",
        "Codes and scales go where the embedding goes.",
        "Keep the scales in a buffer, which would make the state dict work, too.",
        "No report found about moving. bitsandbytes#1292, which added the class, says that it cannot be saved yet.",
    ),
    Fault(
        "one_over_127_squared",
        "int8_mm_dequant of the default backend multiplies by 6.200124e-05, which is not 1/127²",
        "bitsandbytes",
        "Every 8-bit product on the CPU is 18 millionths too large; on CUDA it is not.",
        "A zero is missing in the constant: 1/127² is 6.2000124e-05. It is below what a user notices, and enough to "
        "make an exact comparison of CPU and CUDA fail.",
        "backends/default/ops.py, line 57",
        r"AssertionError: 6\.200124e-05 is not",
        "1.0, up to rounding.",
        "Write `1 / (127 * 127)`.",
        "No report found.",
    ),
    Fault(
        "load_in_8bit_dropped",
        "`load_in_8bit=True` is dropped by `ModelMixin.from_pretrained` without a warning",
        "diffusers",
        "Who writes what transformers once took gets a model in float32 on the CPU, and nothing says so.",
        "Arguments that are neither known nor in the configuration end in `unused_kwargs`, and nobody looks at them. "
        "Pipelines warn of them.",
        "models/modeling_utils.py, line 1164",
        r"AssertionError: the argument was dropped without a word",
        "A warning as pipelines give it, or a TypeError.",
        "Warn of what is left in `unused_kwargs` when the model has been built.",
        "No report found.",
    ),
    Fault(
        "dequantized_cannot_be_loaded",
        "A model that was dequantized and saved cannot be loaded",
        "diffusers",
        "`dequantize()`, `save_pretrained`, `from_pretrained`: `Missing quantization component`.",
        "`dequantize` replaces the layers and leaves `quantization_config` in the model's config, so the saved folder "
        "claims to hold 8-bit codes. transformers removes it.",
        "models/modeling_utils.py, line 891",
        r"ValueError: Missing quantization component",
        "The model that was saved.",
        "Take `quantization_config` out of the config, and `hf_quantizer` off the model, in `dequantize`.",
        "No report found.",
    ),
    Fault(
        "device_list_made_at_import",
        "SUPPORTED_DEVICE_MAP holds the device that there was when diffusers was imported",
        "diffusers",
        "A device that shows up later, or is put aside later, is refused or offered wrongly in `device_map`; without a "
        "GPU the message offers `cpu` twice.",
        '`SUPPORTED_DEVICE_MAP = ["balanced"] + [get_device(), "cpu"]` is computed once, at import.',
        "pipelines/pipeline_utils.py, line 124",
        r"NotImplementedError: xpu not supported\. Supported strategies are: balanced, ",
        "The device of the moment is taken.",
        "Ask `get_device()` in `from_pretrained`.",
        "No report found.",
        "From 0.35 on.",
    ),
    Fault(
        "signatures_must_match",
        "PipelineQuantizationConfig refuses backends whose two classes have other signatures",
        "diffusers",
        '`quant_backend="torchao"` cannot be used at all, and any release of either library may add a backend to it.',
        "With `quant_backend` the arguments of both libraries' classes are compared, also those that the call does not "
        "give.",
        "quantizers/pipe_quant_config.py, `_validate_init_kwargs_in_backends`",
        r"ValueError: The signatures of the __init__ methods",
        "A configuration for the components whose class takes the arguments that were given.",
        "Compare the arguments that were given, not the signatures.",
        "By design since diffusers#11130, which brought the class; `quant_mapping` is the way out.",
    ),
    Fault(
        "warm_up_on_a_small_card",
        "caching_allocator_warmup asks for a negative number of bytes on cards below 1.2 GiB",
        "transformers",
        "Loading with a `device_map`, or in 8 bits, raises on small cards and on small slices of large ones.",
        "The amount is held to `total_device_memory - 1.2 * 1024**3`, which is negative there, and goes to "
        "`torch.empty`.",
        "modeling_utils.py, line 5220",
        r"RuntimeError: Trying to create tensor with negative dimension",
        "The model is loaded; the warm-up is left out.",
        "`byte_count = max(0, min(...))`.",
        "No report found. The 1.2 GiB came with transformers#37436.",
    ),
    Fault(
        "cuda_refused_where_to_works",
        '`.cuda()` of an 8-bit model raises, `.to("cuda")` does not',
        "transformers",
        "Two spellings of one move, of which one is refused.",
        "transformers 5 lifted the guard from `to` (#43258) and kept it on `cuda`.",
        "modeling_utils.py, `PreTrainedModel.cuda`",
        r"ValueError: Calling `cuda\(\)` is not supported for `8-bit` quantized models",
        'The same as `.to("cuda")`.',
        "Ask for the version of bitsandbytes in `cuda` as `to` does.",
        "Reports of the message are many (among them nuprl/MultiPL-E#137); none found about the difference.",
    ),
    Fault(
        "threads_leave_meta",
        "init_empty_weights leaves nn.Module patched when two threads use it at once",
        "accelerate",
        "After loading models in threads every new layer of the process is on the meta device.",
        "`init_on_device` replaces `nn.Module.register_parameter` and puts back what it found on entering. The second "
        "thread finds the first one's replacement and puts that back, for good.",
        "big_modeling.py, line 171",
        r"AssertionError: register_parameter is still replaced",
        "The class is as it was when the last thread is out.",
        "Count who is inside, under a lock, and restore when the last one leaves; or keep the device thread-local.",
        "Known: diffusers#4296 (closed as stale), transformers#41782 (closed), and huggingface/peft#3605 (closed) "
        "about the copy in peft. None found open in accelerate.",
    ),
)
"""All of them, library by library."""


def find(name: str) -> Fault:
    """The fault of this name.

    Raises:
        ValueError: there is none.
    """
    for fault in FAULTS:
        if fault.name == name:
            return fault
    raise ValueError(f"there is no fault {name!r}: choose from {', '.join(fault.name for fault in FAULTS)}.")
