"""The Shapes model: a small trained Sana, the scenes it draws, and a reader that judges its pictures.

Importing this package imports no torch: names are looked up on first use.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from ..lazy import looked_up

if TYPE_CHECKING:  # the same names for editors and type checkers, which do not run `__getattr__`
    from .reader import read_picture as read_picture
    from .reader import read_scene as read_scene
    from .rendering import render as render
    from .scenes import Scene as Scene
    from .scenes import Thing as Thing
    from .scenes import caption as caption
    from .scenes import describe_unknown_words as describe_unknown_words
    from .scenes import sample_scenes as sample_scenes
    from .scoring import Rate as Rate
    from .scoring import adherence as adherence

SHAPES_FOLDER = Path(__file__).parent / "weights"
"""The trained model, a folder in diffusers' pipeline format: `SanaPipeline.from_pretrained(SHAPES_FOLDER)`."""

_WHERE = {
    "Scene": "scenes",
    "Thing": "scenes",
    "sample_scenes": "scenes",
    "caption": "scenes",
    "describe_unknown_words": "scenes",
    "render": "rendering",
    "read_scene": "reader",
    "read_picture": "reader",
    "adherence": "scoring",
    "Rate": "scoring",
}

__all__ = sorted([*_WHERE, "SHAPES_FOLDER"])

if not TYPE_CHECKING:  # or else a type checker would take every name for one that is there
    __getattr__, __dir__ = looked_up(globals(), _WHERE)
