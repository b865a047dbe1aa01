"""The story that the Postman collection tells: its requests in order, and what each needs beyond its description.

Before and after a request, Postman runs JavaScript such as NEW_PERSON. Every step must name an operation that the API
describes; a test requires a step for each operation.
"""

from dataclasses import dataclass, field
from typing import Any

NEW_PERSON = """\
// Somebody new at each run, so that the story can be told again and again.
const digits = String(Math.floor(Math.random() * 8000000) + 2000000);
pm.environment.set("mobile", "+1415" + digits);
pm.environment.set("new_mobile", "+1212" + digits);
pm.environment.set("password", "correct horse " + digits);
pm.environment.set("new_password", "battery staple " + digits);"""

KEEP_CODE = """\
// Only with OTP_DELIVERY=response; otherwise put the code that reached you into the variable `otp`.
const answer = pm.response.json();
if (answer.otp) pm.environment.set("otp", answer.otp);"""

KEEP_NEW_MOBILE = """\
pm.environment.set("mobile", pm.response.json().user.mobile);"""

KEEP_TOKENS = """\
const tokens = pm.response.json();
pm.environment.set("access_token", tokens.access_token);
pm.environment.set("refresh_token", tokens.refresh_token);"""

KEEP_OTHER_SESSION = """\
const other = pm.response.json().items.find((session) => !session.current);
pm.test("there is another session", () => pm.expect(other).to.be.an("object"));
if (other) pm.environment.set("session_id", other.id);"""

KEEP_KEY = """\
const made = pm.response.json();
pm.environment.set("key_id", made.id);
pm.environment.set("api_key", made.key);"""

KEEP_ROOM = """\
pm.environment.set("chatroom_id", pm.response.json().id);"""

KEEP_REPLY = """\
pm.environment.set("message_id", pm.response.json().reply.id);"""

KEEP_PROMPT = """\
const prompt = pm.response.json().items.find((message) => message.role === "user");
pm.environment.set("message_id", prompt.id);"""

REPLY_IS_COMPLETED = """\
pm.test("the reply is there", () => pm.expect(pm.response.json().status).to.eql("completed"));"""

IS_FOUND = """\
pm.test("it is found", () => pm.expect(pm.response.json().items).to.not.be.empty);"""

STREAM_IS_COMPLETED = """\
// Postman shows the events when the stream has ended, which is after this one.
pm.test("the text comes in pieces", () => pm.expect(pm.response.text()).to.include("event: delta"));
pm.test("the reply is there", () => pm.expect(pm.response.text()).to.include("event: completed"));"""

SIGN_WEBHOOK = """\
// As Stripe signs: HMAC-SHA256 over "<time>.<body>", https://docs.stripe.com/webhooks#verify-manually
const crypto = require("crypto-js");
const body = JSON.stringify({
    id: "evt_" + pm.variables.replaceIn("{{$guid}}").replace(/-/g, ""),
    object: "event",
    type: "customer.subscription.updated",
    data: { object: { id: "sub_of_nobody", object: "subscription", customer: "cus_nobody" } },
});
const time = Math.floor(Date.now() / 1000);
const signature = crypto.HmacSHA256(time + "." + body, pm.environment.get("webhook_secret")).toString();
pm.variables.set("webhook_body", body);
pm.environment.set("webhook_body", body);
pm.environment.set("webhook_signature", "t=" + time + ",v1=" + signature);"""


def answers(statuses: tuple[int, ...]) -> str:
    """Return JavaScript that tests that the answer has one of these statuses, and a request id."""
    listed = ", ".join(map(str, statuses))
    said = " or ".join(map(str, statuses))
    return (
        f'pm.test("answers {said}", () => pm.expect(pm.response.code).to.be.oneOf([{listed}]));\n'
        'pm.test("has a request id", () => pm.expect(pm.response.headers.has("X-Request-ID")).to.eql(true));'
    )


@dataclass(frozen=True)
class Step:
    """A request. also: statuses that are fine besides the documented successes. only: the only fine statuses."""

    operation: str
    name: str
    body: dict[str, Any] | str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    also: tuple[int, ...] = ()
    only: tuple[int, ...] = ()
    token: str = "access_token"
    query: dict[str, str] = field(default_factory=dict)


MOBILE = {"mobile": "{{mobile}}"}
ROOM = "/chatroom/{chatroom_id}"
MESSAGE = ROOM + "/messages/{message_id}"

STORY: dict[str, list[Step]] = {
    "auth": [
        Step("POST /auth/signup", "Sign up", MOBILE | {"name": "Ada"}, before=(NEW_PERSON,)),
        Step("POST /auth/send-otp", "Ask for a code", MOBILE, after=(KEEP_CODE,)),
        Step("POST /auth/verify-otp", "Trade the code for tokens", MOBILE | {"otp": "{{otp}}"}, after=(KEEP_TOKENS,)),
        Step("POST /auth/refresh", "Renew the tokens", token="refresh_token", after=(KEEP_TOKENS,)),
        Step("POST /auth/change-password", "Set a password", {"new_password": "{{password}}"}, after=(KEEP_TOKENS,)),
        Step(
            "POST /auth/change-password",
            "Change the password",
            {"current_password": "{{password}}", "new_password": "{{new_password}}"},
            after=(KEEP_TOKENS,),
        ),
        Step("POST /auth/forgot-password", "Forget the password", MOBILE, after=(KEEP_CODE,)),
        Step(
            "POST /auth/reset-password",
            "Set another one by a code",
            MOBILE | {"otp": "{{otp}}", "new_password": "{{password}}"},
        ),
        Step("POST /auth/login", "Log in by password", MOBILE | {"password": "{{password}}"}, after=(KEEP_TOKENS,)),
        Step(
            "POST /auth/change-mobile", "Ask for another number", {"new_mobile": "{{new_mobile}}"}, after=(KEEP_CODE,)
        ),
        Step(
            "POST /auth/change-mobile/verify",
            "Change the number",
            {"new_mobile": "{{new_mobile}}", "otp": "{{otp}}", "current_password": "{{password}}"},
            after=(KEEP_NEW_MOBILE, KEEP_TOKENS),
        ),
        Step("POST /auth/logout", "Log out"),
        Step("POST /auth/login", "Log in on one device", MOBILE | {"password": "{{password}}"}),
        Step(
            "POST /auth/login", "Log in on another device", MOBILE | {"password": "{{password}}"}, after=(KEEP_TOKENS,)
        ),
        Step("GET /auth/sessions", "List your sessions", after=(KEEP_OTHER_SESSION,)),
        Step("DELETE /auth/sessions/{session_id}", "End the session on the other device"),
    ],
    "user": [
        Step("GET /user/me", "See your profile"),
        Step("PATCH /user/me", "Change your name", {"name": "Ada Lovelace"}),
        Step("GET /user/security-events", "See what happened to your account"),
        Step(
            "POST /user/api-keys",
            "Make a key for a program",
            {"name": "Postman", "scopes": ["chat:read"], "expires_in_days": 30},
            after=(KEEP_KEY,),
        ),
        Step("GET /user/usage", "Use the key in place of a token", token="api_key"),
        Step("GET /user/api-keys", "List your keys"),
        Step("DELETE /user/api-keys/{key_id}", "Delete the key"),
        Step("GET /user/usage", "See what is left of the day"),
        Step("GET /user/usage/history", "See what your prompts took, day by day"),
    ],
    "chatroom": [
        Step("GET /models", "See which models there are"),
        Step(
            "POST /chatroom",
            "Open a chatroom",
            {"title": "Postman"},
            {"Idempotency-Key": "{{$guid}}"},
            after=(KEEP_ROOM,),
        ),
        Step("GET /chatroom", "List your chatrooms"),
        Step(f"PATCH {ROOM}", "Rename and pin it", {"title": "Trying things out", "pinned": True}),
    ],
    "messages": [
        Step(
            f"POST {ROOM}/message",
            "Send a message and wait for the reply",
            {"text": "Explain DNS to a child"},
            {"Prefer": "wait=15", "Idempotency-Key": "{{$guid}}"},
            after=(KEEP_REPLY,),
        ),
        Step(f"GET {MESSAGE}", "Read the reply", after=(REPLY_IS_COMPLETED,)),
        Step(
            f"POST {ROOM}/message",
            "Send one whose reply is to be followed",
            {"text": "How do I look a name up myself?", "stream": True},
            after=(KEEP_REPLY,),
        ),
        Step(f"GET {MESSAGE}/stream", "Follow the reply as it is written", after=(STREAM_IS_COMPLETED,)),
        Step(f"GET {ROOM}/messages", "List the messages", after=(KEEP_PROMPT,)),
        Step(
            f"POST {MESSAGE}/edit",
            "Put the latest prompt another way",
            {"text": "How do I look a name up on Linux?"},
            {"Prefer": "wait=15"},
            after=(KEEP_REPLY,),
        ),
        Step(f"GET {ROOM}", "Open the chatroom's page"),
        Step(f"POST {ROOM}/message", "Send another one", {"text": "And IPv6?"}, after=(KEEP_REPLY,)),
        Step(f"POST {MESSAGE}/cancel", "Cancel its reply (409 when it is there already)", also=(409,)),
        Step(f"POST {MESSAGE}/retry", "Regenerate it (409 when it was not canceled)", also=(409,)),
    ],
    "search": [
        Step("GET /search", "Find a message again", query={"q": "name on lin"}, after=(IS_FOUND,)),
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
            before=(SIGN_WEBHOOK,),
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
    "farewell": [
        Step("GET /user/me/export", "Take your data with you"),
        Step(f"DELETE {ROOM}", "Delete the chatroom"),
        Step("DELETE /user/me", "Delete your account"),
    ],
}
