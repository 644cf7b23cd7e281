"""What a type checker, and so an editor, sees of the package's front door. `make check` gives this file to ty.

Nothing here is run. A name that editors could not resolve would be `Unknown`, and `assert_type` would say so.
"""

from pathlib import Path
from typing import assert_type

import numpy as np
import torch
from diffusers import SanaPipeline

import sana_lab
from sana_lab import (
    SHAPES_FOLDER,
    adherence,
    caption,
    checked,
    contiguous_inputs_,
    describe_unknown_words,
    doctor,
    explain,
    load_sana,
    memory,
    placement,
    read_scene,
    render,
    sample_scenes,
    use_accelerator,
)
from sana_lab.accelerator import Accelerator
from sana_lab.failures import Explanation
from sana_lab.int8 import QuantizedTensor, quantize
from sana_lab.monitor import Memory
from sana_lab.placements import Placement
from sana_lab.shapes import Rate, Scene
from sana_lab.shapes.scoring import Adherence
from sana_lab.versions.doctor import Diagnosis


def front_door(layer: torch.nn.Linear) -> None:
    """Each name has the type that its module gives it."""
    assert_type(use_accelerator(gpus=2, vram="8GiB", virtual=True), Accelerator)
    assert_type(SHAPES_FOLDER, Path)
    scenes = sample_scenes(3, 2, seed=0)
    assert_type(scenes, list[Scene])
    assert_type(caption(scenes[0]), str)
    found = adherence(map(render, scenes), scenes)
    assert_type(found, Adherence)
    assert_type(found.rates, dict[str, Rate])
    assert_type(found.right, np.ndarray)
    assert_type(read_scene(render(scenes[0])), Scene | None)
    assert_type(describe_unknown_words("a red teapot"), list[str])
    assert_type(contiguous_inputs_(layer), torch.nn.Linear)
    assert_type(explain("out of memory"), Explanation)
    assert_type(doctor(), Diagnosis)
    assert_type(quantize(torch.ones(2)), QuantizedTensor)
    assert_type(placement(None), Placement)
    assert_type(memory(), Memory)
    assert_type(sana_lab.placement(None), Placement)


def pipelines() -> SanaPipeline:
    """A guarded pipeline is what went in."""
    return checked(load_sana("shapes", "int8", slim={"embedding"}), eight_bit=("transformer",))
