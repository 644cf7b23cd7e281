"""For tests of exercises: what a chapter stores for each, the stub and the solution, held against its check."""

from __future__ import annotations

import json
import re
from pathlib import Path


def hold(chapter: Path, *checks, **names):
    """The stub of each exercise is refused, its solution passes.

    Args:
        chapter: the notebook.
        checks: of its exercises; `check_NAME` is for a function `NAME`, which two cells define.
        names: what these functions find beside them.
    """
    cells = json.loads(chapter.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    for check in checks:
        function = check.__name__.removeprefix("check_")
        definitions = [re.search(rf"^def {function}\(.*?(?=^\S|\Z)", text, re.M | re.S) for text in sources]
        stub, solution = [found.group() for found in definitions if found]
        for text, passes in ((stub, False), (solution, True)):
            room = dict(names)
            exec(text, room)
            assert check(room[function]).passed is passes, text
