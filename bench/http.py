"""Requests over HTTP, each compared with its own floor: the first rows of the table."""

import statistics
import time
from collections.abc import Iterator
from contextlib import closing

import psycopg2

from bench.load import Connection, Load, call, drive, percentile
from bench.rows import Bench, Floor, Row, milliseconds
from bench.service import call_model, prompt, token, wait_until_idle, with_new_rooms
from sandbox.stack.deployment import Deployment
from sandbox.stack.processes import POLL_SECONDS

MODEL_SECONDS = 0.5
CONNECTIONS, SUSTAINED_USERS = 32, 64
SAMPLES, USERS = 60, 6
BARE = (  # the rows of a prompt: the user's lock, the room's positions, prompt, reply, charge and the commit
    "SELECT 1 FROM users WHERE id = %(user)s FOR NO KEY UPDATE",
    "UPDATE chatrooms SET turns = turns + 2 WHERE id = %(room)s",
    "INSERT INTO bare SELECT gen_random_uuid(), text FROM unnest(ARRAY['a prompt', NULL, 'a charge']) AS text",
)


def cached_list(bench: Bench) -> Iterator[Row]:
    """Measure the cached list of ten rooms."""
    person = bench.people[0]
    for _ in range(9):
        with_new_rooms([person])
    ours = get(bench, f"{bench.stack.url}/chatroom", token(person))
    empty = get(bench, f"{bench.floor.url}/empty")
    checked = get(bench, f"{bench.floor.url}/token", bench.floor.token)
    yield Row(
        f"cached list of 10 rooms, {CONNECTIONS} connections: requests/s, p99",
        "{:,.0f}/s, {:.0f} ms",
        (ours.per_second, milliseconds(ours.percentile(0.99))),
        "≥ 1,900/s, ≤ 35 ms",
        tuple(
            Floor(f"{name}, {{:,.0f}}/s", floor.per_second, ours.per_second / floor.per_second)
            for name, floor in (("an empty view", empty), ("a view that checks a token and reads one key", checked))
        ),
    )
    yield Row("… CPU that the load generator used", "{:.2f} cores", (ours.cores,))


def get(bench: Bench, url: str, token: str = "") -> Load:
    """Load one address. Raises RuntimeError for any answer but 200."""
    load = drive([call("GET", url, token=token)] * CONNECTIONS, seconds=bench.seconds)
    if set(load.statuses) != {200}:
        raise RuntimeError(f"{url} answered {load.statuses}.")
    return load


def accepted(bench: Bench) -> Iterator[Row]:
    """Measure a prompt on an otherwise idle system."""
    bench.stack.gemini.behave(delay=0)
    times = []
    for person in with_new_rooms(bench.people[:USERS]):
        connection = Connection(prompt(person))
        for _ in range(SAMPLES // USERS):
            wait_until_idle(bench.stack)
            times.append(connection.ask())
        connection.socket.close()
    bench.stack.gemini.behave(delay=MODEL_SECONDS)
    p50, bare = statistics.median(times), bare_transaction(bench.stack)
    yield Row(
        "POST …/message accepted on an idle system: p50 / p95",
        "{:.1f} / {:.1f} ms",
        (milliseconds(p50), milliseconds(percentile(times, 0.95))),
        "≤ 4 / 6 ms",
        (Floor("a bare transaction of the same rows, as idle, {:.2f} ms", milliseconds(bare), p50 / bare),),
    )
    loops = tuple(milliseconds(python_loop(pause)) for pause in (0, POLL_SECONDS))
    yield Row("… a pure Python loop, at once / after the pause before each prompt", "{:.2f} / {:.2f} ms", loops)


def bare_transaction(stack: Deployment) -> float:
    """Return the median seconds of BARE in psycopg2, with pauses as in `accepted`: a machine is slow after idling."""
    times = []
    with closing(psycopg2.connect(stack.postgres.url)) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS bare (id uuid PRIMARY KEY, text text)")
        cursor.execute("SELECT id, user_id FROM chatrooms WHERE user_id IS NOT NULL LIMIT 1")
        room, user = cursor.fetchone()
        connection.commit()
        for _ in range(SAMPLES):
            time.sleep(POLL_SECONDS)
            began = time.perf_counter()
            for statement in BARE:
                cursor.execute(statement, {"user": user, "room": room})
            connection.commit()
            times.append(time.perf_counter() - began)
    return statistics.median(times)


def python_loop(pause_seconds: float) -> float:
    """Return the median seconds of a loop, each time after a pause: this shows how idling slows the machine."""
    times = []
    for _ in range(SAMPLES):
        time.sleep(pause_seconds)
        began = time.perf_counter()
        _ = {str(number): (number, str(number)) for number in range(1_000)}
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def waited(bench: Bench) -> Iterator[Row]:
    """Measure replies that the request waits for, one at a time."""
    times = []
    for person in with_new_rooms(bench.people[:USERS]):
        wait_until_idle(bench.stack)
        connection = Connection(prompt(person, prefer="wait=20"))
        times += [connection.ask() - MODEL_SECONDS for _ in range(5)]
        connection.socket.close()
    p50, floor = statistics.median(times), asked_directly(bench.stack) - MODEL_SECONDS
    yield Row(
        "a waited reply (`Prefer: wait`) over the model's 500 ms: p50",
        "{:.1f} ms",
        (milliseconds(p50),),
        "≤ 12 ms",
        (Floor("the stand-in asked directly, {:.1f} ms", milliseconds(floor), p50 / floor),),
    )


def asked_directly(stack: Deployment) -> float:
    """Return the median seconds of a reply of Gemini's stand-in."""
    connection = Connection(call_model(stack, "generateContent", alt="json"))
    times = [connection.ask() for _ in range(10)]
    connection.socket.close()
    return statistics.median(times)


def sustained(bench: Bench) -> Iterator[Row]:
    """Measure users who each wait for a reply and send again. Raises RuntimeError if an answer is no finished reply."""
    calls = [prompt(person, prefer="wait=20") for person in with_new_rooms(bench.people[:SUSTAINED_USERS])]
    load = drive(calls, seconds=4 * bench.seconds)
    if set(load.statuses) != {200}:
        raise RuntimeError(f"Not all replies were waited for: {load.statuses}.")
    possible = SUSTAINED_USERS / MODEL_SECONDS
    yield Row(
        f"{SUSTAINED_USERS} users, each waits for its reply and sends again, {4 * bench.seconds:g} s: replies/s",
        "{:.0f}",
        (load.per_second,),
        "≥ 115",
        (Floor("if the service took no time, {:.0f}", possible, load.per_second / possible),),
    )
    yield Row("… CPU that the load generator used", "{:.2f} cores", (load.cores,))
