"""What another worker process brings: `python -m bench workers`. A model that takes 5 s, and enough users.

Each row is a service of its own with 1, 2 and 4 worker processes. CPU is that of all processes of a kind.
"""

import tempfile
import threading
import time
from pathlib import Path

import psutil

from bench.table import ENVIRON, arrived, send_and_wait
from sandbox.people import Person, everybody
from sandbox.stack.deployment import Deployment

MODEL_SECONDS, USERS, SECONDS = 5.0, 240, 20
KINDS = ("wsgi:app", "celery_worker", "postgres", "valkey", "sandbox", "bench")


def measure(workers: int) -> None:
    """Print one row."""
    with Deployment(Path(tempfile.mkdtemp(prefix="bench-")), workers=workers, environ=ENVIRON) as stack:
        stack.gemini.behave(delay=MODEL_SECONDS)
        people, over = arrived(stack, USERS), threading.Event()
        done = [0]

        def talk(person: Person) -> None:
            while not over.is_set():
                send_and_wait(person)
                done[0] += 1  # one thread at a time computes

        threading.Timer(SECONDS, over.set).start()
        before, began = cpu_by_kind(), time.monotonic()
        everybody(people, talk)
        seconds = time.monotonic() - began
        spent = {kind: cpu - before[kind] for kind, cpu in cpu_by_kind().items()}
        each = " | ".join(f"{spent[kind] / done[0] * 1000:.1f}" for kind in KINDS)
        load = sum(spent.values()) / seconds
        in_flight = stack.gemini.stats()["max_in_flight"]
        print(f"| {workers} | {done[0] / seconds:.0f} | {in_flight} | {load:.1f} | {each} |", flush=True)


def cpu_by_kind() -> dict[str, float]:
    """Seconds of CPU that the processes of each kind have used so far."""
    spent = dict.fromkeys(KINDS, 0.0)
    for process in psutil.process_iter(["cmdline", "cpu_times"]):
        line = " ".join(process.info["cmdline"] or [])
        kind = next((kind for kind in KINDS if kind in line), None)
        if kind:
            spent[kind] += process.info["cpu_times"].user + process.info["cpu_times"].system
    return spent


def main() -> None:
    """Print the table."""
    possible = USERS / MODEL_SECONDS
    print(f"{USERS} users, each waits for its reply and sends again; possible: {possible:.0f} replies/s\n")
    each = [f"{kind}, ms a reply" for kind in KINDS]
    heads = ["worker processes", "replies/s", "calls in flight", "cores busy", *each]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for workers in (1, 2, 4):
        measure(workers)
