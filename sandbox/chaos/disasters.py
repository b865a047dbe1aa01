"""What may happen to a deployment while replies are being generated."""

import threading
from collections.abc import Callable
from dataclasses import dataclass

import redis

from sandbox.stack.deployment import Deployment

RESTART_SECONDS = 2.0  # how long a platform takes to start something again
SHUTDOWN_SECONDS = 25.0
OUTAGE_SECONDS = 8.0
CUTS, CUT_EVERY_SECONDS = 10, 0.3


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
    kill(stack, "worker")


def end_worker(stack: Deployment) -> None:
    """One after the other, as a platform does that puts a new version in place."""
    for worker in stack.workers:
        if not stack.end(worker, seconds=SHUTDOWN_SECONDS):
            raise AssertionError(f"the worker did not end within {SHUTDOWN_SECONDS:.0f} s of SIGTERM")
        stack.start(worker)


def kill(stack: Deployment, *names: str) -> None:
    """Kill processes at one moment, and start them again as a platform does."""
    for name in names:
        stack.kill(name)
    pause(RESTART_SECONDS)
    for name in names:
        stack.start(name)


def kill_web(stack: Deployment) -> None:
    kill(stack, "web")


def kill_beat(stack: Deployment) -> None:
    kill(stack, "beat", *stack.workers)


def kill_valkey(stack: Deployment) -> None:
    """What runs in the workers' slots, all of which are taken, ends while nobody can be told."""
    stack.valkey.kill()
    stack.gemini.wait_for(in_flight_at_most=0)
    pause(RESTART_SECONDS)
    stack.valkey.start()


def fill_valkey(stack: Deployment) -> None:
    """No write is taken, and workers go on with what is queued."""
    with redis.Redis.from_url(stack.valkey.url) as client:
        client.config_set("maxmemory", 1)
        pause(OUTAGE_SECONDS)
        client.config_set("maxmemory", 0)


def flush_valkey(stack: Deployment) -> None:
    with redis.Redis.from_url(stack.valkey.url) as client:
        client.flushall()


def drop_broker_connections(stack: Deployment) -> None:
    """Again and again, so that workers lose them in whatever they are at."""
    with redis.Redis.from_url(stack.valkey.url) as client:
        for _ in range(CUTS):
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            pause(CUT_EVERY_SECONDS)


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
    Disaster("kill -9 of a worker", kill_worker, in_short_form=True),
    Disaster("kill -9 of all workers and of beat", kill_beat),
    Disaster("kill -9 of the web process", kill_web),
    Disaster("kill -9 of Valkey, no append-only file", kill_valkey, in_short_form=True),
    Disaster("Valkey is flushed", flush_valkey),
    Disaster("Valkey is full", fill_valkey, in_short_form=True),
    Disaster("all broker connections are dropped", drop_broker_connections),
    Disaster("PostgreSQL restarts", restart_postgres, in_short_form=True),
    Disaster("SIGTERM to one worker after the other", end_worker, in_short_form=True),
    Disaster("Gemini hangs, fails, recovers", gemini_hangs_fails_and_recovers),
]
