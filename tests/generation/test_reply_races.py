"""Cancel and retry at the very moment of a reply's end, and at the same moment as one another."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text

from app.core.db import db
from sandbox.stack.processes import wait_until
from tests.people import all_at_once

ROUNDS = 20  # each in a room of its own, all at once
USERS = 5
BUSY = 503
FINAL = {"completed", "failed", "canceled"}


@dataclass
class Round:
    """One reply that several requests act on."""

    app: Flask
    person: Any
    path: str

    def post(self, verb: str) -> int:
        """Send a request about the reply. Returns the status."""
        return self.ask(verb).status_code

    def is_retried(self) -> bool:
        """Whether a retry of this reply is accepted. A retry after its answer begins another one, not counted here."""
        answer = self.ask("retry")
        return answer.status_code == 202 and answer.headers["Location"] == self.path

    def ask(self, verb: str) -> Any:
        return post(self.app, self.person, f"{self.path}/{verb}")

    def read(self) -> SimpleNamespace:
        return SimpleNamespace(**self.person.get(self.path).json)

    def wait_for_end(self) -> SimpleNamespace:
        """Wait for the reply to end, and return it."""
        assert wait_until(lambda: self.read().status in FINAL, seconds=30), self.read()
        return self.read()

    def row(self) -> Any:
        """Return the reply's attempts, how many prompts it cost, and how many were refunded."""
        query = """SELECT attempt, (SELECT count(*) FROM prompt_charges WHERE reply_id = messages.id) AS charged,
            (SELECT count(given_back_at) FROM prompt_charges WHERE reply_id = messages.id) AS refunded
            FROM messages WHERE id = :id"""
        with self.app.app_context():
            return db.session.execute(text(query), {"id": self.path.rsplit("/", 1)[1]}).one()


def post(app: Flask, person: Any, path: str, **body: Any) -> Any:
    """Post on a connection of its own, again until a busy machine has one to spare."""
    headers = {"Authorization": f"Bearer {person.access_token}"}
    while (answer := app.test_client().post(path, headers=headers, **body)).status_code == BUSY:
        pass
    return answer


@pytest.fixture
def start_rounds(
    app: Flask,
    make_app: Callable[..., Flask],
    make_user: Callable[..., Any],
    served_environment: dict[str, str],
    worker: Path,
) -> Iterator[Callable[[str], list[Round]]]:
    """Send a prompt in many rooms of several people at once, so that all calls to Gemini overlap."""
    service = make_app(redis_url=served_environment["REDIS_URL"], basic_daily_prompts=1_000)

    def start(prompt: str) -> list[Round]:
        people = [make_user() for _ in range(USERS)]
        for person in people:
            person.client = service.test_client()
        rooms = [(people[number % USERS], people[number % USERS].make_chatroom()) for number in range(ROUNDS)]

        def send(number: int) -> Round:
            person, room = rooms[number]
            answer = post(service, person, f"{room}/message", json={"text": f"{prompt} {number}"})
            return Round(service, person, answer.headers["Location"])

        with ThreadPoolExecutor(ROUNDS) as threads:
            return list(threads.map(send, range(ROUNDS)))

    yield start
    app.extensions["celery"].set_default()


def test_either_a_cancel_or_the_end_of_a_reply_wins(start_rounds, gemini):
    gemini.behave(hang=True)
    rounds = start_rounds('[[sandbox: say="Done."]]')
    gemini.wait_for(in_flight_at_least=ROUNDS, timeout=30)
    cancels = [lambda race=race: race.post("cancel") for race in rounds]
    _, *statuses = all_at_once([gemini.reset, *cancels])
    for race, status in zip(rounds, statuses, strict=True):
        reply = race.wait_for_end()
        won = {200: ("canceled", None), 409: ("completed", "Done.")}[status]
        assert (reply.status, reply.text) == won
        assert tuple(race.row()) == (1, 1, 0)  # a worker had taken it, so it costs its prompt
        assert race.post("cancel") == 409
    assert_nothing_changes(rounds)


def test_one_of_two_cancels_wins_and_the_prompt_is_refunded_at_most_once(start_rounds, gemini):
    """A worker may be taking the replies at that moment."""
    gemini.behave(hang=True)
    rounds = start_rounds("Hello")
    statuses = all_at_once([lambda race=race: race.post("cancel") for race in rounds for _ in range(2)])
    gemini.reset()
    for race, pair in zip(rounds, zip(statuses[::2], statuses[1::2], strict=True), strict=True):
        assert sorted(pair) == [200, 409]
        assert race.wait_for_end().status == "canceled"
        attempt, charged, refunded = race.row()
        assert (charged, refunded) == (1, 1 if attempt == 0 else 0)
    assert_nothing_changes(rounds)


def test_one_of_two_cancels_of_a_queued_reply_wins_and_the_prompt_is_refunded_once(start_rounds, gemini):
    gemini.behave(hang=True)
    first = start_rounds("Ahead")
    queued = []
    for race in first:
        room = race.path.rsplit("/messages/", 1)[0]
        answer = race.person.post(f"{room}/message", json={"text": "Behind"})
        queued.append(Round(race.app, race.person, answer.headers["Location"]))
    statuses = all_at_once([lambda race=race: race.post("cancel") for race in queued for _ in range(2)])
    assert Counter(statuses) == {200: ROUNDS, 409: ROUNDS}
    gemini.reset()
    assert [tuple(race.row()) for race in queued] == [(0, 1, 1)] * ROUNDS
    assert {race.wait_for_end().status for race in first} == {"completed"}
    assert_nothing_changes(queued)


def test_one_of_two_retries_at_the_end_of_an_attempt_wins(start_rounds):
    """Both ask again and again while the reply fails."""
    rounds = start_rounds('[[sandbox: delay=0.5 status=404 times=1 say="Done."]]')

    def ask_until_somebody_won(race: Round, won: threading.Event) -> bool:
        accepted = False
        while not won.wait(0.02) and race.read().status != "completed":
            if race.is_retried():
                accepted = True
                won.set()
        return accepted

    events = [threading.Event() for _ in rounds]
    asking = [
        lambda race=race, won=won: ask_until_somebody_won(race, won)
        for race, won in zip(rounds, events, strict=True)
        for _ in range(2)
    ]
    accepted = all_at_once(asking)
    for race, pair in zip(rounds, zip(accepted[::2], accepted[1::2], strict=True), strict=True):
        reply = race.wait_for_end()
        assert (reply.status, reply.text) == ("completed", "Done.")
        assert sum(pair) == 1
        assert tuple(race.row()) == (2, 2, 1)  # the failed attempt gave its prompt back, the other one costs its own


def test_a_cancel_and_a_retry_at_once_each_do_what_they_answer(start_rounds, gemini):
    gemini.behave(hang=True)
    rounds = start_rounds('[[sandbox: say="Done."]]')
    gemini.wait_for(in_flight_at_least=ROUNDS, timeout=30)
    statuses = all_at_once(
        [lambda race=race, verb=verb: race.post(verb) for race in rounds for verb in ("cancel", "retry")]
    )
    gemini.reset()
    for race, (canceled, retried) in zip(rounds, zip(statuses[::2], statuses[1::2], strict=True), strict=True):
        reply = race.wait_for_end()
        assert canceled == 200
        won = {202: ("completed", "Done.", 2), 409: ("canceled", None, 1)}[retried]
        attempt, charged, refunded = race.row()
        assert (reply.status, reply.text, attempt, charged, refunded) == (*won, won[2], 0)
    assert_nothing_changes(rounds)


def assert_nothing_changes(rounds: list[Round]) -> None:
    """Assert that no worker writes to replies that have ended, however often their tasks come."""
    before = [(race.read(), race.row()) for race in rounds]
    service = rounds[0].app
    for race in rounds:
        service.extensions["celery"].send_task("messages.generate_reply", args=[race.path.rsplit("/", 1)[1]])
    behind = Round(service, rounds[0].person, send_behind(rounds[0]))
    behind.wait_for_end()  # it stands behind all of them in the queue
    assert [(race.read(), race.row()) for race in rounds] == before


def send_behind(race: Round) -> str:
    return str(race.person.post(f"{race.person.make_chatroom()}/message", json={"text": "Behind"}).headers["Location"])
