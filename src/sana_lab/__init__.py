"""Helpers behind the book *8-bit Sana*.

Importing this package is cheap and changes nothing: names are looked up on first use.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from .lazy import looked_up

if TYPE_CHECKING:  # the same names for editors and type checkers, which do not run `__getattr__`
    from .accelerator import use_accelerator as use_accelerator
    from .failures import explain as explain
    from .fitting.planner import plan as plan
    from .guard import checked as checked
    from .layers import contiguous_inputs_ as contiguous_inputs_
    from .monitor import memory as memory
    from .placements import placement as placement
    from .sana import load_sana as load_sana
    from .shapes import SHAPES_FOLDER as SHAPES_FOLDER
    from .shapes import adherence as adherence
    from .shapes import caption as caption
    from .shapes import describe_unknown_words as describe_unknown_words
    from .shapes import read_scene as read_scene
    from .shapes import render as render
    from .shapes import sample_scenes as sample_scenes
    from .versions.doctor import doctor as doctor

    __version__: str

_WHERE = {
    "use_accelerator": "accelerator",
    "load_sana": "sana",
    "explain": "failures",
    "doctor": "versions.doctor",
    "plan": "fitting.planner",
    "placement": "placements",
    "checked": "guard",
    "memory": "monitor",
    "contiguous_inputs_": "layers",
    "adherence": "shapes",
    "caption": "shapes",
    "read_scene": "shapes",
    "render": "shapes",
    "sample_scenes": "shapes",
    "describe_unknown_words": "shapes",
    "SHAPES_FOLDER": "shapes",
}

__all__ = sorted(_WHERE)

if not TYPE_CHECKING:  # or else a type checker would take every name for one that is there
    _look_up, __dir__ = looked_up(globals(), _WHERE)

    def __getattr__(name: str) -> object:
        if name == "__version__":  # pyproject.toml has it, once
            try:
                return version("sana-lab")
            except PackageNotFoundError:
                return "0+not.installed"
        return _look_up(name)


def load_ipython_extension(shell) -> None:
    """`%load_ext sana_lab` gives a notebook `%explain`, which explains the last exception. Chapter 10."""
    import_module(f"{__name__}.failures.notebook").register(shell)
