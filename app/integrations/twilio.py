"""Text messages through Twilio's Messages API (https://www.twilio.com/docs/messaging/api/message-resource)."""

from http import HTTPStatus

import requests

CONNECT_SECONDS, READ_SECONDS = 3.0, 10.0
API_VERSION = "2010-04-01"
MESSAGING_SERVICE = "MG"  # how Twilio's ids of a messaging service begin


class SmsError(Exception):
    """A message was not sent."""


class SmsRejected(SmsError):
    """Twilio refuses this message and would again."""


class SmsUnavailable(SmsError):
    """Twilio did not take the message this time."""


class Twilio:
    """Sends text messages. sender: one of the account's numbers, or a messaging service (`MG…`)."""

    def __init__(self, *, account_sid: str, auth_token: str, sender: str, api_base: str) -> None:
        self.address = f"{api_base.rstrip('/')}/{API_VERSION}/Accounts/{account_sid}/Messages.json"
        self.login = (account_sid, auth_token)
        self.sender = {"MessagingServiceSid" if sender.startswith(MESSAGING_SERVICE) else "From": sender}

    def send(self, mobile: str, text: str) -> str:
        """Send a text to a number in E.164; Twilio's id of the message.

        Takes up to CONNECT_SECONDS + READ_SECONDS. Raises SmsRejected, SmsUnavailable.
        """
        try:
            answer = requests.post(
                self.address,
                data={"To": mobile, "Body": text, **self.sender},
                auth=self.login,
                timeout=(CONNECT_SECONDS, READ_SECONDS),
                allow_redirects=False,
            )
            body = answer.json()
        except requests.JSONDecodeError:
            body = {}
        except requests.RequestException as error:
            raise SmsUnavailable(type(error).__name__) from None
        fields = body if isinstance(body, dict) else {}
        if answer.status_code == HTTPStatus.CREATED:
            return str(fields.get("sid", ""))
        passing = answer.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR
        passing = passing or answer.status_code == HTTPStatus.TOO_MANY_REQUESTS
        kind, code = SmsUnavailable if passing else SmsRejected, fields.get("code")
        raise kind(f"HTTP {answer.status_code}" + (f" (Twilio error {code})" if isinstance(code, int) else ""))
