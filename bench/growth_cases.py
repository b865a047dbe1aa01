"""The routes that `python -m bench growth` compares, and the user who calls them.

Routes that would wait for Stripe or for a reply are left out, such as an edit and the retry of a completed reply.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flask.testing import FlaskClient

PASSWORD = "a-password-of-the-bench"
PAGE = 100  # the most that a page may have


@dataclass(frozen=True)
class Request:
    """A request that is ready to send. It is the visitor's own unless `token` is given."""

    method: str
    path: str
    body: dict[str, Any] | None = None
    token: str = ""
    key: str = ""


class Visitor:
    """A user who has signed up, with more chatrooms and messages than the API would make. `room` is the long one."""

    def __init__(self, client: FlaskClient) -> None:
        self.client = client
        self.token = ""
        self._numbers, self._keys = itertools.count(3_000_000), itertools.count()
        tokens = self.newcomer()
        self.token, self.user_id = tokens["access_token"], tokens["user"]["id"]
        self.member = self.newcomer(password=PASSWORD)["user"]["mobile"]
        self.room, self.next_rooms, self.middle, self.finished = "", "", "", ""

    def find_the_middle(self, messages: int) -> None:
        """Find the long room, a reply in it, and the cursors of the list's second page and of the room's middle."""
        rooms = self.get("/chatroom")
        self.room, self.next_rooms = f"/chatroom/{rooms['items'][0]['id']}", rooms["next_cursor"]
        self.finished = f"{self.room}/messages/{self.get(f'{self.room}/messages')['items'][0]['id']}"
        for _ in range(max(1, messages // 2 // PAGE)):
            cursor = f"&cursor={self.middle}" if self.middle else ""
            self.middle = self.get(f"{self.room}/messages?limit={PAGE}{cursor}")["next_cursor"]

    def call(self, request: Request) -> Any:
        """Send a request and read its whole answer. Returns its JSON. Raises RuntimeError unless it is a success."""
        token = request.token or self.token
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        headers |= {"Idempotency-Key": request.key} if request.key else {}
        sent: dict[str, Any] = {"method": request.method, "json": request.body, "headers": headers}
        answer = self.client.open(request.path, buffered=True, **sent)  # to its end, where its task is queued
        content = answer.get_data()
        if answer.status_code >= 300:
            raise RuntimeError(f"{request.method} {request.path} answered {answer.status_code}: {content[:300]!r}")
        return answer.json if answer.is_json and content else None

    def get(self, path: str) -> Any:
        return self.call(Request("GET", path))

    def post(self, path: str, token: str = "", **body: Any) -> Any:
        return self.call(Request("POST", path, body, token))

    def key(self) -> str:
        """Return a key that was not used before."""
        return f"key-{next(self._keys)}"

    def number(self, *, signed_up: bool = True) -> str:
        """Return a number that nobody had before."""
        mobile = f"+1415{next(self._numbers)}"
        if signed_up:
            self.post("/auth/signup", mobile=mobile)
        return mobile

    def newcomer(self, password: str = "") -> Any:
        """Sign up a new user. Returns the tokens."""
        mobile = self.number()
        code = self.post("/auth/send-otp", mobile=mobile)["otp"]
        tokens = self.post("/auth/verify-otp", mobile=mobile, otp=code)
        if password:
            tokens = self.post("/auth/change-password", tokens["access_token"], new_password=password)
        return tokens

    def pending(self) -> str:
        """Return the address of a reply in the long room that waits to be generated."""
        reply = self.post(f"{self.room}/message", text="Hello")["reply"]
        return f"{self.room}/messages/{reply['id']}"


API_KEY = {"name": "CI", "scopes": ["chat:read"]}
Case = Callable[[Visitor], Request]  # only sending the request is timed, not preparing it


def read(path: str) -> Case:
    """Return a case of a route that only reads. path: with the visitor's attributes in braces."""
    return lambda visitor: Request("GET", path.format(visitor=visitor))


def verify(visitor: Visitor) -> Request:
    mobile = visitor.number()
    code = visitor.post("/auth/send-otp", mobile=mobile)["otp"]
    return Request("POST", "/auth/verify-otp", {"mobile": mobile, "otp": code})


def reset(visitor: Visitor) -> Request:
    mobile = visitor.newcomer()["user"]["mobile"]
    code = visitor.post("/auth/forgot-password", mobile=mobile)["otp"]
    return Request("POST", "/auth/reset-password", {"mobile": mobile, "otp": code, "new_password": PASSWORD})


def change_mobile(visitor: Visitor) -> Request:
    token, mobile = visitor.newcomer()["access_token"], visitor.number(signed_up=False)
    sent = visitor.post("/auth/change-mobile", token, new_mobile=mobile)
    body = {"new_mobile": mobile} | {name: sent[name] for name in ("otp", "current_otp")}
    return Request("POST", "/auth/change-mobile/verify", body, token)


def end_session(visitor: Visitor) -> Request:
    token = visitor.newcomer()["access_token"]
    session = visitor.call(Request("GET", "/auth/sessions", token=token))["items"][0]
    return Request("DELETE", f"/auth/sessions/{session['id']}", token=token)


def delete_key(visitor: Visitor) -> Request:
    token = visitor.newcomer()["access_token"]
    made = visitor.call(Request("POST", "/user/api-keys", API_KEY, token))
    return Request("DELETE", f"/user/api-keys/{made['id']}", token=token)


def list_after_a_change(visitor: Visitor) -> Request:
    visitor.call(Request("PATCH", visitor.room, {"title": "Another"}))
    return Request("GET", "/chatroom")


def delete_room(visitor: Visitor) -> Request:
    room = visitor.post("/chatroom", title="A room")
    return Request("DELETE", f"/chatroom/{room['id']}")


def retry(visitor: Visitor) -> Request:
    reply = visitor.pending()
    visitor.post(f"{reply}/cancel")
    return Request("POST", f"{reply}/retry")


CASES: dict[str, Case] = {
    "POST /auth/signup": lambda v: Request("POST", "/auth/signup", {"mobile": v.number(signed_up=False)}),
    "POST /auth/send-otp": lambda v: Request("POST", "/auth/send-otp", {"mobile": v.number()}),
    "POST /auth/verify-otp": verify,
    "POST /auth/login": lambda v: Request("POST", "/auth/login", {"mobile": v.member, "password": PASSWORD}),
    "POST /auth/forgot-password": lambda v: Request("POST", "/auth/forgot-password", {"mobile": v.number()}),
    "POST /auth/reset-password": reset,
    "POST /auth/change-password": lambda v: Request(
        "POST", "/auth/change-password", {"new_password": PASSWORD}, v.newcomer()["access_token"]
    ),
    "POST /auth/change-mobile": lambda v: Request(
        "POST", "/auth/change-mobile", {"new_mobile": v.number(signed_up=False)}, v.newcomer()["access_token"]
    ),
    "POST /auth/change-mobile/verify": change_mobile,
    "POST /auth/refresh": lambda v: Request("POST", "/auth/refresh", token=v.newcomer()["refresh_token"]),
    "POST /auth/logout": lambda v: Request("POST", "/auth/logout", token=v.newcomer()["access_token"]),
    "GET /auth/sessions": read("/auth/sessions"),
    "DELETE /auth/sessions/{id}": end_session,
    "GET /user/me": read("/user/me"),
    "PATCH /user/me": lambda _: Request("PATCH", "/user/me", {"name": "Ada"}),
    "DELETE /user/me": lambda v: Request("DELETE", "/user/me", token=v.newcomer()["access_token"]),
    "GET /user/me/export, of a new user": lambda v: Request(
        "GET", "/user/me/export", token=v.newcomer()["access_token"]
    ),
    "GET /user/security-events": read("/user/security-events"),
    "POST /user/api-keys": lambda v: Request("POST", "/user/api-keys", API_KEY, v.newcomer()["access_token"]),
    "GET /user/api-keys": read("/user/api-keys"),
    "DELETE /user/api-keys/{id}": delete_key,
    "GET /user/usage": read("/user/usage"),
    "GET /user/usage/history": read("/user/usage/history"),
    "GET /subscription/status": read("/subscription/status"),
    "POST /chatroom": lambda _: Request("POST", "/chatroom", {"title": "A room"}),
    "GET /chatroom, cached": read("/chatroom"),
    "GET /chatroom after a change": list_after_a_change,
    "GET /chatroom, second page": read("/chatroom?cursor={visitor.next_rooms}"),
    "GET /chatroom, archived": read("/chatroom?archived=true&limit=1"),
    "GET /chatroom/{id}": read("{visitor.room}"),
    "PATCH /chatroom/{id}": lambda v: Request("PATCH", v.room, {"title": "A title"}),
    "PATCH /chatroom/{id}, pinned": lambda v: Request("PATCH", v.room, {"pinned": True}),
    "DELETE /chatroom/{id}": delete_room,
    "GET /models": read("/models"),
    "GET /search": read("/search?q=words"),
    "GET …/messages": read("{visitor.room}/messages"),
    "GET …/messages, superseded ones too": read("{visitor.room}/messages?superseded=include"),
    "GET …/messages, from the middle": read("{visitor.room}/messages?cursor={visitor.middle}"),
    "POST …/message": lambda v: Request("POST", f"{v.room}/message", {"text": "Hello"}),
    "POST …/message with a key": lambda v: Request("POST", f"{v.room}/message", {"text": "Hello"}, key=v.key()),
    "GET …/messages/{id}": lambda v: Request("GET", v.finished),
    "GET …/messages/{id}/stream, finished": lambda v: Request("GET", f"{v.finished}/stream"),
    "POST …/messages/{id}/cancel": lambda v: Request("POST", f"{v.pending()}/cancel"),
    "POST …/messages/{id}/retry": retry,
    "GET /readyz": read("/readyz"),
    "GET /metrics": read("/metrics"),
}
