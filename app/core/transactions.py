"""One use case, one transaction: services commit here and nowhere else."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flask import has_request_context
from kombu.exceptions import OperationalError as BrokerError
from redis.exceptions import RedisError

from app.core.celery import enqueue
from app.core.db import IN_TRANSACTION, db, open_transaction
from app.core.http import after_response
from app.core.logging import first_line

log = logging.getLogger(__name__)


class Transaction:
    """The current transaction. It collects what must follow its commit."""

    def __init__(self, *, respond_first: bool = True) -> None:
        self._respond_first = respond_first
        self._after_commit: list[Callable[[], object]] = []
        self._tasks: list[Callable[[], None]] = []

    def after_commit(self, action: Callable[[], object]) -> None:
        """Run `action` once the commit has succeeded. Its failure is logged and undoes nothing."""
        self._after_commit.append(action)

    def enqueue_after_commit(self, task_name: str, *args: str, delay_seconds: float = 0) -> None:
        """Queue a task after the commit, and in a request after its response. If that fails, a sweep queues it."""
        self._tasks.append(lambda: enqueue(task_name, *args, delay_seconds=delay_seconds))

    def run_actions(self) -> None:
        """Run the actions, then queue the tasks, now or after the response. Failures are logged."""
        for action in self._after_commit:
            try:
                action()
            except (RedisError, BrokerError) as error:
                log.warning("An action after a commit failed because Redis is unavailable: %s", first_line(error))
            except Exception:
                log.exception("An action after a commit failed")
        if self._tasks and self._respond_first and has_request_context():
            after_response(self._enqueue_tasks)  # it takes a millisecond, and workers that wake up take the CPU
        else:
            self._enqueue_tasks()

    def _enqueue_tasks(self) -> None:
        """Queue the tasks until Redis fails: the hundreds of a sweep would each wait, and each be logged."""
        for index, enqueue_task in enumerate(self._tasks):
            try:
                enqueue_task()
            except (RedisError, BrokerError) as error:
                not_queued, why = len(self._tasks) - index, first_line(error)
                log.warning("%d tasks not queued: Redis is unavailable (%s); a sweep will queue them", not_queued, why)
                return
            except Exception:
                log.exception("A task was not queued")


@contextmanager
def transaction(*, respond_first: bool = True) -> Iterator[Transaction]:
    """Commit what the block wrote, or roll all of it back if it raises.

    respond_first: queue the tasks of a request after its response; False for a request that waits for them. Outside of
    a request they are queued right after the commit.
    Afterwards no connection is held, and loaded rows stay readable.
    Raises RuntimeError inside another transaction: a use case is one transaction.
    """
    session = db.session()
    if session.info.get(IN_TRANSACTION):  # flask-sqlalchemy: one session a request or task
        raise RuntimeError("transaction() cannot be nested")
    session.info[IN_TRANSACTION] = True
    tx = Transaction(respond_first=respond_first)
    try:
        if session.in_transaction():  # something was read before, in autocommit
            open_transaction(session, None, session.connection())
        yield tx
        session.commit()
    except BaseException:
        session.rollback()
        raise
    finally:
        session.info[IN_TRANSACTION] = False
    tx.run_actions()


def release_connection() -> None:
    """Give the database connection back before something slow. Loaded rows stay readable."""
    if db.session.registry.has():
        db.session.close()
