"""What /metrics exports, and to whom."""

import math
import os
import shutil
import signal
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text

from app.core.clock import utc_now
from app.core.db import db
from app.ops import metrics
from app.ops import totals as rollup
from sandbox.stack.processes import alive, descendants, wait_until
from tests.web_process import serving


def samples(exposition: str) -> dict[tuple[str, ...], float]:
    """Return the values by a sample's name and its labels' values."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(exposition)
        for sample in family.samples
    }


def scrape(client) -> dict[tuple[str, ...], float]:
    response = client.get("/metrics")
    assert response.status_code == 200, response.text
    return samples(response.text)


def folder_of(pid: int) -> Path:
    """Return the folder with a master's metrics."""
    [folder] = {Path(one.path).parent for one in psutil.Process(pid).memory_maps() if one.path.endswith(".db")}
    return folder


def test_requests_are_counted_by_route_and_status(client):
    before = scrape(client)
    client.get("/healthz")
    client.get("/chatroom")
    client.get("/no/such/address")
    after = scrape(client)
    for labels in (("GET", "/healthz", "200"), ("GET", "/chatroom", "401"), ("GET", "(none)", "404")):
        assert after["http_requests_total", *labels] == before.get(("http_requests_total", *labels), 0) + 1
        timed = ("http_request_duration_seconds_count", *labels[:2])
        assert after[timed] == before.get(timed, 0) + 1


def test_a_quota_refusal_is_counted(user):
    room = user.make_chatroom()
    before = scrape(user.client)["http_errors_total", "daily_quota_exceeded"]
    answers = [user.post(f"{room}/message", json={"text": "Hello"}).status_code for _ in range(6)]
    assert answers[-1] == 429
    assert scrape(user.client)["http_errors_total", "daily_quota_exceeded"] == before + 1


def test_the_queue_is_exported(user, app):
    room = user.make_chatroom()
    user.post(f"{room}/message", json={"text": "Hello"})
    user.post(f"{room}/message", json={"text": "Again"})
    with app.app_context():
        db.session.execute(text("UPDATE messages SET accepted_at = accepted_at - interval '90 seconds'"))
        db.session.commit()
    scraped = scrape(user.client)
    assert scraped["replies_unfinished", "queued"] == 2
    assert 90 <= scraped["oldest_due_reply_seconds",] < 120
    assert scraped["oldest_unfinished_reply_seconds",] >= scraped["oldest_due_reply_seconds",]


def test_the_age_of_unapplied_stripe_events_is_exported(client, app):
    assert scrape(client)["oldest_unapplied_stripe_event_seconds",] == 0
    event = "INSERT INTO stripe_events (id, type, received_at, due_at) VALUES (:id, 'x', now() - :age, :due)"
    with app.app_context():
        for name, age, due in (("evt_applied", 900, None), ("evt_waits", 300, utc_now()), ("evt_new", 1, utc_now())):
            values = {"id": name, "age": timedelta(seconds=age), "due": due}
            db.session.execute(text(event), values)
        db.session.commit()
    assert 300 <= scrape(client)["oldest_unapplied_stripe_event_seconds",] < 330


def test_the_age_of_unsent_codes_is_exported(app, make_user):
    user = make_user()
    user.post("/auth/send-otp", json={"mobile": user.mobile})
    assert scrape(user.client)["oldest_unsent_code_seconds",] == 0
    for change, least in (
        ("sealed = 'a message', created_at = now() - interval '90 seconds'", 90),
        ("expires_at = now()", 0),
    ):
        with app.app_context():
            db.session.execute(text(f"UPDATE one_time_codes SET {change}"))
            db.session.commit()
        assert least <= scrape(user.client)["oldest_unsent_code_seconds",] <= least * 1.3


def test_a_reply_that_backs_off_is_not_due(user, app):
    user.post(f"{user.make_chatroom()}/message", json={"text": "Hello"})
    with app.app_context():
        db.session.execute(text("UPDATE messages SET not_before = now() + interval '1 minute' WHERE role = 'model'"))
        db.session.commit()
    scraped = scrape(user.client)
    assert (scraped["oldest_due_reply_seconds",], scraped["oldest_unfinished_reply_seconds",] > 0) == (0, True)


def test_the_age_of_the_last_tick_is_exported(client, app):
    assert scrape(client)["beat_last_tick_seconds",] == math.inf, "there was none"
    now = utc_now()
    with app.app_context():
        rollup.tick(now - timedelta(seconds=40))
    assert 40 <= scrape(client)["beat_last_tick_seconds",] < 60


@pytest.mark.parametrize(
    ("given", "status", "code"),
    [
        ({}, 401, "token_missing"),
        ({"Authorization": "Bearer wrong"}, 401, "token_invalid"),
        ({"Authorization": "Basic right"}, 401, "token_missing"),
        ({"Authorization": "Bearer right"}, 200, None),
    ],
)
def test_the_metrics_need_their_token(migrated_app, make_app, given, status, code):
    answer = make_app(metrics_token="right").test_client().get("/metrics", headers=given)
    assert (answer.status_code, (answer.json or {}).get("code") if code else None) == (status, code)


PRODUCTION = {
    "app_env": "production",
    "otp_delivery": "log",
    "otp_log_in_production": True,
    "gemini_api_key": "none",
    "gemini_api_endpoint": "https://gemini.example",
    "stripe_webhook_secret": "whsec_none",
}


def test_without_a_token_production_has_no_metrics(make_app):
    answer = make_app(**PRODUCTION).test_client().get("/metrics")
    assert answer.status_code == 404


@pytest.mark.processes
def test_metrics_of_several_processes_add_up(app, environment, tmp_path):
    with serving(environment, tmp_path / "web.log", workers=2) as web:
        assert wait_until(lambda: len(descendants(web.pid)) == 2, seconds=20)
        for pid in descendants(web.pid):
            os.kill(pid, signal.SIGSTOP)  # the other one answers
            try:
                for _ in range(20):
                    assert web.call("GET", "/readyz").ok
            finally:
                os.kill(pid, signal.SIGCONT)

        def counted() -> float:
            scraped = samples(web.call("GET", "/metrics").text)
            return scraped["http_requests_total", "GET", "/readyz", "200"]

        assert wait_until(lambda: counted() == 40, seconds=20), counted()
        assert [counted() for _ in range(6)] == [40] * 6


@pytest.mark.processes
def test_a_reload_keeps_all_counts(app, environment, tmp_path):
    with serving(environment, tmp_path / "web.log") as web:
        for _ in range(10):
            assert web.call("GET", "/readyz").ok
        os.kill(web.pid, signal.SIGHUP)
        assert wait_until(lambda: web.log_file.read_text().count("Worker exiting") == 1, seconds=40)

        def counted() -> float:
            scraped = samples(web.call("GET", "/metrics").text)
            return scraped.get(("http_requests_total", "GET", "/readyz", "200"), 0)

        assert web.call("GET", "/readyz").ok
        assert wait_until(lambda: counted() == 11, seconds=20), counted()


@pytest.mark.processes
def test_a_new_process_counts_even_when_the_metrics_folder_has_been_removed(app, environment, tmp_path):
    own = {"GUNICORN_CMD_ARGS": "--max-requests 5 --max-requests-jitter 0"}
    with serving(environment | own, tmp_path / "web.log") as web:
        shutil.rmtree(folder_of(web.pid))
        for _ in range(12):
            assert web.call("GET", "/readyz").ok
        assert samples(web.call("GET", "/metrics").text)["http_requests_total", "GET", "/readyz", "200"] > 0


@pytest.mark.processes
def test_a_process_goes_on_with_the_metrics_files_of_the_one_it_replaces(app, environment, tmp_path):
    """Otherwise each process would leave files behind, and a scrape would read all of them."""
    own = {"GUNICORN_CMD_ARGS": "--max-requests 10 --max-requests-jitter 0"}
    with serving(environment | own, tmp_path / "web.log", workers=2) as web:
        for _ in range(100):
            assert web.call("GET", "/readyz").ok
        assert web.log_file.read_text().count("Booting worker") > 6
        assert len(list(folder_of(web.pid).glob("counter_*.db"))) <= 3, "the master has one as well"

        def is_complete():  # a request is counted, and then logged, after its answer
            counted = samples(web.call("GET", "/metrics").text)["http_requests_total", "GET", "/readyz", "200"]
            return counted == web.log_file.read_text().count("GET /readyz 200") == 100

        assert wait_until(is_complete, seconds=10)


@pytest.mark.processes
def test_an_upgrade_after_a_reload_leaves_the_next_master_its_metrics(app, environment, tmp_path):
    with serving(environment, tmp_path / "web.log") as web:
        os.kill(web.pid, signal.SIGHUP)
        assert wait_until(lambda: web.log_file.read_text().count("Worker exiting") == 1, seconds=40)
        of_before = descendants(web.pid)
        os.kill(web.pid, signal.SIGUSR2)
        assert wait_until(lambda: web.log_file.read_text().count("Listening at") == 2, seconds=40)
        upgraded = [pid for pid in descendants(web.pid) if pid not in of_before]
        try:
            os.kill(web.pid, signal.SIGTERM)
            assert wait_until(lambda: not alive(web.pid), seconds=40)
            assert wait_until(lambda: web.call("GET", "/no/such/address").status_code == 404, seconds=20)
            assert samples(web.call("GET", "/metrics").text)["http_errors_total", "not_found"] >= 1
        finally:
            for pid in filter(alive, upgraded):
                os.kill(pid, signal.SIGTERM)
            assert wait_until(lambda: not any(map(alive, upgraded)), seconds=40)


def test_a_process_that_has_just_begun_does_not_disturb_a_scrape(client, tmp_path, monkeypatch):
    """Its file is there, but empty until it is read for the second time."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    begun = tmp_path / "counter_1.db"
    begun.touch()
    looks = []

    def grow_meanwhile(seconds: float) -> None:
        looks.append(seconds)
        os.truncate(begun, 4096)

    monkeypatch.setattr(metrics, "time", SimpleNamespace(sleep=grow_meanwhile))
    assert scrape(client)["postgres_answers",] == 1
    assert len(looks) == 1


def test_metrics_survive_without_postgres(make_app, capsys):
    client = make_app(database_url="postgresql://127.0.0.1:1/nothing").test_client()
    scraped = scrape(client)
    assert scraped["postgres_answers",] == 0
    assert capsys.readouterr().err.count("this scrape lacks the metrics") == 1
    assert ("http_errors_total", "daily_quota_exceeded") in scraped


def test_a_webhook_that_is_refused_is_counted(client, make_app):
    client = make_app(stripe_webhook_secret="whsec_of_the_test", stripe_secret_key="sk_test_x").test_client()
    before = scrape(client).get(("stripe_webhooks_total", "refused", "(unverified)"), 0)
    assert client.post("/webhook/stripe", data=b"{}", headers={"Stripe-Signature": "t=1,v1=0"}).status_code == 400
    assert scrape(client)["stripe_webhooks_total", "refused", "(unverified)"] == before + 1
