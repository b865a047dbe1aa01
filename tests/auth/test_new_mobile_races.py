"""A change of the number that meets another one, a deletion, or a signup: one consistent end."""

from collections import Counter

from app.auth import new_mobile
from app.auth.passwords import require_password
from tests.auth.conftest import PASSWORD, Mover, Visitor, sql
from tests.people import age_codes, all_at_once
from tests.problems import assert_problem

ROUNDS = 6  # so that now the one is faster, now the other


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


def test_a_password_that_changes_while_it_is_compared_moves_no_number(app, mover, monkeypatch):
    """Its session has ended by then, which was a thief's."""
    otp, _ = mover.codes()

    def change_it_after(*args):
        require_password(*args)
        change = {"token": mover.token, "current_password": PASSWORD, "new_password": "another good password"}
        assert mover.post("/auth/change-password", **change).status_code == 200

    monkeypatch.setattr(new_mobile, "require_password", change_it_after)
    assert_problem(mover.change(otp, current_password=PASSWORD), 401, "token_revoked")
    assert owners(app, mover.mobile, mover.new) == [mover.id, None]


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
