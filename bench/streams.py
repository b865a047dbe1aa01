"""What streams cost: how soon the first piece comes (for the table), and how 200 open ones slow down a web process.

For the latter, hanging replies are followed on a single web process while another user reads the list.
"""

import statistics
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack

from bench.load import PATIENCE_SECONDS, Connection, call, watch
from bench.service import arrived, call_model, prompt, service, token
from sandbox.people import Person, everybody
from sandbox.stack.deployment import Deployment

STREAMS, FOLLOWED = 200, 20
LIST_READS = 300
WORD_SECONDS = 0.03
STORY = "[[sandbox: words=40]] Tell me a story"


def first_pieces(people: Sequence[Person]) -> list[float]:
    """Let everybody send a prompt at once and follow the reply to its end. Returns the seconds to each first piece."""
    senders = {Connection(prompt(person, text=STORY, stream=True)): person for person in people}
    sent_at: dict[Connection, float] = {}
    times: dict[Connection, float] = {}

    def is_over(connection: Connection) -> bool:
        if connection not in sent_at:
            if connection.is_answered:
                sent_at[connection] = connection.sent_at
                person = senders[connection]
                url = f"{person.base_url}{connection.location}/stream"
                connection.send(call("GET", url, token=token(person)))
            return False
        if b"event: delta" in connection.answer:
            times.setdefault(connection, time.perf_counter() - sent_at[connection])
        return b"event: completed" in connection.answer

    for connection in senders:
        connection.send()
    watch(senders, is_over, seconds=PATIENCE_SECONDS)
    return list(times.values())


def first_pieces_directly(stack: Deployment, count: int) -> list[float]:
    """Return the seconds to the first piece of each of `count` streams at once, read directly from the stand-in."""
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


def main() -> None:
    """Print the table."""
    environ = {"WEB_CONCURRENCY": "1", "GEMINI_TIMEOUT": "600"}
    with service(environ=environ) as stack, ExitStack() as exits:
        reader, *people = arrived(stack, FOLLOWED + 1)
        stack.gemini.behave(hang=True)
        replies = everybody(people, lambda person: person.send_streamed("Hang"))
        before = read_list(reader), stack.memory_mb("web")
        for person, reply in zip(people, replies, strict=True):
            for _ in range(STREAMS // FOLLOWED):
                exits.enter_context(person.follow(reply))  # what arrives meanwhile fits into the socket's buffer
        cpu, begun = stack.cpu_seconds("web"), time.monotonic()
        threading.Event().wait(10)
        idle_cpu = (stack.cpu_seconds("web") - cpu) / (time.monotonic() - begun)
        after = read_list(reader), stack.memory_mb("web")
        print(f"{'open streams':<18} {'list p50':>10} {'web memory':>12} {'idle CPU':>10}")
        print(f"{0:<18} {before[0] * 1000:>7.1f} ms {before[1]:>9.0f} MB")
        print(f"{STREAMS:<18} {after[0] * 1000:>7.1f} ms {after[1]:>9.0f} MB {idle_cpu * 100:>8.1f} %", flush=True)
        stack.gemini.reset()


def read_list(person: Person) -> float:
    """Return the median seconds of reading the list of chatrooms."""
    times = []
    for _ in range(LIST_READS):
        begun = time.perf_counter()
        person.read_list()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)
