"""What streams cost: how soon the first piece comes, and what 200 open streams do to one web process.

First deltas: everybody sends at once and follows the reply; the stand-in writes a word every 30 ms.
Open streams: replies that hang are followed on a single web process, while somebody else reads the list.
"""

import statistics
import tempfile
import threading
import time
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

from sandbox.people import Person, everybody
from sandbox.stack.deployment import Deployment

STREAMS, FOLLOWED = 200, 20
LIST_READS = 300
WORD_SECONDS = 0.03


def first_delta(person: Person) -> tuple[float, list[float]]:
    """Seconds from sending to the first piece, and between the pieces after it."""
    begun = time.perf_counter()
    reply = person.send_streamed("[[sandbox: words=40]] Tell me a story")
    times = []
    with person.follow(reply) as response:
        for line in response.iter_lines():
            if line == b"event: delta":
                times.append(time.perf_counter())
            if line.startswith(b"event: completed"):
                break
    return times[0] - begun, [later - earlier for earlier, later in pairwise(times)]


def measure_first_deltas(logs: Path) -> None:
    print(f"{'replies at once':<18} {'first delta p50':>16} {'p95':>9} {'gap p50':>9} {'p95':>9}", flush=True)
    with Deployment(logs) as stack:
        stack.gemini.behave(pace=WORD_SECONDS)
        for count in (1, 50):
            firsts: list[float] = []
            gaps: list[float] = []
            for _ in range(5 if count == 1 else 1):
                people = [Person(stack.url) for _ in range(count)]
                everybody(people, Person.arrive)
                for first, between in everybody(people, first_delta):
                    firsts.append(first)
                    gaps += between
            row = [statistics.median(firsts), percentile(firsts), statistics.median(gaps), percentile(gaps)]
            print(f"{count:<18} {row[0] * 1000:>13.0f} ms {row[1] * 1000:>6.0f} ms", end=" ")
            print(f"{row[2] * 1000:>6.0f} ms {row[3] * 1000:>6.0f} ms", flush=True)


def measure_open_streams(logs: Path) -> None:
    environ = {"WEB_CONCURRENCY": "1", "GEMINI_TIMEOUT": "600"}
    with Deployment(logs, environ=environ) as stack, ExitStack() as exits:
        reader = Person(stack.url)
        reader.arrive()
        people = [Person(stack.url) for _ in range(FOLLOWED)]
        everybody(people, Person.arrive)
        stack.gemini.behave(hang=True)
        replies = everybody(people, lambda person: person.send_streamed("Hang"))
        before = read_list(reader), stack.memory_mb("web")
        for person, reply in zip(people, replies, strict=True):
            for _ in range(STREAMS // FOLLOWED):
                exits.enter_context(person.follow(reply))  # what comes meanwhile fits into the socket's buffer
        cpu, begun = stack.cpu_seconds("web"), time.monotonic()
        threading.Event().wait(10)
        idle_cpu = (stack.cpu_seconds("web") - cpu) / (time.monotonic() - begun)
        after = read_list(reader), stack.memory_mb("web")
        print(f"\n{'open streams':<18} {'list p50':>10} {'web memory':>12} {'CPU idle':>10}")
        print(f"{0:<18} {before[0] * 1000:>7.1f} ms {before[1]:>9.0f} MB")
        print(f"{STREAMS:<18} {after[0] * 1000:>7.1f} ms {after[1]:>9.0f} MB {idle_cpu * 100:>8.1f} %", flush=True)
        stack.gemini.reset()


def read_list(person: Person) -> float:
    """The median time of reading the list of chatrooms, in seconds."""
    times = []
    for _ in range(LIST_READS):
        begun = time.perf_counter()
        person.read_list()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def percentile(values: list[float], share: float = 0.95) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def main() -> None:
    logs = Path(tempfile.mkdtemp(prefix="bench-"))
    measure_first_deltas(logs)
    measure_open_streams(logs)
