"""Pictures that are there: two folders with the same names in both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from ..generate import prompts
from ..generate.few import SUFFIXES
from ..messages import counted


class Pictures(Sequence[Image.Image]):
    """Pictures of files, opened as they are taken: thousands of them need no memory."""

    def __init__(self, files: Sequence[Path]):
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, which: Any) -> Any:
        """One picture, or a list of them.

        Raises:
            ValueError: a file is no picture, or damaged.
            OSError: it cannot be read.
        """
        if isinstance(which, slice):
            return [self[i] for i in range(*which.indices(len(self)))]
        return opened(self.files[which])


def opened(file: Path) -> Image.Image:
    """A picture, whole.

    Raises:
        ValueError: it is no picture, or damaged.
        OSError: it cannot be read.
    """
    try:
        with Image.open(file) as picture:
            picture.load()
            return picture.copy()
    except (UnidentifiedImageError, SyntaxError, Image.DecompressionBombError):
        raise ValueError(f"{file} is no picture that Pillow reads: give folders of pictures alone.") from None
    except OSError as error:
        if error.errno is None:  # Pillow's word for a file that ends too early
            raise ValueError(f"{file} is a damaged picture ({error}): draw it again, or delete it.") from None
        raise OSError(f"{file}: cannot be read ({error.strerror}).") from None


def pairs(first: Path, second: Path) -> list[str]:
    """Names of the pictures that both folders have, sorted.

    Raises:
        ValueError: a folder has no picture, or one that the other has not.
        OSError: a folder cannot be read.
    """
    there = []
    for folder in (first, second):
        try:
            names = {
                path.name
                for path in folder.iterdir()
                if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
            }
        except OSError as error:
            raise OSError(f"{folder}: cannot be read ({error.strerror}).") from None
        if not names:
            raise ValueError(f"{folder} has no picture in it ({', '.join(SUFFIXES)}).")
        there.append(names)
    for mine, others, folder, other in ((*there, first, second), (*there[::-1], second, first)):
        if alone := sorted(mine - others):
            more = f" and {len(alone) - 1} more" * (len(alone) > 1)
            raise ValueError(
                f"{folder} has {counted(len(mine), 'picture')} and {other} {len(others)}; only the first has "
                f"{alone[0]}{more}: the same names in both are compared."
            )
    return sorted(there[0])


def prompts_of(names: Sequence[str], folder: Path, file: Path | None, seed: int = 0) -> list[str] | None:
    """The prompt of each picture: from a file of them, or from what the pictures themselves say; None where neither.

    Args:
        names: of the pictures.
        folder: with these; `sana-lab generate --prompts` and `compare` note the prompt in each.
        file: of prompts, see `sana_lab.generate.prompts.read`; it goes by names where these are its names, otherwise
            by the order of the sorted names.
        seed: does not matter here, see there.

    Raises:
        ValueError: the file has no prompt, or not as many as there are pictures.
        OSError: it cannot be read.
    """
    if file is not None:
        wanted, _ = prompts.read(file, seed)
        by_name = {w.name: w.prompt for w in wanted}
        if set(by_name) == set(names):
            return [by_name[name] for name in names]
        if len(wanted) != len(names):
            raise ValueError(
                f"--prompts {file}: {counted(len(wanted), 'prompt')} for {counted(len(names), 'pair')} of pictures."
            )
        return [w.prompt for w in wanted]
    found = [opened(folder / name).info.get("prompt") for name in names]
    return [str(prompt) for prompt in found] if all(found) else None
