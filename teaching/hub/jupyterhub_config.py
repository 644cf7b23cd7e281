"""JupyterHub's configuration for a class. `start.py` looks at everything first and then starts the hub with it.

Made for JupyterHub 6.1.1. What each line is for stands beside it; the settings come from the variables `ROOM_...`.
"""

import asyncio
import json
import os
import secrets
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import desk
import room
from names import RoomAuthenticator
from spawner import SeatSpawner

c = get_config()  # noqa: F821 - JupyterHub gives it
here = Path(__file__).resolve().parent
at = room.settings(os.environ)
at.state.mkdir(mode=0o700, parents=True, exist_ok=True)
at.state.chmod(0o700)

# Where it is reached. Hub and proxy listen on this machine alone; a class on a network wants HTTPS (README.md).
c.JupyterHub.bind_url = f"http://{os.environ.get('ROOM_ADDRESS', '127.0.0.1')}:{at.port}"
c.JupyterHub.hub_bind_url = f"http://127.0.0.1:{at.hub}"
c.ConfigurableHTTPProxy.api_url = f"http://127.0.0.1:{at.api}"
c.ConfigurableHTTPProxy.command = [os.environ.get("ROOM_PROXY", "configurable-http-proxy")]
c.ConfigurableHTTPProxy.pid_file = str(at.state / "proxy.pid")

# What a restart needs.
c.JupyterHub.db_url = f"sqlite:///{at.state / 'room.sqlite'}"
c.JupyterHub.cookie_secret_file = str(at.state / "cookie_secret")
c.JupyterHub.pid_file = str(at.state / "hub.pid")
key = at.state / "proxy_token"
if not key.exists():
    key.touch(mode=0o600)
    key.write_text(secrets.token_hex(32))
c.ConfigurableHTTPProxy.auth_token = key.read_text()
c.JupyterHub.cleanup_servers = False  # seats go on running while the hub is away,
c.JupyterHub.cleanup_proxy = False  # and learners go on reaching them: the proxy stays

# Names and passwords: kept by nativeauthenticator, as bcrypt's hashes. The teacher's account is there from the start.
c.JupyterHub.authenticator_class = RoomAuthenticator
c.RoomAuthenticator.accounts = str(at.state / "accounts.json")
c.Authenticator.admin_users = {at.teacher}
c.Authenticator.allow_all = True  # all whom the authenticator lets in; who signs up waits for the teacher's yes
c.Authenticator.username_pattern = room.NAME.pattern + "$"
c.NativeAuthenticator.open_signup = False
c.NativeAuthenticator.minimum_password_length = 8
c.NativeAuthenticator.check_common_password = True
c.NativeAuthenticator.allowed_failed_logins = 5
c.NativeAuthenticator.seconds_before_next_try = 60

# A seat: its user, its limits, its desk.
if at.limits == "systemd":
    c.JupyterHub.spawner_class = "systemd"
    c.SystemdSpawner.username_template = room.SEAT + "{USERNAME}"
    c.SystemdSpawner.unit_name_template = "room-{USERNAME}"
    c.SystemdSpawner.isolate_tmp = True
    c.SystemdSpawner.disable_user_sudo = True
    c.SystemdSpawner.unit_extra_properties = {"TasksMax": str(room.PROCESSES), "UMask": "0077"}
else:
    c.JupyterHub.spawner_class = SeatSpawner
    c.SeatSpawner.limits = at.limits
c.Spawner.mem_limit = at.memory
c.Spawner.cpu_limit = at.cores
c.JupyterHub.active_server_limit = at.seats
# A server needs a processor for some seconds to start: all at once, none would be there in time. Who presses the key
# meanwhile is told to wait, and the page tries again.
c.JupyterHub.concurrent_spawn_limit = 2 * len(os.sched_getaffinity(0))
c.Spawner.start_timeout = c.Spawner.http_timeout = 300
c.Spawner.notebook_dir = "~"
c.Spawner.default_url = f"/lab/tree/{desk.DESK}"
c.Spawner.cmd = [str(Path(sys.executable).parent / "jupyterhub-singleuser")]
# Kernels talk through sockets in the learner's own folder. Through TCP, any user of the machine could listen.
c.Spawner.args = ["--KernelManager.transport=ipc"]

kernels = at.state.parent / f"{at.state.name}-kernels"  # outside the closed folder: seats read it
spec = kernels / "kernels" / "python3"
spec.mkdir(parents=True, exist_ok=True)
spec.joinpath("kernel.json").write_text(
    json.dumps(
        {
            "argv": [str(at.kernel), "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            "display_name": "Python 3",
            "language": "python",
        }
    )
)
c.Spawner.env_keep = ["LANG", "LC_ALL", "PATH"]
c.Spawner.environment = {
    "JUPYTER_PATH": str(kernels),
    "HF_HUB_OFFLINE": "1",  # thirty learners, one network: chapters need none
    "OMP_NUM_THREADS": str(max(1, int(at.cores))),  # as many threads as the seat has processors
    "OMP_WAIT_POLICY": "PASSIVE",
    "TMPDIR": lambda spawner: str(room.make_seat(spawner.user.name) / desk.TEMPORARY),
}


async def prepare(spawner):
    """Make the seat and lay its desk; what goes wrong is told on the page that the learner sees."""
    name = spawner.user.name
    try:
        await asyncio.to_thread(room.must_have_disk, Path("/home"), least=room.FREE_DISK // 4)
        await asyncio.to_thread(room.make_seat, name)
        await asyncio.to_thread(room.lay_desk, name, at.edition)
    except room.RoomError as reason:
        error = RuntimeError(str(reason))
        error.jupyterhub_message = str(reason)
        raise error from None


c.Spawner.pre_spawn_hook = prepare

# Idle seats are stopped: their files stay, their memory is free. And a page for the teacher shows what passed.
# They end with the hub, also with one that is killed: otherwise the next hub finds the page's port taken (util-linux).
with_the_hub = ["setpriv", "--pdeathsig", "TERM", sys.executable]
c.JupyterHub.services = [
    {
        "name": "culler",
        "command": [*with_the_hub, "-m", "jupyterhub_idle_culler", f"--timeout={at.idle}", "--cull-every=60"],
    },
    {
        "name": "progress",
        "url": f"http://127.0.0.1:{at.hub + 1}",
        "command": [*with_the_hub, str(here / "progress.py")],
        "oauth_no_confirm": True,
    },
]
c.JupyterHub.load_roles = [
    {
        "name": "culler",
        "scopes": ["list:users", "read:users:activity", "read:servers", "delete:servers"],
        "services": ["culler"],
    },
    {"name": "progress", "scopes": ["list:users", "read:users:activity"], "services": ["progress"]},
    # The name of a role in JupyterHub is what it is for; "user" gives no access to services unless told.
    {"name": "user", "scopes": ["self"]},
]
if token := os.environ.get("ROOM_TRIAL_TOKEN"):  # `make hub-try` drives the room with it
    c.JupyterHub.services.append({"name": "trial", "api_token": token})
    c.JupyterHub.load_roles.append(
        {
            "name": "trial",
            "scopes": ["admin:users", "admin:servers", "tokens", "access:servers", "access:services"],
            "services": ["trial"],
        }
    )
