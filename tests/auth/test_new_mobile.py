"""Another number for an account: two proofs, and everything goes along."""

from collections import Counter

import pytest
from sqlalchemy import text

from app.core.db import db
from tests.auth.conftest import Visitor, all_at_once, wrong
from tests.conftest import age_codes
from tests.problems import assert_problem

PASSWORD = "correct horse battery"
ROUNDS = 6  # so that now the one is faster, now the other


class Mover(Visitor):
    """Somebody logged in who wants another number."""

    def __init__(self, visitor, tokens, new):
        super().__init__(visitor.app, visitor.mobile)
        self.token, self.id, self.new = tokens["access_token"], tokens["user"]["id"], new

    def ask(self, new=None):
        return self.post("/auth/change-mobile", token=self.token, new_mobile=new or self.new)

    def change(self, otp, new=None, **proof):
        body = {"new_mobile": new or self.new, "otp": otp} | proof
        return self.post("/auth/change-mobile/verify", token=self.token, **body)

    def codes(self):
        sent = self.ask()
        assert sent.status_code == 202, sent.text
        return sent.json["otp"], sent.json["current_otp"]


@pytest.fixture
def make_mover(make_member, other_numbers):
    return lambda **member: Mover(*make_member(**member), next(other_numbers))


@pytest.fixture
def mover(make_mover):
    return make_mover(password=PASSWORD)


def sql(app, statement, **values):
    with app.app_context():
        result = db.session.execute(text(statement), values)
        rows = result.all() if result.returns_rows else None
        db.session.commit()
        return rows


def newcomer(app, mobile):
    """Somebody who signs up with a number; his tokens."""
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
    assert_problem(mover.login(PASSWORD), 401, "invalid_credentials")  # with the number of before
    assert Visitor(app, mover.new).login(PASSWORD).status_code == 200


def test_it_is_a_security_event(mover):
    changed = mover.change(mover.codes()[0], current_password=PASSWORD).json
    headers = {"Authorization": f"Bearer {changed['access_token']}"}
    events = mover.client.get("/user/security-events", headers=headers).json["items"]
    assert events[0]["type"] == "mobile_changed"
    assert mover.new not in str(events)


def test_rooms_and_the_days_prompts_go_along_and_stay_spent_on_both_sides(app, mover):
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
    assert used(mover, changed) == 3  # from now on each for itself


def test_pro_goes_along(app, mover):
    granted = app.test_cli_runner().invoke(args=["users", "grant-pro", mover.mobile, "--reason", "a gift"])
    assert granted.exit_code == 0, granted.output
    changed = mover.change(mover.codes()[0], current_password=PASSWORD).json
    assert changed["user"]["tier"] == "pro"
    assert newcomer(app, mover.mobile)[1]["user"]["tier"] == "basic"


def test_deleting_the_account_afterwards_refills_nothing(app, mover):
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


def test_what_both_numbers_spent_adds_up_and_counts_once_on_the_way_back(app, make_mover):
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


def test_a_refund_counts_on_both_sides(app, mover):
    reply = spend(mover, mover.token, 1)
    changed = mover.change(mover.codes()[0], current_password=PASSWORD).json["access_token"]
    cancel = f"/chatroom/{reply['chatroom_id']}/messages/{reply['id']}/cancel"
    assert mover.client.post(cancel, headers={"Authorization": f"Bearer {changed}"}).status_code == 200
    assert used(mover, changed) == 0
    visitor, tokens = newcomer(app, mover.mobile)
    assert used(visitor, tokens["access_token"]) == 0


def test_operators_count_a_carried_prompt_once(app, mover):
    spend(mover, mover.token, 2)
    mover.change(mover.codes()[0], current_password=PASSWORD)
    result = app.test_cli_runner().invoke(
        args=["usage", "report", "--from", "2026-01-01", "--to", "2999-01-01", "--by", "tier", "--csv"]
    )
    assert result.output.splitlines()[1].startswith("basic,2,")


def test_charges_of_an_earlier_version_go_along(app, mover):
    spend(mover, mover.token, 2)
    sql(app, "UPDATE prompt_charges SET user_id = NULL, day = day - 1")
    changed = mover.change(mover.codes()[0], current_password=PASSWORD).json["access_token"]
    days = mover.client.get("/user/usage/history", headers={"Authorization": f"Bearer {changed}"}).json["items"]
    assert [day["prompts"] for day in days[-2:]] == [2, 0]


def test_charges_that_an_earlier_version_made_for_the_new_number_stay_somebody_elses(app, mover):
    visitor, tokens = newcomer(app, mover.new)
    spend(visitor, tokens["access_token"], 2)
    headers = {"Authorization": f"Bearer {tokens['access_token']}"}
    assert visitor.client.delete("/user/me", headers=headers).status_code == 204
    sql(app, "UPDATE prompt_charges SET user_id = NULL, day = day - 1")
    changed = mover.change(mover.codes()[0], current_password=PASSWORD).json["access_token"]
    days = mover.client.get("/user/usage/history", headers={"Authorization": f"Bearer {changed}"}).json["items"]
    assert {day["prompts"] for day in days} == {0}


# Proofs


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


def test_without_a_password_the_code_is_the_other_proof(make_mover):
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


def test_codes_are_good_for_this_alone(app, mover, make_mover, other_numbers):
    new, current = mover.codes()
    assert_problem(mover.verify(current), 401, "otp_invalid")  # no login
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


def test_codes_cool_down_for_either_number(app, mover, other_numbers):
    mover.codes()
    assert_problem(mover.ask(), 429, "otp_cooldown")
    assert_problem(mover.ask(next(other_numbers)), 429, "otp_cooldown")  # the present number got one just now
    age_codes(app, mover.mobile, seconds=61)
    assert_problem(mover.ask(), 429, "otp_cooldown")
    assert mover.send_otp().status_code == 202  # a login is another purpose


def test_a_refused_request_sends_neither_code(app, mover):
    mover.codes()
    before = sql(app, "SELECT count(*) FROM one_time_codes")
    age_codes(app, mover.new, seconds=61)
    assert_problem(mover.ask(), 429, "otp_cooldown")
    assert sql(app, "SELECT count(*) FROM one_time_codes") == before


def test_a_taken_number_is_told_only_to_who_has_its_code(mover, make_member):
    owner, _ = make_member()
    free, taken = mover.ask(), None
    age_codes(mover.app, mover.mobile, seconds=61)
    mover.new = owner.mobile
    taken = mover.ask()
    assert (free.status_code, set(free.json)) == (taken.status_code, set(taken.json))
    code = taken.json["otp"]
    assert_problem(mover.change(wrong(code), current_password=PASSWORD), 401, "otp_invalid")
    assert_problem(mover.change(code, current_password=PASSWORD), 409, "account_exists")
    assert_problem(mover.change(code, current_password=PASSWORD), 401, "otp_invalid")  # it is used up
    assert mover.me(mover.token).json["mobile"] == mover.mobile


def test_a_claim_that_nobody_verified_gives_way(app, mover):
    claim = Visitor(app, mover.new, ip="198.51.100.9")
    assert claim.sign_up(name="Somebody").status_code == 201
    login = claim.send_otp().json["otp"]
    assert mover.change(mover.codes()[0], current_password=PASSWORD).status_code == 200
    assert_problem(claim.sign_up(), 409, "account_exists")
    # Who has the code of a number has the number: the account that it has now.
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
def test_bad_requests_for_codes(mover, body, field):
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
def test_bad_verifications(mover, proof, field):
    body = {"new_mobile": mover.new, "otp": "123456"} | proof
    body = {name: mover.mobile if value == "OWN" else value for name, value in body.items()}
    answer = mover.post("/auth/change-mobile/verify", token=mover.token, **body)
    assert field in assert_problem(answer, 422, "validation_error")["errors"]


def test_it_takes_a_token(app, mover):
    anonymous = Visitor(app, mover.mobile)
    assert_problem(anonymous.post("/auth/change-mobile", new_mobile=mover.new), 401, "token_missing")
    body = {"new_mobile": mover.new, "otp": "123456", "current_password": PASSWORD}
    assert_problem(anonymous.post("/auth/change-mobile/verify", **body), 401, "token_missing")


# Races


def owners(app, *mobiles):
    """Who has verified each number; None for nobody."""
    found = []
    for mobile in mobiles:
        rows = sql(app, "SELECT id FROM users WHERE mobile = :mobile AND verified_at IS NOT NULL", mobile=mobile)
        found.append(str(rows[0][0]) if rows else None)
    return found


def test_twenty_at_once_change_it_once(app, mover):
    new, current = mover.codes()
    proofs = [{"current_password": PASSWORD}, {"current_otp": current}]
    calls = [lambda proof=proofs[number % 2]: mover.change(new, **proof) for number in range(20)]
    answers = all_at_once(calls, retry=False)
    statuses = Counter(answer.status_code for answer in answers)
    assert statuses[200] == 1, statuses
    assert set(statuses) <= {200, 401, 422, 429, 503}, statuses
    assert owners(app, mover.mobile, mover.new) == [None, mover.id]


def test_two_sessions_with_two_numbers_have_one_end(app, make_mover, other_numbers):
    for _ in range(ROUNDS):
        mover = make_mover(password=PASSWORD)
        other = Mover(mover, mover.login(PASSWORD).json | {}, next(other_numbers))
        first = mover.codes()[0]
        age_codes(app, mover.mobile, seconds=61)
        second = other.codes()[0]
        answers = all_at_once(
            [
                lambda who=mover, otp=first: who.change(otp, current_password=PASSWORD),
                lambda who=other, otp=second: who.change(otp, current_password=PASSWORD),
            ],
            retry=False,
        )
        assert Counter(answer.status_code for answer in answers) == {200: 1, 401: 1}, [a.text for a in answers]
        assert sorted(owners(app, mover.mobile, mover.new, other.new), key=str) == sorted(
            [None, None, mover.id], key=str
        )


def test_two_who_want_each_others_number_do_not_block_one_another(app, make_mover):
    for _ in range(ROUNDS):
        one, two = make_mover(password=PASSWORD), make_mover(password=PASSWORD)
        one.new, two.new = two.mobile, one.mobile
        codes = {who: who.codes() for who in (one, two)}
        answers = all_at_once(
            [lambda who=who, proof=codes[who]: who.change(proof[0], current_otp=proof[1]) for who in (one, two)],
            retry=False,
        )
        for answer in answers:
            assert_problem(answer, 409, "account_exists")
        assert owners(app, one.mobile, two.mobile) == [one.id, two.id]


def test_against_deletion_there_is_one_consistent_end(app, make_mover):
    for _ in range(ROUNDS):
        mover = make_mover(password=PASSWORD)
        new = mover.codes()[0]
        headers = {"Authorization": f"Bearer {mover.token}"}
        changed, deleted = all_at_once(
            [
                lambda who=mover, otp=new: who.change(otp, current_password=PASSWORD),
                lambda who=mover, sent=headers: who.client.delete("/user/me", headers=sent),
            ]
        )
        assert (changed.status_code, deleted.status_code) in {(200, 204), (401, 204), (200, 401)}
        end = [None, mover.id] if deleted.status_code == 401 else [None, None]
        assert owners(app, mover.mobile, mover.new) == end


def test_against_somebody_signing_up_with_the_number_one_has_it(app, make_mover):
    for _ in range(ROUNDS):
        mover = make_mover(password=PASSWORD)
        stranger = Visitor(app, mover.new, ip="198.51.100.9")
        new = mover.codes()[0]
        assert stranger.sign_up().status_code == 201
        login = stranger.send_otp().json["otp"]
        changed, verified, signed = all_at_once(
            [
                lambda who=mover, otp=new: who.change(otp, current_password=PASSWORD),
                lambda who=stranger, otp=login: who.verify(otp),
                stranger.sign_up,
            ]
        )
        assert signed.status_code in {201, 409}
        assert verified.status_code in {200, 401}, verified.text
        has_it = owners(app, mover.new)
        if changed.status_code == 200:
            assert has_it == [mover.id]
        else:
            assert_problem(changed, 409, "account_exists")
            assert has_it == [verified.json["user"]["id"]] != [mover.id]
            assert owners(app, mover.mobile) == [mover.id]
