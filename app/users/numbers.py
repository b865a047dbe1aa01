"""Mobile numbers: any international spelling in, E.164 out."""

import re
from typing import Any

import marshmallow as ma
import phonenumbers
from phonenumbers import PhoneNumberType

from app.core import settings
from app.core.crypto import keyed_hash
from app.core.schemas import Text
from app.users.models import E164

MAX_SPELLING_CHARS = 32
# What a person can hold. Premium-rate, shared-cost and company numbers, pagers, voicemails and the like cost the
# sender, and some pay a fraudster for every message that we send.
ALLOWED_NUMBER_TYPES = {
    PhoneNumberType.MOBILE,
    PhoneNumberType.FIXED_LINE,
    PhoneNumberType.FIXED_LINE_OR_MOBILE,
    PhoneNumberType.VOIP,
}


def to_e164(spelling: str) -> str | None:
    """The number in E.164, or None when it has no country code or is no valid number.

    phonenumbers calls some German numbers valid that are longer or shorter than E.164 allows.
    """
    try:
        number = phonenumbers.parse(spelling)
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_valid_number(number) or number.extension:
        return None
    mobile = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    return mobile if re.fullmatch(E164, mobile) else None


def is_served(mobile: str) -> bool:
    """Whether ALLOWED_COUNTRY_CODES, regions (`DE`) or calling codes (`49`), has the country of a number in E.164."""
    allowed = settings().allowed_country_codes
    number = phonenumbers.parse(mobile)
    return not allowed or bool({str(number.country_code), phonenumbers.region_code_for_number(number)} & {*allowed})


def is_personal_number(mobile: str) -> bool:
    """Whether a number in E.164 is of a type that a person can hold."""
    return phonenumbers.number_type(phonenumbers.parse(mobile)) in ALLOWED_NUMBER_TYPES


def mobile_key(mobile: str) -> str:
    """The number as a keyed hash, for counters that outlive the account."""
    return keyed_hash("mobile", mobile)


class MobileNumber(Text):
    """A mobile number with its country code, as E.164."""

    def __init__(self, **kwargs: Any) -> None:
        description = "A mobile number with its country code, in any international spelling."
        metadata = {"description": description, "example": "+1 415 555 2671"}
        super().__init__(max_chars=MAX_SPELLING_CHARS, metadata=metadata, **kwargs)

    def _deserialize(self, *args: object, **kwargs: object) -> str:
        number = to_e164(super()._deserialize(*args, **kwargs))  # type: ignore[arg-type]
        if number is None:
            raise ma.ValidationError("Not a valid mobile number; start with + and the country code.")
        return number


class ServedMobileNumber(MobileNumber):
    """A mobile number that codes are sent to, by its country and type: the defence against SMS pumping."""

    def _deserialize(self, *args: object, **kwargs: object) -> str:
        number = super()._deserialize(*args, **kwargs)
        if not is_served(number):
            raise ma.ValidationError("Numbers of this country are not served.")
        if not is_personal_number(number):
            raise ma.ValidationError("Codes are not sent to numbers of this kind; use a mobile number.")
        return number
