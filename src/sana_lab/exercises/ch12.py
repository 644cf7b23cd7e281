"""Checks for the exercises of chapter 12, Version pitfalls."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from packaging.requirements import Requirement

from . import NotYet, exercise
from .answers import ask, names


@exercise
def check_first_new(answer: Callable[[Sequence[str], Callable[[str], bool]], str]) -> str:
    """Check `answer(releases, is_new) -> release`: the first release with the new behavior, in few questions.

    The oldest release is known to be old and the newest to be new; every question stands for an environment.

    Chapter 12, exercise 1.
    """
    most = 0
    for n in (2, 3, 4, 7, 16, 40):
        releases = [f"0.{i}.0" if n < 16 else f"{i // 9}.{i % 9}.{i % 4}" for i in range(1, n + 1)]
        allowed = math.ceil(math.log2(n)) + 2  # two more than needed, for those who ask about the ends as well
        most = 0
        for change in sorted({1, 2, n // 2, n - 2, n - 1} & set(range(1, n))):
            asked: list[str] = []

            def is_new(release: str, asked=asked, releases=releases, change=change) -> bool:
                if release not in releases:
                    raise NotYet(f"you asked about {release!r}, which is none of the releases")
                asked.append(release)
                if len(asked) > 3 * len(releases) + 3:
                    raise NotYet("your search does not end: each question must leave fewer releases than before")
                return releases.index(release) >= change

            got = ask(answer, list(releases), is_new)
            right = releases[change]
            case = f"{n} releases, the change comes with {right}"
            if got == releases[change - 1]:
                raise NotYet(f"{case}: {got} is the last old one. The first new one is asked for")
            if got != right:
                raise NotYet(f"{case}: you say {got!r}")
            if len(asked) > allowed:
                raise NotYet(
                    f"{case}: right, after {len(asked)} environments. Ask for the middle: {allowed} are enough, since "
                    "each answer halves what is left"
                )
            most = max(most, len(asked))
    return f"each environment halves the list: of {n} releases yours asked about {most} at most."


CASES = (  # installed, requirement, whether it is met, what the case is about
    ({"accelerate": "1.13.0"}, "accelerate>=1.1", True, "1.13 is newer than 1.1"),
    (
        {"diffusers": "0.9.0"},
        "diffusers>=0.32",
        False,
        "0.9 is older than 0.32: versions are compared number by number",
    ),
    ({"transformers": "5.10.0"}, "transformers>=5.2", True, "5.10 is newer than 5.2: versions are no decimal numbers"),
    ({"huggingface-hub": "2.4.0"}, "huggingface-hub<1.0,>=0.34.0", False, "there may be an upper end too"),
    ({}, "safetensors>=0.8", False, "what is not installed does not meet a requirement"),
    ({"torch": "2.13.0+cpu"}, "torch==2.13.0", True, "a build such as +cpu is the same version"),
    ({"diffusers": "0.43.0.dev0"}, "diffusers>=0.42", True, "an installation from git is a version before 0.43.0"),
    ({}, 'jax>=0.4; extra == "flax"', True, "an extra that nobody asked for need not be met"),
    ({}, 'tomli>=2; python_version < "3.0"', True, "nor what is for another Python"),
    ({}, 'tomli>=2; python_version >= "3.0"', False, "a condition that holds here: what it asks for must be there"),
    ({"huggingface-hub": "2.4.0"}, "huggingface-hub >= 0.34.0, < 1.0", False, "spaces do not matter"),
    ({"bitsandbytes": "0.48.0"}, "bitsandbytes!=0.48.0", False, "one version may be ruled out"),
    ({"accelerate": "2.0"}, "accelerate~=1.1", False, "`~=1.1` means 1.1 or newer, and below 2"),
    ({"numpy": "2.0"}, "numpy", True, "any version will do"),
    ({"diffusers": "0.42.1"}, "diffusers[torch]>=0.32", True, "`[torch]` is an extra and no part of the name"),
)


@exercise
def check_unmet(answer: Callable[[Mapping[str, str], Sequence[str]], Iterable[str]]) -> str:
    """Check `answer(installed, requirements) -> list`: the requirements that are not met, as `pip check` finds them.

    Chapter 12, exercise 2.
    """
    for installed, line, met, about in CASES:
        case = f"{line!r} with {installed or 'nothing installed'}"
        try:
            got = names(ask(answer, dict(installed), [line]), "a list of the lines that are not met")
        except KeyError as missing:
            raise NotYet(f"{about}. {case}: your function raised KeyError: {missing}") from None
        if got not in ([], [line]):
            raise NotYet(f"return the lines as they were given; for {line!r} this is {got!r}")
        if (got == []) is not met:
            raise NotYet(f"{about}. {case}: this is {'met' if met else 'not met'}")
    lines = [line for _, line, _, _ in CASES[:5]]
    together = {"accelerate": "1.13.0", "diffusers": "0.9.0", "transformers": "5.10.0", "huggingface-hub": "2.4.0"}
    wrong = unmet(together, lines)
    if (got := names(ask(answer, dict(together), list(lines)), "a list of lines")) != wrong:
        raise NotYet(f"several at once: {len(wrong)} of {len(lines)} are not met, in the order given; you say {got!r}")
    return "this is what `pip check` does, and pip does it after an installation, not before."


def unmet(installed: Mapping[str, str], requirements: Sequence[str]) -> list[str]:
    """The answer that `check_unmet` asks for."""
    found = []
    for line in requirements:
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        version = installed.get(wanted.name)
        if version is None or not wanted.specifier.contains(version, prereleases=True):
            found.append(line)
    return found
