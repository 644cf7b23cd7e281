"""The teacher's page of the room, /services/progress/: who was here, and which checks each one's notebooks say passed.

A service of JupyterHub: it runs beside the hub, asks it who looks, and shows the page to administrators alone. What the
notebooks say is read as the learner, never as root, and is only what is stored; marks are given by `sana-lab grade`,
which runs the notebooks again.
"""

from __future__ import annotations

import asyncio
import html
import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlparse

sys.path.insert(0, str(Path(__file__).resolve().parent))

import desk
import room
from jupyterhub.services.auth import HubOAuthCallbackHandler, HubOAuthenticated
from tornado import httpclient, ioloop, web

READ = """
import json, pathlib, sys
seen = {}
for path in sorted(pathlib.Path(sys.argv[1]).glob("**/[0-9]*.ipynb"))[:100]:
    if ".ipynb_checkpoints" in path.parts or path.stat().st_size > 2**26:
        continue
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        for cell in cells:
            text = "".join(cell["source"])
            if cell["cell_type"] != "code" or "sana_lab.exercises" not in text or "check_" not in text:
                continue
            done = seen.setdefault(path.name[:60], [0, 0])
            done[1] += 1
            done[0] += "Right:" in json.dumps(cell.get("outputs", []))  # how sana_lab.exercises says yes
    except (ValueError, KeyError, TypeError, AttributeError):
        seen[path.name[:60]] = None
print(json.dumps(seen))
"""


def stored(learner: str) -> dict[str, list[int] | None]:
    """Notebook → checks that its stored outputs say passed, and checks in it; None for a file that is no notebook.

    Read as the learner, in a process that is stopped after twenty seconds.
    """
    try:
        read = subprocess.run(
            [sys.executable, "-I", "-c", READ, desk.DESK], capture_output=True, timeout=20, **room.as_seat(learner)
        )
        return json.loads(read.stdout)
    except (KeyError, OSError, ValueError, subprocess.TimeoutExpired, room.RoomError):
        return {}


def table(rows: list[tuple[str, str, dict[str, list[int] | None]]]) -> str:
    """The page's table: a line for each learner, a column for each chapter."""
    chapters = sorted({name for _, _, seen in rows for name in seen})
    head = "".join(f'<th scope="col">{html.escape(name[:2])}</th>' for name in chapters)
    lines = []
    for learner, when, seen in rows:
        cells = []
        for name in chapters:
            done = seen.get(name, [0, 0])
            words = "damaged" if done is None else f"{done[0]} of {done[1]}" if done[1] else "–"
            cells.append(f"<td>{words}</td>")
        lines.append(
            f'<tr><th scope="row">{html.escape(learner)}</th><td>{html.escape(when)}</td>{"".join(cells)}</tr>'
        )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Progress</title>'
        "<style>body{font:16px sans-serif;margin:2em}td,th{padding:.3em .8em;text-align:left;border-bottom:1px solid "
        "#999}</style><h1>Progress</h1><p>Checks that the stored notebooks say passed. Marks: sana-lab grade.</p>"
        f'<table><tr><th scope="col">learner</th><th scope="col">last seen</th>{head}</tr>'
        f"{''.join(lines)}</table></html>"
    )


class Page(HubOAuthenticated, web.RequestHandler):
    """The page, for administrators."""

    @web.authenticated
    async def get(self):
        """Show the table, or say that it is the teacher's."""
        if not self.get_current_user().get("admin"):
            raise web.HTTPError(403, reason="this page is the teacher's")
        asked = await httpclient.AsyncHTTPClient().fetch(
            os.environ["JUPYTERHUB_API_URL"] + "/users",
            headers={
                "Authorization": f"token {os.environ['JUPYTERHUB_API_TOKEN']}",
                "Accept": "application/jupyterhub-pagination+json",
            },
        )
        rows = []
        for user in json.loads(asked.body)["items"]:
            seen = await asyncio.to_thread(stored, user["name"])
            rows.append((user["name"], (user.get("last_activity") or "never")[:16].replace("T", " "), seen))
        if self.get_argument("as", "") == "json":
            self.write({"rows": rows})
        else:
            self.write(table(rows))


def main() -> None:
    """Serve until the hub stops this."""
    prefix = os.environ["JUPYTERHUB_SERVICE_PREFIX"]
    app = web.Application(
        [(prefix, Page), (prefix + "oauth_callback", HubOAuthCallbackHandler)], cookie_secret=os.urandom(32)
    )
    url = urlparse(os.environ["JUPYTERHUB_SERVICE_URL"])
    app.listen(url.port, url.hostname)
    ioloop.IOLoop.current().start()


if __name__ == "__main__":
    main()
