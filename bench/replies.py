"""100 users post at once, against a Gemini that takes 500 ms: how soon has everybody a reply?

`python -m bench replies --threads 64 --threads 128` prints a row for each number of the worker's threads.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from bench.load import Load, drive
from bench.service import arrived, prompt, service, wait_until_idle, with_new_rooms
from sandbox.people import Person
from sandbox.stack.deployment import Deployment

USERS = 100
GEMINI_SECONDS = 0.5
HEADS = ("threads", "last reply", "202 p50", "p95", "in flight", "MB idle", "MB peak", "CPU a reply")


def crowd(stack: Deployment, people: Sequence[Person]) -> tuple[float, Load]:
    """Everybody sends at once: seconds until the last reply has ended, and how the prompts were accepted.

    Raises RuntimeError when one was not.
    """
    calls = [prompt(person, text="All at once") for person in with_new_rooms(people)]
    wait_until_idle(stack)
    began = time.time()
    accepted = drive(calls)
    if set(accepted.statuses) != {202}:
        raise RuntimeError(f"Not all prompts were accepted: {accepted.statuses}.")
    return wait_until_idle(stack) - began, accepted


def measure(threads: int) -> tuple[str, ...]:
    """One row. Memory is resident."""
    with service(environ={"WORKER_CONCURRENCY": str(threads)}) as stack:
        people = arrived(stack, USERS)
        crowd(stack, people[:10])  # connections are there now
        idle, cpu = stack.memory_mb("worker"), stack.cpu_seconds("worker")
        stack.gemini.clear_requests()
        stack.gemini.behave(delay=GEMINI_SECONDS)
        with peak_of(lambda: stack.memory_mb("worker")) as peak:
            last, accepted = crowd(stack, people)
        cpu = stack.cpu_seconds("worker") - cpu
        return (
            str(threads),
            f"{last:.2f} s",
            *(f"{accepted.percentile(part) * 1000:.0f} ms" for part in (0.5, 0.95)),
            str(stack.gemini.stats()["max_in_flight"]),
            f"{idle:.0f}",
            f"{peak[0]:.0f}",
            f"{cpu / USERS * 1000:.1f} ms",
        )


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


def main(numbers: Sequence[int]) -> None:
    """Print a row for each number of threads."""
    print(f"{USERS} users post at once; Gemini takes {GEMINI_SECONDS} s.\n\n| {' | '.join(HEADS)} |")
    print("|---" * len(HEADS) + "|", flush=True)
    for threads in numbers:
        print(f"| {' | '.join(measure(threads))} |", flush=True)
