"""When a failed attempt is made again.

The worker's use case: one attempt at one reply, from the claim to a state that somebody looks after.
"""

import logging
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from redis.exceptions import RedisError

from app.chatrooms.models import ErrorCode, Status
from app.core.db import DATABASE_GAVE_UP, DATABASE_UNAVAILABLE, log_database_error
from app.core.ids import set_request_id
from app.core.logging import log_event
from app.core.settings import settings
from app.core.transactions import transaction
from app.generation.history import conversation
from app.generation.state import Claim, RoomBusy, SlotTaken, claim_reply, enqueue_next, enqueue_reply, write
from app.generation.worker import Breaker, LeaseKeeper
from app.integrations.gemini.client import (
    Answer,
    CallAborted,
    ModelClient,
    ModelError,
    ModelRejected,
    ModelTimeout,
    ModelUnavailable,
    ReplyBlocked,
    Turn,
)
from app.quota.ledger import refund_prompt
from app.streaming.events import Entry, Publisher, publish
from app.users.service import lock_user

FIRST_DELAY_SECONDS = 1.0
MAX_DELAY_SECONDS = 20.0


def delay_before_retry(
    failures: int,
    *,
    asked_for: float | None,
    started_at: datetime,
    now: datetime,
    max_attempts: int,
    max_seconds: float,
) -> timedelta | None:
    """How long to wait before the next attempt; None when there is to be none.

    failures: attempts that failed so far. asked_for: seconds that the provider asks for, never undercut.
    The delay doubles with each failure, and a random half of it spreads those that failed together.
    """
    if failures >= max_attempts:
        return None
    delay = min(FIRST_DELAY_SECONDS * 2 ** (failures - 1), MAX_DELAY_SECONDS) * random.uniform(0.5, 1)  # noqa: S311
    delay = max(delay, asked_for or 0)
    if now + timedelta(seconds=delay) > started_at + timedelta(seconds=max_seconds):
        return None
    return timedelta(seconds=delay)


log = logging.getLogger(__name__)

STORE_AGAIN_AFTER_SECONDS = (0.5, 1, 2, 4)  # a restart of PostgreSQL; shorter than a lease
COSTS_ITS_PROMPT = {ErrorCode.BLOCKED_BY_SAFETY, ErrorCode.EMPTY_REPLY}  # the prompt's own doing


@dataclass(frozen=True)
class Outcome:
    """What came of an attempt, for the log; `answer` when the model gave one."""

    name: str
    answer: Answer | None = None

    @property
    def tokens(self) -> dict[str, int | None]:
        if self.answer is None:
            return {}
        return {"prompt_tokens": self.answer.prompt_tokens, "output_tokens": self.answer.output_tokens}


class Generator:
    """Generates replies by one model, in many threads of one process at once."""

    def __init__(self, model: ModelClient, keeper: LeaseKeeper, breaker: Breaker) -> None:
        self.model = model
        self.keeper = keeper
        self.breaker = breaker

    def generate(self, reply_id: UUID) -> None:
        """Make one attempt at a reply; does nothing when it is done, held, or has to wait for others."""
        claimed = self.claim(reply_id)
        if claimed is None:
            return
        claim, turns = claimed
        set_request_id(claim.request_id)
        begun = time.monotonic()
        outcome = self.outcome_of(claim, turns)
        seconds = round(time.monotonic() - begun, 3)
        facts = {"reply_id": claim.reply_id, "attempt": claim.attempt, "seconds": seconds}
        log_event(log, "generation", outcome=outcome.name, **facts, **outcome.tokens)

    def claim(self, reply_id: UUID) -> tuple[Claim, Sequence[Turn]] | None:
        """Claim a reply and read what was said before it; None when it is not to be had now."""
        while True:
            claim = None
            try:
                with transaction():
                    claim = claim_reply(reply_id, lease=self.keeper.lease)
                    if claim is None:
                        return None
                    budget = settings().gemini_history_max_chars
                    return claim, conversation(claim.chatroom_id, claim.position, claim.prompt, max_chars=budget)
            except SlotTaken:  # by another reply of the user each time, so this comes to an end
                continue
            except RoomBusy:  # whoever generates the other one queues this one in the end
                return None
            except DATABASE_UNAVAILABLE:
                raise
            except Exception:
                if claim is None:
                    raise
                log.exception("What was said before reply %s could not be read", reply_id)
                self.count_failure(reply_id)
                return None

    def count_failure(self, reply_id: UUID) -> None:
        """Count an attempt whose claim was rolled back: else the sweeper would have it made again for ever."""
        claim = None
        with suppress(RoomBusy, SlotTaken), transaction():
            claim = claim_reply(reply_id, lease=self.keeper.lease)
        if claim is not None:
            self.retry_or_fail(claim, ModelUnavailable("not asked"))

    def outcome_of(self, claim: Claim, turns: Sequence[Turn]) -> Outcome:
        """Make the attempt, unless the reply has used its attempts up or Gemini is given a rest."""
        if claim.failures >= settings().reply_max_attempts:  # its workers died, again and again
            return Outcome(self.fail(claim, ErrorCode.MODEL_UNAVAILABLE))
        wait_seconds = self.breaker.wait_seconds()
        if wait_seconds:
            return Outcome(self.put_off(claim, timedelta(seconds=wait_seconds)))
        return self.attempt(claim, turns)

    def attempt(self, claim: Claim, turns: Sequence[Turn]) -> Outcome:
        """Ask the model and write down what came of it."""
        try:
            answer = self.ask(claim, turns)
        except CallAborted:
            return Outcome(self.hand_back(claim))
        except ModelUnavailable as error:
            return Outcome(self.retry_or_fail(claim, error))
        except ModelError as error:
            if isinstance(error, ModelRejected):
                log.error("Gemini refuses: %s", error)  # noqa: TRY400 - the sentence says it all
            return Outcome(self.fail(claim, error_code_of(error)))
        except Exception:  # it would be the same the next time
            log.exception("A defect ended the attempt at reply %s", claim.reply_id)
            return Outcome(self.fail(claim, ErrorCode.MODEL_UNAVAILABLE))
        return Outcome(self.complete(claim, answer), answer)

    def ask(self, claim: Claim, turns: Sequence[Turn]) -> Answer:
        """Ask the model, and let the breaker know how that went: without a word, a probe would never end."""
        seconds = settings().gemini_timeout
        answered: bool | None = None
        try:
            with self.keeper.hold(claim, seconds=seconds) as call:
                answer = self.model.generate(
                    turns,
                    call,
                    timeout_seconds=seconds,
                    request_id=claim.request_id,
                    on_piece=Publisher(claim.reply_id, claim.attempt).pass_on if claim.streamed else None,
                )
            answered = True
        except ModelError as error:
            answered = None if isinstance(error, CallAborted) else not isinstance(error, ModelUnavailable)
            raise
        else:
            return answer
        finally:
            self.breaker.record(answered=answered)

    def complete(self, claim: Claim, answer: Answer) -> str:
        return self.end(
            claim,
            status=Status.COMPLETED,
            text=answer.text,
            model=answer.model,
            prompt_tokens=answer.prompt_tokens,
            output_tokens=answer.output_tokens,
        )

    def fail(self, claim: Claim, code: ErrorCode) -> str:
        return self.end(claim, status=Status.FAILED, error_code=code)

    def end(self, claim: Claim, *, status: Status, **values: object) -> str:
        """Put the reply into a final state; what is lost of PostgreSQL meanwhile is waited for, a few times.

        Should that be in vain, the lease runs out and the sweeper has the reply generated again.
        """
        for pause_seconds in STORE_AGAIN_AFTER_SECONDS:
            try:
                return self.end_once(claim, status=status, **values)
            except DATABASE_GAVE_UP as error:
                log_database_error(log, f"reply {claim.reply_id} is stored again in {pause_seconds} s", error)
                time.sleep(pause_seconds)
        return self.end_once(claim, status=status, **values)

    def end_once(self, claim: Claim, *, status: Status, **values: object) -> str:
        """Write the final state, give the prompt back if that is due, and let the room's next reply begin."""
        now = claim.now()
        code = values.get("error_code")
        with transaction() as current:
            if code is not None:
                lock_user(claim.user_id)  # before the reply: the order in which everybody locks
            if not write(claim, status=status, completed_at=now, **values):
                return "superseded"
            if code is not None and code not in COSTS_ITS_PROMPT:
                refund_prompt(claim.reply_id, now)
            enqueue_next(current, claim.chatroom_id, claim.user_id, now=now)
            current.after_commit(lambda: publish(claim.reply_id, Entry(claim.attempt, status=status)))
        return str(code or status)

    def retry_or_fail(self, claim: Claim, error: ModelUnavailable) -> str:
        failures = claim.failures + 1
        delay = delay_before_retry(
            failures,
            asked_for=error.retry_after,
            started_at=claim.started_at,
            now=claim.now(),
            max_attempts=settings().reply_max_attempts,
            max_seconds=settings().reply_max_seconds,
        )
        if delay is None:
            return self.fail(claim, error_code_of(error))
        return f"retry after {error}" if self.requeue(claim, delay, failures=failures) else "superseded"

    def put_off(self, claim: Claim, delay: timedelta) -> str:
        """Let the reply wait while the breaker is open; once its time is over, say so honestly."""
        if claim.now() + delay > claim.started_at + timedelta(seconds=settings().reply_max_seconds):
            return self.fail(claim, ErrorCode.MODEL_UNAVAILABLE)
        return "put off" if self.requeue(claim, delay) else "superseded"

    def hand_back(self, claim: Claim) -> str:
        """The call was ended from outside: if the claim still holds, somebody else may have it at once."""
        if self.requeue(claim, timedelta(0)):
            return "handed back"
        with suppress(RedisError):  # somebody who follows it may look at once whether it is canceled or deleted
            publish(claim.reply_id, Entry(claim.attempt, status=Status.CANCELED))
        return "superseded"

    def requeue(self, claim: Claim, delay: timedelta, **values: object) -> bool:
        """Back into the queue, to be claimed after `delay`. The waiting holds no worker thread."""
        due = claim.now() + delay
        with transaction() as current:
            if not write(claim, status=Status.QUEUED, not_before=due, enqueued_at=due, **values):
                return False
            enqueue_reply(current, claim.reply_id, delay_seconds=delay.total_seconds())
            # An earlier reply that was retried meanwhile has waited for this one.
            enqueue_next(current, claim.chatroom_id, claim.user_id, now=claim.now(), but=claim.reply_id)
        return True


def error_code_of(error: ModelError) -> ErrorCode:
    """What the client is told of an error."""
    for kind, code in (
        (ModelTimeout, ErrorCode.MODEL_TIMEOUT),
        (ModelUnavailable, ErrorCode.MODEL_UNAVAILABLE),
        (ModelRejected, ErrorCode.MODEL_REJECTED),
        (ReplyBlocked, ErrorCode.BLOCKED_BY_SAFETY),
    ):
        if isinstance(error, kind):
            return code
    return ErrorCode.EMPTY_REPLY
