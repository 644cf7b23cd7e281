"""Helpers behind the book *8-bit Sana*.

Importing this package is cheap and changes nothing: names are looked up on first use.
"""

import sys
from importlib import import_module
from types import ModuleType

__version__ = "0.1.0"

_WHERE = {
    "use_accelerator": "accelerator",
    "load_sana": "sana",
    "explain": "failures",
    "doctor": "versions.doctor",
    "placement": "placement",
    "checked": "guard",
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


def __getattr__(name: str):
    if name in _WHERE:
        return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


def load_ipython_extension(shell) -> None:
    """`%load_ext sana_lab` gives a notebook `%explain`, which explains the last exception. Chapter 8."""
    import_module(f"{__name__}.failures.notebook").register(shell)


class _Package(ModuleType):
    """Lets `placement` be the function, though a module of this name exists, as `sana_lab.shapes` does for `render`."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _WHERE and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
