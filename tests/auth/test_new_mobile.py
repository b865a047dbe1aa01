"""A user changes the number of the account with two proofs."""

import pytest

from app.users.service import mobile_key
from tests.auth.conftest import PASSWORD, Mover, Visitor, sql, wrong
from tests.people import age_codes
from tests.problems import assert_problem


@pytest.mark.parametrize("proof", ["current_password", "current_otp"])
def test_two_proofs_change_the_number_and_end_every_other_session(app, mover, proof):
    sent = mover.ask()
    assert sent.status_code == 202
    assert sent.json["mobile"] == mover.new
    assert set(sent.json) == {"mobile", "expires_in", "resend_in", "otp", "current_otp"}
    other = mover.login(PASSWORD).json["access_token"]
    proofs = {"current_password": PASSWORD, "current_otp": sent.json["current_otp"]}
    changed = mover.change(sent.json["otp"], **{proof: proofs[proof]})
    assert changed.status_code == 200, changed.text
    assert changed.json["user"]["mobile"] == mover.new
    assert changed.json["user"]["id"] == mover.id
    assert mover.me(changed.json["access_token"]).json["mobile"] == mover.new
    for ended in (mover.token, other):
        assert_problem(mover.me(ended), 401, "token_revoked")
    assert_problem(mover.login(PASSWORD), 401, "invalid_credentials")  # with the old number
    assert Visitor(app, mover.new).login(PASSWORD).status_code == 200


def test_changing_the_number_is_a_security_event(mover):
    changed = mover.change(mover.codes()[0], current_password=PASSWORD).json
    headers = {"Authorization": f"Bearer {changed['access_token']}"}
    events = mover.client.get("/user/security-events", headers=headers).json["items"]
    assert events[0]["type"] == "mobile_changed"
    assert mover.new not in str(events)


def test_both_codes_must_be_right_and_a_wrong_one_does_not_use_the_other_up(mover):
    new, current = mover.codes()
    assert_problem(mover.change(wrong(new), current_otp=current), 401, "otp_invalid")
    assert_problem(mover.change(new, current_otp=wrong(current)), 401, "otp_invalid")
    assert_problem(mover.change(current, current_otp=new), 401, "otp_invalid")
    assert mover.change(new, current_otp=current).status_code == 200


def test_a_wrong_password_is_no_proof_and_is_counted(mover):
    new, _ = mover.codes()
    for _ in range(10):
        assert_problem(mover.change(new, current_password="not it at all"), 403, "wrong_password")
    assert_problem(mover.change(new, current_password=PASSWORD), 429, "rate_limited")


def test_without_a_password_the_current_numbers_code_is_the_second_proof(make_mover):
    mover = make_mover()
    new, current = mover.codes()
    assert_problem(mover.change(new, current_password=PASSWORD), 403, "wrong_password")
    assert mover.change(new, current_otp=current).status_code == 200


def test_five_wrong_guesses_end_the_code_and_ten_lock_the_number(app, mover):
    new, current = mover.codes()
    for _ in range(5):
        assert_problem(mover.change(new, current_otp=wrong(current)), 401, "otp_invalid")
    assert_problem(mover.change(new, current_otp=current), 401, "otp_invalid")
    age_codes(app, mover.mobile, seconds=61)
    age_codes(app, mover.new, seconds=61)
    new, current = mover.codes()
    for _ in range(5):
        assert_problem(mover.change(new, current_otp=wrong(current)), 401, "otp_invalid")
    assert_problem(mover.change(new, current_otp=current), 429, "otp_locked")
    assert_problem(mover.send_otp(), 429, "otp_locked")
    headers = {"Authorization": f"Bearer {mover.token}"}
    events = mover.client.get("/user/security-events", headers=headers).json["items"]
    assert [event["type"] for event in events].count("codes_locked") == 1


def test_while_one_number_is_locked_no_code_of_the_other_is_compared(app, mover, other_numbers, statements):
    """Otherwise the statements would tell the right code from a wrong guess, which nothing counts then."""
    with app.app_context():
        mover.new = next(number for number in other_numbers if mobile_key(number) < mobile_key(mover.mobile))
    new, current = mover.codes()
    for number in range(10):
        assert_problem(mover.verify(f"wrong {number}"), 401, "otp_invalid")
    statements.clear()
    assert_problem(mover.change(wrong(new), current_otp=current), 429, "otp_locked")
    assert not [statement for statement in statements if "one_time_codes" in statement]


def test_codes_are_only_good_for_this_change_of_this_user(app, mover, make_mover, other_numbers):
    new, current = mover.codes()
    assert_problem(mover.verify(current), 401, "otp_invalid")  # not good for a login
    assert_problem(mover.reset(current, "another password"), 401, "otp_invalid")
    assert_problem(Visitor(app, mover.new).verify(new), 401, "otp_invalid")
    other = next(other_numbers)
    age_codes(app, mover.mobile, seconds=61)
    sent = mover.ask(other).json
    assert_problem(mover.change(new, current_otp=sent["current_otp"]), 401, "otp_invalid")  # another pair of numbers
    thief = make_mover(password=PASSWORD)
    thief.new = mover.new
    assert_problem(thief.change(new, current_password=PASSWORD), 401, "otp_invalid")  # another user
    login = mover.send_otp().json["otp"]
    assert_problem(mover.change(sent["otp"], other, current_otp=login), 401, "otp_invalid")


def test_codes_end_when_the_user_leaves_the_current_number(app, mover, other_numbers):
    left, old_code = mover.mobile, mover.codes()[0]
    age_codes(app, left, seconds=61)
    other = next(other_numbers)
    moved = mover.change(mover.ask(other).json["otp"], other, current_password=PASSWORD)
    assert moved.status_code == 200, moved.text
    mover.token = moved.json["access_token"]
    assert_problem(mover.change(old_code, current_password=PASSWORD), 401, "otp_invalid")


def test_codes_are_not_good_for_the_next_user_of_the_number(app, mover, other_numbers):
    old_code = mover.codes()[0]
    age_codes(app, mover.mobile, seconds=61)
    other = next(other_numbers)
    assert mover.change(mover.ask(other).json["otp"], other, current_password=PASSWORD).status_code == 200
    heir = Visitor(app, mover.mobile)
    assert heir.sign_up().status_code == 201
    tokens = heir.verify(heir.send_otp().json["otp"]).json
    assert tokens["user"]["id"] != mover.id
    heir = Mover(heir, tokens, mover.new)
    changed = heir.post("/auth/change-password", token=heir.token, new_password=PASSWORD)
    heir.token = changed.json["access_token"]
    assert_problem(heir.change(old_code, current_password=PASSWORD), 401, "otp_invalid")


def test_each_of_the_two_numbers_has_its_own_cooldown(app, mover, other_numbers):
    mover.codes()
    assert_problem(mover.ask(), 429, "otp_cooldown")
    assert_problem(mover.ask(next(other_numbers)), 429, "otp_cooldown")  # the current number got one just now
    age_codes(app, mover.mobile, seconds=61)
    assert_problem(mover.ask(), 429, "otp_cooldown")
    assert mover.send_otp().status_code == 202  # a login is another purpose


def test_a_refused_request_sends_neither_code(app, mover):
    mover.codes()
    before = sql(app, "SELECT count(*) FROM one_time_codes")
    age_codes(app, mover.new, seconds=61)
    assert_problem(mover.ask(), 429, "otp_cooldown")
    assert sql(app, "SELECT count(*) FROM one_time_codes") == before


def test_only_somebody_with_a_numbers_code_learns_that_it_is_taken(mover, make_member):
    owner, _ = make_member()
    free = mover.ask()
    age_codes(mover.app, mover.mobile, seconds=61)
    mover.new = owner.mobile
    taken = mover.ask()
    assert (free.status_code, set(free.json)) == (taken.status_code, set(taken.json))
    code = taken.json["otp"]
    assert_problem(mover.change(wrong(code), current_password=PASSWORD), 401, "otp_invalid")
    assert_problem(mover.change(code, current_password=PASSWORD), 409, "account_exists")
    assert_problem(mover.change(code, current_password=PASSWORD), 401, "otp_invalid")  # it is used up
    assert mover.me(mover.token).json["mobile"] == mover.mobile


def test_an_unverified_signup_gives_way_to_the_change(app, mover):
    claim = Visitor(app, mover.new, ip="198.51.100.9")
    assert claim.sign_up(name="Somebody").status_code == 201
    login = claim.send_otp().json["otp"]
    assert mover.change(mover.codes()[0], current_password=PASSWORD).status_code == 200
    assert_problem(claim.sign_up(), 409, "account_exists")
    # Whoever has a number's code owns the number, and so the account that has it now.
    assert claim.verify(login).json["user"]["id"] == mover.id


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "new_mobile"),
        ({"new_mobile": "0151 1"}, "new_mobile"),
        ({"new_mobile": 5}, "new_mobile"),
        ({"new_mobile": "+1 900 555 0199"}, "new_mobile"),
        ({"new_mobile": "OWN"}, "new_mobile"),
        ({"new_mobile": "+4915112345678", "otp": "1"}, "otp"),
    ],
)
def test_a_bad_request_for_codes_is_422(mover, body, field):
    body = {name: mover.mobile if value == "OWN" else value for name, value in body.items()}
    answer = mover.post("/auth/change-mobile", token=mover.token, **body)
    assert field in assert_problem(answer, 422, "validation_error")["errors"]


@pytest.mark.parametrize(
    ("proof", "field"),
    [
        ({}, "current_password"),
        ({"current_password": None}, "current_password"),
        ({"current_password": PASSWORD, "current_otp": "123456"}, "current_password"),
        ({"current_password": 5}, "current_password"),
        ({"current_otp": "1" * 17}, "current_otp"),
        ({"current_otp": 123456}, "current_otp"),
        ({"otp": None, "current_otp": "123456"}, "otp"),
        ({"new_mobile": "OWN", "current_otp": "123456"}, "new_mobile"),
    ],
)
def test_a_bad_verification_is_422(mover, proof, field):
    body = {"new_mobile": mover.new, "otp": "123456"} | proof
    body = {name: mover.mobile if value == "OWN" else value for name, value in body.items()}
    answer = mover.post("/auth/change-mobile/verify", token=mover.token, **body)
    assert field in assert_problem(answer, 422, "validation_error")["errors"]


def test_changing_the_number_needs_a_token(app, mover):
    anonymous = Visitor(app, mover.mobile)
    assert_problem(anonymous.post("/auth/change-mobile", new_mobile=mover.new), 401, "token_missing")
    body = {"new_mobile": mover.new, "otp": "123456", "current_password": PASSWORD}
    assert_problem(anonymous.post("/auth/change-mobile/verify", **body), 401, "token_missing")
