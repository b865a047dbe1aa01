"""Search for somebody with 100,000 messages among a million: `python -m bench search`.

The messages exist before the search does: its migration reads them while something else writes, and the longest time
that such a write took is printed. Then each kind of query is made through the whole application without a socket, with
new words each time. The plan of the slowest query follows.
"""

import itertools
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import psycopg2
import sqlalchemy as sa
from flask import Flask
from flask_migrate import downgrade, upgrade

from app.core.db import db
from bench.application import MIGRATIONS, make_app
from bench.growth_cases import Request, Visitor
from bench.large import answered_within_an_hour, explained
from sandbox.stack.postgres import PostgresServer
from sandbox.stack.servers import ValkeyServer

MESSAGES, OWN_ONE_IN, OWN_ROOMS, OTHERS = 1_000_000, 10, 200, 20_000
TEXTS, WORDS, CHARACTERS = 20_000, 30_000, 2_000
ROUNDS = 40
BEFORE = "0013"
CHINESE = [chr(0x4E00 + number * 7) for number in range(CHARACTERS)]

FILL = (
    """INSERT INTO users (id, mobile, created_at, verified_at)
    SELECT md5('user' || n)::uuid, '+1415' || (1000000 + n), now(), now() FROM generate_series(1, :others) n""",
    """INSERT INTO chatrooms (id, user_id, title, turns, created_at, updated_at, last_prompt_at)
    SELECT md5('room' || n)::uuid, CASE WHEN n <= :own_rooms THEN :user ELSE md5('user' || n - :own_rooms)::uuid END,
        'Room ' || n, :messages, now(), now(), now() FROM generate_series(1, :own_rooms + :others) n""",
    # One message a minute, with ids in this order, as in the product; every tenth is the user's.
    """INSERT INTO messages (id, chatroom_id, position, role, text, status, created_at, completed_at, streamed, attempt,
        failures)
    SELECT (lpad(to_hex(1700000000000 + n * 60000::bigint), 12, '0') || '7' || substr(md5(n::text), 1, 19))::uuid,
        md5('room' || CASE n % :own_one_in WHEN 0 THEN 1 + n / :own_one_in % :own_rooms
            ELSE :own_rooms + 1 + n % :others END)::uuid,
        n, 'user', text || ' number' || n / :own_one_in % 50000, 'completed', now(), now(), false, 0, 0
    FROM generate_series(0, :messages - 1) n JOIN bench_texts AS texts(k, text) ON k = 1 + n::bigint * 7919 % :texts""",
    "VACUUM ANALYZE",
)


class Language:
    """Words whose frequency falls with their rank, as 1 / (rank + 3): roughly as in a language."""

    def __init__(self) -> None:
        self.random = random.Random(1)
        syllables = [
            first + then for first in "bdfghklmnprstvwz" for then in ("a", "e", "i", "o", "u", "ä", "ün", "er")
        ]
        self.words = ["".join(self.random.choices(syllables, k=1 + number % 4)) for number in range(WORDS)]
        self._weights = list(itertools.accumulate(1 / (rank + 3) for rank in range(WORDS)))
        self._of_characters = self._weights[:CHARACTERS]

    def text(self) -> str:
        words = self.random.choices(self.words, cum_weights=self._weights, k=self.random.choice((8, 15, 40, 100, 200)))
        if self.random.random() < 0.1:
            words.append("".join(self.random.choices(CHINESE, cum_weights=self._of_characters, k=30)))
        return " ".join(words).capitalize() + "."

    def word(self, first: int, last: int) -> str:
        """Return one of the words of these ranks."""
        return self.random.choice(self.words[first:last])


def kinds(language: Language, visitor: Visitor) -> dict[str, Callable[[], str]]:
    """Return the kinds of query, by name. Each call of one returns a new query."""
    pick = language.random
    return {
        "in most messages": lambda: f"q={quote(language.word(0, 10))}",
        "in one of thirty": lambda: f"q={quote(language.word(100, 300))}",
        "in one of a thousand": lambda: f"q={quote(language.word(2_000, 6_000))}",
        "in two": lambda: f"q=number{pick.randrange(10_000, 50_000)}",
        "in none": lambda: f"q=nothing{pick.randrange(1_000)}",
        "one letter": lambda: f"q={pick.choice('bdfghklmn')}",
        "three letters": lambda: f"q={quote(language.word(2_000, 6_000)[:3])}",
        "two frequent words": lambda: f"q={quote(language.word(0, 30))}+{quote(language.word(0, 30))}",
        "a frequent word and a rare one": lambda: f"q={quote(language.word(0, 30))}+number{pick.randrange(50_000)}",
        "two words in one of thirty": lambda: f"q={quote(language.word(100, 300))}+{quote(language.word(100, 300))}",
        "two Chinese characters": lambda: f"q={quote(CHINESE[pick.randrange(9)] + CHINESE[pick.randrange(99)])}",
        "one Chinese character": lambda: f"q={quote(CHINESE[pick.randrange(99)])}",
        "in one chatroom": lambda: f"q={quote(language.word(0, 30))}&chatroom_id={visitor.room.rsplit('/', 1)[1]}",
        "the second page": lambda: second_page(visitor, language.word(100, 300)),
    }


def second_page(visitor: Visitor, word: str) -> str:
    """Return the query of a word's second page, or of its first if there is no second."""
    cursor = visitor.get(f"/search?q={quote(word)}")["next_cursor"]
    return f"q={quote(word)}" + (f"&cursor={cursor}" if cursor else "")


def fill(app: Flask, language: Language, user_id: str) -> None:
    """Add a million messages, a tenth of them the user's, to a database without the search."""
    values = {"messages": MESSAGES, "own_one_in": OWN_ONE_IN, "own_rooms": OWN_ROOMS, "others": OTHERS, "texts": TEXTS}
    with app.app_context():
        downgrade(directory=str(MIGRATIONS), revision=BEFORE)
    with app.app_context(), answered_within_an_hour(db.engine) as connection:
        connection.execute(sa.text("CREATE TABLE bench_texts (number serial PRIMARY KEY, text text)"))
        texts = sa.text("INSERT INTO bench_texts (text) SELECT unnest(:texts)")
        connection.execute(texts, {"texts": [language.text() for _ in range(TEXTS)]})
        for statement in FILL:
            used = {name: value for name, value in (values | {"user": user_id}).items() if f":{name}" in statement}
            connection.execute(sa.text(statement), used)


@contextmanager
def written_meanwhile(url: str) -> Iterator[list[float]]:
    """Write to the newest message every 20 ms during the block. Yields the list of the seconds that each write took."""
    times: list[float] = []
    ended = threading.Event()

    def write() -> None:
        connection = psycopg2.connect(url)
        connection.autocommit = True
        while not ended.wait(0.02):
            began = time.perf_counter()
            connection.cursor().execute(
                "UPDATE messages SET text = text || '.' WHERE id = (SELECT id FROM messages ORDER BY id DESC LIMIT 1)"
            )
            times.append(time.perf_counter() - began)
        connection.close()

    writing = threading.Thread(target=write)
    writing.start()
    yield times
    ended.set()
    writing.join()


def migrate(app: Flask, url: str) -> None:
    """Add the search to the existing messages. Prints how long that took, and how long it delayed writes."""
    with app.app_context(), written_meanwhile(url) as times:
        began = time.perf_counter()
        upgrade(directory=str(MIGRATIONS))
        took = time.perf_counter() - began
    with app.app_context(), answered_within_an_hour(db.engine) as connection:
        connection.execute(sa.text("VACUUM ANALYZE"))
        sizes = "pg_size_pretty(pg_table_size(:t)), pg_size_pretty(pg_indexes_size(:t))"
        of = {
            name: connection.execute(sa.text(f"SELECT {sizes}"), {"t": name}).one()
            for name in ("messages", "searchable_messages")
        }
    print(f"The migration took {took:.0f} s. The longest of {len(times):,} writes took {max(times) * 1000:.0f} ms.")
    print("; ".join(f"{name}: {table}, indexes {indexes}" for name, (table, indexes) in of.items()) + ".\n")


def main() -> None:
    """Fill, migrate, and print a row for each kind of query."""
    language = Language()
    with PostgresServer(durable=False) as postgres, ValkeyServer(append_only=False) as valkey:
        app = make_app(postgres.url, valkey.url)
        visitor = Visitor(app.test_client())
        fill(app, language, visitor.user_id)
        migrate(app, postgres.url)
        visitor.room = f"/chatroom/{visitor.get('/chatroom')['items'][0]['id']}"
        print("| query | found on the page | p50 | p95 |\n|---|---|---|---|", flush=True)
        everything, slowest = [], (0.0, "")
        for name, make in kinds(language, visitor).items():
            times, found = [], []
            for query in [make() for _ in range(ROUNDS)]:
                began = time.perf_counter()
                answer = visitor.call(Request("GET", f"/search?{query}"))
                times.append(time.perf_counter() - began)
                found.append(len(answer["items"]))
                slowest = max(slowest, (times[-1], query))
            everything += times
            cuts = statistics.quantiles(times, n=20)
            print(f"| {name} | {statistics.median(found):.0f} | {row(cuts)} |", flush=True)
        print(f"| all | | {row(statistics.quantiles(everything, n=20))} |\n")
        with app.app_context(), explained(db.engine) as plans:
            visitor.call(Request("GET", f"/search?{slowest[1]}"))
        plan = max(plans, key=lambda one: one.milliseconds)
        print(f"The slowest, {slowest[0] * 1000:.0f} ms: `{slowest[1]}`\n\n```\n{outline(plan.document['Plan'])}```")


def row(cuts: list[float]) -> str:
    return f"{cuts[9] * 1000:.1f} ms | {cuts[18] * 1000:.1f} ms"


def outline(node: dict[str, Any], depth: int = 0) -> str:
    """Return an outline of a plan: each step's rows, milliseconds and pages of 8 KB."""
    name = " ".join(str(node[key]) for key in ("Node Type", "Index Name", "CTE Name", "Relation Name") if key in node)
    pages = node["Shared Hit Blocks"] + node["Shared Read Blocks"]
    rows, loops, milliseconds = node["Actual Rows"], node["Actual Loops"], node["Actual Total Time"]
    line = f"{'  ' * depth}{name}: {rows:.0f} rows × {loops}, {milliseconds:.1f} ms, {pages:,} pages\n"
    return line + "".join(outline(child, depth + 1) for child in node.get("Plans", ()))


if __name__ == "__main__":
    main()
