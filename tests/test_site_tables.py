"""Tables as pages show them: what moves, what is dropped, and what must stay as pandas printed it."""

from __future__ import annotations

import pandas as pd
import pytest
from bs4 import BeautifulSoup

from site_tables import minus, tidy


def shown(frame: pd.DataFrame | str) -> tuple[list[list[str]], list[list[str]]]:
    """Words of the headers and of the rows of a tidied table."""
    html = frame if isinstance(frame, str) else f"<div>\n<style scoped>th {{ }}</style>\n{frame.to_html()}</div>"
    table = BeautifulSoup(tidy(html), "html.parser").table
    rows = [[cell.get_text(strip=True) for cell in row.find_all(["th", "td"])] for row in table.find_all("tr")]
    heads = len(table.thead.find_all("tr"))
    return rows[:heads], rows[heads:]


def test_names_of_rows_stand_beside_those_of_columns():
    frame = pd.DataFrame({"layers": [28, 25]}, index=pd.Index(["Linear", "Conv2d"], name="kind"))
    assert shown(frame) == ([["kind", "layers"]], [["Linear", "28"], ["Conv2d", "25"]])


def test_two_levels_of_rows_and_of_columns_keep_their_places():
    frame = pd.DataFrame(
        [[1, 2], [3, 4]],
        index=pd.MultiIndex.from_tuples([("vae", "Conv2d"), ("vae", "Linear")], names=["part", "kind"]),
        columns=pd.MultiIndex.from_tuples([("weights", "16"), ("weights", "8")]),
    )
    heads, rows = shown(frame)
    assert heads == [["", "", "weights"], ["part", "kind", "16", "8"]]
    assert rows == [["vae", "Conv2d", "1", "2"], ["Linear", "3", "4"]]


def test_a_row_of_headers_that_is_empty_goes():
    frame = pd.DataFrame({"stacks": ["2024-12"]}, index=pd.Index(["fails"], name=""))
    assert shown(frame) == ([["", "stacks"]], [["fails", "2024-12"]])


def test_headers_that_say_something_stay():
    crossed = pd.DataFrame({"right": [1]}, index=pd.Index(["wrong"], name="bf16")).rename_axis(columns="int8")
    assert shown(crossed)[0] == [["int8", "right"], ["bf16", ""]]


def test_rows_that_are_only_counted_lose_their_numbers_and_named_ones_keep_them():
    frame = pd.DataFrame({"x": ["0.5", "1.0"]})
    assert shown(frame) == ([["x"]], [["0.5"], ["1.0"]])
    assert shown(frame.rename_axis("row"))[1] == [["0", "0.5"], ["1", "1.0"]]
    assert shown(frame.set_axis([1, 2]))[1] == [["1", "0.5"], ["2", "1.0"]]


@pytest.mark.parametrize(
    ("printed", "read"),
    [
        ("-0.2", "−0.2"),
        ("-93.5 (-96.4 to -88.7)", "−93.5 (−96.4_to_−88.7)"),
        ("98.4 % (96.9 to 99.2)", "98.4_% (96.9_to_99.2)"),
        ("6715", "6,715"),
        ("-17829", "−17,829"),
        ("999", "999"),
        ("1977.5", "1977.5"),
        ("2026-11-30", "2026-11-30"),
        ("1.5-4.8B", "1.5-4.8B"),
        ("rows: -3", "rows: -3"),
        ("a name of 12000", "a name of 12000"),
    ],
)
def test_numbers_are_written_as_in_prose(printed, read):
    assert shown(pd.DataFrame({"found": [printed]}, index=["a"]))[1] == [["a", read.replace("_", "\N{NO-BREAK SPACE}")]]


@pytest.mark.parametrize(("printed", "read"), [("-0.6", "−0.6"), ("-0.1 to 2", "−0.1 to 2"), ("pip -3", "pip -3")])
def test_a_minus_is_for_numbers_alone(printed, read):
    assert minus(printed) == read


def test_numbers_that_are_names_get_no_comma():
    assert shown(pd.DataFrame({"seed": [2024], "year": [1977]}, index=["a"]))[1] == [["a", "2024", "1977"]]


def test_columns_of_words_are_marked_and_columns_of_numbers_are_not():
    frame = pd.DataFrame({"said": ["out of memory, loading vae", "4.4 GiB"], "times": ["1", "2"]}, index=["a", "b"])
    table = BeautifulSoup(tidy(frame.to_html()), "html.parser").table
    assert [cell.get_text() for cell in table.select(".words")] == ["said", "out of memory, loading vae", "4.4 GiB"]


@pytest.mark.parametrize(
    "html",
    [
        "<p>no table, -0.2</p>",
        "<table><tr><td>-0.2</td></tr></table>",
        '<table class="dataframe"><thead><tr><th></th></tr></thead><tbody><tr><th>0</th>'
        '<td><svg viewBox="0 0 1 1"></svg></td></tr></tbody></table>',
        '<table class="dataframe"><tr><td>-0.2</td></tr></table>',
    ],
)
def test_all_else_stays_as_it_is(html):
    assert tidy(html) == html


def test_an_empty_table_stays_one():
    assert shown(pd.DataFrame({"a": []})) == ([["", "a"]], [])


def test_short_names_of_rows_are_marked():
    frame = pd.DataFrame({"n": [1, 2]}, index=["600M-512", "step, best 8-bit ÷ best 16-bit"])
    table = BeautifulSoup(tidy(frame.to_html()), "html.parser").table
    assert [cell.get_text() for cell in table.select("th.short")] == ["600M-512"]
