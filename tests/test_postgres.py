"""The private PostgreSQL that other tests stand on: real, separate, and gone afterwards."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import create_engine, text

from nightcrew.testing.plugin import postgres_server, postgres_url
from nightcrew.testing.postgres import PostgresBroken, PostgresMissing, PostgresServer, _free_port, find_programs

__all__ = ["postgres_server", "postgres_url"]
pytestmark = pytest.mark.postgres

KILLED = """
import os, signal
from nightcrew.testing.postgres import PostgresServer
with PostgresServer() as server:
    print(server.pid, server.folder, flush=True)
    os.kill(os.getpid(), signal.SIG{how})
"""


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def tables(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    return [name for (name,) in rows]


def test_two_databases_share_nothing(postgres_server: PostgresServer) -> None:
    with postgres_server.database() as one, postgres_server.database() as other:
        with psycopg.connect(one) as connection:
            connection.execute("CREATE TABLE tickets (id int)")
        assert (tables(one), tables(other)) == (["tickets"], [])


def test_each_test_finds_an_empty_database_that_sqlalchemy_can_use(postgres_url: str) -> None:
    engine = create_engine(postgres_url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        assert connection.execute(text("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")).scalar() == 0
    engine.dispose()


def test_a_database_asked_for_again_by_name_is_empty_even_while_someone_is_connected(
    postgres_server: PostgresServer,
) -> None:
    url = postgres_server.url('odd "name"; --')
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE tickets (id int)")
        assert tables(postgres_server.url('odd "name"; --')) == []


def test_a_thrown_away_database_is_gone(postgres_server: PostgresServer) -> None:
    with postgres_server.database() as url:
        pass
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(url)


def test_nobody_enters_without_the_password(postgres_server: PostgresServer) -> None:
    with postgres_server.database() as url, pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(url.replace(postgres_server.password, "guessed"))


def test_the_server_listens_on_loopback_alone_and_never_runs_as_root(postgres_server: PostgresServer) -> None:
    with postgres_server.database() as url, psycopg.connect(url) as connection:
        listening = connection.execute("SHOW listen_addresses").fetchone()
    assert listening == ("127.0.0.1",)
    assert (postgres_server.folder / "data" / "postmaster.pid").stat().st_uid != 0
    assert postgres_server.folder.stat().st_mode & 0o777 == 0o700


def test_after_the_block_no_process_and_no_file_is_left() -> None:
    with PostgresServer() as server:
        pid, folder, port = server.pid, server.folder, server.port
        psycopg.connect(server.url("jobs")).close()
    assert not alive(pid)
    assert not folder.exists()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(f"postgresql://nightcrew@127.0.0.1:{port}/jobs")


@pytest.mark.parametrize("how", ["KILL", "INT", "TERM"])
def test_nothing_is_left_when_whoever_started_it_is_killed(how: str) -> None:
    # The server's keeper shares stderr with the one that dies: the run is over when the keeper is gone, too.
    ended = subprocess.run([sys.executable, "-c", KILLED.format(how=how)], check=False, capture_output=True, text=True)
    pid, folder = ended.stdout.split()
    assert ended.returncode != 0
    assert not alive(int(pid))
    assert not Path(folder).exists()


def test_a_server_that_cannot_be_made_says_so_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("initdb", "postgres"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    server = PostgresServer()
    with pytest.raises(PostgresBroken, match="initdb failed"), server:
        pass
    assert not server.folder.exists()


def test_a_port_taken_at_the_last_moment_is_left_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as squatter:
        taken = squatter.getsockname()[1]
        free = _free_port()
        ports = iter([taken, free])
        monkeypatch.setattr("nightcrew.testing.postgres._free_port", lambda: next(ports))
        with PostgresServer() as server:
            assert server.port == free
            assert tables(server.url("jobs")) == []


def test_a_machine_without_a_server_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("nightcrew.testing.postgres._HOMES", ())
    with pytest.raises(PostgresMissing) as missing:
        find_programs()
    assert "apt install postgresql" in missing.value.sentence()
