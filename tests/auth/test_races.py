"""Several requests about one number at the same moment."""

from collections import Counter

import pytest

from tests.auth.conftest import Visitor, all_at_once
from tests.conftest import age_codes
from tests.problems import assert_problem

OWN, STRANGE = "the-owners-own-password", "what-the-stranger-chose"
ROUNDS = 8  # so that now the one is faster, now the other


@pytest.mark.parametrize("strangers_address", ["198.51.100.9", "203.0.113.7"])
def test_signups_that_race_a_verification_take_nothing_over(app, other_numbers, strangers_address):
    """Even from the owner's own address: the signup that stood when the code was sent is the one that counts."""
    for _ in range(ROUNDS):
        owner = Visitor(app, next(other_numbers))
        stranger = Visitor(app, owner.mobile, ip=strangers_address)
        owner.sign_up(password=OWN)
        otp = owner.send_otp().json["otp"]
        signups = [stranger.sign_up, lambda who=stranger: who.sign_up(password=STRANGE)] * 2  # the first are faster
        *signed_up, verified = all_at_once([*signups, lambda who=owner, otp=otp: who.verify(otp)])
        assert verified.status_code == 200, verified.text
        assert {answer.status_code for answer in signed_up} <= {201, 409}
        assert_problem(stranger.sign_up(password=STRANGE), 409, "account_exists")
        assert owner.me(verified.json["access_token"]).json["id"] == verified.json["user"]["id"]
        assert stranger.login(STRANGE).status_code == 401
        assert owner.login(OWN).status_code == (200 if verified.json["user"]["has_password"] else 401)


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
