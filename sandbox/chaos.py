"""Break a running stack on purpose, with 20 replies in flight, and check that every message is answered.

    python -m sandbox.chaos [--short]

Exits with 1 if a message was refused, lost, doubled, answered out of order or charged wrongly, or if a worker takes no
more tasks.
"""

import argparse
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import redis

from sandbox.people import Findings, Person, everybody, look, wait_for_all
from sandbox.stack.deployment import Deployment

IN_FLIGHT = 20
PATIENCE_SECONDS = 90.0
GENERATION_SECONDS = 1.5
WORKERS = 2
SLOTS = IN_FLIGHT // WORKERS  # of each worker: all are taken when the disaster strikes
ROW = "{name:<40} {accepted:>8} {refused:>7} {lost:>4} {doubled:>7} {out_of_order:>8} {miscounted:>10} {calls:>5} "
ROW += "{longest:>8}"
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


def end_worker(stack: Deployment) -> None:
    """Stop and restart the workers one by one, as a platform does when it deploys a new version."""
    for worker in stack.workers:
        if not stack.end(worker, seconds=SHUTDOWN_SECONDS):
            raise AssertionError(f"the worker did not end within {SHUTDOWN_SECONDS:.0f} s of SIGTERM")
        stack.start(worker)


def kill(stack: Deployment, *names: str) -> None:
    """Kill processes at the same time, and start them again as a platform does."""
    for name in names:
        stack.kill(name)
    pause(RESTART_SECONDS)
    for name in names:
        stack.start(name)


def kill_valkey(stack: Deployment) -> None:
    """Kill Valkey, and start it again once all generations in the workers' slots have ended."""
    stack.valkey.kill()
    stack.gemini.wait_for(in_flight_at_most=0)
    pause(RESTART_SECONDS)
    stack.valkey.start()


def fill_valkey(stack: Deployment) -> None:
    """Make Valkey refuse writes for a while. Workers continue with what is queued."""
    with redis.Redis.from_url(stack.valkey.url) as client:
        client.config_set("maxmemory", 1)
        pause(OUTAGE_SECONDS)
        client.config_set("maxmemory", 0)


def flush_valkey(stack: Deployment) -> None:
    with redis.Redis.from_url(stack.valkey.url) as client:
        client.flushall()


def drop_broker_connections(stack: Deployment) -> None:
    """Drop all connections again and again, so that workers lose theirs at any point of their work."""
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
    Disaster("nothing happens", lambda _: None),
    Disaster("kill -9 of a worker", lambda stack: kill(stack, "worker"), in_short_form=True),
    Disaster("kill -9 of all workers and of beat", lambda stack: kill(stack, "beat", *stack.workers)),
    Disaster("kill -9 of the web process", lambda stack: kill(stack, "web")),
    Disaster("kill -9 of Valkey, no append-only file", kill_valkey, in_short_form=True),
    Disaster("Valkey is flushed", flush_valkey),
    Disaster("Valkey is full", fill_valkey, in_short_form=True),
    Disaster("all broker connections are dropped", drop_broker_connections),
    Disaster("PostgreSQL restarts", restart_postgres, in_short_form=True),
    Disaster("SIGTERM to one worker after the other", end_worker, in_short_form=True),
    Disaster("Gemini hangs, fails, recovers", gemini_hangs_fails_and_recovers),
]


def survive(stack: Deployment, disaster: Disaster) -> tuple[Findings, int]:
    """Let a disaster happen. Returns what was found afterwards, and how many calls Gemini got."""
    people = [Person(stack.url) for _ in range(IN_FLIGHT)]
    everybody(people, Person.arrive)
    stack.gemini.reset()
    stack.gemini.clear_requests()
    stack.gemini.behave(delay=GENERATION_SECONDS)
    everybody(people, lambda person: person.send("First"))
    stack.gemini.wait_for(in_flight_at_least=IN_FLIGHT)
    everybody(people, lambda person: person.send("Second"))
    disaster.strike(stack)
    stack.gemini.reset()
    wait_for_all(people, seconds=PATIENCE_SECONDS)
    return look(people, sent=2), stack.gemini.stats()["calls"]


def main() -> int:
    parser = argparse.ArgumentParser(description="Break the stack on purpose and check every message.")
    parser.add_argument("--short", action="store_true", help="run only the most telling disasters")
    is_short = parser.parse_args().short
    logs = Path(tempfile.mkdtemp(prefix="chaos-"))
    begun = time.monotonic()
    all_good = True
    print(f"Each time, {IN_FLIGHT} replies are in flight and as many queued behind them. Logs: {logs}\n", flush=True)
    heads = {"name": "what happens", "accepted": "accepted", "refused": "refused", "lost": "lost", "doubled": "doubled"}
    heads |= {"out_of_order": "disorder", "miscounted": "mischarged", "calls": "calls", "longest": "longest"}
    print(ROW.format(**heads), flush=True)
    environ = {"GEMINI_TIMEOUT": "4", "WORKER_CONCURRENCY": str(SLOTS)}
    with Deployment(logs, workers=WORKERS, environ=environ) as stack:
        for disaster in (each for each in DISASTERS if each.in_short_form or not is_short):
            found, calls = survive(stack, disaster)
            silent = stack.silent_workers(seconds=PATIENCE_SECONDS)
            all_good &= found.good and not silent
            row = vars(found) | {"name": disaster.name, "calls": calls, "longest": f"{found.longest_wait:.1f} s"}
            print(ROW.format(**row), *(f"{worker} no longer takes tasks" for worker in silent), flush=True)
    if all_good:
        shutil.rmtree(logs)
    verdict = "Every message was accepted and has one reply." if all_good else f"Some checks failed; see {logs}."
    print(f"\n{verdict} ({time.monotonic() - begun:.0f} s)")
    return 0 if all_good else 1


if __name__ == "__main__":
    sys.exit(main())
