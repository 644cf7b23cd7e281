"""What this package raises itself."""

from __future__ import annotations

from ..entry import Family

FAMILY = Family(
    "own-messages",
    "Messages of this book's own package",
    "`sana_lab` looks at its arguments and says in one line what is wrong and what to do. Such a message is recognized "
    "by the file that raises it.",
    section="chapter-ten-minutes",
)

entry = FAMILY.failure(
    id="message-of-sana-lab",
    title="This is a message of `sana_lab` itself",
    error="ValueError|TypeError|RuntimeError|OSError|NotReady|NotYet",
    pattern=r"model '\S{1,80}' is unknown: choose from shapes,|\bsana-lab: \S|\bNotReady: |\bNotYet: ",
    messages={
        "sana_lab": "ValueError: model '600m' is unknown: choose from shapes, 600M-512, 600M-1024, or give a folder.",
        "sana_lab, on the command line": "sana-lab: model '600m' is unknown: choose from shapes, or give a folder.",
    },
    cause="No library failed: a helper of this book looked at what it was given, and its message ends with the way "
    "out. "
    "The traceback below it is short; with `SANA_LAB_DEBUG=1` the command line shows it whole.",
    references=["sana_lab 0.1.0: failures/ours.py, recognized"],
    gpus=0,
)


@entry.reproduce
def _():
    from sana_lab import load_sana

    load_sana("600m", "fp32")


@entry.fix("Do what the message says.")
def _():
    from sana_lab import load_sana

    load_sana("shapes", "fp32", device="cpu")
