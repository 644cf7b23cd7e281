"""Start the book from this folder, without a network: `python3 start.py` (README.md beside this file)."""

import argparse
import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
INSTALLED = HERE / "installed"
PYTHON = INSTALLED / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
DONE = INSTALLED / "done"


def main():
    """Install what is missing, then do what was asked."""
    reader = argparse.ArgumentParser(description=__doc__)
    reader.add_argument("--install", action="store_true", help="install, open nothing")
    reader.add_argument("--run", type=int, metavar="CHAPTER", help="run a chapter and say whether it ended well")
    reader.add_argument("--site", action="store_true", help="show the built book on port 8000")
    asked = reader.parse_args()
    if asked.site:
        return pages()
    about = json.loads((HERE / "kit.json").read_text(encoding="utf-8"))
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if (about["platform"], about["python"]) != (sysconfig.get_platform(), here):
        return stop(
            f"This kit is for {about['platform']} with Python {about['python']}, and this is "
            f"{sysconfig.get_platform()} with Python {here}: take a kit made on such a machine, or read: --site"
        )
    if not DONE.exists() and (wrong := install()):
        return stop(wrong)
    if asked.install:
        return 0
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    if asked.run is None:
        return subprocess.call([str(PYTHON), "-m", "jupyter", "lab", str(HERE / "notebooks")], env=env)
    found = sorted((HERE / "notebooks").glob(f"{asked.run:02d}_*.ipynb"))
    if not found:
        return stop(f"There is no chapter {asked.run} in {HERE / 'notebooks'}.")
    return subprocess.call([str(PYTHON), "-c", RUN, str(found[0])], cwd=HERE / "notebooks", env=env)


RUN = """
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=900, kernel_name="python3").execute()
cells = sum(cell.cell_type == "code" for cell in notebook.cells)
print(f"{cells} cells ran, none failed; the file was not changed.")
"""


def install():
    """Make an environment from the wheels alone; words if that does not work, and then nothing is left of it."""
    print("Installing from this folder, a few minutes the first time.", flush=True)
    try:
        venv.create(INSTALLED, with_pip=True)
        words = ["install", "--quiet", "--no-compile", "--no-index", "--find-links", str(HERE / "wheels")]
        names = json.loads((HERE / "kit.json").read_text(encoding="utf-8"))["install"]
        pip = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", *words, *names]
        if subprocess.call(pip):
            return "The wheels did not install; pip's words are above. Is the disk full? Then start again."
        DONE.touch()
    except (OSError, subprocess.CalledProcessError) as reason:
        return f"The folder {INSTALLED} could not be made: {reason}. Copy the kit to a disk with 2 GiB to spare."
    return ""


def pages():
    """Show the built book."""
    if not (HERE / "site").is_dir():
        return stop("The pages are not in this kit: it was made before `make book`.")
    print("The book is on http://localhost:8000; stop with Ctrl+C.")
    return subprocess.call([sys.executable, "-m", "http.server", "--directory", str(HERE / "site"), "8000"])


def stop(words):
    """Say why, in one line."""
    print(words, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
