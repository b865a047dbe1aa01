"""What more worker processes bring, with a model that takes 5 s and enough users: `python -m bench workers`.

Each row has its own service, with 1, 2 or 4 worker processes, and counts the CPU of its own processes.
"""

import time

from bench.load import drive
from bench.service import arrived, prompt, service, with_new_rooms
from sandbox.stack.deployment import Deployment, cpu_seconds
from sandbox.stack.processes import family

MODEL_SECONDS, USERS, SECONDS = 5.0, 240, 30
# All users may wait at once, however their connections are distributed over the web processes.
ENVIRON = {"WEB_THREADS": "512", "STREAMS_PER_PROCESS": "480"}
KINDS = ("web", "worker", "PostgreSQL", "Valkey", "stand-in", "load generator")


def measure(workers: int) -> str:
    """Measure one row. Raises RuntimeError if any answer is not a finished reply."""
    with service(workers=workers, environ=ENVIRON) as stack:
        stack.gemini.behave(delay=MODEL_SECONDS)
        calls = [prompt(person, prefer="wait=20") for person in with_new_rooms(arrived(stack, USERS))]
        before = cpu_by_kind(stack)
        load = drive(calls, seconds=SECONDS, spread=MODEL_SECONDS)
        spent = {kind: seconds - before[kind] for kind, seconds in cpu_by_kind(stack).items()}
        in_flight = stack.gemini.stats()["max_in_flight"]
    if set(load.statuses) != {200}:
        raise RuntimeError(f"Not all replies were waited for: {load.statuses}.")
    replies = len(load.times) + USERS  # CPU is counted until the last reply, which comes after the time is up
    each = " | ".join(f"{spent[kind] / replies * 1000:.1f}" for kind in KINDS)
    cores = sum(spent.values()) / (SECONDS + 2 * MODEL_SECONDS)
    return f"| {workers} | {load.per_second:.0f} | {load.percentile(0.5):.1f} s | {in_flight} | {cores:.1f} | {each} |"


def cpu_by_kind(stack: Deployment) -> dict[str, float]:
    """Return the CPU seconds that the processes of each kind have used so far."""
    servers = (stack.postgres.pid, stack.valkey.pid, stack.gemini.process.pid)
    spent = (
        stack.cpu_seconds("web"),
        sum(map(stack.cpu_seconds, stack.workers)),
        *(cpu_seconds(family(process_id)) for process_id in servers if process_id),
        time.process_time(),
    )
    return dict(zip(KINDS, spent, strict=True))


def main() -> None:
    """Print the table."""
    print(f"{USERS} users, a model of {MODEL_SECONDS:g} s; possible: {USERS / MODEL_SECONDS:.0f} replies/s.\n")
    each = [f"{kind}, ms a reply" for kind in KINDS]
    heads = ["worker processes", "replies/s", "wait p50", "calls in flight", "cores busy", *each]
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|", flush=True)
    for workers in (1, 2, 4):
        print(measure(workers), flush=True)
