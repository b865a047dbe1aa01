"""What one request costs a web process: `python -m bench requests`. CPU and wall time, and the ratio to an empty view.

Requests go through the whole application without a socket, on the bench's own real databases, and no replies are
generated. The floor is a Flask view that answers `{}`, called in turn in the same process.
"""

import logging
import statistics
import time
from collections.abc import Callable

from flask import Flask

from bench.application import application
from bench.growth_cases import Visitor

ROUNDS = 7
Call = Callable[[int], object]


def cost(call: Call, times: int) -> tuple[float, float]:
    """Return the CPU and wall milliseconds of one call."""
    cpu, wall = time.process_time(), time.perf_counter()
    for number in range(times):
        call(number)
    return (time.process_time() - cpu) * 1_000 / times, (time.perf_counter() - wall) * 1_000 / times


def calls(app: Flask) -> dict[str, tuple[Call, int]]:
    """Return the calls to measure, and how often to make each in a round."""
    empty = Flask("empty")
    empty.add_url_rule("/", "floor", lambda: {})
    floor, visitor = empty.test_client(), Visitor(app.test_client())
    rooms = [f"/chatroom/{visitor.post('/chatroom', title='A room')['id']}" for _ in range(10)]
    reply = f"{rooms[0]}/messages/{visitor.post(f'{rooms[0]}/message', text='Hello')['reply']['id']}"
    # Read each answer to its end: the task that is queued after it belongs to the request.
    client, whole = visitor.client, {"headers": {"Authorization": f"Bearer {visitor.token}"}, "buffered": True}
    return {
        "an empty view (the floor)": (lambda _: floor.get("/"), 500),
        "cached list of 10 rooms": (lambda _: client.get("/chatroom", **whole), 500),
        "read of one message": (lambda _: client.get(reply, **whole), 300),
        "POST …/message": (lambda n: client.post(f"{rooms[n % 10]}/message", json={"text": "Hello"}, **whole), 100),
    }


def main() -> None:
    with application(rate_limit_per_minute=1_000_000) as app:
        logging.disable(logging.CRITICAL)  # the cost of a log line depends on where the machine writes it
        measured = calls(app)
        rows: dict[str, list[tuple[float, float]]] = {name: [] for name in measured}
        for _ in range(ROUNDS):
            for name, (call, times) in measured.items():
                rows[name].append(cost(call, times))
    medians = {name: [statistics.median(column) for column in zip(*row, strict=True)] for name, row in rows.items()}
    floor = medians["an empty view (the floor)"][0]
    print("| request | CPU | wall | CPU, times the floor |\n|---|---|---|---|")
    for name, (cpu, wall) in medians.items():
        print(f"| {name} | {cpu:.2f} ms | {wall:.2f} ms | {cpu / floor:.1f} |")
