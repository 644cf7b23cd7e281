"""Numbers in prose: what a cell, a source, the code or a name holds may stand there, and nothing else."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

import loose_numbers
from chapters import stored

CODE = "gib = 24\nscenes = 1_000\nfactor = 7e4\nlow = 0.25\nthree = 3"
SOURCE = "[(Xie et al., 2025)](../book/references.md#xie2025sana)"


def chapter(text: str, **shown) -> nbformat.NotebookNode:
    drawn = new_code_cell("draw()", metadata={"mystnb": shown})
    return new_notebook(cells=[new_markdown_cell(text, id="a"), new_code_cell(CODE, id="b"), drawn])


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("It is 2.6 times as fast.", "2.6 times as fast"),
        ("It is 2.6x faster.", "2.6x"),
        ("It is 2.6× faster.", "2.6×"),
        ("It is **2.6**-fold.", "2.6"),
        ("In 8 bits **67 %** are left.", "67 %"),
        ("In 8 bits 67% are left.", "67%"),
        ("Sixty-seven percent are left.", "Sixty-seven percent"),
        ("Two thirds are left.", "Two thirds"),
        ("That is 3/8 of it.", "3/8"),
        ("### 2.6 times as fast\n\nWords.", "2.6 times as fast"),
        ("| way | time |\n|---|---|\n| eager | 41 ms |", "41 ms"),
        ("- It takes 1.3 s.", "1.3 s"),
        ("It took forty milliseconds.", "forty milliseconds"),
        ("It is three times as fast.", "three times as fast"),  # the code has a 3, which proves nothing
        ("It takes 3 s.", "3 s"),
        ("It costs 9.1 dB.", "9.1 dB"),
        ("It needs 17 GiB, whatever the card.", "17 GiB"),
        ("It needs 3 GiB.", "3 GiB"),
        ("Of 1,000 scenes 987 were right.", "987"),
        ("The score is 0.96 instead of 0.25.", "0.96"),
        ("That is −12.5 of it.", "−12.5"),
        ("It is 1e-05 off.", "1e-05"),
        (f"It takes 0.4 s. Others say more {SOURCE}.", "0.4 s"),
        ("The layer has 9 outliers (*nine*).", "9"),
        ("[The 2.6 times](other.txt) of it.", "2.6"),
        ("<details><summary>Solution</summary>\n\nIt is 41 ms.\n\n</details>", "41 ms"),
        ("> It is 41 ms.", "41 ms"),
    ],
)
def test_a_loose_number_is_named(text, number):
    (found,) = loose_numbers.problems(chapter(text))
    assert found.startswith(f"prose cell a: loose number {number!r} in ")


@pytest.mark.parametrize(
    "text",
    [
        'It is <span data-glue="slower">2.6</span> times as fast and takes <span data-glue="t">41</span> ms.',
        "It is {glue:text}`slower` times as fast.",
        f"On a laptop {SOURCE} it takes 0.37 s, and the score is 28.3 instead of 28.5.",
        f"It takes 0.37 s {SOURCE}.",
        "[A page](https://example.org/x) has 32.6 s a picture.",
        "It may be given 3 MiB more (`should_split` in CUDACachingAllocator.cpp).",
        "A card of 24 GiB draws 1,000 scenes; what becomes of 70,000, and of 0.25?",
        "The range is `0.3` dB, $10 \\log_{10} 2 \\approx 3$ dB.\n\n```py\nx = 12.5\n```",
        "$$\n2.6 = 5.2 / 2\n$$ (eq-x)",
        "An 8-bit layer keeps 16 bits of it in float16, up to 65,504; there are 65,536 values and 255 codes.",
        "diffusers 0.42.1 and transformers 5 differ; it came with bitsandbytes 0.48, and since 0.40 it is so.",
        "In 2025, chapter 12, exercise 9, section 14, step 17, row 20, GPU 9, cuda:5 and [issue #1234](x).",
        "1. First.\n2. Second.\n\n**5. An exercise.** Words.",
        "# 1 Ten minutes\n\nWords.",
        "## 17 and more\n\nWords.",
        '<span class="tier laptop">any laptop</span> runs in ten seconds on two cores',
        "[11 Device maps](11_device_maps_and_to.ipynb) and [Fig. 33](#fig-x), the 95 % interval (95 %).",
        "It saves half, and a few hundred MiB twice.",
        "On an RTX 4090, a GeForce 40, an A100, and 2 × H200 with AVX-512.",
        "One byte a number; two bytes; ten things and three more of them.",
    ],
)
def test_what_is_held_may_stand(text):
    assert loose_numbers.problems(chapter(text)) == []


@pytest.mark.parametrize(
    ("shown", "where"),
    [
        ({"figure": {"caption": "It is 2.6x faster."}}, "caption"),
        ({"image": {"alt": "A line that falls to 53 percent"}}, "description"),
    ],
)
def test_captions_and_descriptions_are_read(shown, where):
    (found,) = loose_numbers.problems(chapter("Words.", **shown))
    assert found.startswith(where)


def test_no_chapter_has_a_loose_number():
    assert {
        path.name: found for path, notebook in stored().items() if (found := loose_numbers.problems(notebook))
    } == {}
