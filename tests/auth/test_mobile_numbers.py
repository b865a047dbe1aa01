"""Mobile numbers: how they may be spelled, and which ones codes are sent to."""

import pytest

from app.core.db import db
from app.users.models import User
from tests.auth.conftest import Visitor
from tests.problems import assert_problem


@pytest.mark.parametrize(
    "spelling",
    [
        "+1 415 555 2671",
        "+1 (415) 555-2671",
        "+1-415-555-2671",
        "+1.415.555.2671",
        " +14155552671 ",
        "+１４１５５５５２６７１",
    ],
)
def test_every_international_spelling_is_the_same_number(app, spelling):
    plain, spelled = Visitor(app, "+14155552671"), Visitor(app, spelling)
    assert spelled.sign_up().json["mobile"] == "+14155552671"
    assert spelled.verify(plain.send_otp().json["otp"]).json["user"]["mobile"] == "+14155552671"
    assert_problem(plain.sign_up(), 409, "account_exists")


@pytest.mark.parametrize(
    ("path", "required"),
    [
        ("signup", {"mobile"}),
        ("send-otp", {"mobile"}),
        ("verify-otp", {"mobile", "otp"}),
        ("login", {"mobile", "password"}),
        ("forgot-password", {"mobile"}),
        ("reset-password", {"mobile", "otp", "new_password"}),
        ("change-password", {"new_password"}),
        ("change-mobile", {"new_mobile"}),
        ("change-mobile/verify", {"new_mobile", "otp"}),
    ],
)
def test_a_body_without_its_required_fields_is_refused_and_names_them(user, visitor, path, required):
    answer = visitor.post(f"/auth/{path}", token=user.access_token)
    assert set(assert_problem(answer, 422, "validation_error")["errors"]) == required


@pytest.mark.parametrize(
    ("spelling", "stored"),
    [
        ("+44 (0)20 7946 0958", "+442079460958"),
        ("+91 98765 43210", "+919876543210"),
        ("+49 1512 3456789", "+4915123456789"),
    ],
)
def test_numbers_of_other_countries_are_accepted(app, spelling, stored):
    assert Visitor(app, spelling).sign_up().json["mobile"] == stored


@pytest.mark.parametrize(
    "wrong",
    [
        "4155552671",
        "0014155552671",
        "(415) 555-2671",
        "+1",
        "+",
        "+1415555267",
        "+141555526710000",
        "+4930715341522553",  # phonenumbers calls it valid; E.164 has 15 digits at most
        "+999123456789",
        "+1 415 555 2671 ext. 5",
        "tel:+14155552671;ext=5",
        "hello",
        "+" + "1" * 31,
        "+" + "1" * 5_000,
        "+14155552671\u0000",
        "\u200f+14155552671\u202c x",
    ],
)
def test_anything_but_a_number_with_a_country_code_is_422(app, wrong):
    visitor = Visitor(app, wrong)
    for answer in (visitor.sign_up(), visitor.send_otp(), visitor.verify("123456")):
        assert list(assert_problem(answer, 422, "validation_error")["errors"]) == ["mobile"]
    with app.app_context():
        assert db.session.scalars(db.select(User)).all() == []


@pytest.mark.parametrize(
    ("codes", "mobile", "served"),
    [
        ("", "+4915112345678", True),
        ("49", "+4915112345678", True),
        ("DE, at", "+4915112345678", True),
        ("US", "+14155552671", True),
        ("US", "+18765551234", False),  # Jamaica shares the calling code
        ("+1", "+18765551234", True),
        ("1", "+4915112345678", False),
    ],
)
def test_codes_go_only_to_allowed_countries(app, make_app, codes, mobile, served):
    visitor = Visitor(make_app(allowed_country_codes=codes), mobile)
    for answer in (visitor.sign_up(), visitor.send_otp(), visitor.forgot()):
        if served:
            assert answer.status_code in {201, 202}
        else:
            assert "mobile" in assert_problem(answer, 422, "validation_error")["errors"]
    assert visitor.verify("123456").status_code == 401, "who has an account may still prove it"


@pytest.mark.parametrize(
    ("kind", "mobile"),
    [
        ("premium rate", "+19002345678"),
        ("premium rate of no country", "+979123456789"),
        ("premium rate", "+448712345678"),
        ("shared cost", "+4918012345"),
        ("shared cost of no country", "+80812345678"),
        ("company", "+4918500123456"),
        ("voicemail", "+3933101234501"),
        ("pager", "+447640123456"),
        ("personal number", "+447012345678"),
        ("toll-free", "+18002345678"),
    ],
)
def test_codes_do_not_go_to_numbers_that_no_person_holds(app, make_app, kind, mobile):
    for codes in ("", "1, 44, 49, 39, 808, 979"):
        visitor = Visitor(make_app(allowed_country_codes=codes), mobile)
        for answer in (visitor.sign_up(), visitor.send_otp(), visitor.forgot()):
            errors = assert_problem(answer, 422, "validation_error")["errors"]
            assert errors == {"mobile": ["Codes are not sent to numbers of this kind; use a mobile number."]}


@pytest.mark.parametrize("mobile", ["+870301234567", "+881612345678", "+8823421234"])
def test_codes_go_to_satellite_phones_unless_countries_are_named(app, make_app, mobile):
    assert Visitor(app, mobile).send_otp().status_code == 202
    refused = Visitor(make_app(allowed_country_codes="49"), mobile).send_otp()
    assert "mobile" in assert_problem(refused, 422, "validation_error")["errors"]


@pytest.mark.parametrize("mobile", ["+14155552671", "+4915112345678", "+442079460958", "+33912345678"])
def test_codes_go_to_mobile_fixed_and_internet_phones(app, mobile):
    assert Visitor(app, mobile).send_otp().status_code == 202
