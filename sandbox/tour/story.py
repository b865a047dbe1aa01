"""The story of the tour, chapter by chapter, and the visitor who makes its requests and shows every step.

Each chapter gets the visitor and leaves in it what later ones need.
"""

import json
import secrets
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import requests

from sandbox.tour.page import Page, curl_line

_TIMEOUT_SECONDS = 30
_REPLY_SECONDS = 60.0
_POLL_SECONDS = 0.5
# Numbers of the exchange 555, which belong to nobody that a message could reach.
_AREA_CODES = (202, 212, 303, 312, 404, 415, 503, 617, 702, 808)
_TRIES = 5
_MOST_PROMPTS = 20
_PRO_SECONDS = 20


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
        deadline = time.monotonic() + _REPLY_SECONDS
        while reply["status"] in {"queued", "generating"}:
            if time.monotonic() > deadline:
                raise TourError(f"The reply was not there after {_REPLY_SECONDS:.0f} s: is the worker running?")
            time.sleep(_POLL_SECONDS)
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


Chapter = Callable[[Visitor], None]


def sign_up(visitor: Visitor) -> None:
    """Sign up with a mobile number"""
    visitor.page.note("A claim to a number: nothing counts until a code proves it.")
    for _ in range(_TRIES):
        visitor.mobile = fresh_number()
        body = {"mobile": visitor.mobile, "name": "Ada"}
        if visitor.call("POST", "/auth/signup", body, expect=(201, 409)).status_code == HTTPStatus.CREATED:
            return
    raise TourError(f"Every one of {_TRIES} random numbers was taken already.")


def log_in(visitor: Visitor) -> None:
    """Prove the number: a code for a token"""
    visitor.page.note("The code comes in the answer, as OTP_DELIVERY=response has it.")
    sent = visitor.call("POST", "/auth/send-otp", {"mobile": visitor.mobile}, expect=202).json()
    visitor.expect("otp" in sent, "The code is not in the answer: the tour needs OTP_DELIVERY=response.")
    visitor.page.note("It works once. The access token goes along with every request from here on.")
    body = {"mobile": visitor.mobile, "otp": sent["otp"]}
    visitor.token = visitor.call("POST", "/auth/verify-otp", body, expect=200).json()["access_token"]


def open_chatroom(visitor: Visitor) -> None:
    """Open a chatroom"""
    room = visitor.call("POST", "/chatroom", {"title": "By the sea"}, expect=201)
    visitor.room = f"/chatroom/{room.json()['id']}"


def first_message(visitor: Visitor) -> None:
    """Send a message, wait for the reply"""
    visitor.page.note("The prompt is stored, its reply queued for a worker; `Prefer: wait` holds the answer back.")
    answer, _ = visitor.prompt("My name is Ada, and I love tide pools. What lives in them?")
    visitor.limit = int(answer.headers.get("RateLimit-Limit", 0))
    visitor.expect(
        2 < visitor.limit <= _MOST_PROMPTS,
        f"The tour needs a daily limit of 3 to {_MOST_PROMPTS} prompts, and BASIC_DAILY_PROMPTS is not that.",
    )
    visitor.page.note("Without waiting, it would be read from its `Location`.")
    visitor.call("GET", answer.headers["Location"], expect=200, brief=True)


def second_message(visitor: Visitor) -> None:
    """The model sees the conversation"""
    visitor.page.note("This question makes no sense without the message before.")
    _, reply = visitor.prompt("What is my name, and what do I love?")
    visitor.expect("Ada" in reply["text"], "The second reply does not know the first message.")


def look_around(visitor: Visitor) -> None:
    """The list of chatrooms, and the room with its messages"""
    visitor.page.note("The list comes from PostgreSQL once, then from the cache in Redis.")
    for cache in ("MISS", "HIT"):
        listed = visitor.call("GET", "/chatroom", expect=200, brief=cache == "HIT")
        visitor.expect(listed.headers.get("X-Cache") == cache, f"The list's X-Cache is not {cache}.")
    visitor.page.note("The room's page: its latest messages, oldest first.")
    room = visitor.call("GET", visitor.room, expect=200).json()
    visitor.expect(len(room["messages"]) == 4, "The room does not show two prompts and two replies.")


def watch_a_reply(visitor: Visitor) -> None:
    """Watch a reply being written"""
    visitor.page.note("With `stream: true` the reply comes piece by piece, as Server-Sent Events.")
    body = {"text": "Tell me more about the sea anemone.", "stream": True}
    accepted = visitor.call("POST", f"{visitor.room}/message", body, expect=202, brief=True)
    location = accepted.headers["Location"]
    written = visitor.follow(f"{location}/stream")
    stored = visitor.call("GET", location, expect=200, brief=True).json()
    visitor.expect(written == stored["text"], "What was streamed is not what was stored.")


def spend_the_day(visitor: Visitor) -> None:
    """Use up the day"""
    visitor.page.note(f"A Basic user has {visitor.limit} prompts in a calendar day, UTC.")
    for number in range(4, visitor.limit + 1):
        answer, _ = visitor.prompt(f"Prompt number {number}: and then?", brief=True)
        left = answer.headers["RateLimit-Remaining"]
        visitor.expect(left == str(visitor.limit - number), f"{left} prompts are left after prompt number {number}.")


def one_too_many(visitor: Visitor) -> None:
    """One prompt too many"""
    visitor.page.note(f"Prompt number {visitor.limit + 1} is refused, and says when to come back.")
    refused = visitor.call("POST", f"{visitor.room}/message", {"text": "One more?"}, expect=429)
    visitor.expect(refused.json()["code"] == "daily_quota_exceeded", "The refusal is not daily_quota_exceeded.")
    missing = {"Retry-After", "RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"} - set(refused.headers)
    visitor.expect(not missing, f"The refusal lacks {', '.join(sorted(missing))}.")


def usage(visitor: Visitor) -> None:
    """What is left of the day"""
    used = visitor.call("GET", "/user/usage", expect=200).json()
    visitor.expect(used["used"] == visitor.limit, f"Usage says {used['used']}, and {visitor.limit} were spent.")


def buy_pro(visitor: Visitor) -> None:
    """Buy Pro"""
    visitor.page.note("A page of Stripe's takes the money; in the sandbox a stand-in does, and no money moves.")
    opened = visitor.call("POST", "/subscribe/pro", expect=(200, 503))
    if opened.status_code != HTTPStatus.OK:
        visitor.page.note("Payments are not set up here, so Pro stays unbought.")
        return
    url = str(opened.json()["url"])
    if urlsplit(url).hostname != "127.0.0.1":
        visitor.page.note("This is the real Stripe, and the tour does not buy: pay on that page yourself.")
        return
    visitor.page.note("What its button Pay does. The stand-in then sends the signed webhooks that Stripe would.")
    visitor.press(f"{url}/pay")
    deadline = time.monotonic() + _PRO_SECONDS
    while visitor.call("GET", "/subscription/status", expect=200).json()["tier"] != "pro":
        visitor.expect(time.monotonic() < deadline, f"Pro was paid for, and not there after {_PRO_SECONDS} s.")
        time.sleep(_POLL_SECONDS)
    visitor.page.note("The prompt that was refused is answered now: Pro has no daily limit.")
    answer, _ = visitor.prompt("One more?")
    visitor.expect("RateLimit-Limit" not in answer.headers, "A prompt of Pro's was counted against a limit.")


STORY: list[Chapter] = [
    sign_up,
    log_in,
    open_chatroom,
    first_message,
    second_message,
    look_around,
    watch_a_reply,
    spend_the_day,
    one_too_many,
    usage,
    buy_pro,
]


def fresh_number() -> str:
    """A random valid number."""
    return f"+1{secrets.choice(_AREA_CODES)}555{secrets.randbelow(10_000):04}"


def tell(story: list[Chapter], visitor: Visitor) -> None:
    """Go through the chapters; their docstrings are the headings. Raises TourError."""
    for chapter in story:
        visitor.page.heading(chapter.__doc__ or chapter.__name__)
        chapter(visitor)
