"""The folder of the web processes' metrics: whose it is, how long it stays, and what goes on without it."""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from app.ops import metrics
from sandbox.stack.processes import alive, descendants, free_port, wait_until
from tests.ops.test_metrics import folder_of, samples, scrape
from tests.web_process import ROOT, WebProcess, answers, serving

MEMORY = "/dev/shm"
FOLDER = "PROMETHEUS_MULTIPROC_DIR"
pytestmark = pytest.mark.skipif(not os.path.isdir(MEMORY), reason="no memory to write files to")


def count_ready(web: WebProcess) -> float:
    return samples(web.call("GET", "/metrics").text).get(("http_requests_total", "GET", "/readyz", "200"), 0)


@pytest.mark.processes
def test_a_daemon_keeps_its_folder_at_a_reload_and_removes_it_at_its_end(app, environment, tmp_path):
    """It reads its configuration before it becomes a daemon, under another process id."""
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


def test_a_master_that_never_serves_leaves_no_folder():
    """Its port is taken, or it cannot load the application: none of gunicorn's hooks is called."""
    read = f"import os, runpy; runpy.run_path('gunicorn.conf.py'); folder = os.environ['{FOLDER}']"
    shown = "print(folder, os.path.isdir(folder))"
    environ = os.environ | {"APP_ENV": "development", "DATABASE_URL": "postgres://x", "REDIS_URL": "redis://x"}
    done = subprocess.run(
        [sys.executable, "-c", f"{read}; {shown}"], env=environ, cwd=ROOT, capture_output=True, text=True, check=True
    )
    folder, existed = done.stdout.split()
    assert (existed, os.path.exists(folder)) == ("True", False)


def test_the_next_master_removes_the_folder_of_a_killed_one_and_not_of_a_running_one():
    """The first one ends as a killed master does: nothing runs at its end."""
    read = f"import os, runpy; runpy.run_path('gunicorn.conf.py'); print(os.environ['{FOLDER}'], flush=True)"
    environ = os.environ | {"APP_ENV": "development", "DATABASE_URL": "postgres://x", "REDIS_URL": "redis://x"}
    command = [sys.executable, "-c", f"{read}; input(); os._exit(0)"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environ, cwd=ROOT, **pipes) as killed:
        left = Path(killed.stdout.readline().strip())
        with subprocess.Popen(command, env=environ, cwd=ROOT, **pipes) as other:
            own = Path(other.stdout.readline().strip())
            assert left.is_dir()
            killed.communicate("\n")
            assert left.is_dir()
            subprocess.run([sys.executable, "-c", read], env=environ, cwd=ROOT, check=True, capture_output=True)
            assert (left.exists(), own.is_dir()) == (False, True)
            other.communicate("\n")
    shutil.rmtree(own)


@pytest.mark.processes
def test_a_master_of_an_earlier_release_does_not_remove_our_folder(app, environment, tmp_path):
    """An earlier release may start beside ours, and removes folders of its name that have no lock."""
    with serving(environment, tmp_path / "web.log") as web:
        assert not folder_of(web.pid).match("gemini-backend-numbers-*")


def test_metrics_go_on_when_their_folder_is_gone(client, tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER, str(tmp_path / "gone"))
    assert scrape(client)["postgres_answers",] == 1


def test_a_file_that_is_removed_while_it_is_read_does_not_disturb_a_scrape(client, tmp_path, monkeypatch):
    """It is listed, but cannot be opened."""
    monkeypatch.setenv(FOLDER, str(tmp_path))
    removed = tmp_path / "counter_1.db"
    removed.symlink_to(tmp_path / "gone")
    monkeypatch.setattr(metrics, "time", SimpleNamespace(sleep=lambda _seconds: removed.unlink()))
    assert scrape(client)["postgres_answers",] == 1
    assert not removed.is_symlink()


@pytest.mark.processes
def test_the_metrics_are_in_memory_where_no_full_disk_ends_a_process(app, environment, tmp_path):
    with serving(environment, tmp_path / "web.log") as web:
        assert web.call("GET", "/readyz").ok
        [child] = descendants(web.pid)
        files = [one.path for one in psutil.Process(child).memory_maps() if one.path.endswith(".db")]
    assert files
    assert {path.split("/gemini-backend-metrics-")[0] for path in files} == {MEMORY}
