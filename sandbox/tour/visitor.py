"""The visitor who makes the tour's requests, shows every step, and checks each answer."""

import json
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import requests

from sandbox.stack.processes import direct_session
from sandbox.tour.page import Page, curl_line

_TIMEOUT_SECONDS = 30
_PATIENCE_SECONDS = 60
_POLL_SECONDS = 0.5


class TourError(Exception):
    """Something did not come out as expected; the message says what, in one sentence."""


class Visitor:
    """Makes requests with a token, prints them with their answers, and checks each status.

    What a chapter leaves for later ones is kept here: `mobile`, `token`, `room` (a path) and `limit`.
    """

    def __init__(self, api: str, page: Page) -> None:
        self.api = api
        self.page = page
        self.mobile = ""
        self.token = ""
        self.room = ""
        self.limit = 0
        self._session = direct_session()

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
        """Make a request and show it. brief: leave out the answer's body.

        Raises TourError if there is no answer, or its status is not an expected one.
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
            raise TourError(f"{method} {path} was answered {answer.status_code}, but {expected} was expected.")
        return answer

    def prompt(self, text: str, *, brief: bool = False) -> tuple[requests.Response, dict[str, Any]]:
        """Send a prompt that must be answered. Returns the response, and the reply once it has ended.

        Raises TourError if the reply is not `completed`.
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
        if answer.status_code == HTTPStatus.ACCEPTED:
            reply = self.wait_for_reply(answer.headers["Location"])
        if reply["status"] != "completed":
            code = (reply["error"] or {}).get("code")
            raise TourError(f"The reply ended as {reply['status']} ({code}), but completed was expected.")
        return answer, reply

    def wait_for_reply(self, location: str) -> Any:
        """Read a reply until it has ended. Raises TourError."""
        return self.read_until(lambda reply: reply["completed_at"] is not None, location, "The reply", brief=True)

    def read_until(self, wanted: Callable[[Any], bool], path: str, what: str, *, brief: bool = False) -> Any:
        """Read `path` until its JSON is as wanted. Raises TourError if that takes too long."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not wanted(seen := self.call("GET", path, expect=200, brief=brief).json()):
            late = f"{what} was not there after {_PATIENCE_SECONDS} s: is the worker running?"
            self.expect(time.monotonic() < deadline, late)
            time.sleep(_POLL_SECONDS)
        return seen

    def follow(self, path: str) -> str:
        """Follow a reply's stream, and show its text as it comes. Returns the text. Raises TourError."""
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
        self.expect(event == "completed", f"The stream ended with {event or 'nothing'}, but completed was expected.")
        return text

    def press(self, url: str) -> None:
        """Press a button on another site's page: send a form without fields and no token. Raises TourError."""
        self.page.request(f'curl -X POST "{url}"')
        try:
            answer = self._session.post(url, timeout=_TIMEOUT_SECONDS, allow_redirects=False)
        except requests.RequestException as error:
            raise TourError(f"{url} got no answer ({type(error).__name__}).") from None
        self.page.answer(f"{answer.status_code} {answer.reason}", answer.headers, None, brief=True)
        if not answer.is_redirect:
            raise TourError(f"{url} was answered {answer.status_code}, but a redirect was expected.")

    def expect(self, truth: bool, complaint: str) -> None:
        """Raise TourError with the complaint if `truth` is False."""
        if not truth:
            raise TourError(complaint)


def json_of(answer: requests.Response) -> Any:
    """Return the body if it is JSON, else None."""
    try:
        return answer.json()
    except ValueError:
        return None
