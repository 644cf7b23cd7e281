"""The figure style, measured: contrast, color blindness, grey, size and sameness."""

from __future__ import annotations

import io
import itertools
import re

import matplotlib as mpl
import numpy as np
import pytest
from IPython.core.pylabtools import print_figure
from matplotlib import colors
from matplotlib.figure import Figure
from PIL import Image

from chapters import ROOT
from sana_lab import figures

GROUNDS = {"white": "#ffffff", "sphinx-book-theme dark": "#121212", "pydata-sphinx-theme dark": "#14181e"}
# Machado, Oliveira and Fernandes (2009), full severity, on linear RGB.
BLINDNESS = {
    "none": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def linear(color):
    c = np.array(colors.to_rgb(color))
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def luminance(color):
    return linear(color) @ [0.2126, 0.7152, 0.0722]


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def lab(rgb):
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ np.clip(rgb, 0, 1)
    f = [np.cbrt(v) if v > 0.008856 else 7.787 * v + 16 / 116 for v in xyz / [0.9505, 1, 1.089]]
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def closest(palette, matrix):
    seen = [lab(np.array(matrix) @ linear(color)) for color in palette]
    return min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2))


def svg(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def style():
    with mpl.rc_context():
        figures.use_style()
        yield


@pytest.fixture
def pictures():
    """Eight pictures with shapes on a ground, as the Shapes model draws them."""
    draws = np.random.default_rng(0)
    result = []
    for _ in range(8):
        array = np.empty((512, 512, 3), np.uint8)
        array[:] = draws.integers(0, 255, 3)
        array[150:350, 100:300] = draws.integers(0, 255, 3)
        result.append(Image.fromarray(array))
    return result


@pytest.mark.parametrize("ground", GROUNDS.values(), ids=GROUNDS)
def test_text_and_colors_are_legible_on_every_ground(ground):
    assert contrast(figures.INK, ground) >= 3.8
    assert min(contrast(color, ground) for color in figures.PALETTE.values()) >= 2.3


def test_the_books_own_pages_show_text_at_four_and_a_half_to_one():
    """On dark pages theme.css shows figures brighter, and black behind those that hold pictures."""
    theme = (ROOT / "book" / "_static" / "theme.css").read_text(encoding="utf-8")
    brighter = float(re.search(r":not\(\.has-pictures\).*\{ filter: brightness\(([\d.]+)\)", theme)[1])

    def lit(color):
        return "#" + "".join(f"{min(255, round(int(color[i : i + 2], 16) * brighter)):02x}" for i in (1, 3, 5))

    assert contrast(figures.INK, "#ffffff") >= 4.5
    assert contrast(figures.INK, "#000000") >= 4.5
    assert contrast(lit(figures.INK), "#121212") >= 4.5
    assert min(contrast(lit(color), "#121212") for color in figures.PALETTE.values()) >= 3


@pytest.mark.parametrize("kind", BLINDNESS)
def test_colors_differ_for_every_kind_of_color_vision(kind):
    assert closest(figures.PALETTE.values(), BLINDNESS[kind]) >= 25


def test_colors_differ_in_grey_and_neighbors_differ_most():
    grey = [lab(np.full(3, luminance(color)))[0] for color in figures.COLORS]
    assert min(np.diff(sorted(grey))) >= 8
    assert abs(np.diff(grey)[0]) >= 30  # the first two are used together most
    assert set(figures.COLORS) == set(figures.PALETTE.values())


def test_the_measures_find_a_bad_palette_out():
    assert contrast("#f0e442", "#ffffff") < 2.3  # yellow on white
    assert contrast("#333333", "#14181e") < 2.3
    assert closest(["#d62728", "#2ca02c"], BLINDNESS["deutan"]) < 25  # matplotlib's red and green
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


def test_the_second_channel_is_as_long_as_the_first():
    assert len(figures.COLORS) == len(set(figures.HATCHES)) == len(set(figures.MARKERS)) == 5


def figure_of_each_kind(pictures):
    yield figures.picture_grid({"bf16": pictures, "8-bit": pictures}, [f"picture {i}" for i in range(8)])
    yield figures.bars_with_intervals({"bf16": [(97, 95, 98)], "8-bit": [(96, 94, 98)]}, ["one object"], xlabel="%")
    yield figures.stacked_bytes({"bf16": {"encoder": 3 << 30, "vae": 2 << 30}, "8-bit": {"encoder": 1 << 30}})
    yield figures.flow([("Reader", "reads", "blue")], ["text", "vectors"], again=(0, "twice", "noise"))


def test_the_same_figure_gives_the_same_bytes_without_a_date(pictures):
    for first, second in zip(figure_of_each_kind(pictures), figure_of_each_kind(pictures), strict=True):
        assert svg(first) == svg(second)
        assert b"<dc:date>" not in svg(first)


def test_grounds_are_transparent(pictures):
    for figure in figure_of_each_kind(pictures):
        shown = print_figure(figure, "png", bbox_inches="tight")  # as a notebook does it, not through savefig
        assert np.array(Image.open(io.BytesIO(shown)))[0, 0, 3] == 0


def test_a_grid_stays_small_and_shows_every_picture(pictures):
    draws = np.random.default_rng(1)
    noise = [Image.fromarray(draws.integers(0, 255, (512, 512, 3), np.uint8)) for _ in range(8)]
    for rows, count in (({"a": pictures, "b": pictures}, 16), ({"noise": noise, "b": pictures}, 16)):
        drawn = svg(figures.picture_grid(rows))
        assert len(drawn) < 300 * 1024
        assert len(re.findall(b"<image", drawn)) == count


def test_grid_rows_keep_their_order(pictures):
    figure = figures.picture_grid({"first": pictures[:2], "second": pictures[2:4]})
    shown = [axes.images[0].get_array()[0, 0].tolist() for axes in figure.axes]
    assert shown == [np.array(picture)[0, 0].tolist() for picture in pictures[:4]]
    assert [text.get_text() for text in figure.texts] == ["first", "second"]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda p: figures.picture_grid({}), "at least one"),
        (lambda p: figures.picture_grid({"a": []}), "at least one"),
        (lambda p: figures.picture_grid({"a": p[:2], "b": p[:1]}), "same number"),
        (lambda p: figures.picture_grid({"a": p[:2]}, ["one"]), "1 captions for 2 columns"),
        (lambda p: figures.bars_with_intervals({"a": [(1, 0, 2)]}, ["x", "y"], xlabel="%"), "1 values for 2 labels"),
        (lambda p: figures.bars_with_intervals({"a": [(3, 0, 2)]}, ["x"], xlabel="%"), "does not hold"),
        (lambda p: figures.bars_with_intervals({"a": [(float("nan"), 0, 2)]}, ["x"], xlabel="%"), "does not hold"),
        (lambda p: figures.stacked_bytes({}), "at least one row"),
        (lambda p: figures.stacked_bytes({"a": {"x": -1}}), "negative"),
        (lambda p: figures.flow([("Reader", "reads", "blue")], ["text"]), "1 boxes have 2 arrows"),
    ],
)
def test_bad_input_is_refused(pictures, call, said):
    with pytest.raises(ValueError, match=said):
        call(pictures)


def test_bars_and_intervals_stand_where_the_numbers_say():
    axes = figures.bars_with_intervals({"a": [(40, 30, 45), (70, 60, 80)]}, ["x", "y"], xlabel="share (%)").axes[0]
    assert [bar.get_width() for bar in axes.patches] == [40, 70]
    ends = [segment[:, 0].tolist() for segment in axes.collections[0].get_segments()]
    assert ends == [[30, 45], [60, 80]]
    assert axes.get_xlabel() == "share (%)"


def test_stacked_bars_add_up_and_name_their_unit():
    axes = figures.stacked_bytes({"bf16": {"a": 6 << 20, "b": 2 << 20}, "8-bit": {"b": 1 << 20}}).axes[0]
    assert [text.get_text() for text in axes.texts] == ["8.0 MiB", "1.0 MiB"]
    assert sorted(bar.get_x() + bar.get_width() for bar in axes.patches) == [0, 1, 6, 8]
    large = figures.stacked_bytes({"bf16": {"a": 6 << 30}}).axes[0]
    assert large.get_xlabel() == "weights in memory (GiB)"


def test_a_model_has_one_color_whatever_its_place_and_its_name():
    def colors(*components):
        axes = figures.stacked_bytes({"bf16": dict.fromkeys(components, 1 << 20)}).axes[0]
        return {bar.get_label(): bar[0].get_facecolor() for bar in axes.containers}

    own = {name: mpl.colors.to_rgba(figures.PALETTE[hue]) for name, hue in figures.COMPONENTS.items()}
    assert colors("vae", "text_encoder", "transformer") == colors(*own) == own
    assert colors("transformer") == {"transformer": own["transformer"]}
    named = colors("text encoder", "transformer", "autoencoder")
    assert list(named.values()) == list(own.values())
    mixed = colors("scheduler", "transformer", "vae", "other")
    assert (mixed["transformer"], mixed["vae"]) == (own["transformer"], own["vae"])
    assert len(set(mixed.values())) == 4
    assert len(colors(*"abcdefg")) == 7


def test_a_flow_names_its_boxes_and_arrows_in_order():
    boxes = [("Reader", "reads", "blue"), ("Painter", "paints", "amber")]
    axes = figures.flow(boxes, ["text", "vectors", "picture"], again=(1, "20 times", "noise")).axes[0]
    said = [text.get_text() for text in axes.texts if text.get_text()]
    assert said == ["text", "vectors", "picture", "Reader", "reads", "Painter", "paints", "20 times", "noise"]
    assert [patch.get_edgecolor() for patch in axes.patches if hasattr(patch, "get_boxstyle")] == [
        mpl.colors.to_rgba(figures.PALETTE[color]) for _, _, color in boxes
    ]


def test_a_returned_figure_is_shown_once():
    """Pyplot would keep it and a notebook would show it a second time at the end of the cell."""
    from matplotlib import pyplot

    assert isinstance(figures.stacked_bytes({"a": {"x": 1}}), Figure)
    assert pyplot.get_fignums() == []
