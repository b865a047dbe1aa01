"""What `make` does before anything runs: one sentence when it cannot, and nothing deleted that it did not make."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox.stack import processes
from sandbox.stack.processes import wait_until
from tests.web_process import ROOT

SCRIPT = ROOT / "sandbox" / "stack" / "install.sh"


def install(folder: Path, python: str = "python3") -> subprocess.CompletedProcess[str]:
    command = ["sh", str(SCRIPT), python, ".venv/.installed"]
    return subprocess.run(command, check=False, cwd=folder, capture_output=True, text=True, timeout=30)


def fake_python(folder: Path, script: str) -> str:
    path = folder / "fake-python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    return done.stderr


def test_a_missing_python_is_one_sentence(tmp_path: Path):
    assert "Python 3.11 or newer is needed and no-such-python was not found" in refusal(
        install(tmp_path, "no-such-python")
    )


def test_an_old_python_is_one_sentence(tmp_path: Path):
    old = fake_python(tmp_path, 'case "$2" in *exit*) exit 1 ;; *) echo 3.8 ;; esac')

    assert f"Python 3.11 or newer is needed and {old} is 3.8" in refusal(install(tmp_path, old))


def test_a_python_without_venv_is_one_sentence(tmp_path: Path):
    bare = fake_python(tmp_path, 'case "$2" in *ensurepip*) exit 1 ;; esac')

    assert "cannot make virtual environments: install its venv module" in refusal(install(tmp_path, bare))


def test_somebody_elses_environment_is_left_as_it_is(tmp_path: Path):
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "treasure").touch()

    assert ".venv exists and was not made by make" in refusal(install(tmp_path))
    assert (tmp_path / ".venv" / "treasure").exists()


def test_a_linked_environment_is_left_as_it_is(tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    for name in ("treasure", ".made-by-make"):
        (tmp_path / "elsewhere" / name).touch()
    (tmp_path / ".venv").symlink_to(tmp_path / "elsewhere")

    assert ".venv exists and was not made by make" in refusal(install(tmp_path))
    assert (tmp_path / "elsewhere" / "treasure").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_a_read_only_folder_is_one_sentence(tmp_path: Path):
    tmp_path.chmod(0o555)

    assert f"Cannot write to {tmp_path}" in refusal(install(tmp_path))
    tmp_path.chmod(0o755)


@pytest.fixture
def slow_python(tmp_path: Path) -> str:
    """A Python that makes an environment whose pip does not finish before there is a file `go`."""
    (tmp_path / "requirements-dev.txt").touch()
    pip = tmp_path / "pip"
    pip.write_text("#!/bin/sh\necho begun >>pips\nuntil [ -e go ]; do sleep 0.05; done\n")
    pip.chmod(0o755)
    making = "mkdir -p .venv/bin && cp pip .venv/bin/python"
    return fake_python(tmp_path, f'case "$2" in venv) {making} ;; *) exec {sys.executable} "$@" ;; esac')


def begin(folder: Path, python: str, log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return processes.spawn(["sh", str(SCRIPT), python, ".venv/.installed"], output=output, cwd=folder)


def begun(folder: Path, times: int) -> bool:
    """Whether pip has begun this many times."""
    return wait_until(
        lambda: (folder / "pips").exists() and len((folder / "pips").read_text().split()) == times, seconds=20
    )


def test_one_of_two_at_once_installs_and_the_other_waits(tmp_path: Path, slow_python: str):
    first = begin(tmp_path, slow_python, tmp_path / "first.log")
    assert begun(tmp_path, times=1)
    second = begin(tmp_path, slow_python, tmp_path / "second.log")
    try:
        assert wait_until(lambda: "waiting" in (tmp_path / "second.log").read_text(), seconds=10)
        (tmp_path / "go").touch()
        assert [first.wait(20), second.wait(20)] == [0, 0]
        assert begun(tmp_path, times=1)
    finally:
        for one in (first, second):
            processes.stop(one, signal.SIGKILL, seconds=5)


def test_a_killed_run_does_not_block_the_next_one(tmp_path: Path, slow_python: str):
    killed = begin(tmp_path, slow_python, tmp_path / "killed.log")
    assert begun(tmp_path, times=1)
    processes.kill_group(killed.pid)
    killed.wait()
    (tmp_path / "go").touch()
    assert install(tmp_path, slow_python).returncode == 0
    assert begun(tmp_path, times=2)


@pytest.mark.parametrize(("python", "made_again"), [(sys.executable, False), ("/no/such/python", True)])
def test_an_environment_whose_interpreter_is_gone_is_made_again(tmp_path: Path, python: str, made_again: bool):
    for file in ("Makefile", "requirements.txt", "requirements-dev.txt"):
        shutil.copy(ROOT / file, tmp_path)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(python)
    (tmp_path / ".venv" / ".installed").write_text(f"{tmp_path}\n")
    plan = subprocess.run(["make", "-n", "lint"], cwd=tmp_path, stdout=subprocess.PIPE, text=True, check=True).stdout
    assert ("install.sh" in plan) is made_again
