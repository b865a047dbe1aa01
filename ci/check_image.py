"""Takes each step of the Dockerfile by hand, where no Docker is needed: a clean virtual environment, the files
that are copied into the image and nothing else, and every process of the image started against real databases.
"""

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
import venv
from collections.abc import Callable, Mapping
from pathlib import Path

from sandbox.stack import children
from sandbox.stack.processes import procfile_commands
from sandbox.stack.servers import free_port, postgres_server, valkey_server, wait_until

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
START_SECONDS = 180
STOP_SECONDS = 90


def copy_files(into: Path) -> None:
    """What the last stage copies out of the checkout."""
    for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, flags=re.MULTILINE):
        *sources, target = line.split()
        for source in sources:
            destination = into / target if target != "./" else into / source
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, destination, ignore=shutil.ignore_patterns("__pycache__"))
            elif target != ".":
                shutil.copy(ROOT / source, destination)


def install(folder: Path) -> Path:
    """The first stage; the folder of the environment's programs."""
    venv.create(folder, with_pip=True)
    command = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--only-binary", ":all:", "-r", ROOT / "requirements.txt"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "bin"


def instruction(pattern: str) -> list[str]:
    """The JSON command behind an instruction of the Dockerfile."""
    found = re.search(pattern + r"\s*(\[.+\])$", DOCKERFILE, flags=re.MULTILINE)
    assert found, f"No {pattern} in the Dockerfile"
    return list(json.loads(found[1]))


def step(what: str) -> None:
    print(f"   {what}", flush=True)


def run(command: list[str], folder: Path, environ: Mapping[str, str]) -> None:
    step(" ".join(command)[:100])
    subprocess.run(command, cwd=folder, env=environ, check=True, timeout=START_SECONDS, stdin=subprocess.DEVNULL)


def run_process(command: list[str], folder: Path, environ: Mapping[str, str], *, works: Callable[[str], bool]) -> None:
    """Start a process, wait until its log or an answer says that it works, end it as a platform does."""
    step(" ".join(command)[:100])
    with tempfile.NamedTemporaryFile() as log:
        process = children.spawn(command, output=log.file, env=environ, cwd=folder)
        try:
            said = Path(log.name)
            wait_until(lambda: process.poll() is not None or works(said.read_text()), seconds=START_SECONDS)
            assert process.poll() is None, said.read_text()
            assert works(said.read_text()), said.read_text()
            process.send_signal(signal.SIGTERM)
            assert wait_until(lambda: process.poll() is not None, seconds=STOP_SECONDS), "It does not end on SIGTERM"
            assert process.returncode == 0, f"exit code {process.returncode}\n{said.read_text()}"
        finally:
            children.stop(process, signal.SIGTERM, seconds=STOP_SECONDS)


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as temporary,
        postgres_server(durable=False) as postgres,
        valkey_server() as valkey,
    ):
        image = Path(temporary, "srv")
        image.mkdir()
        copy_files(image)
        step(f"the image's files: {', '.join(sorted(path.name for path in image.iterdir()))}")
        step("pip install --only-binary :all: -r requirements.txt")
        programs = install(Path(temporary, "venv"))
        environ = {
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "APP_ENV": "production",
            "PORT": str(free_port()),
            "DATABASE_URL": postgres.url,
            "REDIS_URL": valkey.url,
            "JWT_SECRET": secrets.token_urlsafe(48),
            "OTP_DELIVERY": "log",
            "OTP_LOG_IN_PRODUCTION": "true",
            "GEMINI_API_KEY": "not-used-here",
            "STRIPE_WEBHOOK_SECRET": "not-used-here",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        healthcheck = instruction(r"HEALTHCHECK .*CMD")

        def healthy(_log: str) -> bool:
            return subprocess.run(healthcheck, env=environ, capture_output=True, check=False).returncode == 0

        run(["python", "-c", "import wsgi, celery_worker"], image, environ)
        run(["flask", "--app", "wsgi", "db", "upgrade"], image, environ)
        run_process(instruction("^CMD"), image, environ, works=healthy)
        commands = procfile_commands(ROOT / "Procfile")
        run_process(commands["worker"], image, environ, works=lambda log: " ready." in log)
        run_process(commands["beat"], image, environ, works=lambda log: "beat: Starting" in log)
    print("The image's files and packages are enough for every process.")


if __name__ == "__main__":
    main()
