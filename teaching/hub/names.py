"""Names and passwords of the room: nativeauthenticator, with accounts that are there before anyone signs up.

An open sign-up of the teacher's name would make whoever is first the teacher. So `start.py` writes names and passwords
into a file that only the hub can read; they are put into the database at the next start, and the file is emptied.
"""

from __future__ import annotations

import json
from pathlib import Path

import bcrypt
from nativeauthenticator import NativeAuthenticator
from nativeauthenticator.orm import UserInfo
from traitlets import Unicode


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
