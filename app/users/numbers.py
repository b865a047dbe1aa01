"""Mobile numbers: any international spelling in, E.164 out."""

import re

import phonenumbers
from phonenumbers import PhoneNumberType

from app.core import settings
from app.core.crypto import keyed_hash
from app.users.models import E164

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
    """Whether ALLOWED_COUNTRY_CODES (regions like `DE`, calling codes like `49`) has the country of an E.164 number."""
    allowed = settings().allowed_country_codes
    number = phonenumbers.parse(mobile)
    return not allowed or bool({str(number.country_code), phonenumbers.region_code_for_number(number)} & {*allowed})


def is_personal_number(mobile: str) -> bool:
    """Whether a number in E.164 is of a type that a person can hold."""
    return phonenumbers.number_type(phonenumbers.parse(mobile)) in ALLOWED_NUMBER_TYPES


def mobile_key(mobile: str) -> str:
    """The number as a keyed hash, for counters that outlive the account."""
    return keyed_hash("mobile", mobile)
