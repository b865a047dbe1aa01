"""What `make` does before anything runs: one sentence when it cannot, and nothing deleted that it did not make."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "sandbox" / "stack" / "install.sh"


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

    assert ".venv is there and was not made by make" in refusal(install(tmp_path))
    assert (tmp_path / ".venv" / "treasure").exists()


def test_a_linked_environment_is_left_as_it_is(tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    for name in ("treasure", ".made-by-make"):
        (tmp_path / "elsewhere" / name).touch()
    (tmp_path / ".venv").symlink_to(tmp_path / "elsewhere")

    assert ".venv is there and was not made by make" in refusal(install(tmp_path))
    assert (tmp_path / "elsewhere" / "treasure").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_a_read_only_folder_is_one_sentence(tmp_path: Path):
    tmp_path.chmod(0o555)

    assert f"Cannot write to {tmp_path}" in refusal(install(tmp_path))
    tmp_path.chmod(0o755)
