"""The memory monitor: stages, peaks against the allocator's own counters, nothing left behind, every output."""

import gc
import io
import json
import sys

import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families

from sana_lab import evidence, load_sana, memory, use_accelerator
from sana_lab.monitor import cost, live, panel, scrape, watch
from sana_lab.monitor.stages import in_words
from sana_lab.shapes.tiny import tiny_sana
from sana_lab.shapes.untrained import untrained_shapes

SMALL = {"num_inference_steps": 2, "height": 64, "width": 64, "use_resolution_binning": False}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A pipeline of some 200,000 weights, for what does not ask for sizes."""
    return tiny_sana(tmp_path_factory.mktemp("tiny") / "pipeline")


@pytest.fixture(scope="module")
def pipe(tiny):
    with use_accelerator(virtual=True, vram="2GiB"):
        made = load_sana(tiny, "bf16")
        made.set_progress_bar_config(disable=True)
        made("x", **SMALL)  # what the scheduler keeps from a call is there from now on
        yield made


def attached(pipe):
    """Everything that a watch could leave on a pipeline."""
    found = {}
    for name, model in pipe.components.items():
        for inner, module in model.named_modules() if isinstance(model, torch.nn.Module) else ():
            hooks = (len(module._forward_pre_hooks), len(module._forward_hooks))
            found[name, inner] = (*hooks, "decode" in vars(module), "forward" in vars(module))
    return found


def test_stages_are_in_order_and_their_peaks_are_the_allocators(pipe):
    with memory(pipe) as m:
        pipe("a red star", **SMALL)
        held = torch.cuda.memory_allocated()
    assert [stage.stage for stage in m.stages] == ["before", "encode", "steps", "decode"]
    by = {stage.stage: stage for stage in m.stages}
    assert by["steps"].steps == 2 and by["encode"].steps == 2 and by["decode"].steps == 1
    assert all(stage.allocated >= held - 2**20 and stage.reserved >= stage.allocated for stage in m.stages)
    assert all(
        stage.left == stage.total - max(stage.driver - stage.reserved, 0) - stage.allocated for stage in m.stages
    )
    weights = sum(t.nbytes for name in ("text_encoder", "transformer", "vae")
                  for t in [*getattr(pipe, name).parameters(), *getattr(pipe, name).buffers()])  # fmt: skip
    assert {stage.weights for stage in m.stages} == {weights}
    torch.cuda.reset_peak_memory_stats()
    pipe("a red star", **SMALL)
    assert max(stage.allocated for stage in m.stages) == torch.cuda.max_memory_allocated() == m.peak.allocated
    assert m.calls == 1 and m.failures == 0


def test_a_peak_inside_of_one_stage_is_that_stages(pipe):
    """A block of 100 MiB that lives during one stage only shows in its row and in no other."""
    blocks = {"text_encoder": "encode", "transformer": "steps"}
    for component, stage in blocks.items():

        def waste(*_):
            torch.empty(100 * 2**20, dtype=torch.uint8, device="cuda")

        handle = getattr(pipe, component).register_forward_hook(waste)
        with memory(pipe) as m:
            pipe("a red star", **SMALL)
        handle.remove()
        assert m.peak.stage == stage
        others = [one.rest for one in m.stages if one.stage != stage]
        assert m.peak.rest >= 100 * 2**20 > 2 * max(others)


def test_loading_inside_of_the_block(tiny):
    with use_accelerator(virtual=True), memory() as m:
        pipe = m.watch(load_sana(tiny, "bf16"))
        pipe.set_progress_bar_config(disable=True)
        for _ in range(2):
            pipe("x", **SMALL)
    assert [s.stage for s in m.stages] == ["load", "before", *["encode", "steps", "decode"] * 2]
    assert [s.call for s in m.stages] == [0, 0, 1, 1, 1, 2, 2, 2] and m.calls == 2
    load, before = m.stages[:2]
    assert load.allocated >= before.weights > 0 and load.weights == 0


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, torch.cuda.OutOfMemoryError])
def test_nothing_is_left_behind_after_an_exception(pipe, error, deep):
    before = attached(pipe)

    def fail(*_):
        raise error("in the middle")

    handle = pipe.transformer.transformer_blocks[0].register_forward_pre_hook(fail)
    with pytest.raises(error), memory(pipe, deep=deep) as m:
        pipe("x", **SMALL)
    handle.remove()
    assert attached(pipe) == before
    assert m.calls == 0 and m.failures == 1 and m.stages[-1].stage == "steps"
    assert error.__name__ in repr(m)
    pipe("x", **SMALL)
    assert len(m.stages) == 3, "a closed monitor sees nothing"


def test_a_decode_of_the_users_own_stays(pipe):
    seen = []
    original = pipe.vae.decode

    def mine(*given, **more):
        seen.append(1)
        return original(*given, **more)

    pipe.vae.decode = mine
    try:
        with memory(pipe):
            pipe("x", **SMALL)
        assert vars(pipe.vae)["decode"] is mine and seen == [1]
    finally:
        del pipe.vae.decode


def test_a_deep_watch_names_module_and_tensors(pipe):
    last = pipe.vae.decoder.conv_out

    def waste(module, given, out):
        torch.empty(200 * 2**20, dtype=torch.uint8, device="cuda")

    handle = last.register_forward_hook(waste)
    with memory(pipe, deep=True) as m:
        pipe("x", **SMALL)
    handle.remove()
    assert m.peak.stage == "decode" and m.peak.peak.module == "decoder.conv_out" and m.peak.peak.kind == "Conv2d"
    (shape, dtype, nbytes), *_ = m.peak.peak.tensors
    assert shape[0] == 1 and shape[-1] == 64 and dtype == "bfloat16" and nbytes == 2 * torch.Size(shape).numel()
    assert "decoder.conv_out (Conv2d" in repr(m)


def test_offloaded_pipelines_are_watched_too():
    with use_accelerator(virtual=True):
        pipe = load_sana(untrained_shapes(), "bf16", "cpu")
        pipe.set_progress_bar_config(disable=True)
        pipe.enable_model_cpu_offload()
        before, others = attached(pipe), torch.cuda.memory_allocated()
        with memory(pipe) as m:
            pipe("x", **SMALL)
        assert attached(pipe) == before
    peaks = {s.stage: s.allocated for s in m.stages}
    assert 0 < peaks["encode"] - others < sum(p.nbytes for p in pipe.transformer.parameters()) and len(peaks) == 4


def test_without_a_gpu_the_process_is_watched(tiny):
    pipe = load_sana(tiny, "bf16", "cpu")
    pipe.set_progress_bar_config(disable=True)
    with memory(pipe) as m:
        pipe("x", **SMALL)
    assert {s.device for s in m.stages} == {"cpu"} and all(s.allocated > 2**20 for s in m.stages)


def test_json_lines_are_written_as_stages_end(pipe, tmp_path):
    log = tmp_path / "deep" / "memory.jsonl"
    seen = []
    with memory(pipe, log=log, every=seen.append) as m:
        pipe("x", **SMALL)
        assert [json.loads(line)["stage"] for line in log.read_text().splitlines()] == ["before", "encode", "steps"]
    assert log.read_text() == m.json_lines() and seen == m.stages


def test_a_log_that_cannot_be_written(pipe, tmp_path):
    with pytest.raises(OSError, match="cannot be written .*: give another file"), memory(pipe, log=tmp_path):
        pass
    assert not any(pre or post for pre, post, *_ in attached(pipe).values())


def test_prometheus_reads_what_it_is_given(pipe):
    with memory(pipe) as m:
        pipe("x", **SMALL)
        pipe("x", **SMALL)
    found = {f.name: f for f in text_string_to_metric_families(m.prometheus())}
    peaks = {s.labels["stage"]: s.value for s in found["sana_stage_allocated_bytes"].samples}
    assert peaks == {s.stage: s.allocated for s in m.stages[-4:]} | {"before": m.stages[0].allocated}
    assert found["sana_calls"].samples[0].value == 1 + 1
    amounts = {name for name in found if name.startswith("sana_stage")}
    assert len(amounts) == len(scrape.GAUGES) and found["sana_calls_failed"].samples[0].value == 0


def test_without_its_library_prometheus_is_refused_in_one_line(pipe, monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with memory(pipe) as m, pytest.raises(ImportError, match="pip install prometheus-client"):
        m.prometheus()


def test_memory_does_not_fill_with_what_was_seen(pipe, monkeypatch):
    monkeypatch.setattr(watch, "KEPT", 5)
    with memory(pipe) as m:
        for _ in range(3):
            pipe("x", **SMALL)
    assert len(m.stages) == 5 and m.calls == 3


def test_the_line_is_written_over_itself(monkeypatch):
    said = io.StringIO()
    monkeypatch.setattr(sys, "stderr", said)
    line = live.Line(True)
    line.say("a longer text")
    assert not line.wants() and line.wants(now=True)
    line.say("short")
    line.end()
    assert said.getvalue() == "\ra longer text\rshort        \n"
    quiet = live.Line(False)
    quiet.say("x")
    assert not quiet.wants(now=True) and said.getvalue().endswith("\n")


class Kernel:
    """As much of a kernel as is asked."""

    def __init__(self, *features):
        self.kernel_info = {"supported_features": list(features)}


@pytest.fixture
def shown(monkeypatch):
    """Widgets that a notebook would show."""
    found = []
    monkeypatch.setattr("IPython.display.display", found.append)
    monkeypatch.setattr(watch, "kernel_here", lambda: Kernel(panel.SUBSHELLS))
    return found


@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize("stage", ["before", "encode", "steps"])
def test_the_button_stops_before_the_next_call_and_the_pipeline_draws_again(shown, tiny, stage, offload):
    with use_accelerator(virtual=True, vram="2GiB"):
        pipe = load_sana(tiny, "bf16", "cpu" if offload else None)
        pipe.set_progress_bar_config(disable=True)
        if offload:
            pipe.enable_model_cpu_offload()
        call = {**SMALL, "output_type": "np"}
        alone = pipe("x", **call, generator=torch.manual_seed(0)).images
        before = attached(pipe)

        def press(one):
            if one.stage == stage:
                shown[0].children[1].click()

        m = memory(pipe, stop=True, every=press)
        with pytest.raises(panel.Stopped, match="the pipeline can draw again"), m:
            pipe("x", **call)
            pipe("x", **call)
        assert m.stopped and (m.calls, m.failures) == (0, 1)
        (text,) = shown[0].children  # the button is gone
        assert len(shown) == 1 and text.value.startswith("<code>")
        assert attached(pipe) == before
        if offload:
            assert {part.device.type for part in (pipe.text_encoder, pipe.transformer, pipe.vae)} == {"cpu"}
        assert (pipe("x", **call, generator=torch.manual_seed(0)).images == alone).all()


def test_a_kernel_that_cannot_hear_a_button_gets_words(pipe, shown, monkeypatch):
    monkeypatch.setattr(watch, "kernel_here", Kernel)
    seen = []
    with memory(pipe, stop=True, every=lambda one: seen.append(shown[0].children[1].value if shown else "")) as m:
        pipe("x", **SMALL)
    assert any(panel.BY_HAND in text for text in seen) and not m.stopped


PANEL = """
from sana_lab.monitor.panel import Panel, kernel_here
panel = Panel(kernel_here())
"""
PLAIN = """
from types import SimpleNamespace
from ipywidgets import Button
panel = SimpleNamespace(asked=False, say=print)
button = Button()
button.on_click(lambda _: setattr(panel, "asked", True))
"""
WAITS = """
import time
until = time.monotonic() + {seconds}
print("waits", flush=True)
while not panel.asked and time.monotonic() < until:
    time.sleep(0.05)
print("heard", panel.asked)
"""


@pytest.mark.parametrize(("code", "seconds", "heard"), [(PANEL, 120, True), (PLAIN, 3, False)])
def test_a_busy_kernel_hears_the_button(code, seconds, heard):
    """As JupyterLab talks to it: a shell beside the one that runs the cell takes the click.

    A plain button is not heard (ipykernel 7.4.0). When it is, the line in `Panel` about it can go.
    """
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3")
    try:
        cell = client.execute(code + WAITS.format(seconds=seconds))
        button = said = ""

        def listen():
            nonlocal button, said
            message = client.get_iopub_msg(timeout=240)
            content = message["content"]
            assert message["msg_type"] != "error", content
            if message["msg_type"] == "comm_open" and content["data"]["state"].get("_model_name") == "ButtonModel":
                button = content["comm_id"]
            if message["msg_type"] == "stream" and message["parent_header"].get("msg_id") == cell:
                said += content["text"]

        while not (button and "waits" in said):
            listen()
        client.control_channel.send(client.session.msg("create_subshell_request"))
        beside = client.control_channel.get_msg(timeout=60)["content"]["subshell_id"]
        click = {"method": "custom", "content": {"event": "click"}}
        message = client.session.msg("comm_msg", {"comm_id": button, "data": click})
        message["header"]["subshell_id"] = beside
        client.shell_channel.send(message)
        while "heard" not in said:
            listen()
        assert said.split() == ["waits", "heard", str(heard)]
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_stopping_shows_one_line_and_no_traceback():
    shell = pytest.importorskip("IPython.core.interactiveshell").InteractiveShell.instance()
    said = []
    shell._showtraceback = lambda kind, error, lines: said.extend(lines)
    try:
        raise panel.Stopped("stopped by the button")
    except panel.Stopped:
        shell.showtraceback()
    finally:
        type(shell).clear_instance()
    assert said == ["stopped by the button"]


def test_without_a_notebook_there_is_no_button(pipe, monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with memory(pipe, stop=True) as m:
        pipe("x", **SMALL)
    assert "decode" in sys.stderr.getvalue() and not m.stopped


def test_what_was_seen_does_not_keep_the_pipeline():
    with use_accelerator(virtual=True):
        held = torch.cuda.memory_allocated()
        pipe = load_sana(untrained_shapes(), "bf16")
        pipe.set_progress_bar_config(disable=True)
        with memory(pipe, deep=True) as m:
            pipe("x", **SMALL)
        del pipe
        gc.collect()
        assert torch.cuda.memory_allocated() - held < 2**20 and m.peak


@pytest.mark.parametrize("wrong", [3, "pipe", object()])
def test_what_is_no_pipeline(wrong):
    with pytest.raises(TypeError, match="memory needs a diffusers pipeline"), memory(wrong):
        pass


def test_order_of_calls(pipe):
    m = memory(pipe)
    with pytest.raises(RuntimeError, match="inside of"):
        m.watch(pipe)
    with m, pytest.raises(RuntimeError, match="open already"), m:
        pass
    assert m.stages and in_words(3 * 2**30) == "3.0 GiB" and in_words(2**20) == "1.0 MiB"


def test_the_cost_is_measured_and_recorded(tmp_path, capsys):
    line = ["--out", str(tmp_path), "--model", str(untrained_shapes()), "--steps", "2", "--pairs", "2", "--size", "64"]
    assert cost.main([*line, "--virtual"]) == 0
    found = evidence.load(cost.RECORD, folder=tmp_path)["results"]
    assert len(found["pairs"]) == 2 and found["hook_share"] == pytest.approx(
        found["hook_us"] / 1e3 / found["step_ms"], rel=1e-2
    )
    assert found["hook_share"] < 0.05, "on a virtual GPU, whose counters are read in Python"


def test_watching_costs_less_than_a_hundredth_of_a_step_on_a_real_gpu():
    stored = evidence.load(cost.RECORD)
    found = stored["results"]
    assert stored["machine"]["driver"] and found["model"] == "600M-512"
    assert found["hook_share"] == pytest.approx(found["hook_us"] / 1e3 / found["step_ms"], rel=1e-2)
    assert found["hook_share"] < 0.01
    assert found["paired_share"]["lowest"] <= found["paired_share"]["median"] <= found["paired_share"]["highest"]
