"""Libraries see the virtual GPU whenever they were imported, and notebooks need no `with`."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest


def run(code):
    """The output of a fresh interpreter."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)], env=environment, capture_output=True, text=True,
        timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def run_each(first, *rest):
    """The output of each of some programs, in forks of one interpreter that has run the first part of all."""
    forks = f"""
import os, sys, traceback
for n, code in enumerate({rest!r}):
    if not os.fork():
        try:
            exec(code)
            sys.stdout.flush()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    assert os.wait()[1] == 0
    print("----", flush=True)
"""
    return run(first + forks).split("----\n")[:-1]


IMPORTS = """
import diffusers, transformers, accelerate, bitsandbytes
from diffusers import SanaPipeline, SanaTransformer2DModel
from diffusers.pipelines import pipeline_utils
from diffusers.utils import torch_utils
from transformers import Gemma2Model
"""
ENTER = """
from sana_lab import use_accelerator
accelerator = use_accelerator(gpus=2, vram="1GiB", virtual=True)
"""
ASK = """
import torch
from accelerate.utils import get_max_memory
from accelerate import PartialState
layer = bitsandbytes.nn.Linear8bitLt(64, 64, has_fp16_weights=False, threshold=6.0).cuda()
print(layer.weight.dtype, layer.weight.device, layer(torch.ones(1, 64, device="cuda").half()).device)
print(sorted(map(str, get_max_memory())), pipeline_utils.SUPPORTED_DEVICE_MAP, torch_utils.get_device())
print(PartialState().device, transformers.utils.is_torch_cuda_available(), diffusers.utils.is_torch_available())
"""
ANSWERS = """\
torch.int8 cuda:0 cuda:0
['0', '1', 'cpu'] ['balanced', 'cuda', 'cpu'] cuda
cuda True True
"""


def test_libraries_imported_afterwards():
    assert run(ENTER + IMPORTS + ASK) == ANSWERS


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_libraries_imported_before_and_such_as_asked_before():
    """What they had cached is forgotten on entering, and again on leaving."""
    asked = """
from transformers.utils import is_torch_bf16_gpu_available, is_torch_cuda_available
from accelerate.utils import is_bf16_available, is_cuda_available
def ask():
    print(is_torch_cuda_available(), is_cuda_available(), torch_utils.get_device(),
          pipeline_utils.SUPPORTED_DEVICE_MAP, is_torch_bf16_gpu_available())
ask()
"""
    answers, three = run_each(IMPORTS, ENTER + ASK, asked + ENTER + "ask()\naccelerator.leave()\nask()")
    assert answers == ANSWERS
    before, inside, after = three.splitlines()
    assert before == after == "False False cpu ['balanced', 'cpu', 'cpu'] False"
    assert inside == "True True cuda ['balanced', 'cuda', 'cpu'] True"


def test_cells_of_a_notebook():
    """Each cell by itself, as IPython runs them; a cell that fails, a cell run twice, and threads between them."""
    code = """
    from IPython.core.interactiveshell import InteractiveShell
    shell = InteractiveShell.instance()
    shell.colors = "nocolor"
    cells = '''
    from sana_lab import use_accelerator
    use_accelerator(vram="1GiB", virtual=True)
    ---
    from sana_lab import use_accelerator
    use_accelerator(vram="1GiB", virtual=True)
    ---
    import torch
    x = torch.ones(1000, device="cuda")
    print(x.device, torch.cuda.memory_allocated())
    ---
    x = torch.ones(1000, device="cuda")
    print(x.device, torch.cuda.memory_allocated())
    ---
    x + torch.ones(1000)
    ---
    import asyncio
    async def later():
        await asyncio.sleep(0)
        return await asyncio.to_thread(lambda: (x * 2).device)
    print(await later())
    ---
    print((x @ x).device, torch.cuda.memory_allocated() % 512)
    '''
    import textwrap
    for cell in textwrap.dedent(cells).split("---"):
        result = shell.run_cell(cell)
        if result.error_in_exec:
            print("failed:", result.error_in_exec)
    """
    lines = [line for line in run(code).splitlines() if not line.startswith(("\x1b", "-----", "Cell", "   "))]
    text = "\n".join(lines)
    assert text.count("Virtual GPU: 1 × 1 GiB, arithmetic on the CPU") == 2
    assert text.count("cuda:0 4096") == 2
    assert (
        "failed: Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!" in text
    )
    assert text.endswith("cuda:0\ncuda:0 0")


def test_modules_loaded_by_exec():
    """No frame of the caller matters: plain `exec` of one cell after the other."""
    code = """
    scope = {}
    exec("from sana_lab import use_accelerator; use_accelerator(virtual=True)", scope)
    exec("import torch; x = torch.nn.Linear(2, 2).cuda()", scope)
    exec("y = x(torch.ones(1, 2).to('cuda'))", scope)
    print(scope["y"].device)
    """
    assert run(code) == "cuda:0\n"


def test_nothing_is_written_at_exit():
    """An interpreter that ends with tensors on the GPU, in threads too, ends quietly."""
    code = """
    import threading, torch
    from sana_lab import use_accelerator
    use_accelerator(virtual=True)
    module = torch.nn.Linear(10, 10).cuda()
    threading.Thread(target=lambda: module(torch.ones(1, 10, device="cuda"))).start()
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
