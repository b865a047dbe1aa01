"""A cheap load generator: one thread, keep-alive connections, prepared bytes, no library in between."""

import json
import select
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

PATIENCE_SECONDS = 60.0  # for answers that are still missing when the time is up


@dataclass(frozen=True)
class Call:
    """A request as it goes over the wire. `address` is the server's host and port."""

    address: tuple[str, int]
    wire: bytes


def call(method: str, url: str, *, token: str = "", body: Any = None, prefer: str = "") -> Call:
    """Prepare a request. body: JSON values, or None for no body. prefer: the header's value."""
    parts = urlsplit(url)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    content = b"" if body is None else json.dumps(body).encode()
    headers = [f"{method} {target} HTTP/1.1", f"Host: {parts.netloc}"]
    headers += [f"Authorization: Bearer {token}"] if token else []
    headers += [f"Prefer: {prefer}"] if prefer else []
    headers += ["Content-Type: application/json", f"Content-Length: {len(content)}"] if content else []
    return Call((parts.hostname or "", parts.port or 80), "\r\n".join([*headers, "", ""]).encode() + content)


class Connection:
    """A keep-alive connection. `answer`: what has arrived for the last call. `sent_at`: when that call was sent."""

    def __init__(self, first: Call) -> None:
        self.call, self.answer, self.sent_at = first, b"", 0.0
        self.socket = socket.create_connection(first.address, timeout=PATIENCE_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, another: Call | None = None) -> None:
        """Send another call, or the last one again."""
        self.call, self.answer = another or self.call, b""
        self.sent_at = time.perf_counter()
        self.socket.sendall(self.call.wire)

    def receive(self) -> None:
        """Receive what has arrived, or wait for it. Raises ConnectionError if the server has closed the connection."""
        more = self.socket.recv(65_536)
        if not more:
            raise ConnectionError(f"{self.call.address} closed a connection after {self.answer[:200]!r}")
        self.answer += more

    def ask(self) -> float:
        """Send the call and wait for its whole answer. Returns the seconds taken. Raises RuntimeError for an error."""
        self.send()
        while not self.is_answered:
            self.receive()
        seconds = time.perf_counter() - self.sent_at
        if self.status >= 300:
            raise RuntimeError(f"{self.call.address} answered {self.answer[:500]!r}.")
        return seconds

    @property
    def status(self) -> int:
        return int(self.answer[9:12])

    @property
    def is_answered(self) -> bool:
        """Whether all of an answer with a Content-Length is here."""
        head, separator, body = self.answer.partition(b"\r\n\r\n")
        return bool(separator) and len(body) >= int(header(head, b"content-length") or 0)

    @property
    def location(self) -> str:
        return header(self.answer.partition(b"\r\n\r\n")[0], b"location").decode()


def header(head: bytes, name: bytes) -> bytes:
    """Return the value of a header; empty if there is none."""
    lines = (line.partition(b":") for line in head.split(b"\r\n"))
    return next((value.strip() for key, _, value in lines if key.lower() == name), b"")


def watch(connections: Iterable[Connection], is_done: Callable[[Connection], bool], *, seconds: float) -> None:
    """Receive whatever comes until `is_done`, called each time, has returned True for every connection.

    Closes each connection that is done. Raises TimeoutError if it all takes longer than `seconds`.
    """
    open_ones = {connection.socket.fileno(): connection for connection in connections}
    deadline, poll = time.perf_counter() + seconds, select.epoll()
    for number in open_ones:
        poll.register(number, select.EPOLLIN)
    while open_ones:
        for number, _ in poll.poll(1):
            open_ones[number].receive()
            if is_done(open_ones[number]):
                poll.unregister(number)
                open_ones.pop(number).socket.close()
        if time.perf_counter() > deadline:
            raise TimeoutError(f"{len(open_ones)} answers did not come.")
    poll.close()


@dataclass(frozen=True)
class Load:
    """The result of a load: its answers' seconds, sorted; answers by status; and the cores that the generator used."""

    seconds: float
    times: Sequence[float]
    statuses: Counter[int]
    cores: float

    @property
    def per_second(self) -> float:
        return len(self.times) / self.seconds

    def percentile(self, part: float) -> float:
        """Return the seconds within which this part of the answers arrived."""
        return percentile(self.times, part)


def drive(calls: Sequence[Call], *, seconds: float = 0, spread: float = 0) -> Load:
    """Send each call on its own connection, and for `seconds` send it again as soon as it is answered.

    Later answers are awaited but not counted. Without `seconds`, each call is sent once. spread: the seconds over which
    the first calls are sent, before the time starts, so that they are not all answered at once; no longer than an
    answer takes.
    """
    times: list[float] = []
    statuses: Counter[int] = Counter()
    connections = [Connection(each) for each in calls]
    for connection in connections if spread else []:
        connection.send()
        time.sleep(spread / len(connections))
    began, cpu = time.perf_counter(), time.process_time()

    def is_done(connection: Connection) -> bool:
        if not connection.is_answered:
            return False
        now = time.perf_counter()
        if not seconds or now < began + seconds:
            times.append(now - connection.sent_at)
            statuses[connection.status] += 1
        if now >= began + seconds:
            return True
        connection.send()
        return False

    for connection in [] if spread else connections:
        connection.send()
    watch(connections, is_done, seconds=seconds + PATIENCE_SECONDS)
    elapsed = time.perf_counter() - began
    return Load(seconds or elapsed, sorted(times), statuses, (time.process_time() - cpu) / elapsed)


def percentile(values: Sequence[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]
