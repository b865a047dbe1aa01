"""The folder of the web processes' numbers: whose it is, how long it stays, and what goes on without it."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from app.ops import metrics
from sandbox.stack.processes import alive, descendants, free_port, wait_until
from tests.ops.test_metrics import samples, scrape
from tests.web_process import ROOT, WebProcess, answers, serving

MEMORY = "/dev/shm"
FOLDER = "PROMETHEUS_MULTIPROC_DIR"
NAMESPACE = ("unshare", "--map-root-user", "--pid", "--fork", "--mount-proc")
# A master as far as its configuration: it makes its folder, tells where that is, and ends as if it were killed.
START = f"import os, runpy, sys; runpy.run_path('gunicorn.conf.py'); print(os.environ.pop('{FOLDER}'), flush=True)"
TWICE = f"{START}; os.execv(sys.executable, [sys.executable, '-c', {START!r}])"
WITH_RIVAL = f"""
import subprocess, sys, tempfile
make = tempfile.mkdtemp
rival = [sys.executable, "-c", {START!r}]
tempfile.mkdtemp = lambda **given: (make(**given), subprocess.run(rival, check=True))[0]
{START}
"""

pytestmark = pytest.mark.skipif(not os.path.isdir(MEMORY), reason="no memory to write files to")


def start(environment, script: str, *, inside: tuple[str, ...] = ()) -> list[Path]:
    """Run a script; the folders it tells, in their order."""
    command = [*inside, sys.executable, "-c", script]
    done = subprocess.run(command, env=os.environ | environment, cwd=ROOT, capture_output=True, text=True, check=True)
    return [Path(line) for line in done.stdout.splitlines()]


def folder_of(pid: int) -> Path:
    """Where a master has its numbers."""
    [folder] = {Path(one.path).parent for one in psutil.Process(pid).memory_maps() if one.path.endswith(".db")}
    return folder


def count_ready(web: WebProcess) -> float:
    return samples(web.call("GET", "/metrics").text).get(("http_requests_total", "GET", "/readyz", "200"), 0)


@pytest.fixture
def folder_in_memory():
    """A folder of another program's, by a name that is anybody's."""
    folder = Path(tempfile.mkdtemp(prefix="metrics-exporter-", dir=MEMORY))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.processes
def test_a_folder_of_another_program_is_left_alone(environment, folder_in_memory):
    [made] = start(environment, START)
    shutil.rmtree(made)
    assert folder_in_memory.exists()


@pytest.mark.processes
def test_a_given_folder_in_memory_survives_a_reload(app, environment, folder_in_memory, tmp_path):
    with serving(environment | {FOLDER: str(folder_in_memory)}, tmp_path / "web.log") as web:
        assert web.call("GET", "/readyz").ok
        os.kill(web.pid, signal.SIGHUP)
        assert wait_until(lambda: web.log_file.read_text().count("Worker exiting") == 1, seconds=40)
        assert wait_until(lambda: count_ready(web) == 1, seconds=20)


@pytest.mark.processes
def test_a_master_with_the_process_id_of_one_that_was_killed_removes_what_that_left(environment):
    """As the first process of a container, which is always 1. exec lets go of the folder as an end does."""
    first, second = start(environment, TWICE)
    shutil.rmtree(second)
    assert not first.exists()


@pytest.mark.processes
def test_a_folder_that_is_being_made_is_not_taken_for_one_that_was_left(environment):
    """Another master starts just then."""
    of_rival, own = start(environment, WITH_RIVAL)
    assert own.exists()
    for folder in (of_rival, own):
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.processes
@pytest.mark.parametrize("inside", [(), NAMESPACE], ids=["beside it", "in another container"])
def test_another_master_leaves_our_folder(app, environment, tmp_path, inside):
    """Also one that does not see our processes, as in the containers of a pod, which share their memory."""
    if inside and (not shutil.which(inside[0]) or subprocess.run([*inside, "true"], check=False).returncode):
        pytest.skip("this user may make no namespaces")
    with serving(environment, tmp_path / "web.log") as web:
        assert web.call("GET", "/readyz").ok
        [other] = start(environment, START, inside=inside)
        shutil.rmtree(other)
        assert wait_until(lambda: count_ready(web) == 1, seconds=10)


@pytest.mark.processes
def test_a_daemon_keeps_its_folder_at_a_reload_and_removes_it_at_its_end(app, environment, tmp_path):
    """It reads its configuration before it becomes one, under another process id."""
    port, pid_file = str(free_port()), tmp_path / "pid"
    gunicorn = [str(Path(sys.executable).with_name("gunicorn")), "-c", "gunicorn.conf.py", "--daemon"]
    own = {"PORT": port, "WEB_CONCURRENCY": "1", "WEB_THREADS": "32"}
    web = WebProcess(f"http://127.0.0.1:{port}", tmp_path / "none")
    subprocess.run([*gunicorn, "--pid", pid_file, "wsgi:app"], env=os.environ | environment | own, cwd=ROOT, check=True)
    assert wait_until(lambda: pid_file.exists() and pid_file.read_text(), seconds=30)
    web.pid = int(pid_file.read_text())
    try:
        assert wait_until(lambda: answers(web), seconds=30)
        assert web.call("GET", "/readyz").ok
        folder, before = folder_of(web.pid), descendants(web.pid)
        os.kill(web.pid, signal.SIGHUP)
        assert wait_until(lambda: not any(map(alive, before)), seconds=40)
        assert wait_until(lambda: answers(web) and count_ready(web) == 1, seconds=20)
    finally:
        with suppress(ProcessLookupError):
            os.kill(web.pid, signal.SIGQUIT)
        assert wait_until(lambda: not alive(web.pid), seconds=30)
    assert not folder.exists()


def test_metrics_go_on_when_their_folder_is_gone(client, tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER, str(tmp_path / "gone"))
    assert scrape(client)["postgres_answers",] == 1


def test_a_file_that_is_removed_while_it_is_read_disturbs_no_scrape(client, tmp_path, monkeypatch):
    """It is listed, and cannot be opened."""
    monkeypatch.setenv(FOLDER, str(tmp_path))
    removed = tmp_path / "counter_1.db"
    removed.symlink_to(tmp_path / "gone")
    monkeypatch.setattr(metrics, "time", SimpleNamespace(sleep=lambda _seconds: removed.unlink()))
    assert scrape(client)["postgres_answers",] == 1
    assert not removed.is_symlink()


@pytest.mark.processes
def test_the_numbers_are_in_memory_where_no_full_disk_ends_a_process(app, environment, tmp_path):
    with serving(environment, tmp_path / "web.log") as web:
        assert web.call("GET", "/readyz").ok
        [child] = descendants(web.pid)
        files = [one.path for one in psutil.Process(child).memory_maps() if one.path.endswith(".db")]
    assert files
    assert {path.split("/gemini-backend-numbers-")[0] for path in files} == {MEMORY}
