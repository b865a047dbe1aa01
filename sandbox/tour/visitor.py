"""The visitor who makes the tour's requests, shows every step, and expects an answer of each."""

import json
import time
from typing import Any

import requests

from sandbox.tour.page import Page, curl_line

_TIMEOUT_SECONDS = 30
REPLY_SECONDS = 60.0
POLL_SECONDS = 0.5


class TourError(Exception):
    """Something did not come out as expected; the message says what, in one sentence."""


class Visitor:
    """Makes requests with a token, prints them with their answers, and expects a status of each.

    What a chapter leaves for later ones is kept here: `mobile`, `token`, `room` (a path) and `limit`.
    """

    def __init__(self, api: str, page: Page) -> None:
        self.api = api
        self.page = page
        self.mobile = ""
        self.token = ""
        self.room = ""
        self.limit = 0
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy between the tour and this machine

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        expect: int | tuple[int, ...],
        headers: dict[str, str] | None = None,
        brief: bool = False,
    ) -> requests.Response:
        """Make a request and show it. brief: without the answer's body.

        Raises TourError when the answer has another status than those expected.
        """
        extra = headers or {}
        shown = {"Authorization": "Bearer $TOKEN", **extra} if self.token else extra
        sent = {"Authorization": f"Bearer {self.token}", **extra} if self.token else extra
        self.page.request(curl_line(method, path, shown, body))
        try:
            answer = self._session.request(
                method, self.api + path, json=body, headers=sent, timeout=_TIMEOUT_SECONDS, allow_redirects=False
            )
        except requests.RequestException as error:
            raise TourError(f"{method} {path} got no answer ({type(error).__name__}).") from None
        self.page.answer(f"{answer.status_code} {answer.reason}", answer.headers, json_of(answer), brief=brief)
        wanted = expect if isinstance(expect, tuple) else (expect,)
        if answer.status_code not in wanted:
            expected = " or ".join(map(str, wanted))
            raise TourError(f"{method} {path} was answered {answer.status_code}, and {expected} was expected.")
        return answer

    def prompt(self, text: str, *, brief: bool = False) -> tuple[requests.Response, dict[str, Any]]:
        """Send a prompt that is to be answered; the response, and the reply once it has ended.

        Raises TourError when the reply is not `completed`.
        """
        answer = self.call(
            "POST",
            f"{self.room}/message",
            {"text": text},
            headers={"Prefer": "wait=20"},
            expect=(200, 202),
            brief=brief,
        )
        reply = answer.json()["reply"]
        deadline = time.monotonic() + REPLY_SECONDS
        while reply["status"] in {"queued", "generating"}:
            if time.monotonic() > deadline:
                raise TourError(f"The reply was not there after {REPLY_SECONDS:.0f} s: is the worker running?")
            time.sleep(POLL_SECONDS)
            reply = self.call("GET", answer.headers["Location"], expect=200, brief=brief).json()
        if reply["status"] != "completed":
            code = (reply["error"] or {}).get("code")
            raise TourError(f"The reply ended {reply['status']} ({code}), and completed was expected.")
        return answer, reply

    def follow(self, path: str) -> str:
        """Follow a reply's stream and show its text as it comes; the text. Raises TourError."""
        shown = {"Authorization": "Bearer $TOKEN"}
        self.page.request(curl_line("GET", path, shown).replace("curl ", "curl -N ", 1))
        text = ""
        try:
            with self._session.get(
                self.api + path,
                headers={"Authorization": f"Bearer {self.token}"},
                stream=True,
                timeout=_TIMEOUT_SECONDS,
            ) as answer:
                event = ""
                for line in answer.iter_lines(chunk_size=None, decode_unicode=True):
                    name, _, value = line.partition(": ")
                    event = value if name == "event" else event
                    if name == "data" and event == "reset":
                        text = ""
                    elif name == "data" and event == "delta":
                        piece = json.loads(value)["text"]
                        text += piece
                        self.page.write(piece)
        except requests.RequestException as error:
            raise TourError(f"GET {path} broke off ({type(error).__name__}).") from None
        self.page.say()
        self.expect(event == "completed", f"The stream ended with {event or 'nothing'}, and completed was expected.")
        return text

    def press(self, url: str) -> None:
        """Press a button of a page elsewhere: a form without fields, and no token goes along. Raises TourError."""
        self.page.request(f'curl -X POST "{url}"')
        try:
            answer = self._session.post(url, timeout=_TIMEOUT_SECONDS, allow_redirects=False)
        except requests.RequestException as error:
            raise TourError(f"{url} got no answer ({type(error).__name__}).") from None
        self.page.answer(f"{answer.status_code} {answer.reason}", answer.headers, None, brief=True)
        if not answer.is_redirect:
            raise TourError(f"{url} was answered {answer.status_code}, and a redirect was expected.")

    def expect(self, truth: bool, complaint: str) -> None:
        """Raise TourError with the complaint unless it is true."""
        if not truth:
            raise TourError(complaint)


def json_of(answer: requests.Response) -> Any:
    """The body, when it is JSON; else None."""
    try:
        return answer.json()
    except ValueError:
        return None
