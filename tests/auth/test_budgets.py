"""The service's hourly budgets: codes sent, and wrong codes."""

import logging
import re
from collections import Counter

import pytest
from sqlalchemy import func, select

from app.auth.models import NumberThrottle, OneTimeCode
from app.core.db import db
from sandbox.stack.processes import free_port
from tests.auth.conftest import PASSWORD, Visitor, wrong
from tests.people import age_codes, all_at_once
from tests.problems import assert_problem

BUDGET = 3


@pytest.fixture
def make_visitors(app, make_app, make_redis_url, other_numbers, caplog):
    """Make this many people, each with an address of his own, on a service with these budgets and no other limit."""

    def make(count, **budgets):
        limited = make_app(redis_url=make_redis_url(), **budgets)
        logging.getLogger().addHandler(caplog.handler)  # the factory has replaced the handlers
        return [Visitor(limited, next(other_numbers), ip=f"198.51.100.{n}") for n in range(count)]

    return make


def assert_used_up(answer):
    assert_problem(answer, 503, "service_unavailable")
    assert 3_500 < int(answer.headers["Retry-After"]) <= 3_601


def refusals(visitor, budget):
    counted = visitor.client.get("/metrics").text
    (found,) = re.findall(rf'^code_budget_refusals_total{{budget="{budget}"}} (.+)$', counted, flags=re.MULTILINE)
    return float(found)


def test_service_sends_no_more_codes_an_hour_than_its_budget(make_visitors, caplog):
    *served, known, unknown = make_visitors(BUDGET + 2, codes_per_hour=BUDGET)
    known.sign_up()
    before = refusals(known, "codes")
    assert [visitor.send_otp().status_code for visitor in served] == [202] * BUDGET
    assert "CODES_PER_HOUR" not in caplog.text
    answers = [ask() for who in (known, unknown) for ask in (who.send_otp, who.forgot)]
    for answer in answers:
        assert_used_up(answer)
    assert len({answer.json["detail"] for answer in answers}) == 1, "the same for known and unknown numbers"
    assert refusals(known, "codes") == before + 4
    (found,) = [record for record in caplog.records if "CODES_PER_HOUR" in record.getMessage()]
    assert found.levelname == "ERROR"
    with known.app.app_context():
        assert db.session.scalar(select(func.count()).select_from(OneTimeCode)) == BUDGET


def test_codes_that_are_not_sent_cost_nothing(make_visitors):
    first, *others = make_visitors(BUDGET, codes_per_hour=BUDGET)
    first.send_otp()
    for _ in range(2 * BUDGET):
        assert_problem(first.send_otp(), 429, "otp_cooldown")
    assert [visitor.send_otp().status_code for visitor in others] == [202] * (BUDGET - 1)
    assert_used_up(first.forgot())


def test_budget_is_exact_under_concurrency(make_visitors):
    visitors = make_visitors(5 * BUDGET, codes_per_hour=BUDGET)
    answers = all_at_once([visitor.send_otp for visitor in visitors], retry=False)
    assert Counter(answer.status_code for answer in answers) == {202: BUDGET, 503: 4 * BUDGET}


def test_wrong_codes_of_all_numbers_together_are_bounded(make_visitors, caplog):
    *guessers, owner = make_visitors(BUDGET + 1, wrong_codes_per_hour=BUDGET)
    owner.sign_up()
    otp, reset_otp = owner.send_otp().json["otp"], owner.forgot().json["otp"]
    assert [guesser.verify("no").status_code for guesser in guessers[1:]] == [401] * (BUDGET - 1)
    assert guessers[0].reset("no", "long-enough-7").status_code == 401
    for answer in (owner.verify(otp), owner.reset(reset_otp, "long-enough-7"), guessers[0].verify("no")):
        assert_used_up(answer)
    assert "WRONG_CODES_PER_HOUR" in caplog.text
    assert refusals(owner, "wrong_codes") >= 3
    owner.app.extensions["redis"].flushdb()  # the hour is over
    assert owner.verify(otp).status_code == 200, "no code was looked at meanwhile"
    with owner.app.app_context():
        assert db.session.scalar(select(func.sum(NumberThrottle.wrong_codes))) == BUDGET


def test_right_codes_do_not_use_up_the_budget_for_wrong_codes(make_visitors):
    *owners, stranger = make_visitors(2 * BUDGET + 1, wrong_codes_per_hour=BUDGET)
    for owner in owners:
        owner.sign_up()
        assert owner.verify(owner.send_otp().json["otp"]).status_code == 200
    assert stranger.verify(stranger.send_otp().json["otp"]).status_code == 404
    assert [owners[0].verify(wrong("123456")).status_code for _ in range(BUDGET)] == [401] * BUDGET
    assert_used_up(owners[1].verify("no"))


def test_zero_lifts_a_budget_and_lifting_the_limits_for_addresses_does_not(make_visitors):
    visitors = make_visitors(2, codes_per_hour=1, rate_limit_per_minute=0)
    assert [visitor.send_otp().status_code for visitor in visitors] == [202, 503]
    visitors = make_visitors(3, codes_per_hour=0, wrong_codes_per_hour=0, rate_limit_per_minute=100)
    assert [visitor.send_otp().status_code for visitor in visitors] == [202] * 3


def test_without_redis_the_budgets_are_lifted_and_the_limits_for_a_number_hold(app, make_app, other_numbers):
    alone = make_app(redis_url=f"redis://127.0.0.1:{free_port()}/0", codes_per_hour=1, wrong_codes_per_hour=1)
    visitors = [Visitor(alone, next(other_numbers)) for _ in range(3)]
    assert [visitor.send_otp().status_code for visitor in visitors] == [202] * 3
    assert_problem(visitors[0].send_otp(), 429, "otp_cooldown")
    assert [visitors[0].verify("no").status_code for _ in range(11)] == [401] * 10 + [429]


def test_a_budget_resets_an_hour_after_its_first_code(make_visitors):
    first, second, late = make_visitors(3, codes_per_hour=2)
    assert first.send_otp().status_code == 202
    counts = first.app.extensions["redis"]
    (key,) = [key for key in counts.scan_iter() if b"budget" in key]
    counts.expire(key, 1_800)  # half an hour passes
    assert second.send_otp().status_code == 202
    refused = late.send_otp()
    assert_problem(refused, 503, "service_unavailable")
    assert 1_700 < int(refused.headers["Retry-After"]) <= 1_801
    counts.expireat(key, 1)  # and the rest of the hour
    assert [visitor.send_otp().status_code for visitor in (late, first)] == [202, 429]


@pytest.fixture
def make_limited_mover(make_visitors, make_mover):
    """Make somebody with a password who wants another number, on a service with these budgets."""

    def make(**budgets):
        mover = make_mover(password=PASSWORD)
        (visitor,) = make_visitors(1, **budgets)
        mover.app = visitor.app
        return mover

    return make


def codes_of(app):
    with app.app_context():
        return db.session.scalar(select(func.count()).select_from(OneTimeCode))


def test_each_pair_of_codes_for_another_number_costs_two(make_limited_mover):
    mover = make_limited_mover(codes_per_hour=3)
    assert mover.ask().status_code == 202
    before = codes_of(mover.app)
    for mobile in (mover.mobile, mover.new):
        age_codes(mover.app, mobile, seconds=61)
    assert_used_up(mover.ask())
    assert codes_of(mover.app) == before
    assert mover.send_otp().status_code == 202  # takes the one that is left: a refused request costs nothing
    assert_used_up(mover.forgot())


def test_wrong_codes_for_another_number_are_bounded(make_limited_mover):
    mover = make_limited_mover(wrong_codes_per_hour=1)
    new, current = mover.codes()
    assert_problem(mover.change(new, current_otp=wrong(current)), 401, "otp_invalid")
    assert_used_up(mover.change(wrong(new), current_otp=current))
    assert_used_up(mover.change(new, current_password=PASSWORD))
    mover.app.extensions["redis"].flushdb()  # the hour is over
    assert mover.change(new, current_otp=current).status_code == 200


def test_sessions_and_passwords_keep_working_when_the_budgets_are_used_up(make_limited_mover):
    owner = make_limited_mover(codes_per_hour=1, wrong_codes_per_hour=1)
    assert owner.send_otp().status_code == 202
    assert_problem(owner.verify("no"), 401, "otp_invalid")
    assert_used_up(owner.forgot())
    assert_used_up(owner.verify("no"))
    assert owner.me(owner.token).status_code == 200
    login = owner.login(PASSWORD)
    assert login.status_code == 200, login.text
    assert owner.me(login.json["access_token"]).status_code == 200
    assert owner.post("/auth/refresh", token=login.json["refresh_token"]).status_code == 200
    change = {"current_password": PASSWORD, "new_password": "another good password"}
    assert owner.post("/auth/change-password", token=owner.token, **change).status_code == 200
