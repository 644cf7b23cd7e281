"""What several modules of tests ask for by name; one that wants it otherwise has a fixture of that name of its own."""

import logging

import pytest
from small_sana import build_folder

from sana_lab import use_accelerator


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small Sana in a folder, see `small_sana`."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    return build_folder(tmp_path_factory.mktemp("small") / "pipeline")


@pytest.fixture
def two_gpus():
    """Two virtual GPUs, for one test."""
    accelerator = use_accelerator(gpus=2, virtual=True)
    yield accelerator
    accelerator.leave()
