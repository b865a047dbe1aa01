"""Performs each step of the Dockerfile without Docker.

It copies the files that .dockerignore lets in and COPY takes, makes a virtual environment with only the pins, and
starts every process of the image with real databases and the image's variables, as a user who can write only to /tmp.
"""

import fnmatch
import json
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from sandbox.stack import processes
from sandbox.stack.accounts import Account
from sandbox.stack.postgres import PostgresServer
from sandbox.stack.processes import free_port, procfile_commands, wait_until
from sandbox.stack.servers import ValkeyServer

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
START_SECONDS = 180
STOP_SECONDS = 90


def instructions(name: str, pattern: str = "(.+)") -> list[str]:
    """Return the arguments of the Dockerfile's instructions with this name, in order."""
    found: list[str] = re.findall(rf"^{name} {pattern}$", DOCKERFILE, flags=re.MULTILINE)
    assert found, f"There is no {name} in the Dockerfile"
    return found


def the_only(values: list[str]) -> str:
    assert len(set(values)) == 1, f"The Dockerfile has several values where one is expected: {values}"
    return values[0]


def ordinary_user(account: Account | None) -> list[str]:
    """Return the prefix that runs a command as an unprivileged user, as USER does; empty if we are not root."""
    assert instructions("USER")[-1] not in {"root", "0"}
    if account is None:
        return []
    who = [f"--reuid={account.uid}", f"--regid={account.gid}", "--clear-groups", "--no-new-privs"]
    return ["setpriv", *who]


def python_of_the_image(as_user: list[str]) -> Path:
    """Return a Python of the image's version that an ordinary user can run. Ours must have that version too."""
    version = the_only([re.sub(r"^python:(\d+\.\d+)-slim.*", r"\1", words) for words in instructions("FROM")])
    ours = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert ours == version, f"The image runs Python {version}, but the other checks ran on {ours}"
    for candidate in (Path(sys.executable).resolve(), Path(f"/usr/bin/python{version}")):
        ask = [*as_user, str(candidate), "-c", "import sys; print(sys.prefix, end='')"]
        if subprocess.run(ask, capture_output=True, text=True, check=False).stdout == str(candidate.parents[1]):
            return candidate
    raise AssertionError(f"There is no python{version} that an ordinary user can run: install Debian's, with its venv")


def let_in(path: Path) -> bool:
    """Return whether .dockerignore lets a file of the checkout into the image: the last line that matches decides."""
    inside = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        rule = line.removeprefix("!").removeprefix("**/").rstrip("/")
        if not rule or rule.startswith("#"):
            continue
        names = [str(path), *map(str, path.parents[:-1])]
        if line.lstrip("!").startswith("**/"):
            names += path.parts
        if any(fnmatch.fnmatchcase(name, rule) for name in names):
            inside = line.startswith("!")
    return inside


def copy_files(into: Path) -> None:
    """Copy what the last stage takes from the checkout."""
    for words in instructions("COPY", r"(?!--from)(.+)"):
        *sources, target = words.split()
        if target == ".":  # of the first stage
            continue
        for source in sources:
            files = [ROOT / source] if (ROOT / source).is_file() else sorted((ROOT / source).rglob("*"))
            wanted = [file for file in files if file.is_file() and let_in(file.relative_to(ROOT))]
            assert wanted, f"COPY {source}: .dockerignore lets nothing of it in"
            for file in wanted:
                place = into / target / file.relative_to(ROOT / source if file != ROOT / source else ROOT)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, place)


def install(python: Path, folder: Path) -> None:
    """Do the first stage: make the virtual environment, and run its `pip install` word for word, with a cache."""
    run([str(python), "-m", "venv", str(folder)], ROOT, os.environ)
    pip = next(command for command in instructions("RUN") if command.startswith("pip install"))
    words = [word for word in shlex.split(pip) if word != "--no-cache-dir"]
    run([str(folder / "bin" / "python"), "-m", *words], ROOT, os.environ)
    run([str(folder / "bin" / "python"), "-m", "pip", "check"], ROOT, os.environ)


def variables(programs: Path) -> dict[str, str]:
    """Return the ENV of the last stage, with the path of the virtual environment here."""
    last_stage = DOCKERFILE.rpartition("\nFROM ")[2]
    [words] = re.findall(r"^ENV (.+)$", last_stage, flags=re.MULTILINE)
    named = dict(word.split("=", 1) for word in shlex.split(words))
    assert named["PATH"] == "/venv/bin:$PATH"
    return named | {"PATH": f"{programs}{os.pathsep}{os.defpath}"}


def json_command(pattern: str) -> list[str]:
    """Return the JSON command of an instruction."""
    return list(json.loads(the_only(re.findall(pattern + r"\s*(\[.+\])$", DOCKERFILE, flags=re.MULTILINE))))


def run(command: list[str], folder: Path, environ: Mapping[str, str]) -> None:
    print(f"   {' '.join(command)[:150]}", flush=True)
    subprocess.run(command, cwd=folder, env=environ, check=True, timeout=START_SECONDS, stdin=subprocess.DEVNULL)


def run_process(command: list[str], folder: Path, environ: Mapping[str, str], *, works: Callable[[str], bool]) -> None:
    """Start a process, wait until `works`, which gets its log, says so, and stop it as a platform does."""
    print(f"   {' '.join(command)[:150]}", flush=True)
    with tempfile.NamedTemporaryFile() as log:
        process = processes.spawn(command, output=log.file, env=environ, cwd=folder)
        try:
            said = Path(log.name)
            wait_until(lambda: process.poll() is not None or works(said.read_text()), seconds=START_SECONDS)
            assert process.poll() is None, said.read_text()
            assert works(said.read_text()), said.read_text()
            process.send_signal(signal.SIGTERM)
            assert wait_until(lambda: process.poll() is not None, seconds=STOP_SECONDS), "It does not stop on SIGTERM"
            assert process.returncode == 0, f"exit code {process.returncode}\n{said.read_text()}"
        finally:
            processes.stop(process, signal.SIGTERM, seconds=STOP_SECONDS)


def main() -> None:
    os.umask(0o022)  # the image's user reads what root copies
    with (
        tempfile.TemporaryDirectory() as temporary,
        PostgresServer(durable=False) as postgres,
        ValkeyServer() as valkey,
    ):
        as_user = ordinary_user(postgres.account)
        python = python_of_the_image(as_user)
        image, programs = Path(temporary, "srv"), Path(temporary, "venv", "bin")
        image.mkdir()
        Path(temporary).chmod(0o755)
        copy_files(image)
        print(f"   the image's files: {', '.join(sorted(path.name for path in image.iterdir()))}")
        install(python, programs.parent)
        environ = variables(programs) | {
            "PORT": str(free_port()),
            "DATABASE_URL": postgres.url,
            "REDIS_URL": valkey.url,
            "JWT_SECRET": secrets.token_urlsafe(48),
            "OTP_DELIVERY": "log",
            "OTP_LOG_IN_PRODUCTION": "true",
            "GEMINI_API_KEY": "not-used-here",
            "STRIPE_WEBHOOK_SECRET": "not-used-here",
        }
        healthcheck = json_command(r"HEALTHCHECK .*CMD")

        def healthy(_log: str) -> bool:
            return subprocess.run(healthcheck, env=environ, capture_output=True, check=False).returncode == 0

        run([*as_user, "python", "-c", "import wsgi, celery_worker, celery_beat"], image, environ)
        run([*as_user, "flask", "db", "upgrade"], image, environ)
        run_process([*as_user, *json_command("^CMD")], image, environ, works=healthy)
        commands = procfile_commands(ROOT / "Procfile")
        run_process([*as_user, *commands["worker"]], image, environ, works=lambda log: " ready." in log)
        run_process([*as_user, *commands["beat"]], image, environ, works=lambda log: "beat: Starting" in log)
    print("Every process works with the image's files, packages, variables and permissions.")


if __name__ == "__main__":
    main()
