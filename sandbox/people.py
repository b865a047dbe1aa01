"""People who use the service over HTTP at the same time, and checks of what became of their messages."""

import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from http import HTTPStatus
from typing import Any, TypeVar

import requests

from sandbox.stack.processes import direct_session, wait_until

Result = TypeVar("Result")
FINAL = {"completed", "failed", "canceled"}
PATIENCE_SECONDS = 10
AREA_CODES = (202, 212, 303, 312, 404, 415, 503, 617, 702, 808)


def fresh_number() -> str:
    """Return a random valid number that nobody has: North America keeps 555 free."""
    return f"+1{secrets.choice(AREA_CODES)}555{secrets.randbelow(10_000):04}"


@dataclass
class Person:
    """A user with a token and one chatroom."""

    base_url: str
    session: requests.Session = field(default_factory=direct_session)
    room: str = ""
    prompts: list[str] = field(default_factory=list)

    def arrive(self) -> None:
        """Sign up, log in and open a chatroom."""
        mobile = fresh_number()
        while self._call("POST", "/auth/signup", json={"mobile": mobile}).status_code == HTTPStatus.CONFLICT:
            mobile = fresh_number()
        code = self._call("POST", "/auth/send-otp", json={"mobile": mobile}).json()["otp"]
        tokens = self._call("POST", "/auth/verify-otp", json={"mobile": mobile, "otp": code}).json()
        self.session.headers["Authorization"] = f"Bearer {tokens['access_token']}"
        self.room = self._call("POST", "/chatroom", json={"title": "Chaos"}).headers["Location"]

    def send(self, prompt: str) -> bool:
        """Send a prompt. Returns whether it was accepted."""
        accepted = self._call("POST", f"{self.room}/message", json={"text": prompt}).status_code == 202
        if accepted:
            self.prompts.append(prompt)
        return accepted

    def send_streamed(self, prompt: str) -> str:
        """Send a prompt whose reply is streamed. Returns the reply's path."""
        body = {"text": prompt, "stream": True}
        return self._call("POST", f"{self.room}/message", json=body).headers["Location"]

    def follow(self, reply: str) -> requests.Response:
        """Open a reply's stream."""
        response = self.session.get(f"{self.base_url}{reply}/stream", stream=True, timeout=600)
        response.raise_for_status()
        return response

    def read_list(self) -> None:
        self._call("GET", "/chatroom").raise_for_status()

    def messages(self) -> list[dict[str, Any]]:
        """Return the room's messages, oldest first."""
        messages: list[dict[str, Any]] = self._call("GET", self.room).json()["messages"]
        return messages

    def all_ended(self) -> bool:
        """Return whether every reply has ended; False also if the service does not answer."""
        try:
            replies = [message for message in self.messages() if message["role"] == "model"]
        except (requests.RequestException, KeyError):
            return False
        return all(reply["status"] in FINAL for reply in replies)

    def used(self) -> int:
        return int(self._call("GET", "/user/usage").json()["used"])

    def _call(self, method: str, path: str, **options: Any) -> requests.Response:
        return self.session.request(method, self.base_url + path, timeout=PATIENCE_SECONDS, **options)


@dataclass
class Findings:
    """What became of the messages that were sent. None may be refused: they were sent before anything broke."""

    accepted: int = 0
    refused: int = 0
    lost: int = 0
    doubled: int = 0
    out_of_order: int = 0
    miscounted: int = 0
    longest_wait: float = 0.0

    @property
    def good(self) -> bool:
        wrong = self.refused, self.lost, self.doubled, self.out_of_order, self.miscounted
        return self.accepted > 0 and not any(wrong)


def everybody(people: Sequence[Person], what: Callable[[Person], Result]) -> list[Result]:
    """Let all people do something at the same time. Returns the results, in their order."""
    with ThreadPoolExecutor(len(people)) as pool:
        return list(pool.map(what, people))


def wait_for_all(people: Sequence[Person], *, seconds: float) -> None:
    """Wait until every reply has ended, but no longer than `seconds`."""
    deadline = time.monotonic() + seconds
    for person in people:
        wait_until(person.all_ended, seconds=deadline - time.monotonic())


def look(people: Sequence[Person], *, sent: int) -> Findings:
    """Compare what was accepted with what is there. sent: how many messages each person tried to send."""
    found = Findings()
    for person in people:
        messages = person.messages()
        replies = [message for message in messages if message["role"] == "model"]
        answered = [reply for reply in replies if reply["status"] == "completed"]
        found.accepted += len(person.prompts)
        found.refused += sent - len(person.prompts)
        found.lost += len(person.prompts) - len(answered)
        found.doubled += len(replies) - len({reply["in_reply_to"] for reply in replies})
        found.doubled += max(0, len(replies) - len(person.prompts))
        found.out_of_order += not in_order(person.prompts, messages)
        found.miscounted += person.used() != len(person.prompts)
        waits = [seconds_between(reply["created_at"], reply["completed_at"]) for reply in answered]
        found.longest_wait = max([found.longest_wait, *waits])
    return found


def in_order(prompts: Sequence[str], messages: Sequence[dict[str, Any]]) -> bool:
    """Return whether prompts are in the order sent, and each reply saw the earlier ones and ended after them."""
    asked = [message["text"] for message in messages if message["role"] == "user"]
    replies = [message for message in messages if message["role"] == "model" and message["status"] == "completed"]
    ends = [reply["completed_at"] for reply in replies]
    saw_all_before = all(f"I see {2 * index + 1} turn" in reply["text"] for index, reply in enumerate(replies))
    return asked == list(prompts) and ends == sorted(ends) and saw_all_before


def seconds_between(start: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()
