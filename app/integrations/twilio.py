"""Text messages through Twilio's Messages API (https://www.twilio.com/docs/messaging/api/message-resource)."""

import time
from http import HTTPStatus

import requests

CONNECT_SECONDS, READ_SECONDS = 3.0, 10.0
API_VERSION = "2010-04-01"
MESSAGING_SERVICE = "MG"  # how Twilio's ids of a messaging service begin


class SmsRejected(Exception):
    """Twilio refuses this message, and would refuse it again."""


class SmsUnavailable(Exception):
    """Twilio did not take the message this time."""


class SmsUnconfirmed(Exception):
    """Twilio did not answer in time, and may have taken the message."""


def send_sms(mobile: str, text: str, *, account_sid: str, auth_token: str, sender: str, api_base: str) -> str:
    """Send a text to a number in E.164. Returns Twilio's id of the message.

    sender: one of the account's numbers, or a messaging service (`MG…`).
    Takes up to CONNECT_SECONDS + READ_SECONDS. Raises SmsRejected, SmsUnavailable, SmsUnconfirmed.
    """
    sender_field = "MessagingServiceSid" if sender.startswith(MESSAGING_SERVICE) else "From"
    began = time.monotonic()
    try:
        answer = requests.post(
            f"{api_base.rstrip('/')}/{API_VERSION}/Accounts/{account_sid}/Messages.json",
            data={"To": mobile, "Body": text, sender_field: sender},
            auth=(account_sid, auth_token),
            timeout=(CONNECT_SECONDS, READ_SECONDS),
            allow_redirects=False,
        )
        body = answer.json()
    except requests.JSONDecodeError:
        body = {}
    except requests.ReadTimeout as error:  # or the TLS handshake took CONNECT_SECONDS, and nothing was sent
        was_sent = time.monotonic() - began >= READ_SECONDS
        raise (SmsUnconfirmed if was_sent else SmsUnavailable)(type(error).__name__) from None
    except requests.RequestException as error:
        raise SmsUnavailable(type(error).__name__) from None
    fields = body if isinstance(body, dict) else {}
    if answer.status_code == HTTPStatus.CREATED:
        return str(fields.get("sid", ""))
    is_transient = answer.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR
    is_transient = is_transient or answer.status_code == HTTPStatus.TOO_MANY_REQUESTS
    kind, code = SmsUnavailable if is_transient else SmsRejected, fields.get("code")
    raise kind(f"HTTP {answer.status_code}" + (f" (Twilio error {code})" if isinstance(code, int) else ""))
