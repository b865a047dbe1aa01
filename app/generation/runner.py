"""One attempt at one reply, from the claim until the reply has ended or is queued again.

The call path to the model: the task `generate_reply` → `Runner.run` → `Runner.attempt` → `Runner.ask` →
`ModelClient.generate`.
"""

import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

from redis.exceptions import RedisError
from sqlalchemy.exc import OperationalError

from app.chatrooms.models import ErrorCode, Status
from app.chatrooms.service import chosen_model
from app.core import settings
from app.core.db import DATABASE_UNAVAILABLE, TRANSIENT_DATABASE_ERRORS, log_database_error
from app.core.logging import log_event
from app.core.tracing import outgoing_headers, request_id, span, traceparent
from app.core.transactions import Transaction, transaction
from app.generation import state
from app.generation.breaker import Breaker
from app.generation.conversation import conversation
from app.generation.queueing import enqueue_next_replies
from app.generation.state import Claim, ClaimedElsewhere
from app.generation.worker import LeaseKeeper
from app.integrations.bounded_calls import BoundedCall
from app.integrations.gemini.client import (
    Answer,
    CallAborted,
    ClientNotConfigured,
    ModelClient,
    ModelError,
    ModelRejected,
    ModelUnavailable,
    ReplyEmpty,
    Turn,
    model_client_class,
)
from app.streaming.events import Entry, Publisher, publish

log = logging.getLogger(__name__)

FIRST_DELAY_SECONDS = 1.0
MAX_DELAY_SECONDS = 20.0
EMPTY_ATTEMPTS = 3  # failed attempts after which an empty answer is final: Google charges for each of these
STORE_AGAIN_AFTER_SECONDS = (0.5, 1, 2, 4)  # enough for a restart of PostgreSQL, and shorter than a lease
SUPERSEDED = "superseded"
AttemptResult = tuple[str, dict[str, int]]  # how an attempt ended, for the log: a name, and the tokens it took


class Runner:
    """Generates replies by one model, in many threads of one process at once."""

    def __init__(self, model: ModelClient, keeper: LeaseKeeper, breakers: Mapping[str, Breaker]) -> None:
        self.model = model
        self.keeper = keeper
        self.breakers = breakers  # by the names of the models on offer: a model that is down delays no other
        self.refusals: dict[str, str] = {}  # the last refusal logged for a model, until it answers

    def run(self, reply_id: UUID) -> None:
        """Make one attempt at a reply. Does nothing if it has ended, is held by a worker, or must wait."""
        claim = self.claim(reply_id)
        if claim is None:
            return
        request_id.set(claim.request_id)
        traceparent.set(claim.traceparent)
        began = time.monotonic()
        outcome, tokens = self.skip(claim) or self.attempt(claim)
        if outcome == SUPERSEDED:
            announce_lost_claim(claim)
        seconds = round(time.monotonic() - began, 3)
        facts = {"reply_id": claim.reply_id, "attempt": claim.attempt, "seconds": seconds}
        log_event(log, "generation", outcome=outcome, **facts, **tokens)

    def claim(self, reply_id: UUID) -> Claim | None:
        """Claim a reply, or return None if it cannot be claimed now.

        A refused claim is tried once more, after its mark is committed: whoever freed a slot before saw no mark.
        """
        return self.try_to_claim(reply_id) or self.try_to_claim(reply_id)

    def try_to_claim(self, reply_id: UUID) -> Claim | None:
        while True:  # each round, another reply of the room or the user was claimed, so the loop ends
            with suppress(ClaimedElsewhere), transaction():
                return state.claim(reply_id, lease=self.keeper.lease)

    def skip(self, claim: Claim) -> AttemptResult | None:
        """Fail a reply whose attempts are used up, or defer it while its model's breaker is open; None if neither."""
        if claim.failures >= settings().reply_max_attempts:  # its workers died, again and again
            return self.fail(claim, ErrorCode.MODEL_UNAVAILABLE)
        wait_seconds = self.breakers[chosen_model(claim.model)].wait_seconds(claim.user_id)
        return self.defer(claim, wait_seconds) if wait_seconds else None

    def attempt(self, claim: Claim) -> AttemptResult:  # noqa: PLR0911 - one for each way in which it ends
        """Read the conversation, ask the model, and store the outcome.

        If PostgreSQL is lost after the claim, the reply is deferred. If that cannot be stored either, its lease runs
        out, as if this worker had died.
        """
        model = chosen_model(claim.model)
        try:
            with (
                self.breakers[model].watch(claim.user_id),
                self.keeper.hold(claim, seconds=settings().gemini_timeout) as call,
            ):
                chars, tokens = settings().gemini_history_max_chars, settings().gemini_history_max_tokens
                turns = conversation(
                    claim.chatroom_id, claim.position, claim.prompt, max_chars=chars, max_tokens=tokens or None
                )
                claim = replace(claim, messages_sent=len(turns))
                answer = self.ask(claim, turns, call)
        except CallAborted:
            return self.requeue(claim, 0, outcome="released")  # if it is still ours
        except DATABASE_UNAVAILABLE as error:
            log_database_error(log, f"the conversation before reply {claim.reply_id} was not read", error)
            return self.defer(claim, backoff_seconds(1))
        except OperationalError:
            log.exception("The conversation before reply %s could not be read", claim.reply_id)
            return self.retry_or_fail(claim, ModelUnavailable("Gemini was not asked"))
        except (ModelUnavailable, ReplyEmpty) as error:
            return self.retry_or_fail(claim, error)
        except ModelError as error:
            if isinstance(error, ModelRejected) and self.refusals.get(model) != str(error):
                self.refusals[model] = str(error)
                log.error("Gemini refused a call: %s", error)  # noqa: TRY400 - the sentence says it all
            return self.fail(claim, ErrorCode(error.code))
        except Exception:  # a retry would end the same way
            log.exception("A defect ended the attempt at reply %s", claim.reply_id)
            return self.fail(claim, ErrorCode.MODEL_UNAVAILABLE)
        self.refusals.pop(model, None)
        stored = store(claim, lambda tx: state.complete(tx, claim, answer))
        return Status.COMPLETED if stored else SUPERSEDED, asdict(answer.usage)

    def ask(self, claim: Claim, turns: Sequence[Turn], call: BoundedCall) -> Answer:
        on_piece = None
        if claim.streamed:
            may_publish = partial(note_passed_on, claim)
            on_piece = Publisher(claim.reply_id, claim.attempt, claim.context, may_publish=may_publish).pass_on
        with span("generate_content", "CLIENT"):
            return self.model.generate(
                turns,
                call,
                read_seconds=read_seconds(streamed=claim.streamed),
                headers=outgoing_headers(),
                on_piece=on_piece,
                model=chosen_model(claim.model),
                instruction=claim.instruction,
            )

    def fail(self, claim: Claim, code: ErrorCode) -> AttemptResult:
        return code if store(claim, lambda tx: state.fail(tx, claim, code)) else SUPERSEDED, {}

    def requeue(self, claim: Claim, seconds: float, *, outcome: str) -> AttemptResult:
        with transaction() as tx:
            requeued = state.requeue(tx, claim, timedelta(seconds=seconds))
        return outcome if requeued else SUPERSEDED, {}

    def retry_or_fail(self, claim: Claim, error: ModelError) -> AttemptResult:
        """Let the reply wait for its next attempt, or fail it if it has no attempts or no time left."""
        claim = replace(claim, failures=claim.failures + 1)
        seconds = max(backoff_seconds(claim.failures), error.retry_after or 0)  # never less than Google asks for
        max_attempts = settings().reply_max_attempts
        if isinstance(error, ReplyEmpty):
            max_attempts = min(max_attempts, EMPTY_ATTEMPTS)
        if claim.failures >= max_attempts or not has_time(claim, seconds):
            log.warning("Gave up on reply %s: %s", claim.reply_id, error)
            return self.fail(claim, ErrorCode(error.code))
        return self.requeue(claim, seconds, outcome=f"retry after {error}")

    def defer(self, claim: Claim, seconds: float) -> AttemptResult:
        """Let the reply wait without counting the attempt as failed, or fail it if its time would run out."""
        if not has_time(claim, seconds):
            return self.fail(claim, ErrorCode.MODEL_UNAVAILABLE)
        return self.requeue(claim, seconds, outcome="deferred")


def announce_lost_claim(claim: Claim) -> None:
    """Make followers of a reply that we no longer hold look at it at once, and let the replies behind it begin.

    It was taken over, canceled or deleted, or our own commit stored it and only the acknowledgement was lost.
    """
    with suppress(RedisError):
        publish(claim.reply_id, Entry(claim.attempt, status=Status.CANCELED))
    enqueue_next_replies(claim.chatroom_id, claim.user_id)


def configured_client(model: str | None = None, **overrides: Any) -> ModelClient:
    """Return the Gemini client that the settings describe. Raises ClientNotConfigured.

    model, overrides: replace what the settings say.
    """
    config = settings()
    if not config.gemini_api_key:  # the SDK would look for the machine's own credentials
        raise ClientNotConfigured("GEMINI_API_KEY is not set; Gemini cannot be called without it.")
    generation_config = {"max_output_tokens": config.gemini_max_output_tokens or None}
    own = {"system_instruction": config.gemini_system_instruction, "generation_config": generation_config}
    return model_client_class(config.gemini_sdk)(
        api_key=config.gemini_api_key,
        endpoint=config.gemini_api_endpoint,
        model=model or config.gemini_model,
        **(own | overrides),
    )


def read_seconds(*, streamed: bool) -> float:
    """Return how many seconds an answer may bring nothing; for a streamed one the idle time-out applies too."""
    config = settings()
    return min(config.gemini_timeout, config.gemini_idle_timeout) if streamed else config.gemini_timeout


def note_passed_on(claim: Claim) -> bool:
    """Note that the first piece cannot be taken back. Returns False if it must not be published."""
    try:
        with transaction():
            return state.mark_passed_on(claim)
    except TRANSIENT_DATABASE_ERRORS as error:
        log_database_error(log, f"reply {claim.reply_id} is not streamed, but published as a whole when it ends", error)
        return False


def store(claim: Claim, write: Callable[[Transaction], bool]) -> bool:
    """Write a final state, and retry a few times if PostgreSQL gives up. Returns False if the lease is lost.

    If every try fails, the lease runs out and the sweeper queues the reply again.
    """
    for pause_seconds in STORE_AGAIN_AFTER_SECONDS:
        try:
            with transaction() as tx:
                return write(tx)
        except TRANSIENT_DATABASE_ERRORS as error:
            log_database_error(log, f"reply {claim.reply_id} is not stored yet; next try in {pause_seconds} s", error)
            time.sleep(pause_seconds)
    with transaction() as tx:
        return write(tx)


def backoff_seconds(failures: int) -> float:
    """Return how long to wait after that many failed attempts. Doubles with each; up to half is cut at random."""
    return min(FIRST_DELAY_SECONDS * 2.0 ** (failures - 1), MAX_DELAY_SECONDS) * random.uniform(0.5, 1)  # noqa: S311


def has_time(claim: Claim, seconds: float) -> bool:
    """Whether a reply that waits for `seconds` is still within REPLY_MAX_SECONDS."""
    deadline = claim.started_at + timedelta(seconds=settings().reply_max_seconds)
    return claim.now() + timedelta(seconds=seconds) <= deadline
