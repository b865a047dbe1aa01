"""What moves to the new number: rooms, Pro, and the day's spent prompts, which stay spent for both numbers."""

import pytest

from tests.auth.conftest import PASSWORD, Visitor, sql
from tests.people import age_codes
from tests.problems import assert_problem


def newcomer(app, mobile):
    """Sign somebody up with this number. Returns him and his tokens."""
    visitor = Visitor(app, mobile, ip="198.51.100.9")
    assert visitor.sign_up().status_code == 201
    age_codes(app, mobile, seconds=7_200)
    return visitor, visitor.verify(visitor.send_otp().json["otp"]).json


def spend(visitor, token, prompts):
    headers = {"Authorization": f"Bearer {token}"}
    room = visitor.client.post("/chatroom", json={}, headers=headers).json["id"]
    for _ in range(prompts):
        sent = visitor.client.post(f"/chatroom/{room}/message", json={"text": "Hello"}, headers=headers)
        assert sent.status_code == 202, sent.text
    return sent.json["reply"]


def used(visitor, token):
    return visitor.client.get("/user/usage", headers={"Authorization": f"Bearer {token}"}).json["used"]


def test_rooms_move_along_and_the_days_prompts_stay_spent_for_both_numbers(app, mover, user):
    spend(user, user.access_token, 1)
    spend(mover, mover.token, 3)
    changed = mover.change(mover.codes()[0], current_password=PASSWORD).json["access_token"]
    assert used(mover, changed) == 3
    rooms = mover.client.get("/chatroom", headers={"Authorization": f"Bearer {changed}"}).json["items"]
    assert len(rooms) == 1
    days = mover.client.get("/user/usage/history", headers={"Authorization": f"Bearer {changed}"}).json["items"]
    assert days[-1]["prompts"] == 3
    visitor, tokens = newcomer(app, mover.mobile)
    assert used(visitor, tokens["access_token"]) == 3
    history = visitor.client.get(
        "/user/usage/history", headers={"Authorization": f"Bearer {tokens['access_token']}"}
    ).json["items"]
    assert {day["prompts"] for day in history} == {0}  # they were somebody else's
    spend(visitor, tokens["access_token"], 2)
    assert used(mover, changed) == 3  # from now on each number counts by itself


def test_pro_moves_to_the_new_number(app, mover):
    granted = app.test_cli_runner().invoke(args=["users", "grant-pro", mover.mobile, "--reason", "a gift"])
    assert granted.exit_code == 0, granted.output
    changed = mover.change(mover.codes()[0], current_password=PASSWORD).json
    assert changed["user"]["tier"] == "pro"
    assert newcomer(app, mover.mobile)[1]["user"]["tier"] == "basic"


def test_deleting_the_account_after_the_change_refills_no_quota(app, mover):
    spend(mover, mover.token, 5)
    changed = mover.change(mover.codes()[0], current_password=PASSWORD).json["access_token"]
    assert mover.client.delete("/user/me", headers={"Authorization": f"Bearer {changed}"}).status_code == 204
    for mobile in (mover.mobile, mover.new):
        visitor, tokens = newcomer(app, mobile)
        assert used(visitor, tokens["access_token"]) == 5
        headers = {"Authorization": f"Bearer {tokens['access_token']}"}
        room = visitor.client.post("/chatroom", json={}, headers=headers).json["id"]
        refused = visitor.client.post(f"/chatroom/{room}/message", json={"text": "Hi"}, headers=headers)
        assert_problem(refused, 429, "daily_quota_exceeded")


def test_prompts_of_both_numbers_add_up_and_count_once_after_changing_back(app, make_mover):
    mover = make_mover(password=PASSWORD)
    visitor, tokens = newcomer(app, mover.new)
    spend(visitor, tokens["access_token"], 2)
    headers = {"Authorization": f"Bearer {tokens['access_token']}"}
    assert visitor.client.delete("/user/me", headers=headers).status_code == 204
    spend(mover, mover.token, 1)
    first, second = mover.mobile, mover.new
    for back in range(3):
        age_codes(app, first, seconds=7_200)
        age_codes(app, second, seconds=7_200)
        mover.token = mover.change(mover.codes()[0], current_password=PASSWORD).json["access_token"]
        assert used(mover, mover.token) == 3, back
        mover.mobile, mover.new = mover.new, mover.mobile


def test_a_refund_counts_for_both_numbers(app, mover):
    reply = spend(mover, mover.token, 1)
    changed = mover.change(mover.codes()[0], current_password=PASSWORD).json["access_token"]
    cancel = f"/chatroom/{reply['chatroom_id']}/messages/{reply['id']}/cancel"
    assert mover.client.post(cancel, headers={"Authorization": f"Bearer {changed}"}).status_code == 200
    assert used(mover, changed) == 0
    visitor, tokens = newcomer(app, mover.mobile)
    assert used(visitor, tokens["access_token"]) == 0


@pytest.mark.parametrize("days", [-1, 1])
def test_a_change_at_midnight_refills_neither_day(app, mover, days):
    """A prompt of the old day may still wait for the change to end, or one of the new day may overtake it."""
    spend(mover, mover.token, 5)
    sql(app, "UPDATE prompt_charges SET day = day + :days", days=days)
    changed = mover.change(mover.codes()[0], current_password=PASSWORD).json["access_token"]
    assert used(mover, changed) == 0
    sql(app, "UPDATE prompt_charges SET day = day - :days", days=days)
    assert used(mover, changed) == 5


def test_operators_count_a_carried_prompt_once(app, mover):
    spend(mover, mover.token, 2)
    mover.change(mover.codes()[0], current_password=PASSWORD)
    result = app.test_cli_runner().invoke(
        args=["usage", "report", "--from", "2026-01-01", "--to", "2999-01-01", "--by", "tier", "--csv"]
    )
    assert result.output.splitlines()[1].startswith("basic,2,")
