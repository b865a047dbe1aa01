"""The table of what the service costs beside its floors, in one run: `python -m bench table`.

Everything runs on this machine as the Procfile has it, the load generator and a Gemini that takes 500 ms included.
Compare within one run, never between machines.
"""

import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import psutil
import psycopg2
import requests

from bench.load import load
from bench.streams import first_delta
from sandbox.people import Person, everybody, wait_for_all
from sandbox.stack.deployment import Deployment
from sandbox.stack.processes import free_port, wait_until

MODEL_SECONDS = 0.5
SUSTAINED_USERS, SUSTAINED_SECONDS, CROWD = 64, 20, 100
ARRIVE_AT_ONCE = 30  # to sign up costs much more than what is measured here
PROCESSES = ("web", "worker", "beat")
ENVIRON = {"RATE_LIMIT_PER_MINUTE": "0", "BASIC_DAILY_PROMPTS": "100000", "LOG_FORMAT": "json"}
BARE = (  # the rows of a prompt: the user's lock, the room's positions, prompt, reply, charge and the commit
    "SELECT 1 FROM users WHERE id = %(user)s FOR NO KEY UPDATE",
    "UPDATE chatrooms SET turns = turns + 2 WHERE id = %(room)s",
    "INSERT INTO bare SELECT gen_random_uuid(), text FROM unnest(ARRAY['a prompt', NULL, 'a charge']) AS text",
)

Row = tuple[str, str, str]


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def percentile(values: Sequence[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


@contextmanager
def floor_server(stack: Deployment) -> Iterator[str]:
    """An address at which bench.floor is served as the service is."""
    port = free_port()
    words = "--config /dev/null --worker-class gthread --workers 2 --threads 256 --no-control-socket --bind"
    command = [sys.executable, "-m", "gunicorn", *words.split(), f"127.0.0.1:{port}", "bench.floor:app"]
    process = subprocess.Popen(command, env=stack.environ, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        assert wait_until(lambda: is_up(url), seconds=20)
        yield url
    finally:
        process.terminate()
        process.wait()


def is_up(url: str) -> bool:
    try:
        return requests.get(f"{url}/empty", timeout=1).ok
    except requests.RequestException:
        return False


def measure_list(stack: Deployment, url: str) -> Iterator[Row]:
    """The cached list of ten rooms, 32 connections."""
    person = arrived(stack, 1)[0]
    for number in range(9):
        person.session.post(f"{stack.url}/chatroom", json={"title": f"Room {number}"}).raise_for_status()
    token = str(person.session.headers["Authorization"]).removeprefix("Bearer ")
    of_floor = requests.get(f"{url}/issue", timeout=5).json()["token"]
    ours = load(f"{stack.url}/chatroom", token=token)
    empty, checked = load(f"{url}/empty"), load(f"{url}/token", token=of_floor)
    assert not ours.failed + empty.failed + checked.failed
    of_empty, of_checked = ours.per_second / empty.per_second, ours.per_second / checked.per_second
    yield (
        "list of 10 rooms, 32 connections",
        f"{ours.per_second:.0f}/s, p99 {milliseconds(ours.p99)}",
        "≥ 1,900/s, ≤ 35 ms",
    )
    yield "… an empty view", f"{empty.per_second:.0f}/s", f"ours: {of_empty:.2f} of it"
    yield "… a view that checks a token and reads a key", f"{checked.per_second:.0f}/s", f"ours: {of_checked:.2f} of it"


def measure_prompts(stack: Deployment) -> Iterator[Row]:
    """A prompt on an idle system, and one whose reply is waited for."""
    accepted, waited = [], []
    for person in arrived(stack, 8):
        for _ in range(5):
            accepted.append(seconds_of(lambda: person.send("Hello")))  # noqa: B023 - called at once
            time.sleep(0.05)
        wait_for_all([person], seconds=30)
        waited += [seconds_of(lambda: send_and_wait(person)) - MODEL_SECONDS for _ in range(3)]  # noqa: B023
    p50, p95 = statistics.median(accepted), percentile(accepted, 0.95)
    bare = measure_bare(stack)
    yield "POST …/message, idle, p50 / p95", f"{milliseconds(p50)} / {milliseconds(p95)}", "≤ 4 / 6 ms"
    yield "… a bare transaction of the same rows", milliseconds(bare), f"ours: {p50 / bare:.1f} times"
    yield "a waited reply, over the model's 500 ms, p50", milliseconds(statistics.median(waited)), "≤ 12 ms"


def measure_bare(stack: Deployment) -> float:
    """The median seconds of BARE by psycopg2."""
    with psycopg2.connect(stack.postgres.url) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS bare (id uuid PRIMARY KEY, text text)")
        cursor.execute("SELECT id, user_id FROM chatrooms WHERE user_id IS NOT NULL LIMIT 1")
        room, user = cursor.fetchone() or (None, None)
        connection.commit()

        def once() -> None:
            for statement in BARE:
                cursor.execute(statement, {"user": user, "room": room})
            connection.commit()

        return statistics.median(seconds_of(once) for _ in range(200))


def measure_sustained(stack: Deployment) -> Iterator[Row]:
    """Everybody waits for a reply and sends again."""
    people, over, done = arrived(stack, SUSTAINED_USERS), threading.Event(), [0] * SUSTAINED_USERS

    def talk(person: Person) -> None:
        while not over.is_set():
            send_and_wait(person)
            done[people.index(person)] += 1

    threading.Timer(SUSTAINED_SECONDS, over.set).start()
    began = time.monotonic()
    everybody(people, talk)
    rate, possible = sum(done) / (time.monotonic() - began), SUSTAINED_USERS / MODEL_SECONDS
    yield f"{SUSTAINED_USERS} users, each waits and sends again", f"{rate:.0f} of {possible:.0f} replies/s", "≥ 115"


def measure_crowd(stack: Deployment) -> Iterator[Row]:
    """A hundred users send at the same moment."""
    people = arrived(stack, CROWD)
    began = time.time()
    accepted = everybody(people, lambda person: seconds_of(lambda: person.send("All at once")))
    wait_for_all(people, seconds=60)
    last = max(datetime.fromisoformat(person.messages()[-1]["completed_at"]).timestamp() for person in people) - began
    yield (
        f"{CROWD} users at once: last reply; p50 of the 202",
        f"{last:.2f} s; {milliseconds(statistics.median(accepted))}",
        "≤ 1.5 s; ≤ 300 ms",
    )


def measure_streams(stack: Deployment) -> Iterator[Row]:
    """From sending to the first piece, of a model that begins at once and writes a word every 30 ms."""
    stack.gemini.behave(pace=0.03)
    alone = [first_delta(arrived(stack, 1)[0])[0] for _ in range(5)]
    together = [first for first, _ in everybody(arrived(stack, 50), first_delta)]
    values = f"{milliseconds(statistics.median(alone))} / {milliseconds(statistics.median(together))}"
    yield "first delta of a stream, 1 / 50 at once, p50", values, "≤ 15 / 150 ms"


def measure_memory(stack: Deployment) -> Iterator[Row]:
    """Proportional set sizes, after all of the above: what several processes share counts once."""
    sizes = {name: sum(map(proportional_mb, stack.process_ids(name))) for name in PROCESSES}
    words = ", ".join(f"{name} {size:.0f}" for name, size in sizes.items())
    yield "memory afterwards", f"{sum(sizes.values()):.0f} MB ({words})", "≤ 260 MB"


def proportional_mb(process_id: int) -> float:
    lines = Path(f"/proc/{process_id}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def arrived(stack: Deployment, count: int) -> list[Person]:
    people = [Person(stack.url) for _ in range(count)]
    for first in range(0, count, ARRIVE_AT_ONCE):
        everybody(people[first : first + ARRIVE_AT_ONCE], Person.arrive)
    return people


def send_and_wait(person: Person) -> None:
    answer = person.session.post(
        f"{person.base_url}{person.room}/message", json={"text": "Hello"}, headers={"Prefer": "wait=20"}
    )
    if answer.status_code == 202:  # the process holds as many requests as it may
        wait_for_all([person], seconds=60)


def seconds_of(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    """Print the table."""
    print(
        f"{psutil.cpu_count()} cores, Python {sys.version.split()[0]}\n\n| | measured | aim, or ratio |\n|---|---|---|"
    )
    with Deployment(Path(tempfile.mkdtemp(prefix="bench-")), environ=ENVIRON) as stack:
        stack.gemini.behave(delay=MODEL_SECONDS)
        with floor_server(stack) as url:
            show(measure_list(stack, url))
        for measure in (measure_prompts, measure_sustained, measure_crowd, measure_streams, measure_memory):
            show(measure(stack))


def show(rows: Iterator[Row]) -> None:
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)
