"""Pack a class into one folder that needs no network: wheels, notebooks, the built site, instructions; and try it.

    make kit                                       # builds .cache/kit, tries it in a network namespace without a route
    python tools/kit.py build FOLDER [--index URL ...]
    python tools/kit.py try FOLDER [--chapter 2]   # installs and runs a chapter with nothing but the folder

The wheels are for the system, the processor and the Python that build the kit: it goes onto laptops of that kind. In
the folder, `python3 start.py` installs and opens JupyterLab, and says in one line if the kit is for another kind.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
START = Path(__file__).with_name("kit_start.py")
MIB = 2**20
TO_READ = ("README.md", "LICENSE", "LICENSE-TEXT", "book/workshop.md", "teaching/handout.md")
LAB = ("jupyterlab", "ipykernel", "nbclient", "nbformat", "myst-nb", "ipywidgets")
"""Beside the package: what opens and runs notebooks. Checks, site and tests stay at home."""

TEXT = """\
# 8-bit Sana, without a network

For {machine} with Python {python}. Nothing here fetches anything.

    python3 start.py              # installs into the folder `installed` (once), then opens JupyterLab
    python3 start.py --run 2      # installs, runs chapter 2 and says whether it ended well
    python3 start.py --site       # the built book on port 8000, for whom nothing installs

On Windows write `py` for `python3`. `installed` knows where it was made: copy the folder first, then start.
The notebooks are in `notebooks`; they are yours, and starting again changes none of them.
{site}"""


class KitError(Exception):
    """Why there is no kit, in one line with the way out."""


def kind() -> dict[str, str]:
    """The kind of machine that wheels of this Python are for."""
    return {
        "system": platform.system(),
        "processor": platform.machine(),
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "platform": sysconfig.get_platform(),
    }


def pins(requirements: Path, constraints: Path) -> list[str]:
    """What to install, with exact versions: the package's own needs and `LAB`.

    Raises:
        KitError: one of `LAB` is not pinned.
    """
    import tomllib

    pinned = {}
    for file in (constraints, requirements):
        for line in file.read_text(encoding="utf-8").splitlines():
            name, equals, version = line.partition("#")[0].strip().partition("==")
            if equals:
                pinned[name.strip().lower().replace("_", "-")] = version.strip()
    needs = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    names = [need.partition(">")[0].strip() for need in needs] + list(LAB)
    if missing := [name for name in names if name not in pinned]:
        raise KitError(f"requirements.txt pins no {', '.join(missing)}: pin it there")
    return [f"{name}=={pinned[name]}" for name in dict.fromkeys(names)]


def build(folder: Path, *, indexes: list[str], notebooks: Path, site: Path) -> dict[str, object]:
    """Build the kit.

    Args:
        folder: to build; it must not hold anything else.
        indexes: addresses of more indexes of packages, for the torch without CUDA.
        notebooks: to pack, such as the learner's edition.
        site: the built book, packed if it is there.

    Returns:
        What is in it: kind of machine, files and MiB of each part.

    Raises:
        KitError: the folder is another one's, the disk is full, or pip finds no wheel.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / "kit.json").exists():
        raise KitError(f"{folder} holds something else: give an empty folder")
    found = sorted(notebooks.glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise KitError(f"there are no notebooks in {notebooks}: `sana-lab learner {notebooks}` writes the edition")
    wheels = folder / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(folder).free) < 3000 * MIB:
        raise KitError(f"a kit and its trial take 3 GiB, and the disk of {folder} has {free / MIB:,.0f} MiB left")
    (folder / "kit.json").write_text(json.dumps(kind()), encoding="utf-8")
    more = [word for index in indexes for word in ("--extra-index-url", index)]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    wanted = pins(ROOT / "requirements.txt", ROOT / "constraints.txt")
    for words in (
        ["wheel", "--no-deps", "--wheel-dir", str(wheels), str(ROOT)],
        # Some packages come as source alone: pip builds a wheel of each, so that laptops need no compiler.
        ["wheel", "--wheel-dir", str(wheels), "--constraint", str(ROOT / "constraints.txt"), *more, *wanted],
    ):
        if subprocess.run([*pip, *words], check=False).returncode:
            raise KitError("pip did not get the wheels; its words are above. The next `make kit` goes on from here")
    for name, source in (("notebooks", notebooks), ("site", site)):
        shutil.rmtree(folder / name, ignore_errors=True)
        if name == "site" and source.is_dir():
            shutil.copytree(source, folder / name)
        elif name == "notebooks":
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns(".*", "__pycache__"))
    for name in TO_READ:
        if (ROOT / name).exists():
            (folder / "read").mkdir(exist_ok=True)
            shutil.copy(ROOT / name, folder / "read")
    shutil.copy(START, folder / "start.py")
    has = "The book as pages is in `site`.\n" if (folder / "site").is_dir() else ""
    (folder / "README.md").write_text(
        TEXT.format(machine=f"{kind()['system']} on {kind()['processor']}", python=kind()["python"], site=has),
        encoding="utf-8",
    )
    about = kind() | {
        "install": ["sana-lab", *wanted],
        "MiB": {part.name: size(part) for part in sorted(folder.iterdir())},
        "wheels": count(wheels),
    }
    (folder / "kit.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
    return about


def size(path: Path) -> float:
    """MiB of a file or a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return round(sum(file.stat().st_size for file in files) / MIB, 1)


def count(folder: Path) -> int:
    """Wheels in a folder."""
    return len(list(folder.glob("*.whl")))


def attempt(folder: Path, chapter: int) -> dict[str, object]:
    """Copy the kit elsewhere, cut the network, install, run a chapter; nothing outside the copy is used.

    Returns:
        Seconds of installing and of the chapter, what cut the network, and what was said.

    Raises:
        KitError: the namespace cannot be made here, or the kit does not do what it is for.
    """
    # A laptop without a network still talks to itself, as a notebook and its kernel do.
    itself = 'ip link set lo up && exec "$@"'
    cut = ["unshare", "--net", "--", "sh", "-c", itself, "sh"] if shutil.which("unshare") else []
    probe = [*cut, sys.executable, "-c", "import socket; socket.create_connection(('192.0.2.1', 9), 3)"]
    said = subprocess.run(probe, capture_output=True, text=True).stderr if cut else ""
    if "unreachable" not in said:
        raise KitError(
            "no network namespace can be made here (unshare --net wants Linux, root, and iproute2): try the kit there"
        )
    with tempfile.TemporaryDirectory(prefix="kit-") as place:
        copy = Path(place) / "kit"
        shutil.copytree(folder, copy, symlinks=True, ignore=shutil.ignore_patterns("installed", "site"))
        clean = {"PATH": os.environ["PATH"], "HOME": place, "LANG": "C.UTF-8", "PIP_CONFIG_FILE": os.devnull}
        found: dict[str, object] = {"network": "unshare --net: no route"}
        for name, words in (("install", ["--install"]), ("chapter", ["--run", str(chapter)])):
            begun = time.monotonic()
            done = subprocess.run(
                [*cut, sys.executable, "start.py", *words], cwd=copy, env=clean, capture_output=True, text=True
            )
            if done.returncode:
                raise KitError(f"{' '.join(words)} failed: {(done.stderr or done.stdout).strip()[-600:]}")
            found[f"seconds_{name}"] = round(time.monotonic() - begun, 1)
        found["chapter"] = chapter
        found["said"] = done.stdout.strip().splitlines()[-1]
        found["MiB_installed"] = size(copy / "installed")
        other = json.loads((copy / "kit.json").read_text()) | {"system": "Plan 9", "platform": "plan9-mips"}
        (copy / "kit.json").write_text(json.dumps(other))
        refused = subprocess.run([sys.executable, "start.py"], cwd=copy, env=clean, capture_output=True, text=True)
        found["on another kind of machine"] = refused.stderr.strip()
        if refused.returncode == 0 or refused.stderr.count("\n") != 1:
            raise KitError(f"a kit for another machine was not refused in one line: {refused.stderr[-300:]}")
    return found


def main() -> int:
    """Build or try."""
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("do", choices=("build", "try"))
    reader.add_argument("folder", type=Path)
    reader.add_argument(
        "--index", action="append", default=[], help="another index of packages, for torch without CUDA"
    )
    reader.add_argument("--notebooks", type=Path, default=ROOT / ".cache" / "learner", help="what learners get")
    reader.add_argument("--site", type=Path, default=ROOT / "_build" / "html", help="the built book")
    reader.add_argument("--chapter", type=int, default=2)
    asked = reader.parse_args()
    try:
        if asked.do == "build":
            found = build(asked.folder, indexes=asked.index, notebooks=asked.notebooks, site=asked.site)
        else:
            found = attempt(asked.folder, asked.chapter)
    except (KitError, OSError) as reason:
        print(f"No kit: {reason}.", file=sys.stderr)
        return 1
    print(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
