"""100 users post at once, against a Gemini that takes 500 ms: how soon has everybody a reply?

Prints a row for each pool of Celery's that is asked for, one after the other, on the same machine.
"""

import statistics
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from sandbox.people import Person, everybody, wait_for_all
from sandbox.stack.deployment import Deployment

USERS = 100
GEMINI_SECONDS = 0.5
ROW = "{pool:<22} {last:>10} {p50:>8} {p95:>8} {in_flight:>10} {idle:>10} {busy:>10} {cpu:>10}"
HEADS = {
    "pool": "worker",
    "last": "last reply",
    "p50": "p50",
    "p95": "p95",
    "in_flight": "in flight",
    "idle": "MB idle",
    "busy": "MB peak",
    "cpu": "CPU/reply",
}


def measure(pool: str, concurrency: int) -> dict[str, str]:
    """One row: seconds from the first post to the last reply, of a reply, calls in flight, memory, CPU."""
    environ = {"WORKER_POOL": pool, "WORKER_CONCURRENCY": str(concurrency)}
    with Deployment(Path(tempfile.mkdtemp(prefix="bench-")), environ=environ) as stack:
        people = [Person(stack.url) for _ in range(USERS)]
        everybody(people, Person.arrive)
        everybody(people[:10], lambda person: person.send("Warm up"))
        wait_for_all(people, seconds=30)
        idle, cpu = stack.memory_mb("worker"), stack.cpu_seconds("worker")
        stack.gemini.clear_requests()
        stack.gemini.behave(delay=GEMINI_SECONDS)
        with peak_of(lambda: stack.memory_mb("worker")) as peak:
            begun = datetime.now(UTC)
            everybody(people, lambda person: person.send("All at once"))
            wait_for_all(people, seconds=120)
        cpu = stack.cpu_seconds("worker") - cpu
        replies = [person.messages()[-1] for person in people]
        ends = [datetime.fromisoformat(reply["completed_at"]) for reply in replies]
        waits = sorted(
            (end - datetime.fromisoformat(reply["created_at"])).total_seconds()
            for reply, end in zip(replies, ends, strict=True)
        )
        return {
            "pool": f"{pool}, {concurrency}",
            "last": f"{(max(ends) - begun).total_seconds():.2f} s",
            "p50": f"{statistics.median(waits):.2f} s",
            "p95": f"{waits[int(len(waits) * 0.95) - 1]:.2f} s",
            "in_flight": str(stack.gemini.stats()["max_in_flight"]),
            "idle": f"{idle:.0f}",
            "busy": f"{peak[0]:.0f}",
            "cpu": f"{cpu / USERS * 1000:.1f} ms",
        }


@contextmanager
def peak_of(value: Callable[[], float]) -> Iterator[list[float]]:
    """The largest value seen during the block, looked at every 100 ms, in a list of one."""
    peak, over = [value()], threading.Event()

    def look() -> None:
        while not over.wait(0.1):
            peak[0] = max(peak[0], value())

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield peak
    finally:
        over.set()
        watcher.join()


def main(pools: list[tuple[str, int]]) -> None:
    print(f"{USERS} users post at once; Gemini takes {GEMINI_SECONDS} s.\n\n{ROW.format(**HEADS)}", flush=True)
    for pool, concurrency in pools:
        print(ROW.format(**measure(pool, concurrency)), flush=True)
