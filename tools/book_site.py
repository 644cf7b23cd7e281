"""Sphinx extension: what the site needs and a static `_config.yml` cannot say.

1. The execution cache. jupyter-cache finds a chapter's stored run by its code cells alone, so an edit in `src/`
   would leave old outputs on the page. Here the cache folder's name is a hash of the package and of every installed
   distribution; the chapter's own cells stay the key inside it, so editing one chapter re-runs one chapter.
2. Time. MyST-NB executes one chapter after the other, and a chapter keeps few cores busy. So chapters and pages with
   code that the cache does not hold are executed into it first, several at once.
3. Reading offline. Pages load MathJax, require.js and the Jupyter widget manager from public CDNs by default. They
   are fetched once with `npm pack`, checked by hash, and served from `_static`. Without npm the CDNs remain, and the
   build says so in one line.
4. Prose. Chapters are stored in Markdown that every program shows; `tools/prose.py` turns it into MyST's roles here, so
   that pages have the values of the run that they show, and links that Sphinx checks.
5. Tables. What pandas printed is made for reading by `tools/site_tables.py`; the executed notebooks keep it as it was.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase as fnmatch
from pathlib import Path
from typing import NamedTuple

import myst_nb.core.render
import nbformat
from docutils import nodes
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from jupyter_cache.executors.utils import ExecutionResult, single_nb_execution
from myst_nb.core.read import create_nb_reader
from nbformat import NotebookNode
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

import prose
import site_links
import site_tables
from chapter_runs import cache_folder
from chapters import ROOT, quiet_kernels, without_folders
from sana_lab.failures import search_index
from sana_lab.failures.page import entries

CACHE = ROOT / ".cache"
AT_ONCE = 4
"""Most chapters that run at a time: each needs about one core and two gigabytes."""
MANY_COLUMNS = 8
"""Columns up to which a table has the size of all others."""
MANY_WORDS = 60
"""Characters of a cell that is wide enough to be read on a phone."""
logger = logging.getLogger(__name__)


class Package(NamedTuple):
    """An npm package: what to fetch, the sha256 of its tarball, and which of its files pages load."""

    name: str
    version: str
    sha256: str
    wanted: tuple[str, ...]  # patterns below the tarball's `package/`; `*` also matches a slash

    @property
    def root(self) -> str:
        """Folder that stands for a CDN's root, below `_static`, e.g. `vendor/mathjax-3.2.2`."""
        return f"vendor/{self.name.rpartition('/')[2]}-{self.version}"

    @property
    def folder(self) -> str:
        """Where the files are, e.g. `vendor/mathjax-3.2.2/mathjax`."""
        return f"{self.root}/{self.name}"


MATHJAX = Package(
    "mathjax",
    "3.2.2",
    "1b9c0a1c44df864e915690558e72adb9cc5203360daefd385084ced3b6c64c09",
    ("LICENSE", "es5/tex-mml-chtml.js", "es5/output/chtml/fonts/*", "es5/input/tex/extensions/*", "es5/ui/*"),
)
REQUIREJS = Package(
    "requirejs",
    "2.3.7",
    "31f3330c978fb28684622fe71165dc946432cf0210b2ea8a1ca0233e70f2737d",
    ("README.md", "require.js"),
)
WIDGETS = Package(
    "@jupyter-widgets/html-manager",
    "1.0.6",  # the version that MyST-NB 1.4.0 names in its own default
    "6c198ceb99ba7e7526990a1de16e8147ad7d3a714e3fb06741183623c04b5f6e",
    ("LICENSE", "dist/embed-amd.js", "dist/*.woff", "dist/*.woff2"),
)


CDN = "https://cdn.jsdelivr.net/npm"
NEEDS_NETWORK = (
    "This copy of the book was built without npm. Text, code and figures are all here; formulas and sliders load from "
    "cdn.jsdelivr.net, and without a network formulas show as TeX and sliders stay empty."
)
"""What every page says where the scripts are not beside it."""


def fetch(package: Package, folder: Path) -> None:
    """Put the wanted files of an npm package below `folder`, unless they are there.

    Args:
        package: what to fetch.
        folder: the parent; files land in `folder/package.folder/`.

    Raises:
        OSError: npm is missing, or has no network.
        ValueError: the tarball's hash is not the expected one.
    """
    target = folder / package.folder
    if target.exists():
        return
    npm = shutil.which("npm")
    if npm is None:
        raise OSError("npm is not installed")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as work:
        run = subprocess.run(
            [npm, "pack", f"{package.name}@{package.version}"], cwd=work, capture_output=True, text=True, timeout=300
        )
        tarballs = list(Path(work).glob("*.tgz"))
        if run.returncode != 0 or len(tarballs) != 1:
            raise OSError(f"npm could not fetch {package.name}@{package.version}")
        found = hashlib.sha256(tarballs[0].read_bytes()).hexdigest()
        if found != package.sha256:
            raise ValueError(f"{package.name}@{package.version} has sha256 {found}, expected {package.sha256}")
        with tarfile.open(tarballs[0]) as tar:
            names = {member.name: member.name.removeprefix("package/") for member in tar}
            members = [name for name, inside in names.items() if any(fnmatch(inside, w) for w in package.wanted)]
            tar.extractall(work, [tar.getmember(name) for name in members], filter="data")
        (Path(work) / "package").rename(target)  # last, so that a broken fetch leaves nothing that looks whole


def use_local_scripts(config: Config) -> None:
    """Point Sphinx and the pages' widgets to local copies, or to CDNs where npm does not give them; each page says so.

    The widget manager is not among a page's scripts: it is 4.5 MB, and `widgets.js` loads it when a widget comes near.
    """
    static = CACHE / "site"
    here = f"../_static/{WIDGETS.root}/"  # chapters lie one folder deep
    manager = f"{WIDGETS.folder}/dist/embed-amd.js"
    try:
        for package in (MATHJAX, REQUIREJS, WIDGETS):
            fetch(package, static)
    except (OSError, subprocess.TimeoutExpired) as reason:
        logger.info("pages will load MathJax and the widget manager from their CDNs: %s", reason)
        config.html_theme_options = {**config.html_theme_options, "announcement": NEEDS_NETWORK}
        config.mathjax_path = f"{CDN}/{MATHJAX.name}@{MATHJAX.version}/es5/tex-mml-chtml.js"
        scripts = [
            f"{CDN}/{REQUIREJS.name}@{REQUIREJS.version}/require.js",
            f"{CDN}/{WIDGETS.name}@{WIDGETS.version}/dist/embed-amd.js",
        ]
        here = ""
    else:
        config.html_static_path = [*config.html_static_path, str(static)]
        config.mathjax_path = f"{MATHJAX.folder}/es5/tex-mml-chtml.js"
        scripts = [f"../_static/{REQUIREJS.folder}/require.js", f"../_static/{manager}"]
    config.nb_ipywidgets_js = {"": {"body": f"window.bookWidgets = {json.dumps({'cdn': here, 'scripts': scripts})};"}}


def leave_thebe_out(app: Sphinx) -> None:
    """Unhook sphinx-thebe, which Jupyter Book always loads.

    There is no public kernel to connect to, and sphinx-thebe 0.3.1 under Sphinx 7.4 declares its constant twice on
    every page, which is an error in the browser's console.
    """
    for event in ("env-before-read-docs", "doctree-resolved"):
        for listener in list(app.events.listeners[event]):
            if listener.handler.__module__ == "sphinx_thebe":
                app.disconnect(listener.id)


def configure(app: Sphinx, config: Config) -> None:
    """Fill in the computed settings, before MyST-NB reads its own (at `builder-inited`)."""
    leave_thebe_out(app)
    quiet_kernels()
    current = cache_folder(CACHE)
    for old in CACHE.glob("exec-*"):
        if old != current:
            shutil.rmtree(old, ignore_errors=True)
    config.nb_execution_cache_path = str(current)
    config.book_prose = prose.book(Path(app.srcdir))
    site_links.set_links(config, Path(app.srcdir))
    use_local_scripts(config)
    config.html_static_path = [*config.html_static_path, str(write_failure_index(CACHE / "search"))]


def write_failure_index(folder: Path) -> Path:
    """Write what the pages' search knows of the failure index; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / search_index.NAME).write_text(search_index.script(), encoding="utf-8")
    return folder


def add_failure_search(app: Sphinx, pagename: str, *_: object) -> None:
    """Let the search page and the failure index find entries for a pasted message; other pages load nothing more."""
    if pagename in ("search", "book/failures"):
        for name in (search_index.NAME, "explain.js"):
            app.add_js_file(name, loading_method="defer")


def name_papers(app: Sphinx, pagename: str, template: str, context: dict, *_: object) -> None:
    """Give the papers of a list the role of its items.

    docutils (0.21, writers/_html_base.py, `visit_citation`) writes "doc-biblioentry", which ARIA 1.2 deprecates and
    which screen readers do not count as an item.
    """
    if "body" in context:
        context["body"] = context["body"].replace('role="doc-biblioentry"', 'role="listitem"')


def as_notebook(env: BuildEnvironment, path: Path) -> NotebookNode | None:
    """A chapter, or a page in Markdown with code cells, as MyST-NB reads it (1.4.0, sphinx_.py, `Parser.parse`)."""
    text = path.read_text(encoding="utf-8")
    reader = create_nb_reader(str(path), env.myst_config, env.mystnb_config, text)
    return None if reader is None else reader.read(text)


def execute_chapters(app: Sphinx, env: BuildEnvironment, docnames: list[str]) -> None:
    """Execute the chapters and pages to be read that the cache does not hold, several at once, and put them into it.

    They run as MyST-NB would run them (1.4.0, core/execute/cache.py), which then finds them. A chapter that fails is
    not kept: MyST-NB runs it again, and reports it as it does.
    """
    if app.config.nb_execution_mode != "cache":
        return
    cache = get_cache(app.config.nb_execution_cache_path)
    todo: dict[Path, NotebookNode] = {}
    for path in (Path(env.doc2path(name)) for name in docnames):
        notebook = as_notebook(env, path)
        if notebook is not None:
            try:
                cache.match_cache_notebook(notebook)
            except KeyError:
                todo[path] = notebook
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    at_once = min(cores, len(todo), AT_ONCE)
    if at_once < 2:
        return

    def run(path: Path) -> ExecutionResult:
        timeout = app.config.nb_execution_timeout
        return single_nb_execution(todo[path], cwd=str(path.parent), timeout=timeout, allow_errors=False)

    logger.info("executing %d chapters, %d at a time", len(todo), at_once)
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = before or str(cores // at_once)  # what kernels inherit
    try:
        with ThreadPoolExecutor(at_once) as pool:  # each waits for a kernel, which is a process
            for path, result in zip(todo, pool.map(run, todo), strict=True):
                if result.err is None:
                    bundle = CacheBundleIn(result.nb, str(path), data={"execution_seconds": result.time})
                    cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
                    logger.info("executed %s in %.1f s", path.name, result.time)
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]


def read_prose(app: Sphinx, docname: str, content: list[str]) -> None:
    """Turn a chapter's stored prose into MyST before it is parsed (`source-read`)."""
    path = Path(app.env.doc2path(docname))
    if path.suffix != ".ipynb":
        return
    notebook = nbformat.reads(content[0], as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = prose.myst(cell.source, app.config.book_prose, path.name)
    content[0] = nbformat.writes(notebook)


def write_entries(app: Sphinx, docname: str, content: list[str]) -> None:
    """Give the page of a family of failures its entries, straight from the catalogue (`source-read`)."""
    if docname.startswith("book/failures/"):
        content[0] += f"\n{entries(docname.rpartition('/')[2]).data}\n"


def keep_permalinks(app: Sphinx, doctree: nodes.document) -> None:
    """Let an entry's permalink, and what the search finds, be its name, which never changes, not its title's words."""
    for section in doctree.findall(nodes.section):
        section["ids"].sort(key=lambda name: not name.startswith("failure-"))


def add_letters(app: Sphinx, doctree: nodes.document) -> None:
    """Put a line of letters above a glossary, each a link to the first word that begins with it."""
    for glossary in list(doctree.findall(addnodes.glossary)):
        letters: dict[str, str] = {}
        for term in glossary.findall(nodes.term):
            words = term.astext()
            letter = words[:1].upper() if words[:1].isalpha() else "0–9"
            if term["ids"]:
                letters.setdefault(letter, term["ids"][0])
        line = nodes.paragraph(classes=["letters"])
        for letter, name in letters.items():
            line += [nodes.reference("", letter, internal=True, refid=name), nodes.Text(" ")]
        glossary.parent.insert(glossary.parent.index(glossary), line)


def mark_tables(app: Sphinx, doctree: nodes.document) -> None:
    """Give tables of many columns, and cells of many words, a class of their own, so that the theme can make room."""
    for table in doctree.findall(nodes.table):
        columns = len(list(table.findall(nodes.colspec)))
        if columns > MANY_COLUMNS:
            table["classes"].append("many-columns")
        for entry in table.findall(nodes.entry):
            if columns > 2 and len(entry.astext()) > MANY_WORDS:
                entry["classes"].append("many-words")


def write_minus(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Give negative numbers that cells put into the prose the minus that tables have."""
    for pasted in doctree.findall(nodes.inline):
        if "pasted-text" in pasted["classes"]:
            for text in list(pasted.findall(nodes.Text)):
                text.parent.replace(text, nodes.Text(site_tables.minus(text)))


def mark_pictures(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Give figures that hold pictures drawn by a model the class `has-pictures`: dark pages must not brighten these."""
    for image in doctree.findall(nodes.image):
        path = Path(app.srcdir) / image["uri"]
        if path.suffix != ".svg" or (path.is_file() and "<image" in path.read_text(encoding="utf-8")):
            image["classes"].append("has-pictures")


def presentable(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """The outputs of a cell for a page: what it printed in one piece, tidy tables, no folder of the builder's.

    MyST-NB's own function (1.4.0, core/utils.py, `coalesce_streams`) changes the outputs that it is given, so that the
    executed notebook beside the page tells its second half twice, and it drops empty lines where the kernel cut.
    """
    merged: list[NotebookNode] = []
    streams: dict[str, NotebookNode] = {}
    for output in copy.deepcopy(outputs or []):
        if output["output_type"] == "stream" and output["name"] in streams:
            streams[output["name"]]["text"] += output["text"]
            continue
        merged.append(output)
        if output["output_type"] == "error":
            output["traceback"] = [without_folders(line) for line in output["traceback"]]
        if (shown := output.get("data", {}).get("text/html")) is not None:
            output["data"]["text/html"] = site_tables.tidy("".join(shown))
        if output["output_type"] == "stream":
            streams[output["name"]] = output
    return merged


def setup(app: Sphinx) -> dict[str, object]:
    """Register the extension with Sphinx."""
    myst_nb.core.render.coalesce_streams = presentable
    app.connect("config-inited", configure)
    app.add_config_value("book_prose", None, "", prose.Book)
    app.connect("source-read", read_prose)
    app.connect("source-read", write_entries)
    app.connect("doctree-read", keep_permalinks, priority=100)  # before Sphinx collects titles
    app.connect("doctree-read", add_letters)
    app.connect("doctree-read", mark_tables)
    app.connect("env-before-read-docs", execute_chapters)
    app.connect("html-page-context", add_failure_search)
    app.connect("html-page-context", name_papers)
    app.connect("html-page-context", site_links.add_meta)
    app.connect("html-page-context", site_links.add_codespaces, priority=502)  # after the theme's buttons
    app.connect("doctree-resolved", mark_pictures)
    app.connect("doctree-resolved", write_minus)
    app.connect("build-finished", site_links.finish)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
