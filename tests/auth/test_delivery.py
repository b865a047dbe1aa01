"""How codes reach their owner: by text message from the worker, in the log, or in the answer."""

import json
import re
import socket
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs
from uuid import UUID

import pytest
from flask import Flask

from app.auth import otp as delivery
from app.auth.models import OneTimeCode
from app.core.broker import CHORES
from app.core.clock import utc_now
from app.core.db import db
from app.integrations.twilio import SmsRejected, SmsUnavailable, send_sms
from sandbox.stack.processes import free_port, wait_until
from tests.auth.conftest import Visitor
from tests.celery_process import celery_process
from tests.people import age_codes
from tests.queues import waiting_tasks

SID, TOKEN, SENDER = "AC00000000000000000000000000000000", "the-auth-token", "+15005550006"


class TwilioStandIn:
    """Answers as Twilio's Messages API does, and remembers what it was asked."""

    def __init__(self) -> None:
        self.requests: list[dict] = []
        self.answer = (201, {"sid": "SM00000000000000000000000000000001", "status": "queued"})
        self.may_answer = threading.Event()
        self.may_answer.set()
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                fields = {name: values[0] for name, values in form.items()}
                stand_in.requests.append({"path": self.path, "authorization": self.headers["Authorization"], **fields})
                stand_in.may_answer.wait(10)
                status, body = stand_in.answer
                payload = body.encode() if isinstance(body, str) else json.dumps(body).encode()
                self.send_response(status)
                if status in {301, 307}:
                    self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def twilio() -> Iterator[TwilioStandIn]:
    stand_in = TwilioStandIn()
    threading.Thread(target=stand_in.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield stand_in
    stand_in.server.shutdown()
    stand_in.server.server_close()


@pytest.fixture
def twilio_settings(twilio, make_redis_url) -> dict[str, str]:
    """Settings for text messages, with a Valkey database where the tasks wait."""
    return {
        "redis_url": make_redis_url(),
        "otp_delivery": "twilio",
        "twilio_account_sid": SID,
        "twilio_auth_token": TOKEN,
        "twilio_from": SENDER,
        "twilio_api_base": twilio.url,
    }


@pytest.fixture
def texting(app, make_app, twilio_settings, other_numbers) -> Visitor:
    """Somebody whose codes come by text message when the test does the worker's work."""
    return Visitor(make_app(**twilio_settings), next(other_numbers))


def queued_tasks(visitor: Visitor) -> list[tuple[str, tuple]]:
    """Return the tasks that were queued since the test began."""
    return waiting_tasks(visitor.app.extensions["redis"], CHORES)


def work(visitor: Visitor, **kwargs) -> None:
    """Do what the worker does for the last task."""
    name, (code_id,) = queued_tasks(visitor)[-1]
    assert name == "auth.send_code"
    with visitor.app.app_context():
        delivery.send_message(UUID(code_id), now=kwargs.get("now", utc_now()))


def test_code_arrives_by_text_message_and_logs_in(texting, twilio):
    texting.sign_up()
    sent = texting.send_otp()
    assert set(sent.json) == {"mobile", "expires_in", "resend_in"}
    assert twilio.requests == [], "no request waits for the provider"
    work(texting)
    (request,) = twilio.requests
    assert request["path"] == f"/2010-04-01/Accounts/{SID}/Messages.json"
    assert (request["To"], request["From"]) == (texting.mobile, SENDER)
    assert request["authorization"].startswith("Basic ")
    otp = re.search(r"\b\d{6}\b", request["Body"])[0]
    assert texting.verify(otp).status_code == 200


def test_the_text_message_says_what_its_code_is_for(texting, twilio, other_numbers):
    """Otherwise somebody could ask for a code to log in, and be given one that moves the account to another number."""
    texting.sign_up()
    texting.send_otp()
    work(texting)
    tokens = texting.verify(re.search(r"\b\d{6}\b", twilio.requests[0]["Body"])[0])
    texting.forgot()
    work(texting)
    new = next(other_numbers)
    texting.post("/auth/change-mobile", token=tokens.json["access_token"], new_mobile=new)
    for _, (code_id,) in queued_tasks(texting)[-2:]:
        with texting.app.app_context():
            delivery.send_message(UUID(code_id), now=utc_now())
    bodies = {(request["To"], re.sub(r"\d{6}", "CODE", request["Body"].split(".")[0])) for request in twilio.requests}
    assert bodies == {
        (texting.mobile, "CODE is your code to log in"),
        (texting.mobile, "CODE is your code to set a new password"),
        (texting.mobile, "CODE is your code to move your account to another number"),
        (new, "CODE is your code to move an account to this number"),
    }


def test_the_task_carries_only_an_id_and_the_row_holds_nothing_readable(texting, twilio):
    texting.send_otp()
    with texting.app.app_context():
        row = db.session.scalar(db.select(OneTimeCode))
        assert queued_tasks(texting) == [("auth.send_code", (str(row.id),))]
        assert texting.mobile.strip("+") not in row.sealed
    work(texting)
    with texting.app.app_context():
        assert db.session.scalar(db.select(OneTimeCode.sealed)) is None


def test_message_is_sent_once_however_often_the_task_runs(texting, twilio):
    texting.send_otp()
    for _ in range(3):
        work(texting)
    assert len(twilio.requests) == 1


def test_expired_code_is_not_sent(texting, twilio):
    texting.send_otp()
    later = utc_now() + timedelta(minutes=6)
    work(texting, now=later)
    assert twilio.requests == []
    with texting.app.app_context():
        assert delivery.enqueue_unsent(later) == []


def test_a_message_sealed_under_another_hash_secret_is_dropped_with_a_log_line(
    make_app, texting, twilio, twilio_settings, capsys
):
    texting.send_otp()
    texting.app = make_app(**twilio_settings, hash_secret="another-secret-of-hashes-than-there-was")
    work(texting)
    assert twilio.requests == []
    assert "does this worker have web's HASH_SECRET" in capsys.readouterr().err
    with texting.app.app_context():
        assert delivery.enqueue_unsent(utc_now() + timedelta(seconds=20)) == []


@pytest.mark.parametrize("answer", [(503, "<html>"), (429, {"code": 20429}), (500, {})])
def test_sweeper_retries_a_message_that_the_provider_did_not_accept(texting, twilio, answer):
    good, twilio.answer = twilio.answer, answer
    texting.send_otp()
    work(texting)
    twilio.answer = good
    with texting.app.app_context():
        assert delivery.enqueue_unsent(utc_now()) == []
        assert len(delivery.enqueue_unsent(utc_now() + timedelta(seconds=20))) == 1
    work(texting)
    assert len(twilio.requests) == 2
    with texting.app.app_context():
        assert delivery.enqueue_unsent(utc_now() + timedelta(seconds=20)) == []


def test_a_message_that_twilio_is_slow_to_accept_is_not_sent_again(texting, twilio, monkeypatch, caplog):
    """Twilio may send it all the same; then each sweep until the code ends would send one more."""
    monkeypatch.setattr("app.integrations.twilio.READ_SECONDS", 0.2)
    twilio.may_answer.clear()
    texting.send_otp()
    work(texting)
    twilio.may_answer.set()
    with texting.app.app_context():
        assert delivery.enqueue_unsent(utc_now() + timedelta(seconds=20)) == []
    assert len(twilio.requests) == 1
    assert "may have sent the code" in caplog.text


def test_a_code_that_was_replaced_or_used_keeps_no_message(texting, twilio):
    """Twilio may have sent a message although it answered with an error."""
    texting.sign_up()
    twilio.answer = (503, "<html>")
    for _ in range(2):
        age_codes(texting.app, texting.mobile, seconds=61)
        texting.send_otp()
        work(texting)
    otp = re.search(r"\b\d{6}\b", twilio.requests[-1]["Body"])[0]
    assert texting.verify(otp).status_code == 200
    with texting.app.app_context():
        code_id = UUID(queued_tasks(texting)[-1][1][0])
        delivery.restore_message(code_id, "of a task that only now gets Twilio's error")
        assert set(db.session.scalars(db.select(OneTimeCode.sealed))) == {None}


def test_refused_message_is_not_sent_again_and_logged_without_code_or_number(texting, twilio, caplog):
    twilio.answer = (400, {"code": 21211, "message": f"Invalid 'To' {texting.mobile}", "status": 400})
    texting.send_otp()
    work(texting)
    with texting.app.app_context():
        assert delivery.enqueue_unsent(utc_now() + timedelta(seconds=20)) == []
    assert re.search(r"ERROR .*Twilio refused to send a code: .*21211", caplog.text)
    assert texting.mobile not in caplog.text
    assert not re.search(r"\b\d{6}\b", caplog.text.replace(queued_tasks(texting)[-1][1][0], ""))


def test_lost_task_is_queued_again(make_app, texting, twilio, twilio_settings):
    without_redis = make_app(**twilio_settings | {"redis_url": f"redis://127.0.0.1:{free_port()}/0"})
    assert Visitor(without_redis, texting.mobile).send_otp().status_code == 202
    assert queued_tasks(texting) == []
    with texting.app.app_context():
        delivery.enqueue_unsent(utc_now() + timedelta(seconds=20))
    work(texting)
    assert len(twilio.requests) == 1


def test_messaging_service_sends_instead_of_a_number(twilio):
    account = {"account_sid": SID, "auth_token": TOKEN, "api_base": twilio.url + "/"}
    assert send_sms("+14155552671", "Hello", sender="MG123", **account).startswith("SM")
    assert twilio.requests[0]["MessagingServiceSid"] == "MG123"
    assert "From" not in twilio.requests[0]


def test_unreachable_provider_is_unavailable(twilio):
    with pytest.raises(SmsUnavailable):
        send_sms("+1", "x", account_sid=SID, auth_token=TOKEN, sender=SENDER, api_base="http://127.0.0.1:9")
    for status in (301, 307):
        twilio.answer = (status, {})
        with pytest.raises(SmsRejected):
            send_sms("+1", "x", account_sid=SID, auth_token=TOKEN, sender=SENDER, api_base=twilio.url)
    assert [request["path"].rpartition("/")[2] for request in twilio.requests] == ["Messages.json"] * 2


def test_a_provider_whose_tls_handshake_hangs_has_not_taken_the_message(monkeypatch):
    """`requests` raises ReadTimeout then too, after the time for connecting. The sweeper retries."""
    monkeypatch.setattr("app.integrations.twilio.CONNECT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"https://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(SmsUnavailable):
            send_sms("+1", "x", account_sid=SID, auth_token=TOKEN, sender=SENDER, api_base=address)


@pytest.fixture
def logging_app(app, make_app) -> Flask:
    """An application that logs its codes. It is made first, because it takes hold of the root logger."""
    return make_app(otp_delivery="log")


def test_log_delivery_logs_the_code(logging_app, other_numbers, caplog):
    visitor = Visitor(logging_app, next(other_numbers))
    visitor.sign_up()
    assert "otp" not in visitor.send_otp().json
    otp = re.search(rf"{re.escape(visitor.mobile)}: (\d{{6}})", caplog.text)[1]
    assert visitor.verify(otp).status_code == 200


@pytest.mark.processes
def test_real_worker_sends_the_code_that_a_request_queued(texting, twilio, twilio_settings, environment, tmp_path):
    texting.sign_up()
    texting.send_otp()
    log_file = tmp_path / "worker.log"
    own = {name.upper(): value for name, value in twilio_settings.items()}
    with celery_process("worker", environment | own, log_file):
        assert wait_until(lambda: twilio.requests, seconds=30), log_file.read_text()
    otp = re.search(r"\b\d{6}\b", twilio.requests[0]["Body"])[0]
    assert otp not in log_file.read_text()
    assert texting.verify(otp).status_code == 200
