"""Public reports and pastes that were once answered wrongly or not at all, each with the answer that it gets now.

Rows are those of a review that fed 49 texts to `explain`; the texts were written anew after the reports. `before` is
what that review saw: good, partly, wrong with confidence, or silent.
"""

from __future__ import annotations

from collections import Counter

import pytest

from sana_lab.failures import explain
from sana_lab.failures.paste import decode

OURS = {
    "torch": "2.13.0", "diffusers": "0.42.1", "transformers": "5.23.0", "accelerate": "1.15.0",
    "bitsandbytes": "0.50.2",
}  # fmt: skip
SITE = "/venv/lib/python3.11/site-packages"
TRACE = "Traceback (most recent call last):\n"
MAPPED = (
    "It seems like you have activated a device mapping strategy on the pipeline which doesn't allow explicit device "
    "placement using `to()`. You can call `reset_device_map()` to remove the existing device map from the pipeline."
)
NO_MOVE = (
    "ValueError: `.to` is not supported for `8-bit` bitsandbytes models. Please use the model as it is, since the model "
    "has already been set to the correct devices and casted to the correct `dtype`."
)
LATEST = (
    "ImportError: Using `bitsandbytes` 8-bit quantization requires the latest version of bitsandbytes: `pip install -U "
    "bitsandbytes`"
)
MATMUL = (
    f"{SITE}/bitsandbytes/autograd/_functions.py:186: UserWarning: MatMul8bitLt: inputs will be cast from torch.bfloat16 "
    "to float16 during quantization\n"
)

ROWS = {
    # row: (before, text, expected first entry, None where the last error is said to be unknown)
    "1 diffusers#10653": ("good",
        "The module 'HunyuanVideoTransformer3DModel' has been loaded in `bitsandbytes` 8bit and moving it to cpu via "
        f"`.to()` is not supported. Module is still on cuda:0.\n{TRACE}"
        f'  File "{SITE}/diffusers/pipelines/hunyuan_video/pipeline_hunyuan_video.py", line 9, in encode_prompt\n'
        "RuntimeError: Expected all tensors to be on the same device, but found at least two devices, cpu and cuda:0! "
        "(when checking argument for argument index in method wrapper_CUDA__index_select)", "text-encoder-left-on-cpu"),
    "2 Sana#241": ("good", f"{TRACE}ValueError: {MAPPED}", "pipeline-to-with-device-map"),
    "3 transformers#38717": ("good", NO_MOVE.replace("`8-bit`", "`4-bit` or `8-bit`"), "8bit-model-cannot-move"),
    "4 diffusers#9450": ("partly",
        'pipe = FluxPipeline.from_pretrained(repo, transformer=transformer, device_map="balanced")\n' + TRACE +
        "RuntimeError: Expected all tensors to be on the same device, but found at least two devices, cuda:1 and cuda:0! "
        "(when checking argument for argument mat1 in method wrapper_CUDA_addmm)", "passed-component-not-in-map"),
    "5 diffusers#9953": ("wrong",
        "- Diffusers version: 0.31.0\n- Transformers version: 4.46.2\n" + TRACE +
        "ValueError: It seems like you have activated sequential model offloading by calling "
        "`enable_sequential_cpu_offload`, but are now attempting to move the pipeline to GPU.",
        "8bit-taken-for-sequential-offload"),
    "6 diffusers#12719": ("wrong",
        "/usr/local/lib/python3.11/dist-packages/bitsandbytes/nn/modules.py in to(self, *args, **kwargs)\n"
        "    331                 self.quant_state.to(device)\nNotImplementedError: Cannot copy out of meta tensor; no data!",
        "4bit-offloaded-to-meta"),
    "7 diffusers#11570": ("wrong",
        f'{TRACE}  File "{SITE}/diffusers/loaders/lora_pipeline.py", line 639, in load_lora_weights\n{NO_MOVE}',
        "lora-loader-moves-8bit"),
    "8 Sana#242": ("wrong",
        f'{TRACE}  File "{SITE}/diffusers/models/autoencoders/autoencoder_dc.py", line 331, in forward\n'
        "RuntimeError: Input type (c10::Half) and bias type (float) should be the same", "convolution-weights-not-16-bit"),
    "9 Sana#139": ("wrong",
        f'{TRACE}  File "{SITE}/diffusers/models/autoencoders/autoencoder_dc.py", line 573, in decode\n'
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 64.00 GiB. GPU 0 has a total capacity of 79.14 GiB",
        "out-of-memory-while-decoding"),
    "10 transformers#31098": ("wrong",
        "RuntimeError: mat1 and mat2 shapes cannot be multiplied (1024x3072 and 1x4718592)", "4bit-weight-in-plain-layer"),
    "11 DeepSeek#1 with a line": ("wrong", f"`torch_dtype` is deprecated! Use `dtype` instead!\n{TRACE}{LATEST}",
        "bitsandbytes-required"),
    "12 DeepSeek#1": ("silent", LATEST, "bitsandbytes-required"),
    "13 bitsandbytes#1213": ("silent",
        "ImportError: Using `load_in_8bit=True` requires Accelerate: `pip install accelerate` and the latest version of "
        "bitsandbytes `pip install -i https://test.pypi.org/simple/ bitsandbytes` or pip install bitsandbytes`",
        "accelerate-and-bitsandbytes-required"),
    "14 bitsandbytes#1791": ("silent", "ValueError: Expected a cuda device, but got: cpu", "8bit-codes-on-cpu"),
    "15 bitsandbytes#1508": ("silent",
        "OSError: /opt/venv/lib/python3.10/site-packages/bitsandbytes/libbitsandbytes_rocm62.so: undefined symbol: _Z36\n\n"
        "ROCm Setup failed despite ROCm being available. Please run the following command", "rocm-setup-failed"),
    "16 bitsandbytes#1768": ("silent",
        "Could not find the bitsandbytes CUDA binary at PosixPath('/x/bitsandbytes/libbitsandbytes_cuda125.so')\n" + TRACE +
        "ModuleNotFoundError: No module named 'triton.ops'", "triton-ops-missing"),
    "18 bitsandbytes#1427": ("silent", "AttributeError: 'NoneType' object has no attribute 'cget_col_row_stats'",
        "bitsandbytes-undefined-symbol"),
    "19 bitsandbytes#1268": ("silent", "AttributeError: 'Parameter' object has no attribute 'SCB'",
        "8bit-weight-lost-its-scales"),
    "20 bitsandbytes#1775": ("silent", "relative error of a saved 8-bit layer with 0.48.0: 1.00",
        "8bit-checkpoints-garbage-in-0-48-0"),
    "21 ComfyUI NF4": ("silent",
        "RuntimeError: All input tensors need to be on the same GPU, but found some tensors to not be on a GPU:\n "
        "[(torch.Size([300, 2304]), device(type='cpu')), (torch.Size([1152, 2304]), device(type='cuda', index=0))]",
        "8bit-layer-gets-cpu-input"),
    "22 MultiPL-E#137": ("silent",
        "ValueError: Calling `cuda()` is not supported for `4-bit` or `8-bit` quantized models. Please use the model as it "
        "is", "8bit-text-encoder-cuda"),
    "23 diffusers#11436": ("silent",
        "RuntimeError: expected mat1 and mat2 to have the same dtype, but got: c10::Half != c10::BFloat16",
        "linear-two-dtypes"),
    "24 convolution types": ("silent",
        "RuntimeError: Input type (torch.cuda.FloatTensor) and weight type (torch.cuda.HalfTensor) should be the same",
        "convolution-two-dtypes"),
    "25 sdnext#3470": ("silent",
        "RuntimeError: Expected query, key, and value to have the same dtype, but got query.dtype: float key.dtype: "
        "c10::Half and value.dtype: c10::Half instead.", "attention-two-dtypes"),
    "26 diffusers#3347": ("silent",
        f'{SITE}/diffusers/image_processor.py:147: RuntimeWarning: invalid value encountered in cast\n'
        '  images = (images * 255).round().astype("uint8")', "black-picture"),
    "27 diffusers#11136": ("silent",
        "ValueError: Intermediate timesteps for SCM is not supported when num_inference_steps != 2.",
        "sprint-with-four-steps"),
    "28 Sana#254": ("silent", "TypeError: set_timesteps() got an unexpected keyword argument 'max_timesteps'",
        "sprint-pipeline-for-sana"),
    "29 diffusers#10800": ("silent",
        "ValueError: Blockwise quantization only supports 16/32-bit floats, but got torch.uint8", "quantizing-codes-again"),
    "30 diffusers#14433": ("silent",
        "RuntimeError: cannot pin 'torch.cuda.CharTensor' only dense CPU tensors can be pinned", "pin-gpu-tensor"),
    "31 diffusers#10590": ("silent", "RuntimeError: Tensor.item() cannot be called on meta tensors",
        "tiling-with-sequential-offload"),
    "32 diffusers#12338": ("silent",
        f'{TRACE}  File "{SITE}/diffusers/models/autoencoders/autoencoder_dc.py", line 607, in decode\n'
        "AttributeError: 'Tensor' object has no attribute 'sample'", "slices-are-tensors-already"),
    "33 diffusers#11648": ("silent",
        "ImportError: cannot import name 'PipelineQuantizationConfig' from 'diffusers.quantizers'",
        "class-not-in-this-diffusers"),
    "34 Sana#90": ("silent", "ImportError: cannot import name 'SanaPipeline' from 'diffusers' (/x/diffusers/__init__.py)",
        "class-not-in-this-diffusers"),
    "35 Sana#354": ("silent", "ImportError: cannot import name 'LongSanaVideoPipeline' from 'diffusers'",
        "class-never-released"),
    "36 transformers#38832": ("silent", "ImportError: cannot import name 'BitsAndBytesConfig' from 'bitsandbytes'",
        "bitsandbytes-config-from-bitsandbytes"),
    "37 bitsandbytes#1232": ("silent",
        "RuntimeError: only Tensors of floating point dtype can require gradients", "codes-cannot-be-trained"),
    "38 unsloth#1110": ("silent",
        "ValueError: You cannot perform fine-tuning on purely quantized models. Please attach trainable adapters",
        "training-purely-quantized"),
    "39 pytorch#180101": ("silent",
        "RuntimeError: CUDA error: no kernel image is available for execution on the device", "no-kernel-image"),
    "40 textgen#200": ("silent",
        "RuntimeError: probability tensor contains either `inf`, `nan` or element < 0", "probabilities-are-nan"),
    "41 sglang#24705": ("silent", "TypeError: step() got an unexpected keyword argument 'eta'", None),
    "T1 a known line above an unknown error": ("wrong",
        f"{MATMUL}{TRACE}  File \"run.py\", line 22\nValueError: the moon is made of 2 kinds of cheese", None),
    "T3 any mismatch of shapes": ("wrong",
        f'{TRACE}  File "/home/me/train.py", line 88, in forward\n    return self.head(x)\n'
        "RuntimeError: mat1 and mat2 shapes cannot be multiplied (32x512 and 768x10)", "matrix-shapes-differ"),
    "T6 elementwise in peft": ("wrong",
        f'{TRACE}  File "{SITE}/peft/tuners/lora/bnb.py", line 235, in forward\n    result = result + output\n'
        "RuntimeError: Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!",
        "tensors-on-two-devices"),
    "T7 cut every 76 characters": ("silent",
        "\n".join(f"ValueError: {MAPPED}"[n : n + 76] for n in range(0, 300, 76)), "pipeline-to-with-device-map"),
    "T8 a box": ("silent",
        "╭──────────── Traceback (most recent call last) ────────────╮\n│ /home/me/run.py:12 in <module>                  "
        "         │\n│ ❱ 12 pipe.to(\"cuda\")                                     │\n"
        "╰────────────────────────────────────────────────────────────╯\nValueError: It seems like you have activated a "
        "device mapping strategy on \n│ the pipeline which doesn't allow explicit device placement │", "pipeline-to-with-device-map"),
    "T9 a prefix on each line": ("partly",
        "worker-1  | 2026-03-01T10:00:00Z RuntimeError: Expected all tensors to be on the same device, but got\n"
        "worker-1  | 2026-03-01T10:00:00Z index is on cuda:0, different from other tensors on cpu (when checking argument "
        "in method wrapper_CUDA__index_select)", "text-encoder-left-on-cpu"),
    "T10 UTF-16": ("silent", decode(f"ValueError: {MAPPED}".encode("utf-16")), "pipeline-to-with-device-map"),
    "T11 a file's name": ("silent", f"ValueError: {MAPPED}", "pipeline-to-with-device-map"),
    "T12 what the records hold": ("silent",
        "torch.AcceleratorError: CUDA error: an illegal memory access was encountered", "illegal-memory-access"),
}  # fmt: skip


def verdict(row):
    """`good`: the right entry first, or an unknown error called unknown; else `wrong` or `silent`."""
    _, text, expected = ROWS[row]
    known = explain(text, OURS)
    first = known.answers[0].failure.id if known else None
    return "good" if first == expected else ("silent" if first is None else "wrong")


@pytest.mark.parametrize("row", ROWS)
def test_row(row):
    assert verdict(row) == "good", str(explain(ROWS[row][1], OURS))


def test_all_rows_are_there():
    assert Counter(before for before, _, _ in ROWS.values()) == {"silent": 34, "wrong": 10, "good": 3, "partly": 2}
    assert len(ROWS) == 49


def test_a_known_line_above_an_unknown_error_is_told_as_what_it_is():
    known = explain(ROWS["T1 a known line above an unknown error"][1], OURS)
    assert not known
    text = str(known)
    assert text.startswith("No entry of the catalogue matches the last error:\n  ValueError: the moon")
    assert "line 1, a line of the log: matmul8bit-casts-inputs" in text


def test_a_known_line_above_a_known_error_stands_behind_it():
    text = str(explain(ROWS["11 DeepSeek#1 with a line"][1], OURS))
    assert text.startswith("bitsandbytes-required: ")
    assert "line 1, a line of the log: torch-dtype-deprecated" in text


if __name__ == "__main__":  # the table: python tests/test_explain_findings.py
    for row, (before, _, expected) in ROWS.items():
        print(f"{row:42}  {before:7}  {verdict(row):7}  {expected or 'said to be unknown'}")
    print(Counter(before for before, _, _ in ROWS.values()), Counter(map(verdict, ROWS)))
