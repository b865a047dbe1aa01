"""Several requests about one number at the same moment."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from app.core.transactions import transaction
from app.users.service import find_user_by_mobile, lock_user, lock_user_by_mobile
from tests.auth.conftest import Visitor
from tests.people import age_codes, all_at_once
from tests.problems import assert_problem

ROUNDS = 8  # so that now the one is faster, now the other one


def test_signups_that_race_a_verification_take_nothing_over(app, other_numbers):
    for _ in range(ROUNDS):
        owner = Visitor(app, next(other_numbers))
        stranger = Visitor(app, owner.mobile, ip="198.51.100.9")
        owner.sign_up()
        otp = owner.send_otp().json["otp"]
        *signed_up, verified = all_at_once([*[stranger.sign_up] * 4, lambda who=owner, otp=otp: who.verify(otp)])
        assert verified.status_code == 200, verified.text
        assert {answer.status_code for answer in signed_up} <= {201, 409}
        assert_problem(stranger.sign_up(), 409, "account_exists")
        assert owner.me(verified.json["access_token"]).json["id"] == verified.json["user"]["id"]


def test_parallel_requests_for_a_code_leave_exactly_one_that_works(app, visitor):
    visitor.sign_up()
    earlier = visitor.send_otp().json["otp"]
    age_codes(app, visitor.mobile, seconds=61)
    answers = all_at_once([visitor.send_otp] * 8)
    assert Counter(answer.status_code for answer in answers) == {202: 1, 429: 7}
    (otp,) = [answer.json["otp"] for answer in answers if answer.status_code == 202]
    if otp != earlier:
        assert_problem(visitor.verify(earlier), 401, "otp_invalid")
    assert visitor.verify(otp).status_code == 200


def test_a_wrong_code_does_not_wait_for_the_owners_row_lock(app, make_member):
    """The wait would tell a known number from an unknown one. The tenth wrong code writes an event of the owner's: a
    deletion and it would each wait for the other."""
    owner, _ = make_member()
    calls = [lambda: owner.verify("wrong")] * 5 + [lambda: owner.reset("wrong", "a-good-long-password")] * 5
    with ThreadPoolExecutor(1) as another, app.app_context(), transaction():
        assert lock_user_by_mobile(owner.mobile) is not None
        for call in calls:
            assert_problem(another.submit(call).result(), 401, "otp_invalid")
    assert_problem(owner.verify("wrong"), 429, "otp_locked")


def test_locking_a_user_who_was_read_before_reads_the_stored_row_again(app, make_member):
    owner, tokens = make_member(name="Ada")
    headers = {"Authorization": f"Bearer {tokens['access_token']}"}
    with ThreadPoolExecutor(1) as another, app.app_context(), transaction():
        user = find_user_by_mobile(owner.mobile)
        changed = another.submit(owner.client.patch, "/user/me", json={"name": "Eve"}, headers=headers)
        assert changed.result().status_code == 200
        assert lock_user(user.id).name == "Eve"
