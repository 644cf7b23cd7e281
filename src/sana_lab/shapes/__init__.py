"""The Shapes model: a small trained Sana, the scenes it draws, and a reader that judges its pictures.

Importing this package imports no torch: names are looked up on first use.
"""

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

SHAPES_FOLDER = Path(__file__).parent / "weights"
"""The trained model, a folder in diffusers' pipeline format: `SanaPipeline.from_pretrained(SHAPES_FOLDER)`."""

_WHERE = {
    "Scene": "scenes",
    "Thing": "scenes",
    "sample_scenes": "scenes",
    "caption": "scenes",
    "describe_unknown_words": "scenes",
    "render": "render",
    "read_scene": "reader",
    "read_picture": "reader",
    "adherence": "adherence",
}

__all__ = sorted([*_WHERE, "SHAPES_FOLDER"])


def __getattr__(name: str):
    if name in _WHERE:
        return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


class _Package(ModuleType):
    """Lets `render` and `adherence` be the functions, though modules of these names exist.

    Importing a submodule sets it as an attribute of its package, which would hide the function from `__getattr__`.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _WHERE and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
