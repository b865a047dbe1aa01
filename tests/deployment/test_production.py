"""Web, worker, beat and the migration as render.yaml starts them: APP_ENV=production, TLS, secrets of their own.

What is not production here is said by the settings that are there for it: stand-ins for Gemini and Stripe.
"""

import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import redis
import yaml
from sqlalchemy.engine import make_url

from sandbox.stack.processes import wait_until
from sandbox.stand_ins import GeminiStandIn, RunningStandIn, running_stripe_stand_in
from tests.celery_process import celery_process
from tests.event_streams import events_of
from tests.tls import make_certificate, tls_in_front_of
from tests.web_process import ROOT, WebProcess, serving

PEOPLE = 30
EDGE = "172.71.195.123, 10.226.90.65"  # what Cloudflare and Render's balancer add to X-Forwarded-For
NOT_JSON = ("worker: Warm shutdown",)  # docs/operations.md#logs


@dataclass
class Production:
    """The processes and what they were told."""

    web: WebProcess
    stripe: RunningStandIn
    variables: dict[str, dict[str, str]]
    logs: dict[str, Path]
    plain_redis: str
    plain_database: str

    def call(self, method: str, path: str, *, address: str = "198.51.100.7", **kwargs: Any) -> Any:
        """Send a request as Render's edge passes it on."""
        headers = {"X-Forwarded-For": f"{address}, {EDGE}", "X-Forwarded-Proto": "https"} | kwargs.pop("headers", {})
        return self.web.call(method, path, headers=headers, **kwargs)

    def log_in(self, mobile: str, *, address: str = "198.51.100.7") -> str:
        """Sign up, read the code where this production delivers it, and log in. Returns the access token."""
        assert self.call("POST", "/auth/signup", json={"mobile": mobile}, address=address).status_code == 201
        sent = self.call("POST", "/auth/send-otp", json={"mobile": mobile}, address=address)
        assert (sent.status_code, "otp" in sent.json()) == (202, False)
        *_, code = re.findall(rf"One-time code for \S+{mobile[-2:]}: (\d+)", self.logs["web"].read_text())
        logged_in = self.call("POST", "/auth/verify-otp", json={"mobile": mobile, "otp": code}, address=address)
        assert logged_in.status_code == 200, logged_in.text
        return str(logged_in.json()["access_token"])

    def make_chatroom(self, token: str) -> str:
        return str(self.call("POST", "/chatroom", token=token, json={"title": "A room"}).headers["Location"])


def blueprint_variables(service: str, given: dict[str, str]) -> dict[str, str]:
    """Return what render.yaml tells a service; `given` has what it asks for, makes up or takes from elsewhere."""
    blueprint = yaml.safe_load((ROOT / "render.yaml").read_text())
    [own] = [one["envVars"] for one in blueprint["services"] if one["name"] == f"gemini-backend-{service}"]
    told = blueprint["envVarGroups"][0]["envVars"] + [variable for variable in own if "key" in variable]
    return {one["key"]: given[one["key"]] if "value" not in one else one["value"] for one in told}


@pytest.fixture(scope="module")
def empty_database(environment: dict[str, str]) -> Iterator[str]:
    """Make a database where no migration ran. Yields its URL."""
    url, name = make_url(environment["DATABASE_URL"]), f"production_{secrets.token_hex(4)}"
    connection = psycopg2.connect(environment["DATABASE_URL"])
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        yield url.set(database=name).render_as_string(hide_password=False)
        cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")
    connection.close()


@pytest.fixture(scope="module")
def production(
    empty_database: str,
    make_redis_url: Callable[[], str],
    gemini_process: GeminiStandIn,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Production]:
    folder, redis_url = tmp_path_factory.mktemp("production"), make_redis_url()
    certificate, webhook_secret = make_certificate(folder), f"whsec_{secrets.token_hex(16)}"
    logs = {name: folder / f"{name}.log" for name in ("web", "worker", "beat")}
    with ExitStack() as exits:
        stripe = exits.enter_context(running_stripe_stand_in(webhook_secret=webhook_secret))
        given = {
            "DATABASE_URL": exits.enter_context(tls_in_front_of(empty_database, certificate)),
            "REDIS_URL": exits.enter_context(tls_in_front_of(redis_url, certificate)),
            "JWT_SECRET": secrets.token_urlsafe(48),
            "HASH_SECRET": secrets.token_urlsafe(48),
            "METRICS_TOKEN": secrets.token_urlsafe(24),
            "GEMINI_API_KEY": f"AIza{secrets.token_hex(16)}",
            "STRIPE_SECRET_KEY": f"sk_test_{secrets.token_hex(16)}",
            "STRIPE_WEBHOOK_SECRET": webhook_secret,
            "STRIPE_PRO_PRICE_ID": "price_pro",
            "FRONTEND_URL": "https://app.example.com",
            "CORS_ORIGINS": "https://app.example.com",
        }
        stand_ins = {
            "PLAIN_HTTP_IN_PRODUCTION": "true",
            "GEMINI_API_ENDPOINT": gemini_process.url,
            "STRIPE_API_BASE": stripe.url,
            "STRIPE_TEST_KEY_IN_PRODUCTION": "true",
            "SSL_CERT_FILE": str(certificate.trusted),  # in place of the authorities that everybody trusts
            "WEB_THREADS": "256",
        }
        variables = {
            name: blueprint_variables(name, given) | stand_ins | {"PLAIN_DATABASE_IN_PRODUCTION": "false"}
            for name in ("web", "worker", "beat")
        }
        migrate(variables["web"])
        processes = int(variables["web"]["WEB_CONCURRENCY"])
        web = exits.enter_context(serving(variables["web"], logs["web"], workers=processes))
        for name in ("worker", "beat"):
            exits.enter_context(celery_process(name, variables[name], logs[name]))
        assert wait_until(lambda: " ready." in logs["worker"].read_text(), seconds=60), logs["worker"].read_text()
        stripe.webhooks(url=f"{web.url}/webhook/stripe")
        yield Production(web, stripe, variables, logs, redis_url, empty_database)


def migrate(variables: dict[str, str]) -> None:
    """Migrate with the command that runs before a deploy takes traffic."""
    command = [sys.executable, "-m", "flask", "--app", "wsgi", "db", "upgrade"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_message_is_answered_and_pro_is_bought(production: Production) -> None:
    token = production.log_in("+14155552671")
    room = production.make_chatroom(token)
    sent = production.call(
        "POST", f"{room}/message", token=token, json={"text": "Explain DNS"}, headers={"Prefer": "wait=20"}
    )
    assert (sent.status_code, sent.json()["reply"]["status"]) == (200, "completed"), sent.text
    assert "Explain DNS" in sent.json()["reply"]["text"]
    streamed = production.call("POST", f"{room}/message", token=token, json={"text": "And TLS?", "stream": True})
    with production.call("GET", f"{streamed.headers['Location']}/stream", token=token, stream=True) as stream:
        events = list(events_of(stream.iter_content(None)))
    assert events[-1].name == "completed"
    bought = production.call("POST", "/subscribe/pro", token=token)
    assert bought.status_code == 200, bought.text
    production.stripe.pay(bought.json()["session_id"])
    production.stripe.wait_delivered()

    def is_pro() -> bool:
        return bool(production.call("GET", "/subscription/status", token=token).json()["tier"] == "pro")

    assert wait_until(is_pro, seconds=20), production.logs["worker"].read_text()


def test_production_shows_strangers_no_numbers_and_browsers_no_plain_http(production: Production) -> None:
    for headers, status in (
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": f"Bearer {production.variables['web']['METRICS_TOKEN']}"}, 200),
    ):
        assert production.call("GET", "/metrics", headers=headers).status_code == status
    answer = production.call("GET", "/healthz", headers={"Origin": "https://app.example.com"})
    assert answer.headers["Strict-Transport-Security"]
    assert answer.headers["Access-Control-Allow-Origin"] == "https://app.example.com"
    assert (
        "Access-Control-Allow-Origin"
        not in production.call("GET", "/healthz", headers={"Origin": "https://b.c"}).headers
    )


def test_beat_and_worker_are_alive(production: Production) -> None:
    token = {"Authorization": f"Bearer {production.variables['web']['METRICS_TOKEN']}"}

    def ticked() -> bool:
        told = production.call("GET", "/metrics", headers=token).text
        found = re.search(r"^beat_last_tick_seconds ([\d.]+)", told, flags=re.MULTILINE)
        return found is not None and float(found[1]) < 60

    assert wait_until(ticked, seconds=40), production.logs["beat"].read_text()


def test_the_logs_are_json_and_tell_no_secret(production: Production) -> None:
    variables = production.variables["web"]
    never = [variables[name] for name in ("JWT_SECRET", "METRICS_TOKEN", "GEMINI_API_KEY", "STRIPE_SECRET_KEY")]
    never += [str(make_url(variables[name]).password) for name in ("REDIS_URL",)] + ["Explain DNS"]
    for name, log in production.logs.items():
        lines = log.read_text().splitlines()
        assert lines, name
        broken = [line for line in lines if not is_json(line) and not line.startswith(NOT_JSON)]
        assert broken == [], name
        assert [secret for secret in never if secret in log.read_text()] == [], name
        levels = {json.loads(line)["levelname"] for line in lines if is_json(line)}
        assert not levels & {"ERROR", "CRITICAL"}, log.read_text()


def is_json(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def test_a_burst_is_answered_through_pools_as_small_as_the_plans_want_them(
    production: Production, mobile_numbers: Iterator[str]
) -> None:
    people = [(next(mobile_numbers), f"203.0.113.{number + 1}") for number in range(PEOPLE)]
    tokens = [production.log_in(mobile, address=address) for mobile, address in people]
    rooms = [(token, production.make_chatroom(token)) for token in tokens]

    def send(token: str, room: str) -> Any:
        """Send until it is taken: on a busy machine a 503 says to come back, and stores nothing."""
        body, wait, answers = {"text": "All at once"}, {"Prefer": "wait=20"}, []

        def taken() -> bool:
            answers.append(production.call("POST", f"{room}/message", token=token, json=body, headers=wait))
            return answers[-1].status_code != 503

        assert wait_until(taken, seconds=60)
        return answers[-1]

    with ThreadPoolExecutor(len(rooms)) as pool:
        answers = list(pool.map(lambda pair: send(*pair), rooms))
    assert {answer.status_code for answer in answers} <= {200, 202}, [answer.text for answer in answers]

    def all_ended() -> bool:
        statuses = {
            production.call("GET", answer.headers["Location"], token=token).json()["status"]
            for answer, (token, _) in zip(answers, rooms, strict=True)
        }
        return statuses == {"completed"}

    assert wait_until(all_ended, seconds=60)
    assert count_database_connections(production) <= sum(
        processes * int(production.variables[name]["DATABASE_POOL_SIZE"])
        for name, processes in (("web", int(production.variables["web"]["WEB_CONCURRENCY"])), ("worker", 1))
    )
    assert count_redis_connections(production) <= 106  # docs/operations.md#connections


def count_database_connections(production: Production) -> int:
    url = make_url(production.plain_database)
    with psycopg2.connect(production.plain_database) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = %s", [url.database])
        return int(cursor.fetchone()[0]) - 1  # this one


def count_redis_connections(production: Production) -> int:
    with redis.Redis.from_url(production.plain_redis) as client:
        mine, number = client.client_id(), production.plain_redis.rpartition("/")[2]
        return sum(one["db"] == number and int(one["id"]) != mine for one in client.client_list())
