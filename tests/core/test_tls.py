"""TLS to Redis and PostgreSQL: each client of the product checks the certificate, and nothing passes without TLS."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import psycopg2
import pytest
import redis
from flask import Flask
from limits import RateLimitItemPerMinute
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from app.core.broker import CHORES
from app.core.celery import enqueue
from app.core.db import db
from app.core.redis import cache, rate_limits, redis_client
from tests.queues import waiting_tasks
from tests.tls import Certificate, make_certificate, tls_in_front_of
from tests.web_process import ROOT


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Certificate]:
    """Certificates for this host, for another host, and for this host from somebody else."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("right", "elsewhere", "stranger")}
    hosts = {"right": "localhost", "elsewhere": "elsewhere.example", "stranger": "localhost"}
    return {name: make_certificate(folder, hosts[name]) for name, folder in folders.items()}


@pytest.fixture
def make_encrypted_app(
    certificates: dict[str, Certificate],
    make_app: Callable[..., Flask],
    make_redis_url: Callable[[], str],
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[..., Flask]]:
    """Make an application that trusts the right certificate, with servers that show one of these."""
    trusted = certificates["right"].trusted
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    with ExitStack() as exits:

        def make(*, redis_shows: str = "right", postgres_shows: str = "right") -> Flask:
            urls = {
                "redis_url": (make_redis_url(), redis_shows),
                "database_url": (environment["DATABASE_URL"], postgres_shows),
            }
            encrypted = {
                name: exits.enter_context(tls_in_front_of(url, certificates[shown], trusted=trusted))
                for name, (url, shown) in urls.items()
            }
            app = make_app(**encrypted, rate_limit_per_minute=1_000)
            exits.enter_context(app.app_context())
            exits.callback(db.engine.dispose)
            exits.callback(redis_client().close)
            return app

        yield make


def test_every_client_accepts_the_right_certificate(make_encrypted_app: Callable[..., Flask]) -> None:
    app = make_encrypted_app()
    assert app.test_client().get("/readyz").json == {"status": "ok"}
    assert db.session.execute(text("SELECT 1")).scalar() == 1
    assert db.engine.url.query["sslmode"] == "verify-full"
    assert redis_client().ping()
    assert redis_client(blocking=True).xread({"nothing": "0"}, block=1) == []
    cache.set("greeting", "hello")
    assert cache.get("greeting") == "hello"
    assert rate_limits().hit(RateLimitItemPerMinute(5), "somebody")
    enqueue("tests.nothing", "an-id")
    assert waiting_tasks(redis_client(), CHORES) == [("tests.nothing", ("an-id",))]


REDIS_CLIENTS: dict[str, Callable[[], Any]] = {
    "commands": lambda: redis_client().ping(),
    "blocking reads": lambda: redis_client(blocking=True).ping(),
    "cache": lambda: cache.get("greeting"),
    "limiter": lambda: rate_limits().hit(RateLimitItemPerMinute(5), "somebody"),
    "broker": lambda: enqueue("tests.nothing", "an-id"),
}


@pytest.mark.parametrize("shown", ["elsewhere", "stranger"])
def test_no_redis_client_accepts_a_wrong_certificate(make_encrypted_app: Callable[..., Flask], shown: str) -> None:
    app = make_encrypted_app(redis_shows=shown)
    for name, use in REDIS_CLIENTS.items():
        with pytest.raises(Exception, match="CERTIFICATE_VERIFY_FAILED"):
            pytest.fail(f"{name} answered {use()!r}")
    answer = app.test_client().get("/readyz")
    assert (answer.status_code, answer.json["detail"]) == (503, "Does not answer: redis.")


@pytest.mark.parametrize("shown", ["elsewhere", "stranger"])
def test_postgresql_with_a_wrong_certificate_is_refused(make_encrypted_app: Callable[..., Flask], shown: str) -> None:
    app = make_encrypted_app(postgres_shows=shown)
    with pytest.raises(OperationalError, match=r"certificate verify failed|does not match host name"):
        db.session.execute(text("SELECT 1"))
    db.session.rollback()
    answer = app.test_client().get("/readyz")
    assert (answer.status_code, answer.json["detail"]) == (503, "Does not answer: postgres.")


def test_a_plain_connection_does_not_get_through_the_proxy(make_encrypted_app: Callable[..., Flask]) -> None:
    """The proxy of these tests must refuse plain connections; otherwise the tests would show nothing."""
    settings = make_encrypted_app().extensions["settings"]
    with pytest.raises(redis.RedisError):
        redis.Redis.from_url(settings.redis_url.replace("rediss://", "redis://"), socket_timeout=5).ping()
    plain = settings.database_url.partition("?")[0].replace("+psycopg2", "")
    with pytest.raises(psycopg2.OperationalError):
        psycopg2.connect(plain, sslmode="disable", connect_timeout=5)


def test_the_image_names_the_systems_certificates_for_postgres(certificates, environment):
    """The certificates of the system are those of this test, named by the same variable."""
    system = r"(\w+)=/etc/ssl/certs/ca-certificates\.crt"
    variables = re.findall(system, (ROOT / "Dockerfile").read_text())
    connect = "import os, psycopg2; psycopg2.connect(os.environ['ADDRESS'])"
    with tls_in_front_of(environment["DATABASE_URL"], certificates["right"]) as url:
        address = url.partition("?")[0] + "?sslmode=verify-full&sslrootcert=system"
        own = dict.fromkeys(variables, str(certificates["right"].trusted)) | {"ADDRESS": address}
        command, environ = [sys.executable, "-c", connect], os.environ | own
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
