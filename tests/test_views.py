"""The table of views: hooks see what bitsandbytes would get, and Sana hands on views without guidance alone."""

import pytest
import torch
from torch import nn

from sana_lab import use_accelerator, views
from sana_lab.views import table, watched


def test_a_view_is_told_from_what_lies_in_order():
    model, rows = nn.Sequential(nn.Linear(4, 3)), torch.randn(1, 4, 5)
    cases = {
        "in order": (rows.transpose(1, 2).contiguous(), False), "batch of one": (rows.transpose(1, 2), True),
        "batch of two": (rows.expand(2, -1, -1).transpose(1, 2), False), "two dimensions": (rows[0].T, True),
        "a slice": (torch.randn(5, 8)[:, :4], True),
    }  # fmt: skip
    for name, (given, expected) in cases.items():
        with watched(model) as seen:
            model(given)
        assert seen == {"0": [expected]}, name
    model(rows[0].T)
    assert len(seen["0"]) == 1, "the hooks are gone"


def test_sana_hands_on_views_where_it_draws_one_picture_without_guidance():
    found = table(["SanaPipeline", "SanaSprintPipeline"])
    with_views = found[found["views"] > 0]
    assert set(with_views["model"]) == {"transformer"} and set(with_views["pictures"]) == {1}
    assert dict(zip(with_views["pipeline"], with_views["guidance"], strict=True)) == {
        "SanaPipeline": "off", "SanaSprintPipeline": "has none",
    }  # fmt: skip
    assert all("transformer_blocks.{0,1}.attn1.to_out.0" in which for which in with_views["which"])


def test_values_show_what_the_guard_is_worth():
    """Of three pipelines, one by its own class of transformer: the layers as made lose most, guarded ones little."""
    with use_accelerator(virtual=True):
        found = views.values(["SanaSprintPipeline", "SanaVideoPipeline", "SanaControlNetPipeline"])
    for name, kept in found.items():
        assert kept["guarded"] > 35, (name, kept)
        assert kept["8 bits"] < kept["guarded"] - 12, (name, kept)


def test_values_want_a_gpu():
    with pytest.raises(RuntimeError, match=r"needs a GPU, real or virtual: call sana_lab.use_accelerator\(\) first"):
        views.values()
