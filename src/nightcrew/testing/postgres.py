"""A real PostgreSQL server of one's own for tests: private, on loopback, gone with whoever started it.

`python -m nightcrew.testing.postgres` says where the server's programs are, or that there are none.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

import psycopg
from psycopg import sql

from nightcrew.errors import NightcrewError

USER = "nightcrew"
_PROGRAMS = ("initdb", "postgres")
# Where distributions put servers without putting them on the PATH: Debian, Fedora and RHEL, Homebrew (both kinds).
_HOMES = (
    "usr/lib/postgresql/*/bin",
    "usr/pgsql-*/bin",
    "opt/homebrew/opt/postgresql*/bin",
    "usr/local/opt/postgresql*/bin",
)
_ROOM = 512 << 20  # bytes a server may need; containers often give /dev/shm only 64 MB

# For tests: nothing has to survive a power cut, many clients, little memory.
_SETTINGS = """
listen_addresses = '127.0.0.1'
unix_socket_directories = '{folder}'
port = {port}
fsync = off
synchronous_commit = off
full_page_writes = off
max_connections = 300
shared_buffers = 32MB
min_wal_size = 32MB
max_wal_size = 128MB
timezone = 'UTC'
"""

# Whatever ends this process, SIGKILL included, closes its end of the pipe; then `read` fails and the server goes.
# Signals from the terminal are left to whoever started us: it says when to stop. The server is the keeper's own child
# (pg_ctl would hand it to init, which in a container may never collect it).
_KEEPER = """
trap '' INT HUP PIPE
bin=$1 home=$2 user=$3 server=
init() {
  "$bin/initdb" -U "$user" -E UTF8 --locale=C --auth=scram-sha-256 --pwfile="$home/password" \\
    --no-sync --no-instructions --wal-segsize=4 -D "$home/data" >"$home/log" 2>&1
}
start() {
  "$bin/postgres" -D "$home/data" </dev/null >"$home/log" 2>&1 &
  server=$!
  until grep -q '^ready' "$home/data/postmaster.pid" 2>/dev/null; do
    kill -0 "$server" 2>/dev/null || return 1
    sleep 0.02
  done
}
while read -r word; do
  case $word in init | start) ;; *) break ;; esac
  if "$word"; then echo done; else echo failed; fi
done
[ -z "$server" ] || { kill -QUIT "$server" && wait "$server"; } 2>/dev/null
cd / && rm -rf "$home"
"""


class PostgresMissing(NightcrewError):
    """No PostgreSQL server is installed here."""

    hint = 'Install one (Debian: apt install postgresql; macOS: brew install postgresql), or pytest -m "not postgres".'


class PostgresBroken(NightcrewError):
    """The server could not be made or started; the message ends with what it said."""


def find_programs() -> Path:
    """The folder with initdb and postgres: the PATH's, else the newest installed. Raises PostgresMissing."""
    on_path = shutil.which("initdb")
    homes = [found for pattern in _HOMES for found in Path("/").glob(pattern)]
    homes.sort(
        key=lambda home: [int(digits) for digits in "".join(c if c.isdigit() else " " for c in str(home)).split()]
    )
    for home in [*([Path(on_path).resolve().parent] if on_path else []), *reversed(homes)]:
        if all(os.access(home / name, os.X_OK) for name in _PROGRAMS):
            return home
    raise PostgresMissing("PostgreSQL's server (initdb, postgres) is neither on the PATH nor where it usually is.")


class PostgresServer:
    """A private server: `with PostgresServer() as server: connect(server.url("jobs"))`.

    It listens on 127.0.0.1 (a free port, a random password) and on a Unix socket in its own folder, keeps nothing
    across a power cut (fsync is off), and is stopped and wiped when the block ends or this process does, however that
    happens. Started by root it runs as `postgres` or `nobody`, as PostgreSQL insists. Takes 1-2 s and 45 MB.

    Raises PostgresMissing when there is no server to start, PostgresBroken when it will not start.
    """

    def __init__(self) -> None:
        self.folder = Path()  # everything it owns; exists only inside the block
        self.port = 0
        self.password = secrets.token_hex(16)
        self._programs = find_programs()
        self._keeper: subprocess.Popen[str] | None = None
        self._made = 0

    def __enter__(self) -> PostgresServer:
        self.folder = _private_folder()
        self._keeper = _start_keeper(self._programs, self.folder)
        try:
            self._init()
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        return int((self.folder / "data" / "postmaster.pid").read_text().split()[0])

    def url(self, name: str) -> str:
        """Make an empty database (one of that name is thrown away first) and say how to reach it, as postgresql://."""
        self.drop(name)
        self._run(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self._url(name)

    def drop(self, name: str) -> None:
        """Throw a database away, and whoever is connected to it out. Nothing happens when there is none."""
        self._run(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    @contextmanager
    def database(self) -> Iterator[str]:
        """The URL of an empty database that is thrown away after the block."""
        self._made += 1
        name = f"own{self._made}"
        try:
            yield self.url(name)
        finally:
            self.drop(name)

    def _url(self, name: str) -> str:
        return f"postgresql://{USER}:{self.password}@127.0.0.1:{self.port}/{quote(name, safe='')}"

    def _run(self, statement: sql.Composed) -> None:
        with psycopg.connect(self._url("postgres"), autocommit=True) as connection:
            connection.execute(statement)

    def _init(self) -> None:
        password = self.folder / "password"
        password.write_text(self.password)
        password.chmod(0o644)  # the folder is private already, and the server's user is not always ours
        if not self._keep("init"):
            raise PostgresBroken(f"initdb failed: {_end_of(self.folder / 'log')}")
        password.unlink()

    def _start(self) -> None:
        # A port that is free now may be taken a moment later: then another one is tried.
        for _ in range(5):
            self.port = _free_port()
            with (self.folder / "data" / "postgresql.conf").open("a") as settings:
                settings.write(_SETTINGS.format(folder=self.folder, port=self.port))
            if self._keep("start"):
                return
            if "Address already in use" not in _end_of(self.folder / "log"):
                break
        raise PostgresBroken(f"the server did not start: {_end_of(self.folder / 'log')}")

    def _keep(self, word: str) -> bool:
        """Have the keeper do it; say whether it worked."""
        assert self._keeper
        assert self._keeper.stdin
        assert self._keeper.stdout
        self._keeper.stdin.write(f"{word}\n")
        self._keeper.stdin.flush()
        return self._keeper.stdout.readline() == "done\n"

    def _stop(self) -> None:
        if self._keeper:
            self._keeper.communicate()  # closes its stdin, waits for its end
            self._keeper = None


def _start_keeper(programs: Path, folder: Path) -> subprocess.Popen[str]:
    """The process that owns the server; it becomes the folder's user first when we are root."""
    owner = _other_user()
    identity: dict[str, Any] = {}
    if owner:
        identity = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
    return subprocess.Popen(
        ["/bin/sh", "-c", _KEEPER, "postgres-keeper", str(programs), str(folder), USER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},  # no PG* variable of the caller may change what we start
        start_new_session=True,
        **identity,
    )


def _other_user() -> pwd.struct_passwd | None:
    """Who runs the server instead of root, which PostgreSQL refuses; None when we are not root."""
    if os.geteuid():
        return None
    users = {user.pw_name: user for user in pwd.getpwall()}
    return users.get("postgres") or users["nobody"]


def _private_folder() -> Path:
    """A new folder only the server's user may enter, in memory when there is room; short, for the socket."""
    memory = Path("/dev/shm")  # noqa: S108 - only the place; the folder in it is made by mkdtemp
    # As root, TMPDIR may be ours alone, and the server's user could not reach into it.
    base = Path(tempfile.gettempdir()) if os.geteuid() else Path("/tmp")  # noqa: S108
    if memory.is_dir() and memory.stat().st_mode & 0o002 and shutil.disk_usage(memory).free > _ROOM:
        base = memory
    folder = Path(tempfile.mkdtemp(prefix="nightcrew-pg-", dir=base))
    if owner := _other_user():
        os.chown(folder, owner.pw_uid, owner.pw_gid)
    return folder


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace").strip()[-2000:] if log.exists() else "nothing was said"


if __name__ == "__main__":
    try:
        print(find_programs())
    except PostgresMissing as missing:
        sys.exit(f"nightcrew: {missing.sentence()}")
