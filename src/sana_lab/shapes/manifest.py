"""The list of files that the trained Shapes model consists of, each with its SHA-256, and the check against it.

The list is `manifest.json` in the model's folder: `{"files": {"transformer/config.json": "9f86d08...", ...}}`.
"""

from __future__ import annotations

from pathlib import Path

from ..digests import sha256
from ..evidence import journal

NAME = "manifest.json"


def write_manifest(folder: str | Path) -> Path:
    """List every file below `folder` in `folder/manifest.json`, and return its path. Hidden files are left out."""
    folder = Path(folder)
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    kept = [n for n in names if n != NAME and not any(part.startswith(".") for part in n.split("/"))]
    path = folder / NAME
    journal.write_json(path, {"files": {n: sha256(folder / n) for n in kept}})
    return path


def check(folder: str | Path) -> None:
    """Compare the files of `folder` with its manifest. Files that the manifest does not name are not looked at.

    Raises:
        OSError: a file is missing or differs, or the manifest itself cannot be read. The text names the file and says
            how to get it back.
    """
    folder = Path(folder)
    path = folder / NAME
    if not folder.is_dir():
        raise OSError(
            f"{folder} is not there. To get the trained weights back: in a clone of the repository "
            f"`git checkout -- {folder}`; otherwise install the package again; or make new ones with `sana-lab train`."
        )
    try:
        files = journal.read(path, {"files": {str: str}}, way_out="")["files"]
    except FileNotFoundError:
        raise _broken(path, "is missing") from None
    except ValueError:  # cut off, no longer text, or JSON of another shape
        raise _broken(path, "is damaged") from None
    for name, expected in files.items():
        if not (folder / name).is_file():
            raise _broken(folder / name, "is missing")
        if sha256(folder / name) != expected:
            raise _broken(folder / name, "is damaged (its SHA-256 is not the one in manifest.json)")


def _broken(path: Path, what: str) -> OSError:
    return OSError(
        f"{path} {what}. To get it back: in a clone of the repository `git checkout -- {path}`; "
        "otherwise install the package again with `pip install --force-reinstall --no-deps`, from where you had it."
    )
