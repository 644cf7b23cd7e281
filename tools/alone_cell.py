"""Opened alone, in Colab or from a download? Then this cell gets the book's package, or says what is missing."""


def get_the_package(repository: str) -> None:
    """Install sana_lab where it is missing: from a wheel beside this notebook, the book's folder, or its repository."""
    import importlib.util
    import subprocess
    import sys
    from pathlib import Path  # here, so that the chapter's own imports are its first

    if all(importlib.util.find_spec(name) for name in ("sana_lab", "myst_nb")):
        return
    here = Path.cwd()
    folders = [folder for folder in (here, *here.parents) if (folder / "src" / "sana_lab").is_dir()]
    found = [*sorted(here.glob("sana_lab-*.whl"))[-1:], *folders]
    source = f"{found[0]}[book]" if found else f"sana-lab[book] @ git+{repository}" if repository else None
    by_hand = (
        "Get the book's folder, run `pip install \"FOLDER[book]\"` in this notebook's environment, and restart it."
    )
    if source is None:
        raise ModuleNotFoundError(
            f"sana_lab is not installed, and this notebook was opened without its book. {by_hand}"
        )
    print(f"Installing {source}: with PyTorch and diffusers, this takes minutes.")
    pip = subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", source], capture_output=True, text=True)
    if pip.returncode:
        said = (pip.stderr.strip() or "pip said nothing").splitlines()[-1]
        raise ModuleNotFoundError(f"sana_lab could not be installed ({said}). {by_hand}")
    importlib.invalidate_caches()


get_the_package(repository="")
