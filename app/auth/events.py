"""Security events: what happened to an account, told to its owner and kept 90 days.

Each is written in the transaction of what it tells of. None holds a secret, a number or a password.
"""

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from flask import request
from sqlalchemy import bindparam, cast, exists, insert, literal, select
from sqlalchemy.dialects.postgresql import CIDR, INET

from app.auth.models import EventType, NumberThrottle, SecurityEvent
from app.auth.throttles import MAX_WRONG_CODES
from app.core.db import db
from app.core.ids import new_id
from app.core.limits import client_address
from app.core.schemas import Page, cut_page, decode_cursor, encode_cursor
from app.users.models import User
from app.users.numbers import mobile_key

MAX_USER_AGENT_CHARS = 255
KEPT = timedelta(days=90)
LOGINS = (EventType.LOGIN, EventType.LOGIN_NEW_DEVICE)
NETWORK_BITS = {4: 24, 6: 48}  # what one provider gives to a place


@dataclass(frozen=True)
class Client:
    """Where a request comes from, as far as it is known. user_agent: MAX_USER_AGENT_CHARS at most."""

    ip: str | None
    user_agent: str | None


def current_client() -> Client:
    """The client of the request."""
    agent = request.user_agent.string[:MAX_USER_AGENT_CHARS]
    return Client(ip=client_address(request.remote_addr), user_agent=agent or None)


LOCKED = insert(SecurityEvent.__table__).from_select(
    ["id", "user_id", "type", "created_at", "ip", "user_agent"],
    select(
        bindparam("id", type_=SecurityEvent.id.type),
        User.id,
        literal(EventType.CODES_LOCKED, SecurityEvent.type.type),
        bindparam("now", type_=SecurityEvent.created_at.type),
        bindparam("ip", type_=SecurityEvent.ip.type),
        bindparam("user_agent", type_=SecurityEvent.user_agent.type),
    )
    .join(NumberThrottle, NumberThrottle.mobile_key == bindparam("key"))
    .where(
        User.mobile == bindparam("mobile"),
        User.verified_at.is_not(None),
        NumberThrottle.wrong_codes == MAX_WRONG_CODES,
    ),
)


def record(user_id: UUID, kind: EventType, client: Client, now: datetime) -> None:
    """Note what happens to an account, in the caller's transaction."""
    event = SecurityEvent(user_id=user_id, type=kind, created_at=now, ip=client.ip, user_agent=client.user_agent)
    db.session.add(event)


def record_login(user_id: UUID, client: Client, now: datetime) -> None:
    """Note a login: `login_new_device` from a network and a program that no login of the last 90 days had."""
    seen = [
        SecurityEvent.user_id == user_id,
        SecurityEvent.type.in_(LOGINS),
        SecurityEvent.created_at > now - KEPT,
        SecurityEvent.user_agent.is_not_distinct_from(client.user_agent),
    ]
    network = network_of(client.ip)
    in_network = cast(SecurityEvent.ip, INET).op("<<=")(cast(network, CIDR))
    seen.append(SecurityEvent.ip.is_(None) if network is None else in_network)
    is_known = db.session.scalar(select(exists().where(*seen)))
    record(user_id, EventType.LOGIN if is_known else EventType.LOGIN_NEW_DEVICE, client, now)


def record_lock(mobile: str, client: Client, now: datetime) -> None:
    """Note the wrong code that locks a number's codes: nothing for any other, and for a number without an account."""
    values = {"id": new_id(), "now": now, "ip": client.ip, "user_agent": client.user_agent}
    db.session.execute(LOCKED, values | {"mobile": mobile, "key": mobile_key(mobile)})


def list_events(user_id: UUID, *, limit: int, cursor: str | None, now: datetime) -> Page[SecurityEvent]:
    """A page of the user's events, newest first. Raises InvalidCursor."""
    before = decode_cursor(cursor, UUID)[0] if cursor is not None else None
    rows = events_before(user_id, before, at_most=limit + 1, now=now)
    return cut_page(rows, limit, lambda event: encode_cursor(event.id))


def events_before(user_id: UUID, before: UUID | None, *, at_most: int, now: datetime) -> list[SecurityEvent]:
    """The user's events in front of an id, newest first."""
    kept = (SecurityEvent.user_id == user_id, SecurityEvent.created_at > now - KEPT)
    statement = select(SecurityEvent).where(*kept).order_by(SecurityEvent.id.desc()).limit(at_most)
    if before is not None:
        statement = statement.where(SecurityEvent.id < before)
    return list(db.session.scalars(statement))


def all_events(user_id: UUID, *, at_once: int, now: datetime) -> Iterator[list[SecurityEvent]]:
    """All of the user's events, newest first, some at a time."""
    last = None
    while rows := events_before(user_id, last, at_most=at_once, now=now):
        last = rows[-1].id
        yield rows


def network_of(ip: str | None) -> str | None:
    """The network around an address; None when there is no address."""
    if ip is None:
        return None
    bits = NETWORK_BITS[ipaddress.ip_address(ip).version]
    return str(ipaddress.ip_network(f"{ip}/{bits}", strict=False))
