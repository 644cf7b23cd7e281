"""Links to the repository, launchers, descriptions: from one setting, and nothing dead without it."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import yaml
from docutils import nodes
from docutils.core import publish_doctree

import site_links
from chapters import ROOT


def config(**options):
    return SimpleNamespace(html_theme_options=options, html_baseurl="", html_title="8-bit Sana")


@pytest.fixture(autouse=True)
def unset(monkeypatch):
    for name in ("REPOSITORY_URL", "SITE_URL"):
        monkeypatch.delenv(name, raising=False)


def test_without_a_repository_there_are_no_links(tmp_path):
    settings = config(repository_url="", extra_footer="x")
    site_links.set_links(settings, tmp_path)
    assert settings.html_theme_options == {"repository_url": "", "extra_footer": "x"}


def test_one_setting_gives_all_links(monkeypatch, tmp_path):
    monkeypatch.setenv("REPOSITORY_URL", "https://github.com/owner/name.git")
    monkeypatch.setenv("SITE_URL", "https://example.org/book/")
    settings = config()
    site_links.set_links(settings, tmp_path)
    options = settings.html_theme_options
    assert options["repository_url"] == "https://github.com/owner/name"
    assert options["use_repository_button"] and options["use_edit_page_button"] and options["use_issues_button"]
    assert set(options["launch_buttons"]) == {"notebook_interface", "binderhub_url", "colab_url"}
    assert settings.html_baseurl == "https://example.org/book/"


@pytest.mark.parametrize("url", ["github.com/a/b", "https://github.com/a", "a b", "http://github.com/a/b"])
def test_an_address_that_is_none_is_refused(monkeypatch, url):
    monkeypatch.setenv("REPOSITORY_URL", url)
    with pytest.raises(ValueError, match="REPOSITORY_URL"):
        site_links.repository(config())


def test_launchers_find_the_files_that_they_name():
    binder = yaml.safe_load((ROOT / ".binder" / "environment.yml").read_text(encoding="utf-8"))
    assert "python=3.11" in binder["dependencies"]
    named = [word for word in (ROOT / ".binder" / "postBuild").read_text().split() if word.endswith(".txt")]
    assert named and all((ROOT / name).is_file() for name in named)
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
    target = container["postCreateCommand"].removeprefix("make ")
    assert f"{target}:" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_the_buttons_of_every_chapter_lead_to_its_file(monkeypatch, tmp_path):
    """The theme's own links, and the one for Codespaces, without a network: each names a file that is there."""
    from sphinx_book_theme.header_buttons import launch

    monkeypatch.setenv("REPOSITORY_URL", "https://github.com/owner/name")
    settings = config()
    site_links.set_links(settings, tmp_path)
    options = settings.html_theme_options
    app = SimpleNamespace(
        config=type("Config", (), {"__getitem__": lambda self, key: options, "html_theme_options": options})(),
        outdir=tmp_path,
        env=SimpleNamespace(doc2path=lambda name: f"{name}.ipynb", metadata={}),
    )
    monkeypatch.setattr(launch, "_is_notebook", lambda *_: True)
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    names = [entry["file"] for part in toc["parts"] for entry in part["chapters"] if "notebooks/" in entry["file"]]
    assert len(names) >= 13
    for name in names:
        context = {
            "header_buttons": [],
            "sourcename": f"{name}.ipynb",
            **{"github_url": "https://github.com", "github_user": "owner", "github_repo": "name"},
        }
        launch.add_launch_buttons(app, name, "", context, None)
        site_links.add_codespaces(app, name, "", context, None)
        (group,) = context["header_buttons"]
        urls = {button["text"]: button["url"] for button in group["buttons"]}
        assert urls == {
            "Binder": f"https://mybinder.org/v2/gh/owner/name/main?urlpath=lab/tree/{name}.ipynb",
            "Colab": f"https://colab.research.google.com/github/owner/name/blob/main/{name}.ipynb",
            "Codespaces": "https://codespaces.new/owner/name?quickstart=1",
        }
        assert (ROOT / f"{name}.ipynb").is_file()
    bare = {"header_buttons": []}
    site_links.add_codespaces(app, "book/intro", "", bare, None)
    assert bare == {"header_buttons": []}


def test_a_description_is_the_first_paragraph_that_says_something():
    page = publish_doctree(f"Title\n=====\n\nShort.\n\n{'Many words stand here. ' * 20}\n")
    said = site_links.description(page)
    assert said.startswith("Many words") and said.endswith("…") and len(said) <= site_links.LONGEST
    assert site_links.description(None) == site_links.description(nodes.document(None, None)) == ""


def test_pages_of_renamed_chapters_go_with_the_next_build(tmp_path):
    for name in ("index", "search", "book/intro", "book/failures/memory", "book/old", "notebooks/09_old"):
        page = tmp_path / f"{name}.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.touch()
    (tmp_path / "book" / "picture.svg").touch()
    site_links.drop_old_pages(tmp_path, {"book/intro", "book/failures/memory"})
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")}
    assert left == {"index.html", "search.html", "book/intro.html", "book/failures/memory.html", "book/picture.svg"}


def test_the_same_source_has_the_same_version(tmp_path):
    assert site_links.version(tmp_path) == ""
    assert site_links.version(ROOT) == site_links.version(ROOT)


def test_a_page_says_what_it_is_about():
    settings = config()
    settings.html_baseurl = "https://example.org/"
    context = {"title": "A &amp; <em>B</em>", "metatags": "<x>"}
    page = publish_doctree(
        "Title\n=====\n\n" + 'A "quoted" paragraph of some length, which says what is on this page.\n'
    )
    site_links.add_meta(SimpleNamespace(config=settings), "book/intro", "", context, page)
    assert '<meta property="og:title" content="A &amp; B" />' in context["metatags"]
    assert 'name="description" content="A &quot;quoted&quot;' in context["metatags"] or "“" in context["metatags"]
    assert "https://example.org/_static/card.png" in context["metatags"]
