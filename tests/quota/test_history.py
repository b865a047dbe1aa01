"""What prompts cost: for their owner day by day, for operators with prices."""

import csv
import io
from datetime import date, timedelta
from decimal import Decimal

import pytest

from app.core.clock import utc_now
from app.generation.service import retry_failed
from app.quota.ledger import cost_of, quota_day
from tests.conftest import purge_all
from tests.problems import assert_problem


def history(room, query=""):
    answer = room.person.get(f"/user/usage/history{query}")
    assert answer.status_code == 200, answer.text
    return answer.json["items"]


def tokens(day):
    return day["prompts"], day["prompt_tokens"], day["output_tokens"], day["thinking_tokens"]


def test_each_day_has_a_row_with_the_tokens_of_its_replies(room, runner):
    first = room.answer(runner, "[[sandbox: thinking_tokens=70 say=one]]").usage
    second = room.answer(runner, "[[sandbox: say=two]]").usage
    room.sql("UPDATE prompt_charges SET day = day - 3 WHERE output_tokens IS NOT NULL AND thinking_tokens = 70")
    days = history(room)
    assert len(days) == 30
    assert days[-1]["date"] == quota_day(utc_now()).isoformat()
    names = ("prompt_tokens", "output_tokens", "thinking_tokens")
    assert tokens(days[-4]) == (1, *(first[name] for name in names))
    assert tokens(days[-1]) == (1, *(second[name] for name in names))
    assert {tokens(day) for day in (*days[:-4], *days[-3:-1])} == {(0, 0, 0, 0)}


def test_the_cost_outlives_the_room_and_a_refunded_prompt_costs_nothing(room, runner):
    usage = room.answer(runner, "Hello").usage
    room.answer(runner, "[[sandbox: status=404]]")
    assert room.person.delete(room.path).status_code == 204
    with room.app.app_context():
        from app.account.tasks import purge_chatroom

        while purge_chatroom():
            pass
    assert tokens(history(room)[-1])[:2] == (1, usage["prompt_tokens"])


def test_an_operators_retry_after_a_refund_adds_its_tokens_and_costs_no_prompt(room, runner):
    reply_id = room.send("[[sandbox: status=404]]")
    room.generate(runner, reply_id)
    room.sql("UPDATE messages SET text = 'Hello' WHERE role = 'user'")
    with room.app.app_context():
        assert retry_failed(reply_id, until=utc_now(), now=utc_now()) == [reply_id]
    room.generate(runner, reply_id)
    usage = room.read(reply_id).usage
    assert usage["output_tokens"] > 0
    assert tokens(history(room)[-1])[:3] == (0, usage["prompt_tokens"], usage["output_tokens"])


def test_a_retry_costs_the_tokens_of_both_replies(room, runner):
    first = room.answer(runner, "Hello")
    new = room.person.post(f"{room.path}/messages/{first.id}/retry").json
    room.generate(runner, new["id"])
    second = room.read(new["id"])
    together = first.usage["output_tokens"] + second.usage["output_tokens"]
    assert tokens(history(room)[-1])[::2] == (2, together)


def test_the_history_excludes_others_and_earlier_owners_of_the_number(room, runner, make_user):
    room.answer(runner, "Hello")
    other = make_user()
    other.client = room.person.client
    assert {day["prompts"] for day in other.get("/user/usage/history").json["items"]} == {0}
    room.sql("UPDATE prompt_charges SET user_id = gen_random_uuid()")
    assert {day["prompts"] for day in history(room)} == {0}


def test_any_days_may_be_asked_for(room):
    today = quota_day(utc_now())
    assert [day["date"] for day in history(room, f"?from={today}&to={today}")] == [today.isoformat()]
    assert len(history(room, f"?from={today - timedelta(days=91)}")) == 92
    assert history(room, "?to=2020-02-29")[0]["date"] == "2020-01-31"
    assert len(history(room, "?to=0001-01-01")) == 1


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("from=2026-02-02&to=2026-02-01", "from"),
        ("to=2999-01-01", "to"),
        ("from=2999-01-01", "from"),
        ("from=2026-01-01&to=2026-04-03", "from"),
        ("from=2026-02-30", "from"),
        ("from=yesterday", "from"),
        ("to=", "to"),
        ("from=2026-01-01T00:00:00", "from"),
        ("until=2026-01-01", "until"),
    ],
)
def test_invalid_days_are_refused(user, query, field):
    answer = user.get(f"/user/usage/history?{query}")
    assert list(assert_problem(answer, 422, "validation_error")["errors"]) == [field]


# For operators


PRICES = "gemini-3.5-flash:2026-01-01:0.30:2.50, gemini-3.5-flash:2026-06-01:0.60:5, other:2026-01-01:1:1"


@pytest.fixture
def priced(make_app, make_redis_url):
    return make_app(redis_url=make_redis_url(), model_prices=PRICES)


def report(app, *options):
    result = app.test_cli_runner().invoke(args=["usage", "report", *options])
    return result.exit_code, result.output


def test_prices_hold_from_their_day_on(priced):
    with priced.app_context():
        assert cost_of("gemini-3.5-flash", date(2025, 12, 31), 1, 1) is None
        assert cost_of("gemini-3.5-flash", date(2026, 5, 31), 1_000_000, 2_000_000) == Decimal("5.30")
        assert cost_of("gemini-3.5-flash", date(2026, 6, 1), 1_000_000, 2_000_000) == Decimal("10.60")
        assert cost_of("unknown", date(2026, 6, 1), 1, 0) is None
        assert cost_of(None, date(2026, 6, 1), 0, 0) == 0


@pytest.mark.parametrize(("by", "of"), [("day", None), ("model", "gemini-3.5-flash"), ("tier", "basic")])
def test_a_report_adds_up_everybodys_prompts(priced, room, runner, by, of):
    usage = room.answer(runner, "[[sandbox: thinking_tokens=70 say=one]]").usage
    room.send("Hello")
    today = quota_day(utc_now()).isoformat()
    code, written = report(priced, "--from", today, "--to", today, "--by", by, "--csv")
    assert code == 0, written
    rows = list(csv.DictReader(io.StringIO(written)))
    row = next(row for row in rows if row[by] == (of or today))
    assert sum(int(one["prompts"]) for one in rows) == 2
    assert (row["prompt_tokens"], row["thinking_tokens"]) == (str(usage["prompt_tokens"]), "70")
    cost = Decimal(usage["prompt_tokens"]) * Decimal("0.6") + (70 + usage["output_tokens"]) * 5
    assert Decimal(row["cost"]) == (cost / 1_000_000).quantize(Decimal("0.0001"))


def test_a_report_without_prices_tells_no_cost(app, room, runner):
    room.answer(runner, "Hello")
    today = quota_day(utc_now()).isoformat()
    code, written = report(app, "--from", today, "--to", today)
    assert code == 0
    heads, cells = (line.split("  ") for line in written.splitlines())
    assert "cost" in heads[-1]
    assert cells[-1].strip() == "-"


def test_a_report_of_no_days_is_refused(app):
    assert report(app, "--from", "2026-02-02", "--to", "2026-02-01")[0] == 2
    assert report(app, "--from", "nonsense", "--to", "2026-02-01")[0] == 2


def test_a_report_has_the_prompts_of_deleted_accounts_and_no_refunded_ones(app, room, runner):
    room.answer(runner, "Hello")
    room.answer(runner, "[[sandbox: status=404]]")
    assert room.person.delete("/user/me").status_code == 204
    purge_all(room.app)
    today = quota_day(utc_now()).isoformat()
    code, written = report(app, "--from", today, "--to", today, "--csv")
    assert code == 0
    assert [row["prompts"] for row in csv.DictReader(io.StringIO(written))] == ["1"]
