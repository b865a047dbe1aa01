"""Which numbers codes are sent to: those of served countries that a person can hold."""

import pytest

from tests.auth.conftest import Visitor
from tests.problems import assert_problem


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
def test_codes_go_to_allowed_countries_alone(app, make_app, codes, mobile, served):
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


@pytest.mark.parametrize("mobile", ["+14155552671", "+4915112345678", "+442079460958", "+33912345678"])
def test_codes_go_to_mobile_fixed_and_internet_phones(app, mobile):
    assert Visitor(app, mobile).send_otp().status_code == 202
