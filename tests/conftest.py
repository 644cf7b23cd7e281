"""What several modules of tests ask for by name; one that wants it otherwise has a fixture of that name of its own."""

import logging

import pytest
from small_sana import build_folder

from sana_lab import load_sana, use_accelerator
from sana_lab.shapes.tiny import tiny_sana


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small Sana in a folder, see `small_sana`."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    return build_folder(tmp_path_factory.mktemp("small") / "pipeline")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The smallest Sana that draws, in a folder."""
    return tiny_sana(tmp_path_factory.mktemp("tiny") / "tiny")


@pytest.fixture(scope="module")
def pipe(model):
    """The same, loaded in 32 bits to the module's GPU."""
    made = load_sana(model, "fp32")
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture
def two_gpus():
    """Two virtual GPUs, for one test."""
    accelerator = use_accelerator(gpus=2, virtual=True)
    yield accelerator
    accelerator.leave()
