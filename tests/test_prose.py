"""Prose of the chapters in two notations: what is stored reads everywhere, and nothing in it can go stale."""

from __future__ import annotations

import copy

import nbformat
import pytest
from markdown_it import MarkdownIt
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import prose
from chapters import ROOT, main, stored
from prose import GLUED, Book, Place

KNOWN = Book(
    places={
        "chapter-loading": Place("05_loading_sana.ipynb", "Loading Sana", is_page=True),
        "who": Place("10_tensors.ipynb", "Who is where"),
        "aside": Place("01_here.ipynb"),
        "map": Place("../book/map.md", "The map", is_page=True),
    },
    terms={"term-hook": "hook", "term-LLM.int8": "LLM.int8()", "term-McNemar-s-test": "McNemar's test"},
    papers={"xie2025": ("Xie et al.", "2025"), "lin2024": ("Lin and Wu", "2024")},
    figures={"fig-flow": 1, "fig-stairs": 12},
)
GIVEN = {"slower": "'2.6'", "share": "0.98414", "odd": "'a_b*c & <d> $5'", "two": "2"}
PAIRS = [
    ("{glue:text}`slower` times", '<span data-glue="slower">2.6</span> times'),
    ("**{glue:text}`share:.1%`**", '**<span data-glue="share:.1%">98.4%</span>**'),
    ("{glue:text}`two`", '<span data-glue="two">2</span>'),
    ("a {term}`hook`", "a [hook](../book/glossary.md#term-hook)"),
    ("{term}`Hooks <hook>`", "[Hooks](../book/glossary.md#term-hook)"),
    ("{term}`LLM.int8()`", "[LLM.int8()](../book/glossary.md#term-LLM.int8)"),
    ("*{term}`McNemar's test`*", "*[McNemar's test](../book/glossary.md#term-McNemar-s-test)*"),
    ("so {cite}`xie2025`.", "so [(Xie et al., 2025)](../book/references.md#xie2025)."),
    ("{cite}`xie2025,lin2024`", "[(Xie et al., 2025; Lin and Wu, 2024)](../book/references.md#xie2025,lin2024)"),
    ("{cite:t}`lin2024` say", "[Lin and Wu (2024)](../book/references.md#lin2024) say"),
    ("{ref}`chapter-loading`", "[Loading Sana](05_loading_sana.ipynb)"),
    ("{ref}`chapter 5 <chapter-loading>`", "[chapter 5](05_loading_sana.ipynb)"),
    ("{ref}`map`", "[The map](../book/map.md)"),
    ("{ref}`who`", "[Who is where](10_tensors.ipynb#who)"),
    ("{ref}`an aside <aside>`", "[an aside](#aside)"),
    ("{numref}`fig-stairs` shows", "[Fig. 12](#fig-stairs) shows"),
    ("{eq}`eq-rms`", "[(eq-rms)](#eq-rms)"),
    ("(who)=\n## Who is where", '<a id="who"></a>\n## Who is where'),
    (
        "```{admonition} Solution\n:class: dropdown\nIt is {glue:text}`two`.\n```",
        '<details><summary>Solution</summary>\n\nIt is <span data-glue="two">2</span>.\n\n</details>',
    ),
    (
        "````{admonition} Beware\n:class: warning\n```python\nx\n```\n````",
        '<div class="admonition warning"><strong>Beware</strong>\n\n```python\nx\n```\n\n</div>',
    ),
]
SAME = [
    "`{term}` is a role, ``{glue:text}`x` `` too",
    "```sh\n(who)=\n{term}`hook`\n```",
    "$x_{a}$ and `a`{b}",
    "[elsewhere](https://example.org/a#b), [#12](https://github.com/a/b/issues/12) ![picture](x.png)",
    "$$\na\n$$ (eq-rms)",
]


@pytest.mark.parametrize(("role", "text"), PAIRS)
def test_two_notations_of_one_text(role, text):
    assert prose.plain(role, GIVEN, KNOWN, "01_here.ipynb") == text
    assert prose.myst(text, KNOWN, "01_here.ipynb") == role
    assert prose.has_roles(role) and not prose.has_roles(text)


@pytest.mark.parametrize("text", SAME)
def test_other_text_stays(text):
    assert prose.plain(text, GIVEN, KNOWN, "01_here.ipynb") == prose.myst(text, KNOWN, "01_here.ipynb") == text


@pytest.mark.parametrize(
    ("role", "said"),
    [
        ("{glue:text}`faster`", "no cell gives 'faster'"),
        ("{term}`hoop`", "'hoop'"),
        ("{cite}`xie2025,nobody1999`", "'nobody1999'"),
        ("{cite:t}`nobody1999`", "'nobody1999'"),
        ("{ref}`chapter-nowhere`", "'chapter-nowhere'"),
        ("{numref}`fig-none`", "'fig-none'"),
        ("{doc}`../book/nothing`", "'../book/nothing'"),
    ],
)
def test_a_name_of_nothing_is_an_error(role, said):
    with pytest.raises(prose.UnknownName, match=said):
        prose.plain(role, GIVEN, KNOWN, "01_here.ipynb")


def test_a_value_with_signs_of_markdown_reads_as_it_is_in_a_plain_renderer():
    text = prose.plain("so {glue:text}`odd` it is", GIVEN, KNOWN, "01_here.ipynb")
    page = MarkdownIt("commonmark").render(text)
    assert page == '<p>so <span data-glue="odd">a_b*c &amp; &lt;d&gt; $5</span> it is</p>\n'
    assert prose.myst(text, KNOWN, "01_here.ipynb") == "so {glue:text}`odd` it is"


def chapter(text, value="'2.6'"):
    """A chapter of one cell that gives `slower`, and one of prose."""
    glued = new_output(
        "display_data", data={GLUED: value}, metadata={"scrapbook": {"name": "slower", "mime_prefix": "x"}}
    )
    code = new_code_cell("glue()", id="b", outputs=[glued], execution_count=1)
    return new_notebook(cells=[new_markdown_cell(text, id="a"), code])


@pytest.mark.parametrize(
    "stale",
    [
        'It is <span data-glue="slower">2.5</span> times slower.',
        "So [(Xie et al., 2024)](../book/references.md#xie2025).",
        "See [Fig. 11](#fig-stairs).",
    ],
)
def test_what_is_stale_is_found_and_written_anew(stale):
    before = chapter(stale)
    after = copy.deepcopy(before)
    assert prose.stored(after, "01_here.ipynb", KNOWN) == []
    assert len(prose.differences(before, after)) == 1
    again = copy.deepcopy(after)
    assert prose.stored(again, "01_here.ipynb", KNOWN) == prose.differences(after, again) == []


def test_a_number_that_no_cell_gives_is_named():
    wrong = prose.stored(chapter('<span data-glue="faster">9</span>'), "01_here.ipynb", KNOWN)
    assert wrong == ["prose cell a: no cell gives 'faster'"]


def test_links_that_lead_astray_are_named(tmp_path):
    (tmp_path / "05_loading_sana.ipynb").touch()
    text = "[chapter 4](05_loading_sana.ipynb), [chapter 5](05_loading_sana.ipynb), [x](06_gone.ipynb), [y](#z)"
    assert prose.links_astray(chapter(text), tmp_path) == [
        "prose cell a: 'chapter 4' leads to chapter 5",
        "prose cell a: there is no 06_gone.ipynb",
    ]


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("# 1 Here", []),
        ("# Here", []),
        ("words\n\n## 2 Here", []),
        ("# 2 Here", ["prose cell a: '2 Here' is the title of chapter 1"]),
    ],
)
def test_a_title_has_the_number_of_its_file(text, wrong):
    assert prose.title_astray(chapter(text), "01_here.ipynb") == wrong
    assert prose.title_astray(chapter(text), "here.ipynb") == []


def test_the_command_writes_and_check_refuses_what_is_stale(tmp_path, capsys):
    path = tmp_path / "01_here.ipynb"
    nbformat.write(chapter('It is <span data-glue="slower">9</span>.'), path)
    assert main(["check", str(path)]) == 1
    assert "should be" in capsys.readouterr().out
    assert main(["prose", str(path)]) == 0
    assert nbformat.read(path, as_version=4).cells[0].source == 'It is <span data-glue="slower">2.6</span>.'
    once = path.read_bytes()
    assert main(["prose", str(path)]) == 0
    assert path.read_bytes() == once


def test_every_chapter_goes_there_and_back():
    """Whichever notation a chapter is stored in: one more round changes nothing, and no name is unknown."""
    for path, notebook in stored().items():
        assert prose.stored(notebook, path.name) == []
        once = copy.deepcopy(notebook)
        assert prose.stored(notebook, path.name) == prose.differences(once, notebook) == []
        shown = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
        assert not prose.has_roles(shown), path.name


def test_the_book_knows_its_places_terms_papers_and_figures():
    book = prose.book(ROOT)
    assert book.places["chapter-loading"].is_page
    page = "../book/failures/device-mismatch.md"
    assert book.places["device-mismatch"] == Place(page, "Tensors on two devices", is_page=True)
    assert book.terms["term-LLM.int8"] == "LLM.int8()" and len(book.terms) > 70
    assert book.papers["dettmers2022llmint8"] == ("Dettmers et al.", "2022")
    assert list(book.figures.values()) == list(range(1, len(book.figures) + 1))
