"""The run's PostgreSQL and Valkey: one of each for all test processes, and gone with the run however it ends."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psycopg2
import pytest
import redis

from sandbox.stack.processes import wait_until
from tests.servers import DATABASES_EACH
from tests.web_process import ROOT

_CONFTEST = "from tests.servers import pytest_configure, pytest_configure_node"
_TEST = """
import json, os
from pathlib import Path
import pytest
from sandbox.stack.processes import wait_until
from tests.servers import process_number, servers_of_run

@pytest.mark.parametrize("number", range(2))
def test_it(number, pytestconfig):
    told = {"servers": servers_of_run(pytestconfig), "process": process_number(pytestconfig)}
    folder = Path(__file__).parent
    (folder / f"{number}.new").write_text(json.dumps(told))
    (folder / f"{number}.new").rename(folder / f"{number}.json")
    assert wait_until((folder / "enough").exists, seconds=60)
"""


def inner_run(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """A run of pytest with two tests that wait until they may end."""
    (folder / "conftest.py").write_text(_CONFTEST)
    (folder / "test_inner.py").write_text(_TEST)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments, str(folder)]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder)},  # what a kill leaves goes with it
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )


def told(folder: Path, number: int) -> dict:
    path = folder / f"{number}.json"
    assert wait_until(path.exists, seconds=60)
    return json.loads(path.read_text())


def postgres_answers(url: str) -> bool:
    try:
        psycopg2.connect(url, connect_timeout=2).close()
    except psycopg2.OperationalError:
        return False
    return True


def valkey_answers(url: str) -> bool:
    try:
        with redis.Redis.from_url(url) as client:
            return bool(client.ping())
    except redis.ConnectionError:
        return False


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_processes_of_a_run_share_its_servers_which_end_with_it(server_folder: Path, end: signal.Signals):
    run = inner_run(server_folder, "-n", "2")
    try:
        first, second = told(server_folder, 0), told(server_folder, 1)
        servers = first["servers"]
        assert servers == second["servers"]
        assert {first["process"], second["process"]} == {0, 1}
        assert postgres_answers(servers["postgres"])
        assert valkey_answers(f"{servers['valkey']}/{2 * DATABASES_EACH - 1}"), "the last of the second process"
        run.send_signal(end)
        assert run.wait(120) != 0  # a busy machine may let the tests inside wait to their end first
    finally:
        run.kill()

    assert wait_until(lambda: not postgres_answers(servers["postgres"]), seconds=20)
    assert wait_until(lambda: not valkey_answers(servers["valkey"]), seconds=20)


def test_a_run_of_one_process_has_its_own(server_folder: Path):
    (server_folder / "enough").touch()

    code = inner_run(server_folder, "-p", "no:xdist").wait(60)

    assert code == 0
    first, second = told(server_folder, 0), told(server_folder, 1)
    assert first == second
    assert not postgres_answers(first["servers"]["postgres"])
    assert not valkey_answers(first["servers"]["valkey"])
