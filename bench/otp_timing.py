"""Checks whether known and unknown numbers can be told apart by time: `python -m bench.otp_timing`.

Calls each route in turn for a known and an unknown number, on its own application with real databases, and compares the
medians. Exits with 1 if a route's medians differ by more than NOTICEABLE (a share of the known one) and by more than
NOTICEABLE_SECONDS.
"""

import statistics
import sys
import time
from collections.abc import Callable

from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text

from app.core.db import db
from bench.application import application
from bench.growth_cases import PASSWORD, Visitor

PAIRS = 200
NOTICEABLE = 0.15
NOTICEABLE_SECONDS = 0.001
WRONG_PASSWORD = "another-one-of-the-bench"

Call = Callable[[FlaskClient, str], object]

ROUTES: dict[str, Call] = {
    "send-otp": lambda client, mobile: client.post("/auth/send-otp", json={"mobile": mobile}),
    "verify-otp, wrong code": lambda client, mobile: client.post(
        "/auth/verify-otp", json={"mobile": mobile, "otp": "wrong"}
    ),
    "forgot-password": lambda client, mobile: client.post("/auth/forgot-password", json={"mobile": mobile}),
    "reset-password, wrong code": lambda client, mobile: client.post(
        "/auth/reset-password", json={"mobile": mobile, "otp": "wrong", "new_password": WRONG_PASSWORD}
    ),
    "login, wrong password": lambda client, mobile: client.post(
        "/auth/login", json={"mobile": mobile, "password": WRONG_PASSWORD}
    ),
}


def seconds(call: Call, client: FlaskClient, mobile: str) -> float:
    began = time.perf_counter()
    call(client, mobile)
    return time.perf_counter() - began


def forget_codes(app: Flask) -> None:
    """Forget all codes and their cooldowns: the known numbers were just verified with one."""
    with app.app_context():
        db.session.execute(text("TRUNCATE one_time_codes, number_guards"))
        db.session.commit()


def compare(client: FlaskClient, known: list[str], unknown: list[str]) -> bool:
    """Print the medians of every route. Returns whether none can be told apart."""
    alike = True
    print(f"{'medians of ' + str(len(known)):28} {'known':>10} {'unknown':>10} {'difference':>11}")
    for name, call in ROUTES.items():
        pairs = [
            (seconds(call, client, one), seconds(call, client, other))
            for one, other in zip(known, unknown, strict=True)
        ]
        a, b = (statistics.median(side) for side in zip(*pairs, strict=True))
        print(f"{name:28} {a * 1000:7.2f} ms {b * 1000:7.2f} ms {(b - a) / a:+10.1%}")
        alike &= abs(b - a) < max(NOTICEABLE * a, NOTICEABLE_SECONDS)
    return alike


def main() -> int:
    with application() as app:
        visitor = Visitor(app.test_client())
        known = [visitor.newcomer(password=PASSWORD)["user"]["mobile"] for _ in range(PAIRS)]
        unknown = [visitor.number(signed_up=False) for _ in range(PAIRS)]
        forget_codes(app)
        return 0 if compare(visitor.client, known, unknown) else 1


if __name__ == "__main__":
    sys.exit(main())
