"""For tests of commands: what one is given by a line that somebody typed or a record holds."""

from __future__ import annotations

import typer.main

from sana_lab import commandline


def given(function, words):
    """The values with which a command's function would be called."""
    return typer.main.get_command(commandline.single(function)).make_context("x", list(words)).params
