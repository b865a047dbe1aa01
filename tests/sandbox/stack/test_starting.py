"""`python -m sandbox.stack`: what is in the way is said in one sentence, and the environment is read like the app's."""

import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import phonenumbers
import pytest
from flask import Flask
from sqlalchemy import text

from app.core.db import db
from sandbox.stack import deployment, processes, run, settings
from sandbox.stack.folder import kept_secret, locked
from sandbox.stack.processes import StackError, alive, free_port, procfile_commands
from sandbox.stack.run import conversation, is_up_to_date, newest_migration
from tests.servers import Database
from tests.web_process import ROOT


def start_stack(checkout: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the stack in a folder with nothing but a Procfile, so that it cannot get beyond the checks."""
    shutil.copytree(ROOT / "sandbox", checkout / "sandbox", ignore=shutil.ignore_patterns("__pycache__"))
    (checkout / "Procfile").write_text("web: false\n")
    command = [sys.executable, "-m", "sandbox.stack"]
    environment = {**os.environ, **environ}
    return subprocess.run(
        command, check=False, cwd=checkout, env=environment, capture_output=True, text=True, timeout=30
    )


def test_a_port_in_use_is_one_sentence(tmp_path: Path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]

        done = start_stack(tmp_path, PORT=str(port))

    assert done.returncode == 1
    assert done.stderr == f"Port {port} is in use: free it, or choose another, as in `PORT=5001 make run`.\n"
    assert done.stdout == ""


def test_a_folder_that_cannot_hold_data_is_one_sentence(tmp_path: Path):
    (tmp_path / "var").write_text("in the way, for root as well")

    done = start_stack(tmp_path)

    assert done.returncode == 1
    assert done.stderr.startswith(f"Cannot write to {tmp_path / 'var'}: ")
    assert done.stderr.count("\n") == 1


def test_a_second_stack_in_one_folder_is_refused_by_the_first_ones_id(tmp_path: Path):
    (tmp_path / "var").mkdir()
    with (tmp_path / "var" / "run.lock").open("w") as lock:
        lock.write(json.dumps({"pid": 4711}))
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)

        done = start_stack(tmp_path)

    assert (done.returncode, done.stderr) == (1, "Already running here (pid 4711).\n")


def test_the_lock_of_a_dead_stack_does_not_block_and_its_processes_are_ended(tmp_path: Path):
    var = tmp_path / "var"
    with subprocess.Popen(["sleep", "60"]) as left, subprocess.Popen(["sleep", "60"]) as foreign:
        with locked(var) as lock:
            lock.record("web", left.pid)
            record = json.loads((var / "run.lock").read_text())
        record["processes"]["worker"] = [foreign.pid, record["processes"]["web"][1] - 3600]
        (var / "run.lock").write_text(json.dumps(record))

        with locked(var):
            states = alive(left.pid), alive(foreign.pid)
        left.kill()
        foreign.kill()

    assert states == (False, True)

    assert (var / "run.lock").read_text() == ""


@pytest.mark.parametrize("port", ["0", "65536", "http", "-1", "５０００"])
def test_an_invalid_port_is_refused(port: str):
    with pytest.raises(StackError, match="must be a number from 1 to 65535"):
        settings.chosen_port({"PORT": port})


def test_the_environment_wins_over_the_env_file_and_an_empty_value_is_none(tmp_path: Path):
    (tmp_path / ".env").write_text("PORT=6000\nREDIS_URL=\nGEMINI_API_KEY=from-file\nJWT_SECRET='a b'\n")

    given = settings.given_environment(tmp_path, {"PORT": "7000", "GEMINI_API_KEY": " "})

    assert given == {
        "APP_ENV": "development",
        "PORT": "7000",
        "GEMINI_API_KEY": "from-file",
        "JWT_SECRET": "a b",
    }


@pytest.mark.parametrize("said", [{}, {"APP_ENV": " "}])
def test_the_stack_says_development_where_nobody_says_anything(tmp_path: Path, said: dict[str, str]):
    assert settings.given_environment(tmp_path, said)["APP_ENV"] == "development"
    (tmp_path / ".env").write_text("APP_ENV=production\n")
    assert settings.given_environment(tmp_path, said)["APP_ENV"] == "production"


def test_another_env_file_is_read_as_the_application_reads_it(tmp_path: Path):
    (tmp_path / ".env").write_text("PORT=6000\n")
    (tmp_path / "other").write_text("PORT=7000\n")

    assert settings.given_environment(tmp_path, {"ENV_FILE": "other"})["PORT"] == "7000"
    assert "PORT" not in settings.given_environment(tmp_path, {"ENV_FILE": os.devnull})


def test_the_env_file_is_for_development_alone(tmp_path: Path):
    (tmp_path / ".env").write_text("PORT=6000\n")

    assert settings.given_environment(tmp_path, {"APP_ENV": "production"}) == {"APP_ENV": "production"}


def test_a_given_key_takes_the_place_of_its_stand_in(tmp_path: Path):
    keys = {"GEMINI_API_KEY": "k", "STRIPE_SECRET_KEY": "sk_test_1"}

    assert settings.stand_ins(keys, port=5000, var=tmp_path) == []
    assert [one.name for one in settings.stand_ins({}, port=5000, var=tmp_path)] == ["gemini", "stripe"]


def test_the_token_secret_survives_a_restart_and_is_private(tmp_path: Path):
    first = settings.token_secret({}, tmp_path)

    assert settings.token_secret({}, tmp_path) == first
    assert len(first["JWT_SECRET"]) >= 32
    assert (tmp_path / "jwt_secret").stat().st_mode & 0o777 == 0o600
    assert settings.token_secret({"JWT_SECRET": "given"}, tmp_path) == {}
    assert settings.token_secret({"APP_ENV": "production"}, tmp_path) == {}


def test_an_empty_secret_file_is_written_again(tmp_path: Path):
    (tmp_path / "jwt_secret").touch()

    assert len(kept_secret(tmp_path / "jwt_secret")) >= 32


def test_exports_can_be_sourced_by_a_shell(tmp_path: Path):
    settings.write_exports(tmp_path / "stack.env", {"REDIS_URL": "redis://:a'b$c@host/0"})

    command = ["sh", "-c", '. ./stack.env && printf %s "$REDIS_URL"']
    done = subprocess.run(command, check=True, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "redis://:a'b$c@host/0"


def test_a_procfile_line_becomes_the_process_itself(tmp_path: Path):
    (tmp_path / "Procfile").write_text("web: GREETING=hello sh -c 'echo \"$GREETING $PPID\"'\n")

    command = procfile_commands(tmp_path / "Procfile")["web"]

    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout == f"hello {os.getpid()}\n"


@pytest.mark.parametrize("last_digits", [1000, 5555, 9999])
def test_the_numbers_of_the_first_conversation_are_valid(last_digits: int):
    assert 'MOBILE="+1202555$((RANDOM % 9000 + 1000))"' in conversation(5000)
    assert phonenumbers.is_valid_number(phonenumbers.parse(f"+1202555{last_digits}"))


def test_a_preferred_port_is_taken_only_when_it_is_free():
    port = free_port()
    assert free_port(port) == port
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        assert free_port(port) != port


_TAKER = """
import sys
from sandbox.stack.processes import free_port
print(*[free_port() for _ in range(300)], flush=True)
sys.stdin.read()
"""


def test_no_port_is_given_to_two_processes():
    command = [sys.executable, "-c", _TAKER]
    with ExitStack() as exits:
        takers = [
            exits.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
            )
            for _ in range(3)
        ]
        ports = [port for taker in takers for port in taker.stdout.readline().split()]
        for taker in takers:
            taker.stdin.close()

    assert len(set(ports)) == len(ports) == 900


def test_two_stacks_that_start_at_once_do_not_share_the_usual_port(monkeypatch: pytest.MonkeyPatch):
    port = free_port()  # reserved from here on, as by another stack
    monkeypatch.setattr(settings, "DEFAULT_PORT", port)

    with pytest.raises(StackError, match=f"Port {port} is in use"):
        settings.chosen_port({})
    assert settings.chosen_port({"PORT": str(port)}) == port, "whoever names it has reserved it, as `make demo` does"


def test_the_caller_waits_longer_for_a_stack_than_the_stack_itself(monkeypatch: pytest.MonkeyPatch):
    waits: list[float] = []
    monkeypatch.setattr(deployment, "comes_up", lambda *_, seconds: waits.append(seconds))
    monkeypatch.setattr(processes, "spawn", lambda *_, **__: subprocess.Popen(["true"], start_new_session=True))

    with pytest.raises(StackError, match="The stack did not start"), deployment.own_stack({}):
        pass
    assert waits[0] > run.MIGRATION_SECONDS + run.READY_SECONDS


def test_a_database_with_the_newest_migration_is_left_alone(app: Flask, postgres: Database):
    assert is_up_to_date(postgres.url)
    with app.app_context():
        db.session.execute(text("UPDATE alembic_version SET version_num = '0005'"))
        db.session.commit()
        assert not is_up_to_date(postgres.url)
        db.session.execute(text("UPDATE alembic_version SET version_num = :newest"), {"newest": newest_migration()})
        db.session.commit()
    assert not is_up_to_date(f"postgresql://nobody@127.0.0.1:{free_port()}/nothing")
