"""Names and passwords of the room: nativeauthenticator, with accounts that are there before anyone signs up.

An open sign-up of the teacher's name would make whoever is first the teacher. So `start.py` writes names and passwords
into a file that only the hub can read; they are put into the database at the next start, and the file is emptied.
"""

from __future__ import annotations

import json
from pathlib import Path

import bcrypt
from nativeauthenticator import NativeAuthenticator
from nativeauthenticator.handlers import LoginHandler
from nativeauthenticator.orm import UserInfo
from traitlets import Unicode


class NoTimer:
    """Takes the place of a measuring device that JupyterHub 6 no longer has."""

    def timer(self, name):
        """Something that can be started and stopped."""
        return self

    def start(self):
        """Measure nothing."""
        return self

    def stop(self, send=True):
        """Send nothing."""


class RoomLogin(LoginHandler):
    """The login page, on JupyterHub 6.

    nativeauthenticator 1.3.0 times each login with `self.statsd` (handlers.py, `LoginHandler.post`), which JupyterHub 6
    has no more (jupyterhub #5407), and its `_render` does not take the arguments that JupyterHub 6 gives it for an
    error: every login ends in status 500. This class can go with the first nativeauthenticator that names JupyterHub 6.
    """

    statsd = NoTimer()

    def _render(self, login_error=None, username=None, **kwargs):
        return super()._render(login_error=login_error, username=username)


class RoomAuthenticator(NativeAuthenticator):
    """Lets in who is in its database with the right password, and whom the teacher said yes to."""

    accounts = Unicode("", config=True, help="JSON file, name → password, of accounts to make")

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        path = Path(self.accounts)
        if not self.accounts or not path.is_file():
            return
        for name, password in json.loads(path.read_text(encoding="utf-8") or "{}").items():
            if self.get_user(name) is None:
                hashed = bcrypt.hashpw(password.encode(), bcrypt.gensalt())
                self.db.add(UserInfo(username=name, password=hashed, is_authorized=True))
        self.db.commit()
        path.write_text("{}", encoding="utf-8")

    def get_handlers(self, app):
        """The pages of nativeauthenticator, with a login page that works."""
        return [(path, RoomLogin if found is LoginHandler else found) for path, found in super().get_handlers(app)]
