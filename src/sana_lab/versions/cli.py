"""`sana-lab versions` and `sana-lab doctor`. `mount(app)` adds both to a typer app."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from ..commandline import EITHER_GPU, goes_on
from ..commandline import app as new_app

app = new_app("What each probe does on each stack of library versions.", no_args_is_help=True)

Folder = Annotated[Path | None, typer.Option(metavar="FOLDER", help="Where the record is.  [default: in the package]")]


def mount(parent: typer.Typer) -> None:
    """Add `versions` and `doctor` to a command line."""
    parent.add_typer(app, name="versions")
    parent.command()(doctor)


@app.command()
def run(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[STACK]...", help="What to measure.  [default: all]")
    ] = None,
    probe: Annotated[list[str] | None, typer.Option(help="Run only this probe; may be repeated.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Measure also what the record holds already.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Measure from scratch and compare with the record.")] = False,
    record: Folder = None,
) -> None:
    """Measure stacks: build each in an environment of its own, run the probes, remove it.

    Needs uv (`pip install uv`), a network and 12 GiB of free disk; two to six minutes a stack once the wheels are in
    uv's cache. Stopped, it goes on where it was: what the record holds is not measured again. With --check the exit
    status is 1 if a stack does not equal its record.
    """
    from . import runner
    from .stacks import STACKS, get

    stacks = [get(name) for name in names] if names else STACKS
    options = {"folder": _folder(record), "say": _say, "bar": True}
    if not check:
        with goes_on():
            runner.run(stacks, probe or None, again=again, **options)
        return
    found = runner.check(stacks, probes=probe or None, **options)
    for name, lines in found.items():
        typer.echo("\n  ".join([f"{name}: {'differs from' if lines else 'equals'} its record", *lines]))
    if any(found.values()):
        raise typer.Exit(1)


@app.command()
def show(
    stack: Annotated[str | None, typer.Argument(metavar="[STACK]", help="One stack: all its outcomes.")] = None,
    probe: Annotated[str | None, typer.Option(help="One probe: what it does on every stack.")] = None,
    probes: Annotated[bool, typer.Option("--probes", help="List the probes.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="All outcomes as comma-separated values.")] = False,
    record: Folder = None,
) -> None:
    """The matrix from the record: all of it, one stack, or one probe."""
    from .matrix import SYMBOLS, describe, matrix
    from .probes import PROBES, get

    if probes:
        for known in PROBES.values():
            typer.echo(f"{known.id:28}  {known.title.replace('`', '')}")
        return
    found = matrix(_folder(record))
    if as_csv:
        typer.echo(found.csv(), nl=False)
    elif probe is not None:
        known = get(probe)
        typer.echo(f"{known.id}: {known.title.replace('`', '')}\n\n{_indented(known.code)}\n")
        for stacks, verdict, text in found.row(probe):
            typer.echo(f"{SYMBOLS[verdict]} {verdict:8} {', '.join(stacks)}\n    {text}")
    elif stack is not None:
        found.outcome(stack, "")  # raises for a name that is not there
        entry = found.stacks[stack]
        typer.echo("\n".join([f"{stack}: {entry['title']}", *(f"  {line}" for line in entry["commands"])]))
        for line in [entry["said"], *entry["check"].splitlines()]:
            if line:
                typer.echo(f"  said: {line}")
        for id in found.probes:
            outcome = found.outcome(stack, id)
            text = describe(outcome) if outcome is not None else "not measured"
            typer.echo(f"{SYMBOLS[found.verdict(stack, id)]} {id:28} {text}")
    else:
        typer.echo(repr(found))


@app.command()
def bisect(
    probe: Annotated[str, typer.Argument(metavar="PROBE", help="As `show --probes` prints it.")],
    library: Annotated[str, typer.Option(help="diffusers, transformers, accelerate or bitsandbytes.")],
    live: Annotated[bool, typer.Option("--live", help="Build environments; otherwise from the record.")] = False,
    record: Folder = None,
) -> None:
    """Find the release of a library that changed what a probe does, all other libraries staying where they are."""
    from .bisect import bisect as find

    typer.echo(
        str(find(probe, library, live=live, folder=_folder(record), say=lambda text: typer.echo(text, err=True)))
    )


@app.command()
def here(
    virtual: Annotated[bool | None, EITHER_GPU] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The outcomes as JSON.")] = False,
    record: Folder = None,
) -> None:
    """Run the probes in this very environment, and compare with the stack of the record that is nearest to it."""
    from .here import nearest, run_here
    from .matrix import describe, matrix, same

    found = matrix(_folder(record))
    name, differences = nearest(found)
    typer.echo(f"nearest stack: {name}" + (f" ({', '.join(differences)})" if differences else ""), err=True)
    outcomes = run_here(virtual)
    if as_json:
        typer.echo(json.dumps({"nearest": name, "outcomes": outcomes}, indent=1))
        return
    for id, outcome in outcomes.items():
        recorded = found.outcome(name, id)
        if recorded is None or recorded["kind"] == "skipped" or outcome["kind"] == "skipped":
            typer.echo(f"–         {id:28} {describe(outcome)}")
        elif same(outcome, recorded):
            typer.echo(f"as there  {id:28} {describe(outcome)}")
        else:
            typer.echo(f"other     {id:28} {describe(outcome)}\n{'':10}{'there':28} {describe(recorded)}")


def doctor(
    model: Annotated[str, typer.Option(help='"shapes", a Hub name such as "1600M-1024", or a folder.')] = "shapes",
    precision: Annotated[str, typer.Option(help="fp32, bf16, fp16, int8, fp8 or nf4.")] = "int8",
    as_json: Annotated[bool, typer.Option("--json", help="All checks as JSON.")] = False,
) -> None:
    """Look at this environment: versions, GPU, bitsandbytes, memory, known-bad combinations.

    One line a check, OK, WARN or FAIL, with the command that mends it. The exit status is 1 if one fails. Paste the
    output into a bug report.
    """
    from .doctor import doctor as look

    found = look(model, precision)
    typer.echo(json.dumps(found.to_json(), indent=1) if as_json else str(found))
    if found.failed:
        raise typer.Exit(1)


def _folder(record: Path | None) -> Path:
    from .. import evidence

    return evidence.FOLDER if record is None else record


def _indented(code: str) -> str:
    return "\n".join(f"    {line}" for line in code.splitlines())


def _say(text: str) -> None:
    """A line on stderr, above the progress bar."""
    from tqdm import tqdm

    tqdm.write(text, file=sys.stderr)
