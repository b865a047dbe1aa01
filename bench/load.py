"""A load generator that costs little: one thread, kept-alive connections, prepared requests, no library in between."""

import select
import socket
import time
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Load:
    """What came of it: requests a second, and the times of the slowest of a hundred and of the median, in seconds."""

    per_second: float
    p50: float
    p99: float
    failed: int


def load(url: str, *, token: str = "", connections: int = 32, seconds: float = 5) -> Load:
    """Ask for `url` on so many connections at once, each again as soon as it is answered."""
    parts = urlsplit(url)
    authorization = f"Authorization: Bearer {token}\r\n" if token else ""
    request = f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n{authorization}\r\n".encode()
    times: list[float] = []
    failed = 0
    poll = select.epoll()
    asked: dict[int, float] = {}
    answers: dict[int, bytes] = {}
    sockets: dict[int, socket.socket] = {}
    for _ in range(connections):
        connection = socket.create_connection((parts.hostname or "", parts.port or 80))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        number = connection.fileno()
        sockets[number], answers[number] = connection, b""
        poll.register(number, select.EPOLLIN)
    began = time.perf_counter()
    for number, connection in sockets.items():
        asked[number] = time.perf_counter()
        connection.send(request)
    while time.perf_counter() < began + seconds:
        for number, _ in poll.poll(1):
            answers[number] += sockets[number].recv(65_536)
            if not is_whole(answers[number]):
                continue
            failed += not answers[number].startswith(b"HTTP/1.1 200")
            now = time.perf_counter()
            times.append(now - asked[number])
            asked[number], answers[number] = now, b""
            sockets[number].send(request)
    elapsed = time.perf_counter() - began
    for connection in sockets.values():
        connection.close()
    times.sort()
    return Load(len(times) / elapsed, times[len(times) // 2], times[int(len(times) * 0.99)], failed)


def is_whole(answer: bytes) -> bool:
    """Whether all of an answer with a Content-Length is here."""
    head, separator, body = answer.partition(b"\r\n\r\n")
    length = next((line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), b":0")
    return bool(separator) and len(body) >= int(length.split(b":")[1])
