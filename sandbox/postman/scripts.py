"""What the requests do before and after: JavaScript for Postman's sandbox."""

NEW_PERSON = """\
// Somebody new at each run, so that the story can be told again and again.
const digits = String(Math.floor(Math.random() * 8000000) + 2000000);
pm.environment.set("mobile", "+1415" + digits);
pm.environment.set("password", "correct horse " + digits);
pm.environment.set("new_password", "battery staple " + digits);"""

KEEP_CODE = """\
// Only with OTP_DELIVERY=response; otherwise put the code that reached you into the variable `otp`.
const told = pm.response.json();
if (told.otp) pm.environment.set("otp", told.otp);"""

KEEP_TOKENS = """\
const tokens = pm.response.json();
pm.environment.set("access_token", tokens.access_token);
pm.environment.set("refresh_token", tokens.refresh_token);"""

KEEP_OTHER_SESSION = """\
const other = pm.response.json().items.find((session) => !session.current);
pm.test("there is another session", () => pm.expect(other).to.be.an("object"));
if (other) pm.environment.set("session_id", other.id);"""

KEEP_ROOM = """\
pm.environment.set("chatroom_id", pm.response.json().id);"""

KEEP_REPLY = """\
pm.environment.set("message_id", pm.response.json().reply.id);"""

REPLY_IS_COMPLETED = """\
pm.test("the reply is there", () => pm.expect(pm.response.json().status).to.eql("completed"));"""

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
    """The answer has one of these statuses, and every answer has its request id."""
    listed = ", ".join(map(str, statuses))
    said = " or ".join(map(str, statuses))
    return (
        f'pm.test("answers {said}", () => pm.expect(pm.response.code).to.be.oneOf([{listed}]));\n'
        'pm.test("has a request id", () => pm.expect(pm.response.headers.has("X-Request-ID")).to.eql(true));'
    )
