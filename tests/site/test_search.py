"""A message that a reader pastes into the page's search leads to its entry."""

from __future__ import annotations

import pytest

from sana_lab.failures.catalogue import catalogue, get

ASKED = {
    "Expected all tensors to be on the same device": "tensors-on-two-devices",
    "RuntimeError: Expected all tensors to be on the same device, but found at least two devices, cuda:3 and cpu!": (
        "tensors-on-two-devices"
    ),
    "It seems like you have activated a device mapping strategy": "pipeline-to-with-device-map",
    ".to is not supported for 8-bit bitsandbytes models": "8bit-model-cannot-move",
    "No package metadata was found for bitsandbytes": "bitsandbytes-metadata-missing",
    "CUDA out of memory": "cuda-out-of-memory",
    "OOM": "cuda-out-of-memory",
    "auto not supported. Supported strategies are": "pipeline-device-map-auto",
    "No GPU found. A GPU is needed for quantization.": "quantization-needs-gpu",
    "Pipelines loaded with `dtype=torch.float16` cannot run with `cpu` device": "float16-pipeline-on-cpu",
    "CUDA error: an illegal memory access was encountered": "illegal-memory-access",
    "libbitsandbytes_cpu.so: undefined symbol: cget_col_row_stats": "bitsandbytes-undefined-symbol",
    "mat1 and mat2 must have the same dtype, but got Half and Float": "linear-two-dtypes",
    "CUDA Setup failed despite GPU being there": "bitsandbytes-cuda-setup-failed",
    "cublasLt ran in an error": "cublaslt-error",
    "device mismatch": "tensors-on-two-devices",
    "my pictures are black": "black-picture",
    "torch_dtype is deprecated": "torch-dtype-deprecated",
    "设备不匹配": "tensors-on-two-devices",
    "显存不足": "cuda-out-of-memory",
    "我的图片是黑图": "black-picture",
}
"""What people type or paste, some of it from memory, and the entry that they want."""

TRACEBACK = """Traceback (most recent call last):
  File "/home/me/draw.py", line 12, in <module>
    pipe.to("cuda:1")
  File "/opt/venv/lib/python3.11/site-packages/diffusers/pipelines/pipeline_utils.py", line 482, in to
    raise ValueError(
ValueError: It seems like you have activated a device mapping strategy on the pipeline which doesn't allow explicit \
device placement using `to()`. You can call `reset_device_map()` to remove the existing device map from the pipeline."""


@pytest.fixture(scope="module")
def find(site, context):
    page = context.new_page()
    page.goto(f"{site}/search.html", wait_until="load")
    yield lambda texts: page.evaluate("texts => texts.map(text => findFailures(text))", texts)
    page.close()


def test_what_people_ask_finds_its_entry_first(find):
    found = dict(zip(ASKED, find(list(ASKED)), strict=True))
    missed = {asked: [f["id"] for f in found[asked][:3]] for asked, id in ASKED.items() if found[asked][0]["id"] != id}
    assert missed == {}


def test_every_message_of_every_entry_finds_it(find):
    """First, or behind an entry that has the same words and says so."""
    messages = [(failure.id, text) for failure in catalogue() for text in failure.messages.values()]
    wrong = []
    for (id, text), found in zip(messages, find([text for _, text in messages]), strict=True):
        first = found[0]["id"]
        if first != id and first not in get(id).alike and id not in get(first).alike:
            wrong.append((id, first, text[-80:]))
    assert wrong == []
    assert len(messages) > 300


def test_every_chinese_symptom_finds_its_entry(find):
    """Several entries share the general words; the more words, the fewer."""
    asked = [(failure.id, phrase) for failure in catalogue() for phrase in failure.chinese]
    found = find([phrase for _, phrase in asked])
    same = {phrase: {id for id, other in asked if other == phrase} for _, phrase in asked}
    assert [(id, phrase) for (id, phrase), f in zip(asked, found, strict=True) if f[0]["id"] not in same[phrase]] == []


def test_pasted_into_one_line_and_wrapped(find):
    flat, broken = TRACEBACK.replace("\n", ""), "\n".join(TRACEBACK[i : i + 57] for i in range(0, len(TRACEBACK), 57))
    assert {f[0]["id"] for f in find([TRACEBACK, flat, broken])} == {"pipeline-to-with-device-map"}


def test_words_that_many_programs_raise_are_not_called_known(find):
    (found,) = find(["UnboundLocalError: local variable 'image' referenced before assignment"])
    assert all(f["by"] != "message" for f in found)
    (none,) = find(["qqxzzy"])
    assert none == []


def test_the_search_page_shows_them_and_leads_there(site, page):
    page.goto(f"{site}/search.html?q=CUDA+out+of+memory", wait_until="load")
    assert page.locator(".explained p").inner_text() == "In the failure index:"
    page.locator(".explained a").first.click()
    page.wait_for_url("**/book/failures/memory.html#failure-cuda-out-of-memory")
    assert abs(page.locator("#failure-cuda-out-of-memory").bounding_box()["y"]) < 900


def test_a_link_from_when_all_entries_stood_on_one_page_still_leads_there(site, page):
    page.goto(f"{site}/book/failures.html#failure-pipeline-to-with-device-map", wait_until="load")
    page.wait_for_url("**/book/failures/device-maps.html#failure-pipeline-to-with-device-map")
    heading = page.locator("section#failure-pipeline-to-with-device-map > h2")
    assert heading.locator("a.headerlink").get_attribute("href") == "#failure-pipeline-to-with-device-map"
    assert abs(heading.bounding_box()["y"]) < 900
    page.goto(f"{site}/book/failures.html#failure-that-is-none", wait_until="load")
    page.wait_for_timeout(200)
    assert page.url.endswith("failures.html#failure-that-is-none")


def test_the_index_answers_while_one_pastes(site, page):
    page.goto(f"{site}/book/failures.html", wait_until="load")
    field = page.locator("#explain-here textarea")
    field.fill("<img src=x onerror=alert(1)> " + TRACEBACK)
    link = page.locator(".explained a").first
    assert link.get_attribute("href").endswith("#failure-pipeline-to-with-device-map")
    assert page.locator(".explained img").count() == 0
    field.fill("qqxzzy")
    page.wait_for_function("document.querySelector('.explained p').textContent.startsWith('No entry')")
    field.fill("")
    page.wait_for_function("document.querySelector('.explained').childElementCount === 0")
