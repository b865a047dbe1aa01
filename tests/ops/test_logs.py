"""What the logs of real processes show in a whole run as in production, and what they never show."""

import json
import re
from pathlib import Path

import pytest
import requests

from sandbox.stack.processes import wait_until
from tests.celery_process import celery_process
from tests.web_process import serving

MOBILE = "+14155550987"
PASSWORD = "planted-password-77"
PROMPT = "planted words of a conversation"
# Written by Celery from within a signal handler, past all logging.
FAREWELL = re.compile(r"worker: \w+ shutdown \(MainProcess\)")
REQUEST_ID = "a-request-to-follow"
SECRETS = {
    "JWT_SECRET": "planted-jwt-secret-that-is-long-enough-for-hs256",
    "GEMINI_API_KEY": "planted-gemini-key",
    "METRICS_TOKEN": "planted-metrics-token",
    "STRIPE_SECRET_KEY": "sk_live_planted",
    "STRIPE_WEBHOOK_SECRET": "whsec_planted",
    "TWILIO_AUTH_TOKEN": "planted-twilio-token",
}


@pytest.fixture(scope="module")
def variables(environment, make_redis_url) -> dict[str, str]:
    """The variables of this run, whose tasks no other worker of the tests takes."""
    chosen = {"OTP_DELIVERY": "response", "LOG_LEVEL": "DEBUG", "REDIS_URL": make_redis_url()}
    return environment | SECRETS | chosen


class Run:
    """The lines that each process wrote, and what none of them may contain."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.planted = {MOBILE, MOBILE[1:], PASSWORD, PROMPT, *SECRETS.values()}

    def text(self) -> str:
        return "".join(path.read_text() for path in self.folder.glob("*.log"))

    def lines(self, process: str) -> list[dict]:
        lines = (self.folder / f"{process}.log").read_text().split("\n")
        return [json.loads(line) for line in lines if line and not FAREWELL.fullmatch(line)]


def talk(web, run: Run) -> None:
    """Do what a person does, with some errors. Notes every secret of it, and every request's id."""
    run.request_ids = []

    def call(method: str, path: str, **request) -> requests.Response:
        answer = web.call(method, path, **request)
        run.request_ids.append(answer.headers["X-Request-ID"])
        return answer

    body = {"mobile": MOBILE, "name": "Ada"}
    assert call("POST", "/auth/signup", json=body | {"password": PASSWORD}).status_code == 422
    assert call("POST", "/auth/signup", json=body).status_code == 201
    otp = call("POST", "/auth/send-otp", json={"mobile": MOBILE}).json()["otp"]
    call("POST", "/auth/verify-otp", json={"mobile": MOBILE, "otp": "not-it"})
    tokens = call("POST", "/auth/verify-otp", json={"mobile": MOBILE, "otp": otp}).json()
    token = tokens["access_token"]
    run.planted |= {token, tokens["refresh_token"]}
    run.codes = {otp}
    run.user_id = tokens["user"]["id"]
    run.room = call("POST", "/chatroom", token=token, json={"title": PROMPT}).json()["id"]
    address = f"/chatroom/{run.room}/message"
    headers = {"Prefer": "wait=15", "X-Request-ID": REQUEST_ID}
    answer = call("POST", address, token=token, json={"text": PROMPT}, headers=headers)
    assert answer.json()["reply"]["status"] == "completed", answer.text
    run.planted.add(answer.json()["reply"]["text"])
    blocked = {"text": f"{PROMPT} [[sandbox: block]]"}
    call("POST", address, token=token, json=blocked, headers={"Prefer": "wait=15"})
    call("GET", f"/chatroom?cursor={token}", token=token)
    call("GET", f"/auth/nothing?code={otp}&mobile={MOBILE}&password={PASSWORD}")
    call("POST", "/auth/login", data=f"{{broken {PASSWORD}", headers={"Content-Type": "application/json"})
    call("POST", "/webhook/stripe", data="{}", headers={"Stripe-Signature": SECRETS["STRIPE_WEBHOOK_SECRET"]})
    web.call("GET", "/metrics", headers={"Authorization": f"Bearer {SECRETS['METRICS_TOKEN']}"})


@pytest.fixture(scope="module")
def run(variables, migrated_app, gemini_process, tmp_path_factory) -> Run:
    """Run a person's requests, with log lines in production's form (production itself refuses stand-ins)."""
    folder = tmp_path_factory.mktemp("logs")
    result = Run(folder)
    environ = variables | {"LOG_FORMAT": "json"}
    with (
        celery_process("worker", environ, folder / "worker.log"),
        celery_process("beat", environ, folder / "beat.log"),
        serving(environ, folder / "web.log") as web,
    ):
        assert wait_until(lambda: '"ops.tick"' in result.text(), seconds=40), result.text()
        talk(web, result)
    return result


def test_no_planted_secret_is_in_any_line(run):
    text = run.text()
    assert len(text.splitlines()) > 20
    assert not [planted for planted in run.planted if planted in text]
    assert not [code for code in run.codes if re.search(rf"(?<![\d.]){code}(?![\d])", text)]


@pytest.mark.parametrize("process", ["web", "worker", "beat"])
def test_every_line_is_json(run, process):
    lines = run.lines(process)
    assert lines
    assert all({"levelname", "name", "message", "request_id", "timestamp"} <= set(line) for line in lines)


def test_a_request_has_one_log_line(run):
    lines = [line for line in run.lines("web") if line.get("event") == "request"]
    told = [line["request_id"] for line in lines]
    assert [told.count(request_id) for request_id in run.request_ids] == [1] * len(run.request_ids)
    [line] = [line for line in lines if line["request_id"] == REQUEST_ID]
    assert line["route"] == "/chatroom/<id:chatroom_id>/message"
    assert (line["method"], line["status"], line["user_id"]) == ("POST", 200, run.user_id)
    assert line["network"] == "127.0.0.0/24"
    assert line["duration_ms"] > 0


def test_a_task_has_one_log_line_with_the_request_that_led_to_it(run):
    lines = [line for line in run.lines("worker") if line.get("event") == "task"]
    assert len({line["task_id"] for line in lines}) == len(lines)
    [line] = [line for line in lines if line["request_id"] == REQUEST_ID]
    assert (line["task"], line["outcome"]) == ("messages.generate_reply", "success")
    assert line["duration_ms"] > 0
    assert any(line["task"] == "ops.tick" for line in lines)
