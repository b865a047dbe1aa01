"""What may happen to a deployment while replies are being generated."""

import threading
from collections.abc import Callable
from dataclasses import dataclass

import redis

from sandbox.stack.deployment import Deployment

RESTART_SECONDS = 2.0  # how long a platform takes to start something again
SHUTDOWN_SECONDS = 25.0
OUTAGE_SECONDS = 8.0


@dataclass(frozen=True)
class Disaster:
    """Something that happens once all generations are in flight."""

    name: str
    strike: Callable[[Deployment], None]
    in_short_form: bool = False


def pause(seconds: float) -> None:
    threading.Event().wait(seconds)


def nothing(_: Deployment) -> None:
    """What it looks like on a good day."""


def kill_worker(stack: Deployment) -> None:
    stack.kill("worker")
    pause(RESTART_SECONDS)
    stack.start("worker")


def end_worker(stack: Deployment) -> None:
    if not stack.end("worker", seconds=SHUTDOWN_SECONDS):
        raise AssertionError(f"the worker did not end within {SHUTDOWN_SECONDS:.0f} s of SIGTERM")
    stack.start("worker")


def kill_web(stack: Deployment) -> None:
    stack.kill("web")
    pause(RESTART_SECONDS)
    stack.start("web")


def kill_beat(stack: Deployment) -> None:
    stack.kill("beat")
    stack.kill("worker")
    pause(RESTART_SECONDS)
    stack.start("worker")
    stack.start("beat")


def kill_valkey(stack: Deployment) -> None:
    stack.valkey.kill()
    pause(RESTART_SECONDS)
    stack.valkey.start()


def flush_valkey(stack: Deployment) -> None:
    with redis.Redis.from_url(stack.valkey.url) as client:
        client.flushall()


def drop_broker_connections(stack: Deployment) -> None:
    with redis.Redis.from_url(stack.valkey.url) as client:
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


def restart_postgres(stack: Deployment) -> None:
    stack.postgres.stop()
    pause(RESTART_SECONDS)
    stack.postgres.start()


def gemini_hangs_fails_and_recovers(stack: Deployment) -> None:
    stack.gemini.behave(hang=True)
    pause(OUTAGE_SECONDS)
    stack.gemini.behave(status=503)
    pause(OUTAGE_SECONDS)
    stack.gemini.reset()


DISASTERS = [
    Disaster("nothing happens", nothing),
    Disaster("kill -9 of the worker", kill_worker, in_short_form=True),
    Disaster("kill -9 of worker and beat", kill_beat),
    Disaster("kill -9 of the web process", kill_web),
    Disaster("kill -9 of Valkey, no append-only file", kill_valkey, in_short_form=True),
    Disaster("Valkey is flushed", flush_valkey),
    Disaster("all broker connections are dropped", drop_broker_connections),
    Disaster("PostgreSQL restarts", restart_postgres, in_short_form=True),
    Disaster("SIGTERM to the worker", end_worker, in_short_form=True),
    Disaster("Gemini hangs, fails, recovers", gemini_hangs_fails_and_recovers),
]
