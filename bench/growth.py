"""How the cost of a route grows with what is stored: `python -m bench growth`.

The large database has a million messages, 100,000 users, and a user with 10,000 chatrooms, one of them with 100,000
messages; the small one has one user with a few pages of each. Each call is made on both in turn, through the whole
application without a socket, and no replies are generated. If a route's median grows too much, the plans of its
statements are printed.
"""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg2
import sqlalchemy as sa
from flask import Flask

from app.core.db import db
from bench.application import make_app
from bench.growth_cases import CASES, Case, Visitor
from bench.large import Plan, Size, answered_within_an_hour, explained, fill
from sandbox.stack.postgres import PostgresServer
from sandbox.stack.servers import ValkeyServer

ROUNDS = 40
TOO_MUCH = 1.3  # times the median of the small database
ROOMS, MESSAGES = 10_000, 100_000  # of one user, and of one of these chatrooms
FEW_ROOMS, FEW_MESSAGES = 100, 400  # some pages, so that both databases return as much
OTHERS = Size(messages=1_000_000 - MESSAGES, long_room=2, sessions=200_000, backlog=0, users=100_000)
OWN = (
    """INSERT INTO chatrooms (id, user_id, title, turns, created_at, updated_at, last_prompt_at)
    SELECT md5('own' || n)::uuid, :user, 'Room ' || n, CASE n WHEN 0 THEN :messages ELSE 0 END, at, at, at
    FROM (SELECT n, now() - n * interval '1 minute' FROM generate_series(0, :rooms - 1) n) numbers(n, at)""",
    """INSERT INTO messages (id, chatroom_id, position, role, text, status, in_reply_to, created_at, completed_at,
        streamed, attempt, failures)
    SELECT md5('own turn' || n)::uuid, md5('own0')::uuid, n, CASE n % 2 WHEN 0 THEN 'user' ELSE 'model' END,
        repeat('Words ', 15), 'completed', CASE n % 2 WHEN 1 THEN md5('own turn' || n - 1)::uuid END,
        now() - (:messages - n) * interval '1 s', now() - (:messages - n) * interval '1 s', false, n % 2, 0
    FROM generate_series(0, :messages - 1) n""",
)


@contextmanager
def visitors() -> Iterator[tuple[Visitor, Visitor]]:
    """Yield a user of a small database and one of a large one."""
    with PostgresServer(durable=False) as postgres, ValkeyServer(append_only=False) as valkey:
        connection = psycopg2.connect(postgres.url)
        connection.autocommit = True
        connection.cursor().execute("CREATE DATABASE large")
        connection.close()
        small = make_app(postgres.url, valkey.url)
        large = make_app(postgres.url.replace("/postgres?", "/large?"), valkey.url.removesuffix("0") + "1")
        with large.app_context():
            fill(db.engine, OTHERS)
        yield settle(small, FEW_ROOMS, FEW_MESSAGES), settle(large, ROOMS, MESSAGES)


def settle(app: Flask, rooms: int, messages: int) -> Visitor:
    """Sign a user up, and add this many chatrooms, and this many messages to the first one."""
    visitor = Visitor(app.test_client())
    with app.app_context(), answered_within_an_hour(db.engine) as connection:
        for statement in OWN:
            values = {"user": visitor.user_id, "rooms": rooms, "messages": messages}
            connection.execute(sa.text(statement), {key: values[key] for key in values if f":{key}" in statement})
        connection.execute(sa.text("VACUUM ANALYZE"))
    visitor.find_the_middle(messages)
    return visitor


def contents(visitor: Visitor) -> str:
    """Return how much is stored in the visitor's database."""
    with visitor.client.application.app_context():
        counts = {
            name: db.session.execute(sa.text(f"SELECT count(*) FROM {name}")).scalar_one()
            for name in ("messages", "users", "chatrooms", "auth_sessions", "prompt_charges")
        }
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())


def medians(case: Case, visitors: tuple[Visitor, ...]) -> list[float]:
    """Return the median seconds of a route for each visitor."""
    times: list[list[float]] = [[] for _ in visitors]
    for round_number in range(ROUNDS):
        for number in (range(len(visitors)), reversed(range(len(visitors))))[round_number % 2]:
            request = case(visitors[number])
            began = time.perf_counter()
            visitors[number].call(request)
            times[number].append(time.perf_counter() - began)
    return [statistics.median(each) for each in times]


def plans_of(case: Case, visitor: Visitor) -> list[Plan]:
    """Return how PostgreSQL runs the route's statements."""
    request = case(visitor)
    with visitor.client.application.app_context():
        engine = db.engine
    with explained(engine) as plans:
        visitor.call(request)
    return plans


def main() -> None:
    """Print a row for each route, and the plans behind those that grow too much."""
    with visitors() as (small, large):
        print(f"Small: {contents(small)}.\nLarge: {contents(large)}.\n")
        print("| route | small | large | times |\n|---|---|---|---|", flush=True)
        grown = []
        for name, case in CASES.items():
            few, many = medians(case, (small, large))
            print(f"| {name} | {few * 1000:.2f} ms | {many * 1000:.2f} ms | {many / few:.2f} |", flush=True)
            if many / few > TOO_MUCH:
                grown.append(name)
        for name in grown:
            print(f"\n{name} on the large database:\n\n| ms | pages | read whole | statement |\n|---|---|---|---|")
            for plan in plans_of(CASES[name], large):
                words, whole = " ".join(plan.statement.split())[:160], ", ".join(sorted(plan.scanned_whole))
                print(f"| {plan.milliseconds:.2f} | {plan.buffers:,} | {whole} | `{words}` |", flush=True)
        print(f"\n{len(grown)} of {len(CASES)} routes grow more than {TOO_MUCH} times.")
