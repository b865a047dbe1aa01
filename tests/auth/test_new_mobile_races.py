"""A change of the number that races another change, a deletion or a signup has one consistent end."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event

from app.auth import events, service
from app.auth.models import EventType
from app.auth.passwords import require_password
from sandbox.stack.processes import wait_until
from tests.auth.conftest import PASSWORD, Mover, Visitor, sql
from tests.people import age_codes, all_at_once, no_deadlocks
from tests.problems import assert_problem
from tests.rooms import somebody_waits_for_a_lock

ROUNDS = 6  # so that now the one is faster, now the other one


def owners(app, *mobiles):
    """Return who has verified each number, None for nobody."""
    found = []
    for mobile in mobiles:
        rows = sql(app, "SELECT id FROM users WHERE mobile = :mobile AND verified_at IS NOT NULL", mobile=mobile)
        found.append(str(rows[0][0]) if rows else None)
    return found


def test_twenty_changes_at_once_change_the_number_once(app, mover):
    new, current = mover.codes()
    proofs = [{"current_password": PASSWORD}, {"current_otp": current}]
    calls = [lambda proof=proofs[number % 2]: mover.change(new, **proof) for number in range(20)]
    answers = all_at_once(calls, retry=False)
    statuses = Counter(answer.status_code for answer in answers)
    assert statuses[200] == 1, statuses
    assert set(statuses) <= {200, 401, 422, 429, 503}, statuses
    assert owners(app, mover.mobile, mover.new) == [None, mover.id]


def test_two_sessions_that_change_to_two_numbers_end_consistently(app, make_mover, other_numbers):
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


def test_a_password_that_changes_while_it_is_compared_does_not_change_the_number(app, mover, monkeypatch):
    """The session, a thief's, has ended by then."""
    otp, _ = mover.codes()

    def change_it_after(*args):
        require_password(*args)
        change = {"token": mover.token, "current_password": PASSWORD, "new_password": "another good password"}
        assert mover.post("/auth/change-password", **change).status_code == 200

    monkeypatch.setattr(service, "require_password", change_it_after)
    assert_problem(mover.change(otp, current_password=PASSWORD), 401, "token_revoked")
    assert owners(app, mover.mobile, mover.new) == [mover.id, None]


def test_a_session_that_ends_while_its_password_is_compared_does_not_change_the_number(app, mover, monkeypatch):
    otp, _ = mover.codes()

    def log_out_after(*args):
        require_password(*args)
        assert mover.post("/auth/logout", token=mover.token).status_code == 204

    monkeypatch.setattr(service, "require_password", log_out_after)
    assert_problem(mover.change(otp, current_password=PASSWORD), 401, "token_revoked")
    assert owners(app, mover.mobile, mover.new) == [mover.id, None]


def test_two_users_who_want_each_others_number_do_not_deadlock(app, make_mover):
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


def test_two_users_who_want_each_others_number_do_not_wait_for_each_other(app, make_mover, monkeypatch):
    """With passwords as proofs, neither request locks the other's throttle: each has locked its own user by then."""
    one, two = make_mover(password=PASSWORD), make_mover(password=PASSWORD)
    one.new, two.new = two.mobile, one.mobile
    otps = {who: who.codes()[0] for who in (one, two)}
    meeting = Barrier(2)

    def meet_after(step):
        def step_and_meet(*args):
            result = step(*args)
            meeting.wait(20)
            return result

        return step_and_meet

    for step in (service.require_password, service.lock_session):
        monkeypatch.setattr(service, step.__name__, meet_after(step))
    calls = [lambda who=who: who.change(otps[who], current_password=PASSWORD) for who in otps]
    for answer in all_at_once(calls, retry=False):
        assert_problem(answer, 409, "account_exists")
    assert owners(app, one.mobile, two.mobile) == [one.id, two.id]


def test_a_change_and_the_end_of_another_session_do_not_deadlock(app, mover, monkeypatch):
    """The end has locked its session and then refers to the user; the change has locked the user."""
    other, otp = mover.login(PASSWORD).json, mover.codes()[0]
    path, headers = "/auth/sessions", {"Authorization": f"Bearer {other['access_token']}"}
    listed = mover.client.get(path, headers=headers).json["items"]
    (session,) = (one["id"] for one in listed if one["current"])
    is_ended, record = Event(), events.record

    def record_while_the_change_waits(user_id, kind, *args):
        if kind == EventType.SESSION_REVOKED:
            is_ended.set()
            assert wait_until(somebody_waits_for_a_lock, seconds=20)
        record(user_id, kind, *args)

    monkeypatch.setattr(events, "record", record_while_the_change_waits)
    with no_deadlocks(), ThreadPoolExecutor(1) as another:
        ended = another.submit(mover.client.delete, f"{path}/{session}", headers=headers)
        assert is_ended.wait(20)
        assert mover.change(otp, current_password=PASSWORD).status_code == 200
        assert ended.result().status_code == 204
    assert owners(app, mover.mobile, mover.new) == [None, mover.id]


def test_a_change_that_races_a_deletion_ends_consistently(app, make_mover):
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


def test_one_of_a_change_and_a_signup_that_race_gets_the_number(app, make_mover):
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
