"""What all commands share: how they look, which numbers they take, and that what goes wrong is one line.

A command is a function with typer's annotations, `sana-lab NAME` or `python -m sana_lab.MODULE`; `run_command` runs
it. Numbers are checked while the command line is read, so before anything is imported, made or written:

    def bench(n: Annotated[int, typer.Option("-n", callback=whole(1, 1000))] = 5) -> None: ...

A worker process that our own code starts reads its arguments as it likes.
"""

from __future__ import annotations

import errno
import functools
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer
import typer.main
from typer.core import TyperCommand

DEBUG_VARIABLE = "SANA_LAB_DEBUG"

INTERRUPTED = 130
"""Exit status after Ctrl+C, as of a shell."""

LARGEST_SEED = 2**63 - 1
LONGEST_WAIT = 1_000_000
"""Seconds, eleven days: a system's timers take no number whatever."""

OURS = (ValueError, TypeError, OSError, RuntimeError, ImportError)
"""What the package raises where something is wrong with what it was given, or with the machine. Anything else is a
mistake of ours, and shows its traceback."""

USAGE_ERROR = typer.BadParameter.__base__
"""Click's UsageError, wherever this typer keeps click."""

_SHOWN = 60
"""Characters of a wrong value that are shown."""

_now: dict[str, Any] = {"program": "sana-lab", "goes on": False}
"""The program that runs in this process, for its lines, and whether a stopped one goes on."""


def app(help: str, **options: Any) -> typer.Typer:
    """A typer app that looks like all others.

    Args:
        help: first line of its help page.
        options: as for `typer.Typer`.
    """
    return typer.Typer(
        help=help,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # plain help: the same text in a pipe, a narrow window and every typer since 0.12
        context_settings={"help_option_names": ["-h", "--help"]},
        **options,
    )


class Command(TyperCommand):
    """A command whose options with a metavar that ends in "..." take several values: `--factors 1 10 100`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeat the name of such an option before each of its values, as click wants it."""
        several = {name for p in self.params if (p.metavar or "").endswith("...") for name in p.opts}
        spread: list[str] = []
        of, values = "", 0
        for word in args:
            if word in several:
                of, values = word, 0
            elif word.startswith("-") and not _is_number(word):
                of = ""
            elif of:
                values += 1
                if values > 1:
                    spread.append(of)
            spread.append(word)
        return super().parse_args(ctx, spread)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


@functools.lru_cache(maxsize=64)
def single(function: Callable[..., Any]) -> typer.Typer:
    """An app with one command, that of a function."""
    made = app("", epilog=f"{DEBUG_VARIABLE}=1 shows the whole traceback of an error.")
    made.command(cls=Command)(function)
    return made


# ---- numbers -----------------------------------------------------------------------------------------------------


def whole(least: int, most: int, usual: str = "") -> Callable[..., Any]:
    """A typer callback that checks that a whole number, or each of several, is in a range.

    Args:
        least: the smallest that is allowed.
        most: the largest.
        usual: words to add, such as "20 is usual".

    The callback raises ValueError for another number; the text names option, value and range.
    """
    end = "2**63 - 1" if most == LARGEST_SEED else f"{most:,}"
    also = f"; {usual}" * bool(usual)
    return _held(
        lambda value: least <= value <= most,
        lambda option, value: ValueError(f"{option} {value}: give a whole number from {least} to {end}{also}."),
    )


def number(
    least: float, most: float = math.inf, *, above: bool = False, or_infinity: bool = False, usual: str = ""
) -> Callable[..., Any]:
    """A typer callback that checks that a number, or each of several, is in a range. NaN never is.

    Args:
        least: the smallest that is allowed.
        most: the largest; infinity is not allowed, except with `or_infinity`.
        above: only more than `least`.
        or_infinity: infinity is allowed, too.
        usual: words to add, such as "4.5 is usual".

    The callback raises ValueError for another number; the text names option, value and range.
    """

    def good(value: float) -> bool:
        return (value > least if above else value >= least) and value <= most and (or_infinity or value != math.inf)

    range_ = f"{'above' if above else 'from'} {least:g}" + f" to {most:,.15g}" * (most != math.inf)
    also = ", or inf" * or_infinity + f"; {usual}" * bool(usual)
    return _held(good, lambda option, value: ValueError(f"{option} {value}: give a finite number {range_}{also}."))


def _held(good: Callable[[Any], bool], refusal: Callable[[str, str], Exception]) -> Callable[..., Any]:
    def check(param: typer.CallbackParam, value: Any) -> Any:
        for each in value if isinstance(value, list | tuple) else [value]:
            if each is not None and not good(each):
                raise refusal(_name(param), _short(each))
        return value

    return check


SEED = whole(0, LARGEST_SEED)
STEPS = whole(1, 1000, "20 is usual")
"""Of denoising: the schedulers know 1000 (diffusers 0.42.1, `num_train_timesteps`)."""
GUIDANCE = number(0, 1000, usual="4.5 is usual")
BATCH = whole(1, 10_000)
SIZE = _held(
    lambda value: 32 <= value <= 16_384 and value % 32 == 0,
    lambda option, value: ValueError(f"{option} {value}: give a multiple of 32 up to 16,384; 512 is usual."),
)
GPUS = whole(1, 64)
PROCESSES = whole(1, 256)
FACTORS_ABOVE_0 = number(0, 1_000_000, above=True, usual="1 changes nothing")
SECONDS = number(0, LONGEST_WAIT, above=True)

EITHER_GPU = typer.Option("--virtual/--real", help="Which GPU to use.  [default: real if there is one]")
SEED_OF_NOISE = typer.Option(help="Picture i starts from the noise of seed + i.", callback=SEED)
"""Options that several commands have, for their annotations."""


def _name(param: Any) -> str:
    return max(param.opts, key=len) if param.opts[0].startswith("-") else param.metavar or param.name


def _short(value: Any) -> str:
    text = str(value) if not isinstance(value, int) or abs(value) < 10**_SHOWN else f"{'-' * (value < 0)}{'9' * _SHOWN}"
    return text if len(text) < _SHOWN else f"{text[: _SHOWN // 2]}..."


def names(option: str, text: str) -> tuple[str, ...]:
    """Names with commas between them, each once.

    Raises:
        ValueError: there is no name; the text names the option.
    """
    found = tuple(dict.fromkeys(filter(None, (word.strip() for word in text.split(",")))))
    if not found:
        raise ValueError(f"{option} {text!r}: give one name or more, with commas between them, or leave it out.")
    return found


def integers(option: str, text: str) -> tuple[int, ...]:
    """Whole numbers with commas between them.

    Raises:
        ValueError: something else; the text names the option.
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(
            f"{option} {_short(text)}: give whole numbers with commas between them, such as 1,2."
        ) from None


# ---- running -----------------------------------------------------------------------------------------------------


def say(text: str) -> None:
    """One line on stderr with the program's name, whatever the line breaks in `text`, and no word of it endless."""
    words = (word if len(word) < 4 * _SHOWN else f"{word[:_SHOWN]}...{word[-_SHOWN:]}" for word in text.split())
    typer.echo(f"{_now['program']}: {' '.join(words)}", err=True)


def _told(error: Exception) -> str:
    """An error in words; one of the system's in ours, with its file and a way out."""
    if isinstance(error, OSError) and error.strerror and str(error).startswith("[Errno"):
        file = "" if error.filename is None else f"{os.fsdecode(error.filename)} "
        if error.errno == errno.ENOSPC:
            return f"{file}cannot be written ({error.strerror}): make room, or choose another folder."
        return f"{file or 'a file '}cannot be used ({error.strerror}): give another name or folder."
    return str(error) or type(error).__name__


@contextmanager
def goes_on() -> Iterator[None]:
    """A block that Ctrl+C stops and the same command resumes: the program says so."""
    _now["goes on"] = False
    try:
        yield
    except KeyboardInterrupt:
        _now["goes on"] = True
        raise


def run_command(command: typer.Typer | Callable[..., Any], program: str, arguments: Sequence[str] | None = None) -> int:
    """Run a command line. What goes wrong is one line on stderr.

    Args:
        command: a typer app, or a function with typer's annotations; a whole number that it gives is the status.
        program: what the user typed, for messages: "sana-lab" or "python -m sana_lab.bench".
        arguments: by default those of this process.

    Returns:
        The exit status: 2 after an error, 130 after Ctrl+C.

    Raises:
        Exception: with SANA_LAB_DEBUG=1 the error itself; and always one that is a mistake of ours.
    """
    _now.update({"program": program, "goes on": False})
    if not isinstance(command, typer.Typer):
        command = single(command)
    try:
        given = sys.argv[1:] if arguments is None else list(arguments)
        status = _built(command).main(args=given, prog_name=program, standalone_mode=False)
        if status == INTERRUPTED:  # what some versions of typer make of Ctrl+C
            raise KeyboardInterrupt
        return status if isinstance(status, int) else 0
    except (USAGE_ERROR, *OURS) as error:
        if os.environ.get(DEBUG_VARIABLE) == "1":
            raise
        if isinstance(error, USAGE_ERROR):
            _say_usage(error)
        else:
            say(_told(error))
        return 2
    except (KeyboardInterrupt, typer.Abort):
        say("stopped; the same command goes on" if _now["goes on"] else "stopped")
        return INTERRUPTED


@functools.lru_cache(maxsize=64)
def _built(app: typer.Typer) -> Any:
    """What click runs of an app. Typer looks through all functions of it anew each time that the app is called."""
    return typer.main.get_command(app)


def _say_usage(error: Any) -> None:
    """What is wrong with the words of a command line; the help page for a group of commands without one."""
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(error.ctx.get_help())
        return
    path = error.ctx.command_path if error.ctx else _now["program"]
    text = " ".join(error.format_message().split()).removesuffix(".")
    say(f"{text if len(text) < 600 else text[:600] + '...'}. See `{path} --help`.")
