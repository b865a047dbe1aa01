"""What one request costs a web process: `python -m bench requests`. CPU and wall time, and the ratio to an empty view.

Requests go through the whole application but no socket, on real databases of the bench's own; nobody generates. The
floor is a Flask view that answers `{}`, in the same process, asked in turn.
"""

import logging
import statistics
import time
from collections.abc import Callable
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from bench.application import application

ROUNDS = 7
Call = Callable[[int], object]


class WholeClient(FlaskClient):
    """Asks for all of an answer: what follows it, a task that is queued, belongs to the request."""

    def open(self, *args: Any, **kwargs: Any) -> TestResponse:
        return super().open(*args, buffered=True, **kwargs)


def token(client: FlaskClient, mobile: str) -> str:
    """Sign a number up and log in."""
    client.post("/auth/signup", json={"mobile": mobile})
    sent = client.post("/auth/send-otp", json={"mobile": mobile})
    answer = client.post("/auth/verify-otp", json={"mobile": mobile, "otp": sent.json["otp"]})  # type: ignore[index]
    return str(answer.json["access_token"])  # type: ignore[index]


def cost(call: Call, times: int) -> tuple[float, float]:
    """CPU and wall milliseconds of one call."""
    cpu, wall = time.process_time(), time.perf_counter()
    for number in range(times):
        call(number)
    return (time.process_time() - cpu) * 1_000 / times, (time.perf_counter() - wall) * 1_000 / times


def calls(app: Flask) -> dict[str, tuple[Call, int]]:
    """What is measured, and how often in a round."""
    empty = Flask("empty")
    empty.add_url_rule("/", "floor", lambda: {})
    app.test_client_class = empty.test_client_class = WholeClient
    client, floor = app.test_client(), empty.test_client()
    headers = {"Authorization": f"Bearer {token(client, '+12025550123')}"}
    rooms = [client.post("/chatroom", json={"title": "A room"}, headers=headers).json["id"] for _ in range(10)]  # type: ignore[index]
    sent = client.post(f"/chatroom/{rooms[0]}/message", json={"text": "Hello"}, headers=headers)
    reply = f"/chatroom/{rooms[0]}/messages/{sent.json['reply']['id']}"  # type: ignore[index]
    return {
        "an empty view (the floor)": (lambda _: floor.get("/"), 500),
        "cached list of 10 rooms": (lambda _: client.get("/chatroom", headers=headers), 500),
        "read of one message": (lambda _: client.get(reply, headers=headers), 300),
        "POST …/message": (
            lambda n: client.post(f"/chatroom/{rooms[n % 10]}/message", json={"text": "Hello"}, headers=headers),
            100,
        ),
    }


def main() -> None:
    with application(rate_limit_per_minute=1_000_000) as app:
        logging.disable(logging.CRITICAL)  # where lines go is the machine's affair
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
