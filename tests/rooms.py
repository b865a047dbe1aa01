"""A runner inside the test's own process, and rooms to use it on."""

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import cache
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from flask import Flask
from sqlalchemy import select, text

from app.chatrooms.models import Message
from app.core.clock import utc_now
from app.core.db import answers_within, db
from app.core.transactions import transaction
from app.generation.breaker import THRESHOLD, Breaker
from app.generation.runner import Runner
from app.generation.worker import LeaseKeeper, sweep_replies
from app.integrations.gemini.generativeai import Gemini
from app.quota.models import PromptCharge
from sandbox.stand_ins import GeminiStandIn

REQUEUE_AFTER = timedelta(seconds=8)  # the sweeper's


@pytest.fixture
def gemini_timeout() -> float:
    """Seconds of one attempt; a test may choose its own by parametrizing it."""
    return 10


@pytest.fixture(scope="session")
def make_quiet_app(make_app: Callable[..., Flask], make_redis_url: Callable[[], str]) -> Callable[[float], Flask]:
    """Make one application for all tests with the same time-out: making one takes longer than most of these tests."""

    @cache
    def make(gemini_timeout: float) -> Flask:
        own = {"redis_url": make_redis_url(), "gemini_timeout": gemini_timeout}
        return make_app(**own, reply_max_attempts=3, reply_max_seconds=60)

    return make


@pytest.fixture
def quiet_app(app: Flask, make_quiet_app: Callable[[float], Flask], gemini_timeout: float) -> Flask:
    """The application on a Valkey database that no worker listens to, so that tasks just wait."""
    quiet = make_quiet_app(gemini_timeout)
    quiet.extensions["redis"].flushdb()
    quiet.extensions["celery"].set_default()
    return quiet


def nearly_open_breaker() -> Breaker:
    """Return a breaker that the next failure opens."""
    breaker = Breaker("Gemini")
    for _ in range(THRESHOLD - 1):
        breaker.record(answered=False)
    return breaker


def open_breaker() -> Breaker:
    """Return a breaker that has just opened."""
    breaker = nearly_open_breaker()
    breaker.record(answered=False)
    return breaker


@pytest.fixture
def make_runner(quiet_app: Flask, gemini: GeminiStandIn) -> Iterator[Callable[..., Runner]]:
    """Make a runner like the worker's: the real SDK against the stand-in. app: the quiet one by default."""
    keepers = []

    def make(
        *,
        app: Flask = quiet_app,
        lease_seconds: float = 5,
        breaker: Breaker | None = None,
        api_key: str = "sandbox-key",
    ) -> Runner:
        model = Gemini(api_key=api_key, endpoint=gemini.url, model="gemini-3.5-flash", system_instruction="Be brief.")
        keeper = LeaseKeeper(app, lease=timedelta(seconds=lease_seconds))
        keepers.append(keeper)
        of_all = breaker or Breaker("Gemini")
        return Runner(model, keeper, defaultdict(lambda: of_all))

    yield make
    for keeper in keepers:
        keeper.close()


@pytest.fixture
def runner(make_runner: Callable[..., Runner]) -> Runner:
    return make_runner()


class Room:
    """A chatroom whose prompts wait until the test generates their replies."""

    runner: Runner

    def __init__(self, app: Flask, person: Any, path: str) -> None:
        self.app, self.person, self.path = app, person, path

    def send(self, prompt: str, **fields: Any) -> UUID:
        """Send a prompt. Returns the reply's id."""
        response = self.person.post(f"{self.path}/message", json={"text": prompt, **fields})
        assert response.status_code == 202, response.text
        return UUID(response.json["reply"]["id"])

    def read(self, reply_id: UUID) -> SimpleNamespace:
        """Return the reply as the API shows it."""
        return SimpleNamespace(**self.person.get(f"{self.path}/messages/{reply_id}").json)

    def generate(self, runner: Runner, reply_id: UUID) -> None:
        with self.app.app_context():
            runner.run(reply_id)

    def generate_meanwhile(self, runner: Runner, reply_id: UUID) -> threading.Thread:
        """Generate in another thread. Returns the thread, to be joined in the end."""
        thread = threading.Thread(target=self.generate, args=(runner, reply_id))
        thread.start()
        return thread

    def answer(self, runner: Runner, prompt: str) -> SimpleNamespace:
        """Send a prompt and generate its reply at once."""
        reply_id = self.send(prompt)
        self.generate(runner, reply_id)
        return self.read(reply_id)

    def row(self, reply_id: UUID) -> Message:
        """Return the reply's row in the database."""
        with self.app.app_context():
            return db.session.scalars(select(Message).where(Message.id == reply_id)).one()

    def charges(self) -> list[PromptCharge]:
        with self.app.app_context():
            return list(db.session.scalars(select(PromptCharge).order_by(PromptCharge.created_at)))

    def sql(self, statement: str, **values: Any) -> None:
        """Age or break rows. This may take long on a busy machine."""
        with self.app.app_context(), answers_within(60), transaction():
            db.session.execute(text("SET LOCAL statement_timeout = '60s'"))
            db.session.execute(text(statement), values)

    def let_leases_run_out(self) -> None:
        """Let all leases run out, as if their workers had died."""
        self.sql("UPDATE messages SET lease_expires_at = now() - interval '1 second' WHERE status = 'generating'")

    def used(self) -> int:
        return int(self.person.get("/user/usage").json["used"])


def somebody_waits_for_a_lock() -> bool:
    """Whether a statement waits for another's transaction, in the database of the current application."""
    with db.engine.connect() as other:
        return bool(other.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")))


@pytest.fixture
def room(quiet_app: Flask, make_user: Callable[..., Any]) -> Room:
    person = make_user()
    person.client = quiet_app.test_client()
    return Room(quiet_app, person, person.make_chatroom())


@pytest.fixture
def make_runner_for(make_runner: Callable[..., Runner]) -> Callable[[Flask, Any], Room]:
    """Make a room with a runner of its own, on an application of the test's."""

    def make(app: Flask, person: Any) -> Room:
        room = Room(app, person, person.make_chatroom())
        room.runner = make_runner(app=app)
        return room

    return make


def cancel(room: Room, reply_id: UUID | str) -> Any:
    return room.person.post(f"{room.path}/messages/{reply_id}/cancel")


def retry(room: Room, reply_id: UUID | str) -> Any:
    return room.person.post(f"{room.path}/messages/{reply_id}/retry")


def sweep(room: Room, later: timedelta = timedelta(seconds=9)) -> list[UUID]:
    """Sweep as a worker does for beat, this much later."""
    with room.app.app_context():
        return sweep_replies(now=utc_now() + later, requeue_after=REQUEUE_AFTER)
