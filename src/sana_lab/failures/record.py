"""Run the whole catalogue and write down what happened, on real GPUs or on virtual ones.

    python -m sana_lab.failures.record --real --out failures_real.json --jobs 16       on a machine with GPUs
    python -m sana_lab.failures.record --virtual --out failures_virtual.json --jobs 2  anywhere

Every reproduction and every fix with code runs in a process of its own, which sees as many GPUs as the entry needs and
no more. The real run needs PyTorch, diffusers, transformers, accelerate, bitsandbytes, packaging and tqdm, and of this
package nothing of the virtual GPU. A few minutes with two jobs, one or two with sixteen.

An entry about a card that is too small does not happen on a large one. There the process is limited to a part of the
card (`torch.cuda.set_per_process_memory_fraction`), to ever larger parts until the failure shows and its fix fits:
CUDA's libraries take workspaces that the virtual GPU does not have. All attempts are in the record.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import evidence, isolated, machine
from ..commandline import PROCESSES, SECONDS, names, run_command
from ..evidence import journal
from ..messages import leading_words, without_folders
from .catalogue import catalogue
from .entry import LIBRARIES, Failure, installed_versions, plain
from .outcome import DIED, TIME_LIMIT, Outcome
from .runner import Case, run_many

STEPS = (1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8)
"""What the memory of a small card is multiplied with, one after the other, on a real one."""

LONGEST = 2000
"""Characters of a message, of the log and of the output that are kept: what an FP8 product says of its scales has
more than 1,200, and what it got comes last."""

_UNITS = {"MiB": 2**20, "GiB": 2**30}


def record_all(
    out: Annotated[Path, typer.Option(help="Write the record here: a name that ends in .json.")],
    real: Annotated[bool, typer.Option("--real", help="On the GPUs of this machine.")] = False,
    virtual: Annotated[bool, typer.Option("--virtual", help="On virtual GPUs.")] = False,
    jobs: Annotated[int, typer.Option(help="Processes at a time.", callback=PROCESSES)] = 2,
    limit: Annotated[float, typer.Option(help="Seconds for each process.", callback=SECONDS)] = 60,
    only: Annotated[
        str | None, typer.Option(help="Only entries whose id contains this, or one of A,B,C.  [default: all]")
    ] = None,
    renew: Annotated[bool, typer.Option("--renew", help="With --only: keep what --out holds of the others.")] = False,
) -> None:
    """Run the whole catalogue, on real GPUs or on virtual ones, and write down what happened."""
    if real == virtual:
        raise ValueError("give --real or --virtual, one of the two.")
    if out.suffix != ".json":
        raise ValueError(f"--out {out}: give a name that ends in .json.")
    gpus = _gpus() if real else []
    if real and not gpus:
        why = "nvidia-smi lists none, or CUDA_VISIBLE_DEVICES hides them"
        raise ValueError(f"--real, and this machine shows no GPU: {why}")
    parts = ("",) if only is None else names("--only", only)
    chosen = [failure for failure in catalogue() if any(part in failure.id for part in parts)]
    unknown = [part for part in parts if not any(part in failure.id for failure in catalogue())]
    if unknown:
        raise ValueError(f"--only {only}: no entry's id contains {unknown[0]!r}")
    kept = _kept(out) if renew else {}
    evidence.must_be_a_name(out.stem)
    journal.must_be_writable(out, out.parent)
    results = record(chosen, gpus, jobs=jobs, limit=limit)
    both = kept | results
    mode = "--real" if gpus else "--virtual"
    path = evidence.save(
        out.stem,
        what="Every entry of the failure catalogue that can run: its reproduction, and each fix that is code, on "
        + ("real GPUs." if gpus else "virtual GPUs."),
        command=f"python -m sana_lab.failures.record {mode} --out {out.name} --jobs {jobs}"
        + (f" --only {only}" if only and not kept else ""),
        results={failure.id: both[failure.id] for failure in catalogue() if failure.id in both},
        folder=out.parent,
    )
    _report(results)
    print(f"written to {path}")


def _kept(path: Path) -> dict[str, Any]:
    """The results of a record, where it is of the versions that are installed.

    Raises:
        ValueError: there is no such record, or it is of other versions: then all entries must be run.
    """
    stored = evidence.load(path.stem, folder=path.parent, results={str: dict})
    if stored["versions"] != (here := evidence.installed_versions()):
        other = [name for name in here if stored["versions"].get(name) != here[name]]
        raise ValueError(f"{path.name} is of another {', '.join(other)}: run all entries, without --renew")
    return stored["results"]


def record(failures: list[Failure], gpus: list[str], *, jobs: int, limit: float) -> dict[str, Any]:
    """What happened, entry by entry.

    Args:
        failures: the entries; those that cannot run are in the result with the reason.
        gpus: names of real GPUs as `CUDA_VISIBLE_DEVICES` wants them; none for virtual ones.
        jobs: processes at a time.
        limit: seconds for each process.
    """
    reasons = {failure.id: _reason(failure, len(gpus)) for failure in failures}
    able = [failure for failure in failures if not reasons[failure.id]]
    outcomes = _run_all(able, gpus, jobs, limit)
    return {
        failure.id: {"not run": reasons[failure.id]} if reasons[failure.id] else _result(failure, outcomes)
        for failure in failures
    }


def _reason(failure: Failure, gpus: int) -> str:
    """Why an entry does not run, `""` if it does. `gpus` is 0 for virtual ones."""
    if failure.evidence != "live":
        return f"needs {failure.needs()}; versions: {failure.versions()}"
    if gpus and failure.gpus > gpus:
        return f"needs {failure.gpus} GPUs, and this machine shows {gpus}"
    return ""


def _gpus() -> list[str]:
    return machine.entries() if evidence.this_machine()["driver"] is not None else []


# ---- running ----------------------------------------------------------------------------------------------------


def _run_all(failures: list[Failure], gpus: list[str], jobs: int, limit: float) -> list[Outcome]:
    """Run all cases: those for one GPU spread over the GPUs, those for several one number of GPUs after the other."""
    from tqdm import tqdm

    by_gpus: dict[int, list[Case]] = {}
    for failure in failures:
        by_gpus.setdefault(failure.gpus, []).extend(_cases(failure, bool(gpus)))
    found: list[Outcome] = []
    with tqdm(total=sum(map(len, by_gpus.values())), unit="run", smoothing=0, mininterval=5) as bar:

        def batch(cases: list[Case], visible: str | None, jobs: int) -> Callable[[], None]:
            def go() -> None:
                found.extend(
                    run_many(
                        cases,
                        jobs=max(1, jobs),
                        virtual=not gpus,
                        time_limit=limit,
                        visible=visible,
                        done=lambda outcome: bar.update(),
                    )
                )

            return go

        if not gpus:
            batch([case for cases in by_gpus.values() for case in cases], None, jobs)()
            return found
        # entries for several GPUs ask how much is free on each, so nothing else may run meanwhile
        one = by_gpus.get(1, [])
        each = jobs // (len(gpus) + 1)
        together = [
            batch(one[index :: len(gpus)], gpu, each) for index, gpu in enumerate(gpus) if one[index :: len(gpus)]
        ]
        if by_gpus.get(0):
            together.append(batch(by_gpus[0], "", jobs - each * len(gpus)))
        isolated.at_once(lambda go: go(), together, len(together))
        for count in sorted(set(by_gpus) - {0, 1}):
            batch(by_gpus[count], ",".join(gpus[:count]), min(jobs, 4))()
    return found


def _cases(failure: Failure, real: bool) -> list[Case]:
    numbers = [None, *(n for n, fix in enumerate(failure.fixes, 1) if fix.function)]
    return [(failure.id, number, memory) for memory in _memories(failure, real) for number in numbers]


def _memories(failure: Failure, real: bool) -> list[int]:
    """Bytes to which the process is limited; 0 for all that there is."""
    if not (real and failure.vram):
        return [0]
    size = float(failure.vram[:-3]) * _UNITS[failure.vram[-3:]]
    return [round(size * step) for step in STEPS]


# ---- writing down -----------------------------------------------------------------------------------------------


def _result(failure: Failure, outcomes: list[Outcome]) -> dict[str, Any]:
    """What the record says of an entry: its best attempt, and all of them where several sizes of a card were tried."""
    attempts: dict[int, dict[int | None, Outcome]] = {}
    for outcome in outcomes:
        if outcome.id == failure.id:
            attempts.setdefault(outcome.memory, {})[outcome.fix] = outcome

    def quality(memory: int) -> tuple[bool, bool]:
        tried = attempts[memory]
        shown = failure.shown_in(tried[None])
        return shown, shown and all(failure.cured_in(outcome) for fix, outcome in tried.items() if fix)

    chosen = max(sorted(attempts), key=quality)  # the smallest of the best
    best = attempts[chosen]
    result: dict[str, Any] = {
        "gpus": failure.gpus,
        "device": best[None].device,
        "affected": failure.affected(installed_versions()),
        "reproduction": {"shown": failure.shown_in(best[None]), **_told(failure, best[None])},
        "fixes": {
            str(fix): {"cured": failure.cured_in(outcome), **_told(failure, outcome)}
            for fix, outcome in sorted((fix, outcome) for fix, outcome in best.items() if fix)
        },
    }
    if chosen:
        result["held to"] = f"{chosen / 2**20:.0f} MiB of GPU memory, with set_per_process_memory_fraction"
        result["attempts"] = {
            f"{memory / 2**20:.0f} MiB": {
                "reproduction" if fix is None else f"fix {fix}": _words(failure, outcome) or "ran to its end"
                for fix, outcome in attempts[memory].items()
            }
            for memory in sorted(attempts)
        }
    return result


def _told(failure: Failure, outcome: Outcome) -> dict[str, Any]:
    """What is kept of an outcome; paths of the machine are not."""
    said = outcome.error in (DIED, TIME_LIMIT) or (outcome.error is None and failure.shows == "warning")
    kept = {
        "error": outcome.error,
        "words": _words(failure, outcome),
        "message": _clean(outcome.message),
        "where": outcome.where,
        "log": _clean(outcome.log[-LONGEST:]) if said else "",
        "printed": _clean(outcome.printed),
        "before": outcome.before,
        "after": outcome.after,
        "seconds": round(outcome.seconds, 1),
    }
    return {name: value for name, value in kept.items() if value or name == "error"}


def _words(failure: Failure, outcome: Outcome) -> str:
    """The words that the reader sees: of the exception, of the line in the log, or what was printed."""
    if outcome.error:
        return leading_words(f"{outcome.error}: {_clean(outcome.message)}")
    if failure.shows == "warning":
        lines = [line for line in outcome.log.splitlines() if re.search(failure.pattern, plain(line))]
        return leading_words(_clean(lines[0])) if lines else ""
    return leading_words(_clean(outcome.printed))


def _clean(text: str) -> str:
    """Without folders of the machine: libraries' files are named from the library on."""
    text = without_folders(text, (*LIBRARIES, "huggingface_hub", "sana_lab"))
    text = re.sub(r"\S*/sana-lab-untrained[^\s/]*", "FOLDER", text)
    return text[:LONGEST]


def _report(results: dict[str, Any]) -> None:
    ran = {id: result for id, result in results.items() if "not run" not in result}
    shown = [id for id, result in ran.items() if result["reproduction"]["shown"]]
    fixes = [(id, n, fix) for id, result in ran.items() for n, fix in result["fixes"].items()]
    for id in ran.keys() - set(shown):
        print(f"NOT SHOWN {id}: {ran[id]['reproduction'].get('words') or 'ran to its end'}")
        print(ran[id]["reproduction"].get("log", ""))
    for id, number, fix in fixes:
        if not fix["cured"]:
            print(f"NOT CURED {id}, fix {number}: {fix.get('words') or 'the symptom is still there'}")
    cured = sum(fix["cured"] for _, _, fix in fixes)
    print(f"{len(shown)} of {len(ran)} failures shown, {cured} of {len(fixes)} fixes work, ", end="")
    print(f"{len(results) - len(ran)} entries not run")


def main(arguments: list[str] | None = None) -> int:
    """Run the command and give its exit status."""
    return run_command(record_all, "python -m sana_lab.failures.record", arguments)


if __name__ == "__main__":
    sys.exit(main())
