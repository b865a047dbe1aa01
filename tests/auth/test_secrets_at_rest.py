"""No code and no password is stored in clear in PostgreSQL, in Redis or in the log."""

import logging

import redis
from sqlalchemy import inspect, text

from app.core.db import db
from tests.auth.conftest import Visitor

PASSWORDS = ["the-first-long-password", "the-second-long-password", "the-third-long-password"]


def everything_in_postgres(app) -> str:
    """Return every row of every table, as text."""
    with app.app_context():
        tables = inspect(db.engine).get_table_names()
        assert {"users", "one_time_codes", "auth_sessions", "number_guards"} <= set(tables)
        rows = [row for table in tables for row in db.session.scalars(text(f'SELECT t::text FROM "{table}" t'))]
    return "\n".join(rows)


def everything_in_redis(*clients: redis.Redis) -> str:
    """Return every key of the clients' databases with its serialized value and its readable value."""
    found = []
    for client in clients:
        with redis.Redis(**client.connection_pool.connection_kwargs) as database:
            for key in database.scan_iter():
                found.append(repr((key, database.dump(key))))
                kind = database.type(key)
                readers = {b"string": database.get, b"hash": database.hgetall, b"set": database.smembers}
                readers |= {b"list": lambda name, at=database: at.lrange(name, 0, -1)}
                readers |= {b"zset": lambda name, at=database: at.zrange(name, 0, -1)}
                readers |= {b"stream": lambda name, at=database: at.xrange(name)}
                found.append(repr(readers[kind](key)))
    return "\n".join(found)


def test_no_code_and_no_password_is_stored_in_clear(app, make_app, make_redis_url, other_numbers, caplog):
    caplog.set_level(logging.DEBUG)
    limited = make_app(rate_limit_per_minute=100)
    logging.getLogger().addHandler(caplog.handler)
    visitor = Visitor(limited, next(other_numbers))
    visitor.sign_up()
    login = visitor.send_otp().json["otp"]
    tokens = visitor.verify(login).json
    tokens = visitor.post("/auth/change-password", token=tokens["access_token"], new_password=PASSWORDS[0]).json
    visitor.login(PASSWORDS[0])
    visitor.login(PASSWORDS[2])
    reset = visitor.forgot().json["otp"]
    visitor.reset(reset, PASSWORDS[1])
    token = visitor.login(PASSWORDS[1]).json["access_token"]
    visitor.post("/auth/change-password", token=token, new_password=PASSWORDS[2], current_password=PASSWORDS[1])
    assert tokens["user"]["has_password"]

    texting = make_app(
        redis_url=make_redis_url(),
        otp_delivery="twilio",
        twilio_account_sid="AC1",
        twilio_auth_token="x",
        twilio_from="+15005550006",
    )
    by_text = Visitor(texting, next(other_numbers))
    assert by_text.send_otp().status_code == 202  # it waits in the queue: there is no worker

    places = {
        "postgres": everything_in_postgres(app),
        "redis": everything_in_redis(app.extensions["redis"], texting.extensions["redis"]),
        "log": caplog.text,
    }
    assert visitor.mobile in places["postgres"], "the search finds what is there"
    assert "auth.send_code" in places["redis"]
    assert by_text.mobile not in places["redis"]
    for secret in (f'"{login}"', login, reset, *PASSWORDS):
        for place, content in places.items():
            assert secret not in without_numbers_of_time(content), f"{secret} in {place}"


def without_numbers_of_time(content: str) -> str:
    """Remove microseconds and ids, which are no secret, and in which a six-digit code may turn up by chance."""
    import re

    content = re.sub(r"\d\d:\d\d:\d\d\.\d+", "", content)
    content = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "", content)
    return re.sub(r"\b[0-9a-f]{64}\b|\+49\d+|\b\d{10}\.\d+|\\x[0-9a-f]{2}", "", content)
