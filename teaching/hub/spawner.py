"""A seat's server: a process of the seat's own user, limited in memory, processors and number of processes.

`SeatSpawner` is for machines without systemd. It differs from JupyterHub's own `LocalProcessSpawner` in this: the
system user is `seat-NAME`, whose files others cannot read wherever they are, and the process joins the seat's groups
before it gives up root's rights (or, where there are no groups, is started through `prlimit` and `nice`).
"""

from __future__ import annotations

import os
import pwd

from jupyterhub.spawner import LocalProcessSpawner, set_user_setuid
from room import make_group, prlimit_words, seat_user
from traitlets import Unicode


class SeatSpawner(LocalProcessSpawner):
    """Starts seats on one machine."""

    limits = Unicode("prlimit", config=True, help="cgroup or prlimit: who holds seats to their limits")

    def make_preexec_fn(self, name):
        """What the new process does before it becomes the server: join the groups, then become the seat's user."""
        become = set_user_setuid(seat_user(name))
        in_groups = self.limits == "cgroup"
        doors = make_group(seat_user(name), self.mem_limit, self.cpu_limit) if in_groups else []
        doors = [str(path) for path in doors]

        def join_and_become():
            for door in doors:
                with open(door, "w") as file:
                    file.write("0")  # the process that writes it
            os.umask(0o077)
            become()

        return join_and_become

    def user_env(self, env):
        """The variables that name user and home."""
        seat = pwd.getpwnam(seat_user(self.user.name))
        return env | {"USER": seat.pw_name, "LOGNAME": seat.pw_name, "HOME": seat.pw_dir, "SHELL": seat.pw_shell}

    async def start(self):
        """Start the server, with the words that limit it in front where there are no groups."""
        words = prlimit_words(self.mem_limit) if self.limits == "prlimit" else []
        if words and self.cmd[: len(words)] != words:
            self.cmd = [*words, *self.cmd]
        return await super().start()
