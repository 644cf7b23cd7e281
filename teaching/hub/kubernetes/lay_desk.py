"""Lay the edition of the image into the home of the one who starts: `desk.lay`, as on one machine."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from desk import RoomError, lay, packed  # noqa: E402

try:
    lay(packed(Path("/srv/edition")), Path.home())
except RoomError as reason:
    print(reason, file=sys.stderr)  # a full disk must not keep a learner from what is there
