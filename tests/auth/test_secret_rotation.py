"""New secrets on live data: what goes on with JWT_SECRET_PREVIOUS and HASH_SECRET, and what ends without them."""

from types import SimpleNamespace

import jwt
import pytest

from app.core.crypto import seal, unseal
from tests.auth.conftest import Visitor
from tests.problems import assert_problem

OLD, NEW = "the-secret-that-was-used-until-today", "the-secret-that-is-used-from-today-on"
HASHES = "the-secret-of-hashes-that-stays-as-it-is"
QUOTA = 2


@pytest.fixture(params=[HASHES, None], ids=["with HASH_SECRET", "with JWT_SECRET alone"])
def before(request, app, make_app, other_numbers) -> SimpleNamespace:
    """Somebody under the old secret: logged in, with the day's prompts spent and a code on its way."""
    own = {"hash_secret": request.param} if request.param else {}
    old = make_app(jwt_secret=OLD, basic_daily_prompts=QUOTA, **own)
    visitor = Visitor(old, next(other_numbers))
    visitor.sign_up()
    tokens = visitor.verify(visitor.send_otp().json["otp"]).json
    person = SimpleNamespace(mobile=visitor.mobile, tokens=tokens, hash_secret=request.param or OLD)
    person.room = visitor.post("/chatroom", token=tokens["access_token"], title="A room").json["id"]
    for _ in range(QUOTA):
        assert send(visitor, person).status_code == 202
    person.reset_code = visitor.forgot().json["otp"]
    with old.app_context():
        person.sealed = seal("a message that waits")
    return person


def send(visitor, person, token=None):
    path = f"/chatroom/{person.room}/message"
    return visitor.post(path, token=token or person.tokens["access_token"], text="Hello")


@pytest.fixture
def make_later(make_app, before):
    """The same person on an application with other secrets."""

    def make(**secrets) -> Visitor:
        return Visitor(make_app(basic_daily_prompts=QUOTA, **secrets), before.mobile)

    return make


def test_rotation_ends_no_login_and_refills_no_quota(before, make_later):
    later = make_later(jwt_secret=NEW, jwt_secret_previous=OLD, hash_secret=before.hash_secret)
    assert later.me(before.tokens["access_token"]).status_code == 200
    refreshed = later.post("/auth/refresh", token=before.tokens["refresh_token"])
    assert refreshed.status_code == 200
    for token in (before.tokens["access_token"], refreshed.json["access_token"]):
        assert_problem(send(later, before, token), 429, "daily_quota_exceeded")
    assert later.reset(before.reset_code, "a-good-long-password").status_code == 204
    assert_problem(later.send_otp(), 429, "otp_cooldown")
    with later.app.app_context():
        assert unseal(before.sealed) == "a message that waits"


def test_once_the_previous_secret_is_gone_its_tokens_are_invalid(before, make_later):
    during = make_later(jwt_secret=NEW, jwt_secret_previous=OLD, hash_secret=before.hash_secret)
    refreshed = during.post("/auth/refresh", token=before.tokens["refresh_token"]).json
    after = make_later(jwt_secret=NEW, hash_secret=before.hash_secret)
    assert_problem(after.me(before.tokens["access_token"]), 401, "token_invalid")
    assert_problem(after.post("/auth/refresh", token=before.tokens["refresh_token"]), 401, "token_invalid")
    assert after.me(refreshed["access_token"]).status_code == 200
    assert_problem(send(after, before, refreshed["access_token"]), 429, "daily_quota_exceeded")


def test_processes_with_the_new_and_the_old_secret_accept_each_others_tokens(before, make_later):
    not_yet = make_later(jwt_secret=OLD, jwt_secret_previous=NEW, hash_secret=before.hash_secret)
    already = make_later(jwt_secret=NEW, jwt_secret_previous=OLD, hash_secret=before.hash_secret)
    newer = already.post("/auth/refresh", token=before.tokens["refresh_token"]).json
    assert not_yet.me(newer["access_token"]).status_code == 200
    assert already.me(before.tokens["access_token"]).status_code == 200


def test_changed_hash_secret_ends_codes_and_resets_the_quota_but_ends_no_login(before, make_later):
    later = make_later(jwt_secret=OLD, hash_secret="another-secret-of-hashes-than-there-was")
    assert_problem(later.reset(before.reset_code, "a-good-long-password"), 401, "otp_invalid")
    assert send(later, before).status_code == 202
    with later.app.app_context():
        assert unseal(before.sealed) is None


def test_changed_hash_secret_forgets_wrong_guesses(before, make_later):
    same = make_later(jwt_secret=OLD, hash_secret=before.hash_secret)
    assert [same.verify("no").status_code for _ in range(11)] == [401] * 10 + [429]
    later = make_later(jwt_secret=OLD, hash_secret="another-secret-of-hashes-than-there-was")
    assert later.verify("no").status_code == 401


@pytest.mark.parametrize("key_id", [None, "none of ours", "", "of the secret before"])
def test_a_key_id_does_not_help_a_token_that_is_signed_with_another_key(before, make_later, key_id):
    later = make_later(jwt_secret=NEW, jwt_secret_previous=OLD)
    token = before.tokens["access_token"]
    claims = jwt.decode(token, options={"verify_signature": False})
    named = jwt.get_unverified_header(token)["kid"] if key_id == "of the secret before" else key_id
    forged = jwt.encode(claims, "x" * 40, "HS256", headers={"kid": named} if named is not None else None)
    assert_problem(later.me(forged), 401, "token_invalid")
