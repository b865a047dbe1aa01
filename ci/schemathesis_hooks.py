"""Tells Schemathesis what it cannot know: valid tokens, existing ids, and that each operation must succeed once.

Operations that end tokens use those of a new user; all others share one person's. In the phases that make ids up, every
other request gets real ones in its path; stateful tests take them from answers. SUCCESSES names a JUnit report with a
check for each operation, which fails if the operation was never answered with 2xx.
"""

import atexit
import itertools
import os
from typing import Any
from xml.etree import ElementTree

import requests
import schemathesis

from ci.newcomer import tokens

BASE_URL = os.environ["BASE_URL"]
ENDS_TOKENS = {"POST /auth/logout", "POST /auth/change-password", "POST /auth/refresh", "DELETE /user/me"}
ENDS_A_SESSION = "DELETE /auth/sessions/{session_id}"
ENDS_A_KEY = "DELETE /user/api-keys/{key_id}"
# Nobody guesses a code, a password or a signature: the Postman collection and the tour succeed with these.
WANTS_A_SECRET = {
    "POST /auth/verify-otp", "POST /auth/login", "POST /auth/reset-password", "POST /auth/change-mobile/verify",
    "POST /webhook/stripe",
}  # fmt: skip
LONG = "Explain DNS [[sandbox:words=400]]"

real_or_made_up = itertools.cycle([True, False])
operations: set[str] = set()
succeeded: set[str] = set()


class Person:
    """Somebody with tokens."""

    def __init__(self) -> None:
        self.tokens = tokens(BASE_URL)
        self.headers = {"Authorization": f"Bearer {self.tokens['access_token']}"}

    def post(self, path: str, body: dict[str, Any] | None = None, **headers: str) -> Any:
        answer = requests.post(f"{BASE_URL}{path}", json=body, headers=self.headers | headers, timeout=60)
        answer.raise_for_status()
        return answer.json()

    def session(self) -> str:
        answer = requests.get(f"{BASE_URL}/auth/sessions", headers=self.headers, timeout=60)
        return str(answer.json()["items"][0]["id"])

    def ids_for(self, label: str) -> dict[str, str]:
        """Return the ids of a new room and, if the path has one, of a reply in the state that the operation needs."""
        room = self.post("/chatroom", {"title": "Described"})["id"]
        if "{message_id}" not in label:
            return {"chatroom_id": room}
        unfinished = label.endswith(("/cancel", "/retry"))
        body = {"text": LONG, "stream": True} if unfinished else {"text": "Hello"}
        sent = self.post(f"/chatroom/{room}/message", body, Prefer="wait=0" if unfinished else "wait=15")
        reply = sent["reply"]["id"]
        if label.endswith("/retry"):
            self.post(f"/chatroom/{room}/messages/{reply}/cancel")
        return {"chatroom_id": room, "message_id": reply}


person = Person()


@schemathesis.auth(refresh_interval=None)
class Bearer:
    """The token of a request."""

    def get(self, case: Any, _context: Any) -> Person:
        return Person() if case.operation.label in ENDS_TOKENS | {ENDS_A_SESSION, ENDS_A_KEY} else person

    def set(self, case: Any, data: Person, _context: Any) -> None:
        kind = "refresh_token" if case.operation.label == "POST /auth/refresh" else "access_token"
        case.headers["Authorization"] = f"Bearer {data.tokens[kind]}"
        if case.operation.label == ENDS_A_SESSION and makes_ids_up(case) and next(real_or_made_up):
            case.path_parameters["session_id"] = data.session()
        if case.operation.label == ENDS_A_KEY and makes_ids_up(case) and next(real_or_made_up):
            case.path_parameters["key_id"] = data.post("/user/api-keys", {"name": "CI", "scopes": ["chat:read"]})["id"]


def makes_ids_up(case: Any) -> bool:
    """Return whether a case has ids that are valid but made up."""
    return case.meta is not None and case.meta.generation.mode.is_positive and case.meta.phase.name.value != "stateful"


@schemathesis.hook
def before_load_schema(_context: Any, raw_schema: dict[str, Any]) -> None:
    """Describe a stream by its events, so that each is checked: for client generators, it is described as one text."""
    answer = raw_schema["paths"]["/chatroom/{chatroom_id}/messages/{message_id}/stream"]["get"]["responses"]["200"]
    answer["content"]["text/event-stream"]["schema"] = {"$ref": "#/components/schemas/StreamEvent"}


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: dict[str, Any]) -> None:
    if "{chatroom_id}" in case.operation.label and makes_ids_up(case) and next(real_or_made_up):
        case.path_parameters.update(person.ids_for(case.operation.label))


@schemathesis.hook
def after_call(_context: Any, case: Any, response: Any) -> None:
    operations.add(case.operation.label)
    if response.status_code in range(200, 300):
        succeeded.add(case.operation.label)


@atexit.register
def report() -> None:
    suite = ElementTree.Element("testsuite")
    for label in sorted(operations - WANTS_A_SECRET):
        check = ElementTree.SubElement(suite, "testcase", classname="succeeded", name=label)
        if label not in succeeded:
            ElementTree.SubElement(check, "failure", message="never answered with 2xx")
            print(f"{label} was never answered with 2xx.")
    ElementTree.ElementTree(suite).write(os.environ["SUCCESSES"])
