"""The databases that `make run` and the tests themselves stand on."""

import subprocess
import sys
import tempfile
from pathlib import Path

import psycopg2
import pytest
import redis

from sandbox.stack.postgres import KEPT_CLUSTER, PostgresServer
from sandbox.stack.processes import alive, wait_until
from sandbox.stack.servers import ServerError, ValkeyServer


def ask(url: str, sql: str) -> list[tuple]:
    connection = psycopg2.connect(url)
    with connection, connection.cursor() as cursor:
        cursor.execute(sql)
        rows = cursor.fetchall() if cursor.description else []
    connection.close()
    return rows


def test_postgres_keeps_committed_rows_and_its_address_over_a_kill():
    with PostgresServer(durable=False) as server:
        address = server.url
        ask(address, "CREATE TABLE kept AS SELECT 42 AS answer")
        server.kill()
        with pytest.raises(psycopg2.OperationalError):
            ask(address, "SELECT 1")

        server.start()

        assert server.url == address
        assert ask(address, "SELECT answer FROM kept") == [(42,)]


def test_postgres_orders_text_the_same_way_on_every_machine():
    with PostgresServer(durable=False) as server:
        rows = ask(server.url, "SELECT datlocprovider, datlocale FROM pg_database WHERE datname = 'postgres'")

    assert rows == [("b", "C.UTF-8")]


def test_a_folder_keeps_postgres_data_for_the_next_server(server_folder: Path):
    with PostgresServer(server_folder / "postgres", durable=False) as first:
        ask(first.url, "CREATE TABLE kept AS SELECT 42 AS answer")

    with PostgresServer(server_folder / "postgres", durable=False) as second:
        assert ask(second.url, "SELECT answer FROM kept") == [(42,)]


@pytest.mark.parametrize("name", ["d" * 100, 'spaces, commas and "é"'], ids=["too deep for a socket", "odd"])
def test_both_servers_work_in_any_folder(server_folder: Path, name: str):
    folder = server_folder / name
    folder.mkdir(mode=0o755)

    with PostgresServer(folder / "postgres", durable=False) as postgres, ValkeyServer(folder / "valkey") as valkey:
        assert ask(postgres.url, "SELECT 1") == [(1,)]
        assert valkey.answers()


@pytest.mark.parametrize("name", ["d" * 100, "with,comma"])
def test_postgres_starts_where_the_temporary_folder_is_no_place_for_a_socket(
    server_folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    folder = server_folder / name
    folder.mkdir(mode=0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))

    with PostgresServer(durable=False) as server:
        assert ask(server.url, "SELECT 1") == [(1,)]
    assert not list(folder.iterdir())


@pytest.mark.parametrize("copied", [False, True])
def test_an_initialization_cut_short_is_done_again(server_folder: Path, monkeypatch, copied: bool):
    if not copied:
        monkeypatch.delenv(KEPT_CLUSTER, raising=False)
    folder = server_folder / "postgres"
    server = PostgresServer(folder, durable=False)
    (folder / "data.new").mkdir()
    (folder / "data.new" / "PG_VERSION").write_text("18\n")

    with server:
        assert ask(server.url, "SELECT 1") == [(1,)]


def test_valkey_keeps_acknowledged_writes_and_its_address_over_a_kill():
    with ValkeyServer() as server:
        redis.Redis.from_url(server.url).set("answer", 42)
        address = server.url
        server.kill()

        server.start()

        assert server.url == address
        assert redis.Redis.from_url(address).get("answer") == b"42"


def test_valkey_refuses_rather_than_forgets_and_wants_its_password():
    with ValkeyServer(append_only=False) as server:
        settings = redis.Redis.from_url(server.url).config_get("maxmemory-policy")
        stranger = f"redis://{server.url.partition('@')[2]}"

        assert settings == {"maxmemory-policy": "noeviction"}
        with pytest.raises(redis.AuthenticationError):
            redis.Redis.from_url(stranger).ping()


def test_a_server_that_cannot_start_says_why(server_folder: Path):
    with ValkeyServer(server_folder / "valkey") as server:
        (server_folder / "valkey" / "appendonlydir").rename(server_folder / "aside")
        (server_folder / "valkey" / "appendonlydir").write_text("not a folder")
        server.kill()

        with pytest.raises(ServerError, match=r"(?s)valkey did not start:.*appendonlydir"):
            server.start()


_OWNER = """
import sys, time
from pathlib import Path
from sandbox.stack.postgres import PostgresServer
from sandbox.stack.servers import ValkeyServer
folder = Path(sys.argv[1])
with PostgresServer(folder / "postgres", durable=False) as postgres, ValkeyServer(folder / "valkey") as valkey:
    print(postgres.pid, valkey.pid, flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs PR_SET_PDEATHSIG")
def test_servers_end_with_a_killed_owner_and_the_next_one_starts_at_once(server_folder: Path):
    command = [sys.executable, "-c", _OWNER, str(server_folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pids = [int(word) for word in owner.stdout.readline().split()]
        owner.kill()

    with PostgresServer(server_folder / "postgres", durable=False), ValkeyServer(server_folder / "valkey"):
        assert len(pids) == 2
        assert wait_until(lambda: not any(alive(pid) for pid in pids), seconds=10)


def test_a_stale_pid_file_that_names_a_foreign_process_harms_neither(server_folder: Path):
    with ValkeyServer(server_folder / "valkey") as server:
        server.kill()
        with subprocess.Popen(["sleep", "60"]) as foreign:
            try:
                server.pid_file.write_text(f"{foreign.pid}\n")

                server.start()

                assert foreign.poll() is None
                assert server.answers()
            finally:
                foreign.kill()
