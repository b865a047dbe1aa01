"""The measured service, as the Procfile starts it, with its own databases and Gemini stand-in; and its floor."""

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
import requests

from bench.load import Call, call
from sandbox.people import Person, everybody
from sandbox.stack import processes
from sandbox.stack.deployment import Deployment
from sandbox.stack.processes import free_port, wait_until

ARRIVE_AT_ONCE = 30  # signing up costs much more than what is measured here
ENVIRON = {
    "RATE_LIMIT_PER_MINUTE": "0",
    "BASIC_DAILY_PROMPTS": "100000",
    "LOG_FORMAT": "json",
    "GUNICORN_CMD_ARGS": "--max-requests 0",  # a process that is replaced midway would close connections
}

# The settings of gunicorn.conf.py without its hooks, which need the application.
COMMAND = "--config /dev/null --worker-class gthread --workers {workers} --threads 256 --keep-alive 75 --preload"
COMMAND += " --no-control-socket --bind {address} bench.floor:app"


@contextmanager
def service(*, workers: int = 1, environ: dict[str, str] | None = None) -> Iterator[Deployment]:
    """Run a service during the block. environ: variables in addition to ENVIRON."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as logs,
        Deployment(Path(logs), workers=workers, environ=ENVIRON | (environ or {})) as stack,
    ):
        yield stack


def arrived(stack: Deployment, count: int) -> list[Person]:
    """Return this many users, each with a token and a chatroom."""
    people = [Person(stack.url) for _ in range(count)]
    for first in range(0, count, ARRIVE_AT_ONCE):
        everybody(people[first : first + ARRIVE_AT_ONCE], Person.arrive)
    return people


def with_new_rooms(people: Sequence[Person]) -> Sequence[Person]:
    """Return the same people, each in a new chatroom, so that no earlier turns are sent to Gemini."""
    for person in people:
        answer = person.session.post(f"{person.base_url}/chatroom", json={"title": "Another"})
        answer.raise_for_status()
        person.room = answer.headers["Location"]
    return people


def token(person: Person) -> str:
    return str(person.session.headers["Authorization"]).removeprefix("Bearer ")


def prompt(person: Person, *, prefer: str = "", **body: Any) -> Call:
    """Return the call that sends a prompt to the person's chatroom."""
    url = f"{person.base_url}{person.room}/message"
    return call("POST", url, token=token(person), body={"text": "Hello"} | body, prefer=prefer)


def call_model(stack: Deployment, method: str, *, alt: str) -> Call:
    """Return the call that a worker makes to Gemini. method: Google's name. alt: the answer's form, `json` or `sse`."""
    body = {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]}
    url = f"{stack.gemini.url}/v1beta/models/gemini-3.5-flash:{method}?alt={alt}&key={stack.gemini.api_key}"
    return call("POST", url, body=body)


def wait_until_idle(stack: Deployment, *, seconds: float = 60) -> float:
    """Wait until no reply is queued or generated. Returns when the last one ended, in seconds since the epoch.

    Asks PostgreSQL, which disturbs the measurement less than asking the service. Raises TimeoutError.
    """
    with closing(psycopg2.connect(stack.postgres.url)) as connection:
        connection.autocommit = True
        cursor = connection.cursor()

        def is_idle() -> bool:
            cursor.execute("SELECT NOT EXISTS (SELECT FROM messages WHERE status IN ('queued', 'generating'))")
            return bool(cursor.fetchone()[0])

        if not wait_until(is_idle, seconds=seconds):
            raise TimeoutError(f"Replies are still in progress after {seconds:.0f} s.")
        cursor.execute("SELECT extract(epoch FROM max(completed_at)) FROM messages WHERE role = 'model'")
        return float(cursor.fetchone()[0] or time.time())


@dataclass(frozen=True)
class FloorServer:
    """A running server of the views in `bench.floor`."""

    url: str
    process: subprocess.Popen[bytes]

    @property
    def token(self) -> str:
        return str(requests.get(f"{self.url}/issue", timeout=5).json()["token"])

    @property
    def process_ids(self) -> list[int]:
        return [process.pid for process in processes.family(self.process.pid)]

    def is_up(self) -> bool:
        try:
            return requests.get(f"{self.url}/empty", timeout=1).ok
        except requests.RequestException:
            return False


@contextmanager
def floor_server(stack: Deployment) -> Iterator[FloorServer]:
    """Run a server of the floor's views during the block, with the service's number of web processes and its Redis.

    Raises TimeoutError if it does not start.
    """
    address = f"127.0.0.1:{free_port()}"
    words = COMMAND.format(workers=len(stack.process_ids("web")) - 1, address=address)
    command = [sys.executable, "-m", "gunicorn", *words.split()]
    process = processes.spawn(command, output=subprocess.DEVNULL, env=stack.environ)
    server = FloorServer(f"http://{address}", process)
    try:
        if not wait_until(server.is_up, seconds=20):
            raise TimeoutError("The floor's server did not start.")
        yield server
    finally:
        processes.stop(process, signal.SIGTERM, seconds=20)
