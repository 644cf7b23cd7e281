"""Helpers behind the book *8-bit Sana*.

Importing this package is cheap and changes nothing: names are looked up on first use.
"""

from importlib import import_module

__version__ = "0.1.0"

_WHERE = {
    "use_accelerator": "accelerator",
    "load_sana": "sana",
    "explain": "failures",
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
