"""Security events: what happened to an account, shown to its owner and kept for 90 days.

Each is written in the same transaction as the change that it reports. None holds a secret, a number or a password.
"""

from dataclasses import asdict
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import cast, exists, insert, literal, select
from sqlalchemy.dialects.postgresql import CIDR, INET
from uuid_utils.compat import uuid7

from app.auth.models import EventType, SecurityEvent
from app.core.db import db
from app.core.http import Client, network
from app.core.schemas import Page, cut_page, decode_cursor, encode_cursor
from app.users.models import User

RETENTION = timedelta(days=90)
LOGINS = (EventType.LOGIN, EventType.LOGIN_NEW_DEVICE)


def record(user_id: UUID, kind: EventType, client: Client, now: datetime) -> None:
    """Record what happens to an account, in the caller's transaction."""
    db.session.add(SecurityEvent(user_id=user_id, type=kind, created_at=now, **asdict(client)))


def record_login(user_id: UUID, client: Client, now: datetime) -> None:
    """Record a login, as `login_new_device` if no login of the last 90 days had the same network and program."""
    same_device = [
        SecurityEvent.user_id == user_id,
        SecurityEvent.type.in_(LOGINS),
        SecurityEvent.created_at > now - RETENTION,
        SecurityEvent.user_agent.is_not_distinct_from(client.user_agent),
    ]
    in_network = cast(SecurityEvent.ip, INET).op("<<=")(cast(network(client.ip), CIDR))
    same_device.append(SecurityEvent.ip.is_(None) if client.ip is None else in_network)
    is_known = db.session.scalar(select(exists().where(*same_device)))
    record(user_id, EventType.LOGIN if is_known else EventType.LOGIN_NEW_DEVICE, client, now)


def record_lock(mobile: str, client: Client, now: datetime) -> None:
    """Record that a number's codes are locked. One statement, which writes nothing if no account has the number."""
    event = {"id": uuid7(), "type": EventType.CODES_LOCKED, "created_at": now} | asdict(client)
    columns = SecurityEvent.__table__.columns
    owner = select(User.id, *(literal(value, columns[name].type) for name, value in event.items()))
    owner = owner.where(User.mobile == mobile, User.verified_at.is_not(None))
    db.session.execute(insert(SecurityEvent.__table__).from_select(["user_id", *event], owner))


def list_events(user_id: UUID, *, limit: int, cursor: str | None, now: datetime) -> Page[SecurityEvent]:
    """A page of the user's events, newest first. Raises InvalidCursor."""
    before = decode_cursor(cursor, UUID)[0] if cursor is not None else None
    rows = events_before(user_id, before, limit=limit + 1, now=now)
    return cut_page(rows, limit, lambda event: encode_cursor(event.id))


def events_before(user_id: UUID, before: UUID | None, *, limit: int, now: datetime) -> list[SecurityEvent]:
    """The user's events before an id (None: the latest), newest first. Returns none once the account is deleted."""
    retained = (SecurityEvent.user_id == user_id, SecurityEvent.created_at > now - RETENTION, User.mobile.is_not(None))
    statement = select(SecurityEvent).join(User, User.id == SecurityEvent.user_id).where(*retained)
    statement = statement.order_by(SecurityEvent.id.desc()).limit(limit)
    if before is not None:
        statement = statement.where(SecurityEvent.id < before)
    return list(db.session.scalars(statement))
