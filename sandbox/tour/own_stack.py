"""What ends a tour early.

The API to tour: the one that is running, or a stack of one's own for as long as it is needed.
"""

import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import requests

from sandbox.stack import processes
from sandbox.stack.folder import stack_folder
from sandbox.stack.processes import free_port, wait_until
from sandbox.stack.settings import given_environment


class TourError(Exception):
    """Something did not come out as expected; the message says what, in one sentence."""


ROOT = Path(__file__).resolve().parents[2]
_DEFAULT_PORT = 5000
_START_SECONDS = 90.0
_STOP_SECONDS = 60.0  # the stack's own deadlines are shorter


@contextmanager
def reachable_api(environ: Mapping[str, str], say: Callable[[str], None]) -> Iterator[str]:
    """The address of an API that answers: BASE_URL, the running stack, or one started for the purpose.

    Raises TourError when BASE_URL does not answer, or no stack can be started.
    """
    given = given_environment(ROOT, environ)
    base_url = given.get("BASE_URL", "").rstrip("/")
    if base_url:
        if not answers(base_url):
            raise TourError(f"Nothing answers at BASE_URL {base_url}.")
        yield base_url
        return
    port = wanted_port(given)
    if answers(f"http://127.0.0.1:{port}"):
        yield f"http://127.0.0.1:{port}"
        return
    say("Nothing runs here yet: starting the stack for the tour …")
    with own_stack(environ, preferred_port=port) as address:
        yield address


@contextmanager
def own_stack(environ: Mapping[str, str], *, preferred_port: int | None = None) -> Iterator[str]:
    """A running `python -m sandbox.stack`, stopped at the end; its address. Its data is that of `make run`,
    or in the folder that SANDBOX_VAR names.

    Raises TourError, with the stack's last words, when it does not start.
    """
    port = free_port(preferred_port)
    address = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile() as log:
        stack = processes.spawn(
            [sys.executable, "-m", "sandbox.stack"],
            output=log,
            env={**environ, "PORT": str(port), "PYTHONUNBUFFERED": "1"},
            cwd=ROOT,
        )
        try:
            wait_until(lambda: stack.poll() is not None or ready(address), seconds=_START_SECONDS)
            if stack.poll() is not None or not ready(address):
                log.seek(0)
                last_words = log.read().decode(errors="replace").strip().splitlines()[-5:]
                raise TourError("\n".join(["The stack did not start:", *last_words]))
            yield address
        finally:
            processes.stop(stack, signal.SIGTERM, seconds=_STOP_SECONDS)


def wanted_port(given: Mapping[str, str]) -> int:
    """PORT; else the port of the stack that runs here; else the default. Raises TourError."""
    text = given.get("PORT") or port_of_running_stack() or str(_DEFAULT_PORT)
    try:
        return int(text)
    except ValueError:
        raise TourError(f"PORT is {text!r}, and must be a number.") from None


def port_of_running_stack() -> str | None:
    """What a running stack says of itself in `stack.env` of its folder."""
    try:
        lines = (stack_folder(ROOT) / "stack.env").read_text().splitlines()
    except OSError:
        return None
    return next((line.removeprefix("export PORT=") for line in lines if line.startswith("export PORT=")), None)


def answers(address: str) -> bool:
    """Whether this API, and nothing else, answers there."""
    return _says_ok(f"{address}/healthz")


def ready(address: str) -> bool:
    return _says_ok(f"{address}/readyz")


def _says_ok(url: str) -> bool:
    try:
        with requests.Session() as session:
            session.trust_env = False
            return bool(session.get(url, timeout=5).json() == {"status": "ok"})
    except (requests.RequestException, ValueError):
        return False
