"""The web process as production starts it: gunicorn with its own configuration, on a free port."""

import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from sandbox.stack import processes
from sandbox.stack.processes import free_port, wait_until

ROOT = Path(__file__).resolve().parents[1]


class WebProcess:
    """A running service and requests to it."""

    def __init__(self, url: str, log_file: Path) -> None:
        self.url = url
        self.log_file = log_file
        self.pid = 0

    def call(self, method: str, path: str, *, token: str | None = None, **kwargs: Any) -> requests.Response:
        """Send a request on a connection of its own; `response.took` is how long it took, in seconds."""
        headers = kwargs.pop("headers", {}) | ({"Authorization": f"Bearer {token}"} if token else {})
        began = time.monotonic()
        response = requests.request(method, self.url + path, headers=headers, timeout=30, **kwargs)
        response.took = time.monotonic() - began
        return response

    def log_in(self, mobile: str) -> dict:
        """Sign up and log in. Returns the tokens."""
        assert self.call("POST", "/auth/signup", json={"mobile": mobile}).status_code == 201
        otp = self.call("POST", "/auth/send-otp", json={"mobile": mobile}).json()["otp"]
        return self.call("POST", "/auth/verify-otp", json={"mobile": mobile, "otp": otp}).json()


@contextmanager
def serving(
    environment: Mapping[str, str], log_file: Path, *, workers: int = 1, unix_socket: Path | None = None
) -> Iterator[WebProcess]:
    """Run gunicorn with the environment until the block ends. unix_socket: where it listens as well."""
    port = free_port()
    command = [str(Path(sys.executable).with_name("gunicorn")), "-c", "gunicorn.conf.py", "wsgi:app"]
    command += ["-b", f"127.0.0.1:{port}", "-b", f"unix:{unix_socket}"] if unix_socket else []
    own = {"PORT": str(port), "WEB_CONCURRENCY": str(workers)}
    variables = {**os.environ, "WEB_THREADS": "32", **environment, **own}
    web = WebProcess(f"http://127.0.0.1:{port}", log_file)
    with log_file.open("wb") as log:
        process = processes.spawn(command, output=log, env=variables, cwd=ROOT)
        web.pid = process.pid
    try:
        assert wait_until(lambda: answers(web), seconds=30), log_file.read_text()
        yield web
    finally:
        processes.stop(process, signal.SIGQUIT, seconds=30)  # nobody is left to be answered


def answers(web: WebProcess) -> bool:
    try:
        return web.call("GET", "/healthz").ok
    except requests.ConnectionError:
        return False
