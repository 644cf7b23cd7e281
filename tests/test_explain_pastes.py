"""Pastes as people make them, of every kind that we know: each leads to its entry, or is said to be unknown."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from sana_lab.failures import explain, get
from sana_lab.failures.paste import clean, decode, errors, is_binary, last
from sana_lab.failures.pasted_versions import pasted_versions, versions_that_decide

OURS = {
    "torch": "2.13.0", "diffusers": "0.42.1", "transformers": "5.23.0", "accelerate": "1.15.0",
    "bitsandbytes": "0.50.2",
}  # fmt: skip
MAPPED = get("pipeline-to-with-device-map").messages["diffusers 0.42.1"]
NO_MOVE = get("8bit-model-cannot-move").messages["diffusers 0.36.0"]
NUMPY = get("gpu-tensor-to-numpy").messages["torch 2.13.0"]
MEMORY = get("cuda-out-of-memory").messages["torch 2.13.0"]
UNKNOWN = "ValueError: the moon is made of 2 kinds of cheese"
TRACE = "Traceback (most recent call last):\n"
FRAME = '  File "/home/me/run.py", line 12, in <module>\n    pipe.to("cuda")\n'
CONVOLUTION = "RuntimeError: Input type (CUDABFloat16Type) and weight type (CPUBFloat16Type) should be the same"
DECODE = '  File "/v/site-packages/diffusers/models/autoencoders/autoencoder_dc.py", line 9, in decode\n'
WARNING = "`torch_dtype` is deprecated! Use `dtype` instead!"


def cut(text, width, before="", after=""):
    return "\n".join(before + text[n : n + width] + after for n in range(0, len(text), width))


def boxed(text, title, width=64):
    lines = [line for part in text.split("\n") for line in (cut(part, width).split("\n") if part else [""])]
    return "\n".join([
        f"╭{f' {title} ':─^{width + 2}}╮", *(f"│ {line:{width}} │" for line in lines), "╰" + "─" * (width + 2) + "╯"
    ])  # fmt: skip


PASTES = {
    # ---- which line is the error
    "a warning above, the error last": (f"{WARNING}\n{TRACE}{FRAME}{MAPPED}", "pipeline-to-with-device-map"),
    "a known error, then an unknown one while it was handled": (
        f"{TRACE}{FRAME}{MAPPED}\n\nDuring handling of the above exception, another exception occurred:\n\n"
        f"{TRACE}{FRAME}{UNKNOWN}", None),
    "an unknown error, then a known one": (
        f"{TRACE}{FRAME}{UNKNOWN}\n\nDuring handling of the above exception, another exception occurred:\n\n"
        f"{TRACE}{FRAME}{NUMPY}", "gpu-tensor-to-numpy"),
    "wrapped on purpose by something unknown": (
        f"{TRACE}{FRAME}{NUMPY}\n\nThe above exception was the direct cause of the following exception:\n\n"
        f"{TRACE}{FRAME}app.errors.DrawingFailed: no picture", None),
    "the launcher says that a process failed": (
        f"[rank0]: {TRACE}[rank0]: {FRAME}[rank0]: {NUMPY}\n{TRACE}torch.distributed.elastic.multiprocessing.errors."
        "ChildFailedError:\nrun.py FAILED", "gpu-tensor-to-numpy"),
    "accelerate launch ends with the command": (
        f"{TRACE}{FRAME}{NUMPY}\n{TRACE}subprocess.CalledProcessError: Command '['python', 'run.py']' returned non-zero "
        "exit status 1.", "gpu-tensor-to-numpy"),
    "noise at the end of the process": (
        f"{TRACE}{FRAME}{NUMPY}\nException ignored in: <function Pool.__del__ at 0x7f>\n{TRACE}"
        "ImportError: sys.meta_path is None, Python is likely shutting down", "gpu-tensor-to-numpy"),
    "log lines after the error": (f"{TRACE}{FRAME}{NUMPY}\nINFO saved 3 pictures\n{WARNING}\n", "gpu-tensor-to-numpy"),
    "two tries, the second fails otherwise": (f"{TRACE}{FRAME}{MEMORY}\n>>> again\n{TRACE}{FRAME}{NO_MOVE}",
                                              "8bit-model-cannot-move"),
    "an error behind a progress bar": (f" 60%|██████    | 3/5 [00:01<00:00, 2.0it/s]{NUMPY}", "gpu-tensor-to-numpy"),
    "only warnings": (f"Loading pipeline components...: 100%|███| 5/5\n{WARNING}\n", "torch-dtype-deprecated"),
    "an exception of no name that we know": (f"{TRACE}{FRAME}gradio.exceptions.Trouble: nothing to see", None),
    "stopped by hand": (f"{TRACE}{FRAME}KeyboardInterrupt", None),
    # ---- frames
    "a convolution in the decoder": (f"{TRACE}{DECODE}{CONVOLUTION}", "autoencoder-left-on-cpu"),
    "a convolution of no known place": (f"{TRACE}{FRAME}{CONVOLUTION}", "convolution-on-two-devices"),
    "frames of an earlier error do not count": (
        f"{TRACE}{DECODE}{UNKNOWN}\n\nDuring handling of the above exception, another exception occurred:\n\n"
        f"{TRACE}{FRAME}{CONVOLUTION}", "convolution-on-two-devices"),
    # ---- what programs do to it
    "cut every 60 characters": (cut(MAPPED, 60), "pipeline-to-with-device-map"),
    "cut every 41, quoted": (cut(NO_MOVE, 41, "> "), "8bit-model-cannot-move"),
    "cut inside a traceback": (cut(f"{TRACE}{DECODE}", 44) + cut(CONVOLUTION, 44), "autoencoder-left-on-cpu"),
    "a box of rich": (boxed("/home/me/run.py:12 in <module>\n❱ 12 pipe.to('cuda')", "Traceback (most recent call last)")
                      + "\n" + MAPPED, "pipeline-to-with-device-map"),
    "all of it in a box": (boxed(NO_MOVE, "Error"), "8bit-model-cannot-move"),
    "a box of ASCII": ("\n".join(f"| {line} |" for line in cut(NUMPY, 50).split("\n")), "gpu-tensor-to-numpy"),
    "cut, with a mark at the end": (cut(NO_MOVE, 58, after="\\"), "8bit-model-cannot-move"),
    "cut and indented": (cut(MAPPED, 52, "        "), "pipeline-to-with-device-map"),
    "quoted-printable": (cut(f"{MAPPED} device_map=3D'balanced'", 70, after="="), "pipeline-to-with-device-map"),
    "numbered lines": ("\n".join(f"{n:3} | {line}" for n, line in enumerate(f"{TRACE}{FRAME}{NUMPY}".split("\n"))),
                       "gpu-tensor-to-numpy"),
    "a group of exceptions": (
        "  + Exception Group Traceback (most recent call last):\n  | ExceptionGroup: unhandled errors in a TaskGroup (1 "
        f"sub-exception)\n  +-+---------------- 1 ----------------\n    | {TRACE}    | {FRAME}    | {NUMPY}\n    +------",
        "gpu-tensor-to-numpy"),
    "PowerShell": (
        f"python : {TRACE}At line:1 char:1\n+ python run.py 2>&1 > error.txt\n    + CategoryInfo          : NotSpecified: "
        "(Traceback (most recent call last)::String) [], RemoteException\n    + FullyQualifiedErrorId : NativeCommandError"
        f"\n \n{FRAME}{cut(MAPPED, 79)}", "pipeline-to-with-device-map"),
    "Slurm": (f"0: {TRACE}0: {FRAME}0: {NUMPY}\nsrun: error: node7: task 0: Exited with exit code 1", "gpu-tensor-to-numpy"),
    "colors": (f"\x1b[0;31m---\x1b[0m\n{TRACE}\x1b[1;31m{NUMPY[:20]}\x1b[0m{NUMPY[20:]}", "gpu-tensor-to-numpy"),
    "colors that lost their escape": (f"[0;31mTypeError[0m: {NUMPY.partition(': ')[2]}", "gpu-tensor-to-numpy"),
    "HTML": (f"<pre><code>{TRACE}{FRAME.replace('<', '&lt;').replace('>', '&gt;')}"
             f"{MAPPED.replace(chr(39), '&#39;')}</code></pre>", "pipeline-to-with-device-map"),
    "HTML escaped twice": (MAPPED.replace("'", "&amp;#39;").replace("`", "<code>", 1), "pipeline-to-with-device-map"),
    "quoted twice in a mail": (f">> {TRACE}>> {FRAME}>> {NUMPY}\n> no idea", "gpu-tensor-to-numpy"),
    "docker compose": ("\n".join(f"sana-api-1  | {line}" for line in f"{TRACE}{FRAME}{NUMPY}".split("\n")),
                       "gpu-tensor-to-numpy"),
    "journald": ("\n".join(f"Oct 04 15:02:41 box sana[394]: {line}" for line in f"{TRACE}{DECODE}{CONVOLUTION}".split("\n")),
                 "autoencoder-left-on-cpu"),
    "logging with time, level and name": (f"2026-03-01 10:00:00,123 - app.draw - ERROR - {NUMPY}", "gpu-tensor-to-numpy"),
    "kubernetes": ("\n".join(f"2026-03-01T10:00:00.123456789Z stderr F {line}" for line in f"{TRACE}{NUMPY}".split("\n")),
                   "gpu-tensor-to-numpy"),
    "ray": (f"(Worker pid=123, ip=10.0.0.1) {NUMPY}", "gpu-tensor-to-numpy"),
    "a prefix that nobody knows": ("\n".join(f"node07#12> {line}" for line in f"{TRACE}{FRAME}{NUMPY}".split("\n")),
                                   "gpu-tensor-to-numpy"),
    "JSON lines of a logger": (json.dumps({"level": "info", "msg": "start"}) + "\n"
                               + json.dumps({"level": "error", "exc_info": f"{TRACE}{FRAME}{NUMPY}"}), "gpu-tensor-to-numpy"),
    "a string with its escapes": (repr(f"{TRACE}{FRAME}{NUMPY}"), "gpu-tensor-to-numpy"),
    "pytest": (f"    def test_it():\n>       pipe.to('cuda')\nE       {MAPPED}\n\nrun.py:12: ValueError",
               "pipeline-to-with-device-map"),
    "ComfyUI": (f"!!! Exception during processing !!! {NUMPY.partition(': ')[2]}\n{TRACE}{FRAME}", "gpu-tensor-to-numpy"),
    "ComfyUI's report": ("- **Exception Type:** ValueError\n- **Exception Message:** " + NO_MOVE.partition(": ")[2],
                         "8bit-model-cannot-move"),
    "a list in a chat": ("1. I call pipe.to('cuda')\n2. I get " + MAPPED + "\n3. what now?", "pipeline-to-with-device-map"),
    # ---- notebooks
    "Colab": (
        "ValueError                                Traceback (most recent call last)\n"
        "/tmp/ipython-input-3.py in <cell line: 0>()\n      2 pipe = load()\n----> 3 pipe.to(\"cuda\")\n\n"
        "/usr/local/lib/python3.11/dist-packages/diffusers/pipelines/pipeline_utils.py in to(self, *args, **kwargs)\n"
        "    412         if pipeline_is_mapped:\n--> 414             raise ValueError(\n"
        f'    415                 "It seems like you have activated a device mapping"\n\n{MAPPED}\n', "pipeline-to-with-device-map"),
    "Colab with links": (
        "[/usr/local/lib/python3.11/dist-packages/diffusers/models/autoencoders/autoencoder_dc.py]"
        f"(https://localhost:8080/#) in decode(self, z)\n--> 573         decoded = self._decode(z)\n\n{CONVOLUTION}",
        "autoencoder-left-on-cpu"),
    "VS Code": (
        "---------------------------------------------------------------------------\nTypeError  Traceback (most recent "
        "call last)\nCell In[5], line 2\n      1 x = torch.ones(2, device='cuda')\n----> 2 x.numpy()\n\n"
        f"{NUMPY}", "gpu-tensor-to-numpy"),
    "VS Code's copied error": (
        json.dumps({"name": "TypeError", "message": NUMPY.partition(": ")[2],
                    "stack": f"\x1b[1;31m---\x1b[0m\n\x1b[1;31mTypeError\x1b[0m   {TRACE}File c:\\x.py:1\n{NUMPY}"}, indent=1),
        "gpu-tensor-to-numpy"),
    "a notebook": (
        json.dumps({"cells": [{"cell_type": "code", "outputs": [
            {"output_type": "stream", "name": "stderr", "text": [WARNING + "\n"]},
            {"output_type": "error", "ename": "TypeError", "evalue": "x", "traceback": [TRACE, NUMPY]}]}]}),
        "gpu-tensor-to-numpy"),
    # ---- other systems and languages
    "Windows, Chinese": (f"警告: 系统资源不足\n{TRACE}  File \"C:\\项目\\run.py\", line 3\n"
                         "OSError: [WinError 1455] 页面文件太小，无法完成操作。", "windows-page-file-too-small"),
    "Windows, Japanese": ("OSError: ページング ファイルが小さすぎるため、この操作を完了できません。 (os error 1455)",
                          "windows-page-file-too-small"),
    "Windows, a library": ("FileNotFoundError: Could not find module 'D:\\py\\Lib\\site-packages\\bitsandbytes\\"
                           "libbitsandbytes_cuda126.dll' (or one of its dependencies).", "windows-library-not-found"),
    "full-width signs": ("报错：TypeError：" + NUMPY.partition(": ")[2].replace("(", "（").replace(")", "）"),
                         "gpu-tensor-to-numpy"),
    "a word that a message happens to have": ("ValueError: the worker was Killed", None),
    "killed, and nothing else": ("Loading weights:  60%|██████    | 3/5\nKilled\n", "killed-by-the-system"),
    "in a few words": ("I get a black image with Sana in 8 bits, and no error", "black-picture"),
    "AMD": ("torch.OutOfMemoryError: HIP out of memory. Tried to allocate 64.00 MiB. GPU 0 has a total capacity of 16 GiB",
            "cuda-out-of-memory"),
    "Intel": ("RuntimeError: XPU out of memory, please use `empty_cache` to release all unoccupied cached memory.",
              "cuda-out-of-memory"),
    "Apple": ("RuntimeError: MPS backend out of memory (MPS allocated: 17.9 GB, other allocations: 200 MB)",
              "cuda-out-of-memory"),
    "AMD, illegal access": ("RuntimeError: HIP error: an illegal memory access was encountered", "illegal-memory-access"),
    "4 bits beside 8": ("ImportError: Using `bitsandbytes` 4-bit quantization requires bitsandbytes: `pip install -U "
                        "bitsandbytes>=0.46.1`", "bitsandbytes-required"),
    "a byte order mark": ("\ufeff" + NUMPY, "gpu-tensor-to-numpy"),
    "UTF-16 read as something else": (NUMPY.encode("utf-16").decode("latin-1"), "gpu-tensor-to-numpy"),
}  # fmt: skip


@pytest.mark.parametrize("kind", PASTES)
def test_paste(kind):
    text, expected = PASTES[kind]
    known = explain(text, OURS)
    assert (known.answers[0].failure.id if known else None) == expected, str(known)


def test_there_are_enough_of_them():
    assert len(PASTES) >= 50


def test_the_cause_of_an_unknown_error_is_told_in_full():
    text = str(explain(PASTES["wrapped on purpose by something unknown"][0], OURS))
    assert text.startswith("No entry of the catalogue matches the last error:\n  app.errors.DrawingFailed: no picture")
    assert "It was raised from an error that is known:\n\ngpu-tensor-to-numpy: " in text


@pytest.mark.parametrize("width", [37, 80, 120])
@pytest.mark.parametrize("id", ["pipeline-to-with-device-map", "8bit-does-not-fit-map", "no-8bit-on-cpu-before-0-46"])
def test_breaks_inside_words(id, width):
    failure = get(id)
    for message in failure.messages.values():
        assert id in [match.failure.id for match in explain(cut(message, width), {}).answers]


# ---- which line is the error ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", []),
        ("all is well: nothing happened", []),
        (f"{TRACE}{FRAME}{UNKNOWN}", ["ValueError"]),
        ("    raise ValueError('x')\n    except KeyError: pass", []),
        (f"{TRACE}{FRAME}AssertionError", ["AssertionError"]),
        ("x.py:3: UserWarning: Error: is no error", []),
        ("ERROR: Cannot install a and b", [""]),
        ("sana-lab: model 7 is unknown", ["sana-lab"]),
        ("[rank1]: torch.OutOfMemoryError: CUDA out of memory", ["torch.OutOfMemoryError"]),
        ("Segmentation fault (core dumped)", [""]),
    ],
)
def test_errors_of_a_text(text, names):
    found = errors(clean(text))
    if "UserWarning" in text:
        return  # the words of a warning may say "Error: "
    assert [error.name for error in found] == names


def test_the_last_that_is_no_echo():
    text = clean(f"{TRACE}{FRAME}{NUMPY}\n{TRACE}subprocess.CalledProcessError: Command 'x' returned 1")
    found = errors(text)
    assert last(found) == 0
    assert found[1].echo
    assert last([]) is None


# ---- versions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("diffusers==0.31.0\ntransformers==4.46.2\n", {"diffusers": "0.31.0", "transformers": "4.46.2"}),
        ("- Diffusers version: 0.31.0\n- PyTorch version (GPU?): 2.5.1+cu121 (True)", {"diffusers": "0.31.0", "torch": "2.5.1+cu121"}),
        ("- `transformers` version: 4.57.1\n- `Accelerate` version: 1.2.1", {"transformers": "4.57.1", "accelerate": "1.2.1"}),
        ("Name: bitsandbytes\nVersion: 0.44.1\nSummary: x", {"bitsandbytes": "0.44.1"}),
        ("Package      Version\n-----------  -------\naccelerate   0.26.1\ntorch        2.1.0+cu118\n", {"accelerate": "0.26.1", "torch": "2.1.0+cu118"}),
        ("diffusers  0.35.1  pypi_0  pypi", {"diffusers": "0.35.1"}),
        ("Found existing installation: bitsandbytes 0.44.1\nSuccessfully installed bitsandbytes-0.50.2", {"bitsandbytes": "0.50.2"}),
        (" - diffusers==0.35.1\n + diffusers==0.42.1", {"diffusers": "0.42.1"}),
        (">>> diffusers.__version__\n'0.33.1'", {"diffusers": "0.33.1"}),
        ("I use transformers 4.49.0 and torch 2.6.0.", {"transformers": "4.49.0", "torch": "2.6.0"}),
        ("/site-packages/diffusers-0.31.0.dist-info/METADATA", {"diffusers": "0.31.0"}),
        ('"_diffusers_version": "0.32.0.dev0"', {}),
        ('"transformers_version": "4.46.2"', {}),
        ("please install bitsandbytes >= 0.48.0.", {}),
        ("You need to upgrade bitsandbytes to at least 0.48.0", {}),
        ("pip install 'diffusers>=0.37' 'transformers>=5'", {}),
        ('File "/usr/lib/python3.10/site-packages/x.py", line 1', {"python": "3.10"}),
        (r'File "C:\Users\me\AppData\Local\Programs\Python\Python312\Lib\x.py"', {"python": "3.12"}),
        ("- Python version: 3.9.18", {"python": "3.9"}),
    ],
)  # fmt: skip
def test_versions_in_a_text(text, expected):
    assert pasted_versions(text) == expected


def test_versions_in_a_text_decide():
    """They do before those that are here; of a text from elsewhere nothing else is known."""
    told, elsewhere = versions_that_decide({"diffusers": "0.31.0"}, OURS)
    assert elsewhere
    assert told == {**dict.fromkeys(OURS), "diffusers": "0.31.0"}
    assert versions_that_decide({}, OURS) == (OURS, False)
    assert versions_that_decide({"diffusers": "0.42.1"}, OURS) == (OURS, False)
    assert versions_that_decide({"python": "3.8"}, OURS, python="3.11")[1]
    assert not versions_that_decide({"python": "3.11"}, OURS, python="3.11")[1]
    assert versions_that_decide({"python": "3.9"}, OURS, python="3.11")[0]["transformers"] == "<5"
    old = f"diffusers==0.36.0\ntransformers==4.57.6\nbitsandbytes==0.47.0\n{NO_MOVE}"
    assert "the versions in the text are affected (diffusers 0.36.0" in str(explain(old, OURS))
    assert "your versions are not affected" in str(explain(NO_MOVE, OURS))
    assert "cannot be said" in str(explain(f"diffusers==0.41.0\n{NO_MOVE}", OURS))


def test_a_python_bounds_the_versions():
    """transformers 5 wants Python 3.10: what happens only there did not happen on 3.9, and what ended there did."""
    below = {"transformers": "<5", "diffusers": "<0.37", "bitsandbytes": "<0.49.2"}
    assert get("load-in-8bit-keyword-removed").affected(below) is False
    assert get("8bit-model-cannot-move").affected(below) is True
    assert get("8bit-pipeline-moves-in-part").affected(below) is False
    assert get("bitsandbytes-native-missing").affected(below) is None


# ---- in Chinese -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("设备不匹配", "tensors-on-two-devices"),
        ("显存不足", "cuda-out-of-memory"),
        ("黑图", "black-picture"),
        ("为什么生成的都是黑色图片？", "black-picture"),
        ("运行时报错显存不足怎么办", "cuda-out-of-memory"),
        ("驱动太旧", "driver-too-old"),
        ("我的图片全是黑的", "black-picture"),
        ("运行时错误：预计所有张量都在同一设备上，但发现至少有两个设备，cuda:0 和 cpu！", "tensors-on-two-devices"),
        ("版本不匹配", "class-not-in-this-diffusers"),
        ("量化模型不能移动", "8bit-model-cannot-move"),
    ],
)
def test_symptoms_in_chinese(asked, expected):
    assert expected in [match.failure.id for match in explain(asked, OURS).answers]


def test_the_general_entry_comes_first_in_chinese():
    assert explain("显存不足", OURS).answers[0].failure.id == "cuda-out-of-memory"
    assert explain("设备不匹配", OURS).answers[0].failure.id == "tensors-on-two-devices"


def test_chinese_around_an_error_decides_nothing():
    assert not explain(f"显存不足吗？\n{UNKNOWN}", OURS)


# ---- files and pipes --------------------------------------------------------------------------------------------

PROGRAM = "import sys; from sana_lab.cli import main; sys.exit(main())"


def command(*arguments, data=b""):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "explain", *arguments], input=data, capture_output=True, timeout=120
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_a_file_is_read(encoding, tmp_path):
    file = tmp_path / "error.txt"
    file.write_bytes(f"{TRACE}{FRAME}{MAPPED}".encode(encoding))
    status, out, _ = command(str(file))
    assert status == 0
    assert out.startswith("pipeline-to-with-device-map: ")


def test_files_that_cannot_be_explained_are_one_clear_line(tmp_path):
    (tmp_path / "empty.txt").write_bytes(b" \n")
    (tmp_path / "picture.png").write_bytes(bytes(range(256)) * 8)
    for name, words in (("empty.txt", "is empty"), ("picture.png", "is binary"), ("none.txt", "there is no file")):
        status, out, err = command(str(tmp_path / name))
        assert (status, out) == (2, "")
        assert err.startswith("sana-lab: ")
        assert words in err
        assert err.count("\n") == 1


def test_the_exit_status_is_about_the_last_error():
    assert command("-", data=f"{WARNING}\n{TRACE}{FRAME}{UNKNOWN}".encode())[0] == 1
    assert command("-", data=f"{WARNING}\n{TRACE}{FRAME}{NUMPY}".encode())[0] == 0
    assert command(UNKNOWN)[0] == 1


def test_binary_is_told_from_text():
    assert is_binary(b"\x7fELF\x02\x01\x01" + bytes(4000))
    assert not is_binary("显存不足 ✓".encode())
    assert not is_binary("显存不足".encode("utf-16"))
    assert decode("ä".encode("utf-16-be")) in ("ä", "\x00\ufffd")


def test_ten_megabytes_take_less_than_a_second():
    noise = "2026-03-01 10:00:00 INFO step 3 of 20, mat1 and mat2 on cuda:0, diffusers loads a file\n"
    explain("warm up", OURS)
    for end, expected in ((NUMPY, True), (UNKNOWN, False)):
        text = noise * (10_000_000 // len(noise)) + TRACE + FRAME + end
        started = time.process_time()
        assert bool(explain(text, OURS)) is expected
        assert time.process_time() - started < 1


def test_every_entry_says_its_evidence_in_a_sentence():
    from sana_lab.failures.search import describe

    for id in ("gpu-tensor-to-numpy", "8bit-model-cannot-move", "black-picture", "lora-loader-moves-8bit"):
        (sentence,) = [
            line.strip() for line in describe(get(id), OURS).splitlines() if line.strip().startswith("This entry")
        ]
        assert sentence.split()[2] in ("runs", "was", "comes")
