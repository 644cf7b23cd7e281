"""Try nbgrader with the chapters: hand them out, hand in a solved and an empty copy of some, and let it mark these.

    make nbgrader-try                                          # the graded chapters take minutes
    python teaching/nbgrader/try_it.py --grade 12 --work FOLDER

Run by the Python that has nbgrader; the chapters run in the kernel of `--kernel`. Writes `tried.md` beside this file,
and ends with 1 if something did not come out as it should.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BEGIN, END, CLEARED = "### BEGIN SOLUTION", "### END SOLUTION", "raise NotImplementedError()"
COPIES = ("solved", "empty")
PATIENCE = 900  # seconds for one cell


def environment(work: Path, kernel: Path) -> dict[str, str]:
    """What nbgrader runs in: its own programs on the path, and a kernel that is the book's Python."""
    spec = work / "jupyter" / "kernels" / "python3"
    spec.mkdir(parents=True, exist_ok=True)
    words = [str(kernel), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec.joinpath("kernel.json").write_text(json.dumps({"argv": words, "display_name": "Book", "language": "python"}))
    # nbgrader 0.9.6 calls `alembic` by its bare name (api.py, get_alembic_version): without the path, nothing works
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return os.environ | {"PATH": path, "JUPYTER_PATH": str(work / "jupyter"), "HF_HUB_OFFLINE": "1"}


def nbgrader(work: Path, given: dict[str, str], *words: str) -> str:
    """Run one of nbgrader's commands in the course's folder; why it failed, or nothing."""
    done = subprocess.run(
        [sys.executable, "-m", "nbgrader", *words], cwd=work, env=given, capture_output=True, text=True, check=False
    )
    if not done.returncode:
        return ""
    lines = [line for line in done.stderr.splitlines() if "Error" in line] or done.stderr.splitlines() or ["no words"]
    return lines[-1].strip()[:200]


def read(path: Path) -> dict[str, Any]:
    """A notebook as plain data."""
    return json.loads(path.read_text(encoding="utf-8"))


def to_write(notebook: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The cells that learners write in, by nbgrader's id."""
    marked = [cell for cell in notebook["cells"] if cell["metadata"].get("nbgrader", {}).get("solution")]
    return {cell["metadata"]["nbgrader"]["grade_id"]: cell for cell in marked}


def handed_out(source: Path, release: Path) -> str:
    """What is wrong with the notebook that learners get; empty when nothing is.

    Every cell to write in has its stub and nbgrader's line, and no line of a solution that the stub does not have.
    """
    asked, given = to_write(read(source)), to_write(read(release))
    if list(asked) != list(given):
        return f"cells to write in: {list(given)}, not {list(asked)}"
    for name, cell in asked.items():
        stub, _, rest = "".join(cell["source"]).partition(BEGIN)
        left = "".join(given[name]["source"])
        if not left.startswith(stub.rstrip()) or CLEARED not in left or BEGIN in left or END in left:
            return f"{name}: the stub is not as it was"
        own = {line.strip() for line in rest.partition(END)[0].splitlines()} - {
            line.strip() for line in stub.split("\n")
        }
        if {line for line in own if len(line) > 12} & {line.strip() for line in left.splitlines()}:
            return f"{name}: a line of the solution is left"
    return ""


def hand_in(work: Path, name: str) -> None:
    """Two learners' copies: one has the solutions in it, one is as it was handed out."""
    source, release = (work / kind / name / f"{name}.ipynb" for kind in ("source", "release"))
    solutions = to_write(read(source))
    for copy in COPIES:
        notebook = read(release)
        for grade_id, cell in to_write(notebook).items():
            if copy == "solved":
                cell["source"] = "".join(solutions[grade_id]["source"]).partition(BEGIN)[2].partition(END)[0].strip()
        place = work / "submitted" / copy / name / f"{name}.ipynb"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(notebook), encoding="utf-8")


def marks(work: Path, name: str) -> dict[str, str]:
    """Points of each copy, as "2 of 3", from nbgrader's gradebook."""
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{work / 'gradebook.db'}") as book:
        found = {copy: book.find_submission(name, copy) for copy in COPIES}
        return {copy: f"{one.score:g} of {one.max_score:g}" for copy, one in found.items()}


def table(rows: list[dict[str, str]], kernel: Path) -> str:
    """What was tried, as a page."""
    asked = [str(kernel), "-c", "import sys, sana_lab; print(sys.version.split()[0], sana_lab.__version__)"]
    python, package = subprocess.run(asked, capture_output=True, text=True, check=True, cwd="/").stdout.split()
    lines = [
        f"{', '.join(f'{name} {version(name)}' for name in ('nbgrader', 'nbconvert', 'nbclient'))}; chapters of "
        f"sana_lab {package} on Python {python}. Written by `make nbgrader-try`, {date.today().isoformat()}.",
        "",
        "| chapter | exercises | handed out | points, solved | points, empty |",
        "|---|---|---|---|---|",
        *(f"| {' | '.join(row.values())} |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Export, hand out, hand in, mark, write down."""
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("--kernel", type=Path, default=ROOT / ".venv" / "bin" / "python", help="Python of the chapters")
    reader.add_argument("--grade", default="2,5,12", help="chapters to mark, with commas between")
    reader.add_argument("--work", type=Path, help="the course's folder; a new one that is removed if not given")
    reader.add_argument("--out", type=Path, default=HERE / "tried.md")
    asked = reader.parse_args()
    graded = {int(text) for text in asked.grade.split(",") if text}
    work = (asked.work or Path(tempfile.mkdtemp(prefix="course-"))).absolute()
    given = environment(work, asked.kernel.absolute())
    export = ["-m", "sana_lab.cli", "learner", str(work), "--nbgrader", "--book", str(ROOT / "notebooks")]
    subprocess.run([str(asked.kernel), *export], check=True)
    rows, good = [], True
    for folder in sorted((work / "source").iterdir()):
        name = folder.name
        wrong = nbgrader(work, given, "generate_assignment", name, "--create", "--force")
        wrong = wrong or handed_out(folder / f"{name}.ipynb", work / "release" / name / f"{name}.ipynb")
        count = len(to_write(read(folder / f"{name}.ipynb")))
        row = {
            "chapter": name,
            "exercises": str(count),
            "out": wrong or "yes",
            "solved": "not tried",
            "empty": "not tried",
        }
        good &= not wrong
        if not wrong and int(name[:2]) in graded:
            hand_in(work, name)
            words = ("--force", f"--Execute.timeout={PATIENCE}")
            said = {copy: nbgrader(work, given, "autograde", name, "--student", copy, *words) for copy in COPIES}
            row |= {copy: text for copy, text in said.items() if text} or marks(work, name)
            good &= (row["solved"], row["empty"]) == (f"{count} of {count}", f"0 of {count}")
        rows.append(row)
        print(*row.values(), sep="  ", flush=True)
    asked.out.write_text(table(rows, asked.kernel), encoding="utf-8")
    if asked.work is None:
        shutil.rmtree(work)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
