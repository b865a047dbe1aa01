"""What streams cost: how soon the first piece comes, and what 200 open streams do to one web process.

First deltas: everybody sends at once and follows the reply; the stand-in writes a word every 30 ms.
Open streams: replies that hang are followed on a single web process, while somebody else reads the list.
"""

import statistics
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise

from bench.load import PATIENCE_SECONDS, Connection, call, percentile, watch
from bench.service import arrived, call_model, prompt, service, token
from sandbox.people import Person, everybody
from sandbox.stack.deployment import Deployment

STREAMS, FOLLOWED = 200, 20
LIST_READS = 300
WORD_SECONDS = 0.03
STORY = "[[sandbox: words=40]] Tell me a story"


@dataclass
class Followed:
    """A streamed reply: when its prompt was sent, and when each piece of it came."""

    person: Person
    sent_at: float = 0.0
    times: list[float] = field(default_factory=list)

    @property
    def first(self) -> float:
        """Seconds from sending the prompt to the first piece."""
        return self.times[0] - self.sent_at

    @property
    def gaps(self) -> list[float]:
        return [later - earlier for earlier, later in pairwise(self.times)]


def follow_all(people: Sequence[Person]) -> list[Followed]:
    """Let everybody send a prompt at once and follow the reply on the same connection, to its end."""
    followed = {Connection(prompt(person, text=STORY, stream=True)): Followed(person) for person in people}

    def is_over(connection: Connection) -> bool:
        reply = followed[connection]
        if connection.call.wire.startswith(b"POST"):
            if connection.is_answered:
                reply.sent_at = connection.sent_at
                url = f"{reply.person.base_url}{connection.location}/stream"
                connection.send(call("GET", url, token=token(reply.person)))
            return False
        new = connection.answer.count(b"event: delta") - len(reply.times)
        reply.times += [time.perf_counter()] * new
        return b"event: completed" in connection.answer

    for connection in followed:
        connection.send()
    watch(followed, is_over, seconds=PATIENCE_SECONDS)
    return list(followed.values())


def first_pieces_directly(stack: Deployment, count: int) -> list[float]:
    """Seconds until the first piece of each of so many streams at once, without the service: the stand-in's own."""
    connections = [Connection(call_model(stack, "streamGenerateContent", alt="sse")) for _ in range(count)]
    times: list[float] = []

    def has_begun(connection: Connection) -> bool:
        begun = b'"text"' in connection.answer
        times.extend([time.perf_counter() - connection.sent_at] if begun else [])
        return begun

    for connection in connections:
        connection.send()
    watch(connections, has_begun, seconds=PATIENCE_SECONDS)
    return times


def measure_first_deltas() -> None:
    print(f"{'replies at once':<18} {'first delta p50':>16} {'p95':>9} {'gap p50':>9} {'p95':>9}", flush=True)
    with service() as stack:
        stack.gemini.behave(pace=WORD_SECONDS)
        people = arrived(stack, 50)
        for count, times in ((1, 10), (50, 1)):
            followed = [one for _ in range(times) for one in follow_all(people[:count])]
            firsts, gaps = [one.first for one in followed], [gap for one in followed for gap in one.gaps]
            row = [percentile(firsts, 0.5), percentile(firsts, 0.95), percentile(gaps, 0.5), percentile(gaps, 0.95)]
            print(f"{count:<18} {row[0] * 1000:>13.0f} ms {row[1] * 1000:>6.0f} ms", end=" ")
            print(f"{row[2] * 1000:>6.0f} ms {row[3] * 1000:>6.0f} ms", flush=True)


def measure_open_streams() -> None:
    environ = {"WEB_CONCURRENCY": "1", "GEMINI_TIMEOUT": "600"}
    with service(environ=environ) as stack, ExitStack() as exits:
        reader, *people = arrived(stack, FOLLOWED + 1)
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


def main() -> None:
    """Print both tables."""
    measure_first_deltas()
    measure_open_streams()
