"""The order in which the requests of the collection tell the whole story, and what each needs beyond its description.

A route that is not served is left out. One that is served and not told of here is put at the end of its folder, with
the example body of its description.
"""

from dataclasses import dataclass, field
from typing import Any

from sandbox.postman import scripts

FOLDERS = {  # a folder, and the beginnings of the paths in it
    "auth": ("/auth",),
    "user": ("/user",),
    "chatroom": ("/chatroom",),
    "messages": ("/chatroom/{chatroom_id}/message",),
    "subscription": ("/subscribe", "/subscription"),
    "webhook": ("/webhook",),
    "operations": ("/",),
}
FAREWELL = "farewell"


@dataclass(frozen=True)
class Step:
    """A request. `also`: statuses that are fine beside the documented successes."""

    operation: str
    name: str
    body: dict[str, Any] | str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    also: tuple[int, ...] = ()
    only: tuple[int, ...] = ()
    token: str = "access_token"


MOBILE = {"mobile": "{{mobile}}"}
ROOM = "/chatroom/{chatroom_id}"
MESSAGE = ROOM + "/messages/{message_id}"

STORY: dict[str, list[Step]] = {
    "auth": [
        Step("POST /auth/signup", "Sign up", MOBILE | {"name": "Ada"}, before=(scripts.NEW_PERSON,)),
        Step("POST /auth/send-otp", "Ask for a code", MOBILE, after=(scripts.KEEP_CODE,)),
        Step(
            "POST /auth/verify-otp",
            "Trade the code for tokens",
            MOBILE | {"otp": "{{otp}}"},
            after=(scripts.KEEP_TOKENS,),
        ),
        Step("POST /auth/refresh", "Renew the tokens", token="refresh_token", after=(scripts.KEEP_TOKENS,)),
        Step(
            "POST /auth/change-password",
            "Set a password",
            {"new_password": "{{password}}"},
            after=(scripts.KEEP_TOKENS,),
        ),
        Step(
            "POST /auth/change-password",
            "Change the password",
            {"current_password": "{{password}}", "new_password": "{{new_password}}"},
            after=(scripts.KEEP_TOKENS,),
        ),
        Step("POST /auth/forgot-password", "Forget the password", MOBILE, after=(scripts.KEEP_CODE,)),
        Step(
            "POST /auth/reset-password",
            "Set another one by a code",
            MOBILE | {"otp": "{{otp}}", "new_password": "{{password}}"},
        ),
        Step(
            "POST /auth/login",
            "Log in by password",
            MOBILE | {"password": "{{password}}"},
            after=(scripts.KEEP_TOKENS,),
        ),
        Step("POST /auth/logout", "Log out"),
        Step(
            "POST /auth/login",
            "Log in on one device",
            MOBILE | {"password": "{{password}}"},
        ),
        Step(
            "POST /auth/login",
            "Log in on another device",
            MOBILE | {"password": "{{password}}"},
            after=(scripts.KEEP_TOKENS,),
        ),
        Step("GET /auth/sessions", "List your sessions", after=(scripts.KEEP_OTHER_SESSION,)),
        Step("DELETE /auth/sessions/{session_id}", "End the session on the other device"),
    ],
    "user": [
        Step("GET /user/me", "See your profile"),
        Step("PATCH /user/me", "Change your name", {"name": "Ada Lovelace"}),
        Step("GET /user/usage", "See what is left of the day"),
    ],
    "chatroom": [
        Step("POST /chatroom", "Open a chatroom", {"title": "Postman"}, after=(scripts.KEEP_ROOM,)),
        Step("GET /chatroom", "List your chatrooms"),
        Step(f"PATCH {ROOM}", "Rename it", {"title": "Trying things out"}),
    ],
    "messages": [
        Step(
            f"POST {ROOM}/message",
            "Send a message and wait for the reply",
            {"text": "Explain DNS to a child"},
            {"Prefer": "wait=15", "Idempotency-Key": "{{$guid}}"},
            after=(scripts.KEEP_REPLY,),
        ),
        Step(f"GET {MESSAGE}", "Read the reply", after=(scripts.REPLY_IS_COMPLETED,)),
        Step(
            f"POST {ROOM}/message",
            "Send one whose reply is to be followed",
            {"text": "How do I look a name up myself?", "stream": True},
            after=(scripts.KEEP_REPLY,),
        ),
        Step(f"GET {MESSAGE}/stream", "Follow the reply as it is written", after=(scripts.STREAM_IS_COMPLETED,)),
        Step(f"GET {ROOM}/messages", "List the messages"),
        Step(f"GET {ROOM}", "Open the chatroom's page"),
        Step(f"POST {ROOM}/message", "Send another one", {"text": "And IPv6?"}, after=(scripts.KEEP_REPLY,)),
        Step(f"POST {MESSAGE}/cancel", "Cancel its reply (409 when it is there already)", also=(409,)),
        Step(f"POST {MESSAGE}/retry", "Have it made again (409 when it was not canceled)", also=(409,)),
    ],
    "subscription": [
        Step("GET /subscription/status", "See your subscription"),
        Step("POST /subscribe/pro", "Buy Pro: open the address in a browser"),
        Step("POST /subscription/portal", "Manage the subscription"),
    ],
    "webhook": [
        Step(
            "POST /webhook/stripe",
            "An event of Stripe's, signed",
            "{{webhook_body}}",
            {"Stripe-Signature": "{{webhook_signature}}", "Content-Type": "application/json"},
            before=(scripts.SIGN_WEBHOOK,),
        ),
        Step(
            "POST /webhook/stripe",
            "The same, its signature broken",
            "{{webhook_body}} ",
            {"Stripe-Signature": "{{webhook_signature}}", "Content-Type": "application/json"},
            only=(400,),
        ),
    ],
    "operations": [
        Step("GET /healthz", "Is the process alive?"),
        Step("GET /readyz", "Can it serve?"),
        Step("GET /metrics", "How is it doing?", token="metrics_token"),
    ],
    FAREWELL: [
        Step("GET /user/me/export", "Take your data with you"),
        Step(f"DELETE {ROOM}", "Delete the chatroom"),
        Step("DELETE /user/me", "Delete your account"),
    ],
}
