"""What a code looks like, where it is shown, and what is stored of it."""

import re

from app.auth.models import OneTimeCode, Purpose
from app.auth.otp import hash_code
from app.core.db import db
from tests.auth.conftest import Visitor


def test_code_is_six_digits_and_comes_with_its_lifetime(visitor):
    response = visitor.send_otp()
    assert response.status_code == 202
    assert re.fullmatch(r"\d{6}", response.json["otp"])
    assert response.json["mobile"] == visitor.mobile
    assert response.json["expires_in"] == 300
    assert isinstance(response.json["resend_in"], int)


def test_code_is_not_in_the_answer_unless_it_is_delivered_that_way(app, make_app, visitor):
    response = Visitor(make_app(otp_delivery="log"), visitor.mobile).send_otp()
    assert response.status_code == 202
    assert "otp" not in response.json


def test_codes_are_drawn_from_all_six_digits(app, other_numbers):
    codes = [Visitor(app, next(other_numbers)).send_otp().json["otp"] for _ in range(80)]
    assert all(re.fullmatch(r"\d{6}", code) for code in codes)
    assert len(set(codes)) >= 78
    assert len({code[0] for code in codes}) >= 6


def test_code_is_stored_only_as_a_keyed_hash(app, visitor):
    code = visitor.send_otp().json["otp"]
    with app.app_context():
        [record] = db.session.scalars(db.select(OneTimeCode))
        stored = " ".join(str(getattr(record, column.key)) for column in OneTimeCode.__table__.columns)
        assert code not in re.findall(r"\b\d{6}\b", stored)
        assert visitor.mobile.removeprefix("+") not in stored
        assert record.code_hash == hash_code(visitor.mobile, Purpose.LOGIN, code)
        assert re.fullmatch(r"[0-9a-f]{64}", record.code_hash)


def test_stored_hash_is_bound_to_its_number_its_purpose_and_our_secret(app, make_app):
    with app.app_context():
        hashes = {
            hash_code("+14155552671", Purpose.LOGIN, "123456"),
            hash_code("+14155552672", Purpose.LOGIN, "123456"),
            hash_code("+14155552671", Purpose.RESET_PASSWORD, "123456"),
            hash_code("+14155552671", Purpose.LOGIN, "123457"),
        }
    with make_app(jwt_secret="another-secret-long-enough-for-hs256-tokens").app_context():
        hashes.add(hash_code("+14155552671", Purpose.LOGIN, "123456"))
    assert len(hashes) == 5
