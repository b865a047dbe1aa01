"""The tour from end to end, against the API with a real worker, and what it says when something is wrong."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import phonenumbers
import pytest
from flask import Flask
from werkzeug.serving import make_server

from sandbox.people import fresh_number
from sandbox.stack.processes import free_port, wait_until
from sandbox.stand_ins import running_stripe_stand_in
from sandbox.tour.story import STORY
from tests.celery_process import celery_process
from tests.web_process import ROOT

Serve = Callable[[Flask], AbstractContextManager[str]]


@pytest.fixture
def serve() -> Serve:
    """Serve an application over HTTP for as long as the block lasts; its address."""

    @contextmanager
    def serving(application: Flask) -> Iterator[str]:
        server = make_server("127.0.0.1", 0, application, threaded=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    return serving


def tour(api: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sandbox.tour"],
        cwd=ROOT,
        env=os.environ | {"BASE_URL": api},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def test_the_whole_story_is_told_to_the_end(app, worker, serve):
    with serve(app) as api:
        done = tour(api)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"API={api}" in done.stdout
    for number, chapter in enumerate(STORY, start=1):
        assert f"── {number}. {chapter.__doc__} ─" in done.stdout
    for seen in ("201 CREATED", "X-Cache: HIT", "RateLimit-Remaining: 0", "429 TOO MANY REQUESTS", "Retry-After: "):
        assert seen in done.stdout
    assert f"All {len(STORY)} chapters as expected" in done.stdout
    assert done.stderr == ""
    assert '"access_token": "eyJ' in done.stdout
    assert "Bearer $TOKEN" in done.stdout
    assert not re.search(r"eyJ[\w-]*\.[\w-]*\.|gbk_[\w-]{10}", done.stdout), "a whole token or key"


def test_pro_is_bought_where_payments_are_set_up(app, make_app, own_environment, serve, tmp_path):
    with running_stripe_stand_in(webhook_secret="whsec_tour") as stripe:
        own = {
            "REDIS_URL": own_environment["REDIS_URL"],
            "STRIPE_SECRET_KEY": "sk_test_tour",
            "STRIPE_PRO_PRICE_ID": "price_pro",
            "STRIPE_WEBHOOK_SECRET": "whsec_tour",
            "STRIPE_API_BASE": stripe.url,
        }
        paying = make_app(**{name.lower(): value for name, value in own.items()})
        log = tmp_path / "worker.log"
        with celery_process("worker", own_environment | own, log), serve(paying) as api:
            assert wait_until(lambda: " ready." in log.read_text(), seconds=30), log.read_text()
            stripe.webhooks(url=f"{api}/webhook/stripe")
            done = tour(api)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "303 SEE OTHER" in done.stdout
    assert '"tier": "pro"' in done.stdout


def test_codes_that_are_delivered_elsewhere_end_the_tour_with_a_sentence(app, make_app, serve):
    with serve(make_app(otp_delivery="log")) as api:
        done = tour(api)
    assert done.returncode == 1
    assert done.stderr.strip() == "The code is not in the answer: the tour needs OTP_DELIVERY=response."


def test_an_unexpected_status_ends_the_tour_with_a_sentence(serve):
    broken = Flask(__name__)
    broken.add_url_rule("/healthz", view_func=lambda: {"status": "ok"})
    with serve(broken) as api:
        done = tour(api)
    assert done.returncode == 1
    assert done.stderr.strip() == "POST /auth/signup was answered 404, but 201 or 409 was expected."


def test_a_low_daily_limit_ends_the_tour_with_a_sentence(app, worker, make_app, served_environment, serve):
    with serve(make_app(basic_daily_prompts=1, redis_url=served_environment["REDIS_URL"])) as api:
        done = tour(api)
    assert done.returncode == 1
    assert "BASIC_DAILY_PROMPTS" in done.stderr


def test_a_base_url_where_nothing_answers_ends_the_tour_with_a_sentence():
    address = f"http://127.0.0.1:{free_port()}"
    done = tour(address)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.strip() == f"Nothing answers at BASE_URL {address}."


def test_another_service_at_the_address_is_not_taken_for_the_api(serve):
    stranger = Flask(__name__)
    stranger.add_url_rule("/healthz", view_func=lambda: {"status": "fine"})
    with serve(stranger) as api:
        assert "Nothing answers" in tour(api).stderr


def test_numbers_are_valid_and_differ():
    numbers = {fresh_number() for _ in range(200)}
    assert len(numbers) > 190
    assert all(phonenumbers.is_valid_number(phonenumbers.parse(number)) for number in numbers)
