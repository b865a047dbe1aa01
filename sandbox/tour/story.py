"""The story of the tour, chapter by chapter.

Each chapter gets the visitor and leaves in it what later ones need.
"""

from collections.abc import Callable
from http import HTTPStatus
from urllib.parse import urlsplit

from sandbox.people import fresh_number
from sandbox.tour.visitor import TourError, Visitor

_TRIES = 5
_MOST_PROMPTS = 20

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
    visitor.read_until(lambda status: status["tier"] == "pro", "/subscription/status", "Pro, which was paid for,")
    visitor.page.note("The prompt that was refused is answered now: Pro has no daily limit.")
    answer, _ = visitor.prompt("One more?")
    visitor.expect("RateLimit-Limit" not in answer.headers, "A prompt of Pro's was counted against a limit.")


def change_ones_mind(visitor: Visitor) -> None:
    """Edit a prompt, and have a reply again"""
    items = visitor.call("GET", f"{visitor.room}/messages?limit=100", expect=200, brief=True).json()["items"]
    prompt, reply = ([item for item in items if item["role"] == role] for role in ("user", "model"))
    if visitor.call("GET", "/subscription/status", expect=200, brief=True).json()["tier"] != "pro":
        visitor.page.note("Both cost a prompt, and today's are spent.")
        return
    visitor.page.note("The first reply again: a new one takes its place, and all that followed is superseded with it.")
    again = visitor.call("POST", f"{visitor.room}/messages/{reply[-1]['id']}/retry", expect=202)
    visitor.wait_for_reply(again.headers["Location"])
    visitor.page.note("Its prompt, put another way.")
    body, path = {"text": "I love tide pools. Who lives there?"}, f"{visitor.room}/messages/{prompt[-1]['id']}/edit"
    edited = visitor.call("POST", path, body, headers={"Prefer": "wait=20"}, expect=(200, 202))
    visitor.wait_for_reply(edited.headers["Location"])
    visitor.page.note("The room shows the current conversation; what was replaced is there when it is asked for.")
    current = visitor.call("GET", visitor.room, expect=200).json()["messages"]
    visitor.expect(len(current) == 2, "The room shows more than the edited prompt and its reply.")
    everything = visitor.call("GET", f"{visitor.room}/messages?superseded=include&limit=100", expect=200, brief=True)
    visitor.expect(len(everything.json()["items"]) == len(items) + 3, "What was replaced is not there any more.")


def get_a_title(visitor: Visitor) -> None:
    """A chatroom that gets its title by itself"""
    visitor.page.note("It has an instruction of its own, one of GET /models, and comes first in the list.")
    models = visitor.call("GET", "/models", expect=200).json()["items"]
    default = next(model["name"] for model in models if model["default"])
    body = {"instruction": "Answer like a lighthouse keeper.", "model": default}
    visitor.room = visitor.call("POST", "/chatroom", body, expect=201).headers["Location"]
    visitor.call("PATCH", visitor.room, {"pinned": True}, expect=200, brief=True)
    if visitor.call("GET", "/subscription/status", expect=200, brief=True).json()["tier"] != "pro":
        visitor.page.note("It waits for its first reply, and today's prompts are spent.")
        return
    visitor.prompt("Why do lighthouses blink?", brief=True)
    visitor.page.note("A moment after the first reply it has a name, also in the cached list.")
    listed = visitor.read_until(lambda page: page["items"][0]["title"], "/chatroom?limit=1", "The chatroom's title")
    room = listed["items"][0]
    visitor.expect(
        room["title_source"] == "generated" and room["pinned"], "It is not the pinned one with the new title."
    )


def find_it_again(visitor: Visitor) -> None:
    """Find it again"""
    visitor.page.note("Words of one's own messages in all chatrooms; of the last one the beginning is enough.")
    found = visitor.call("GET", "/search?q=tide%20poo", expect=200).json()["items"]
    marked = [item["snippet"][start:end].lower() for item in found for start, end in item["highlights"]]
    visitor.expect({"tide", "poo"} <= set(marked), "The tide pools are not found, or not highlighted.")


def look_back(visitor: Visitor) -> None:
    """What it took, day by day"""
    visitor.page.note("Deleting a chatroom forgets its text, and not what it took.")
    visitor.call("DELETE", visitor.room, expect=204)
    days = visitor.call("GET", "/user/usage/history", expect=200, brief=True).json()["items"]
    visitor.expect(days[-1]["prompts"] >= visitor.limit, "Today's prompts are not in the history.")


def change_the_number(visitor: Visitor) -> None:
    """Another number for the account"""
    visitor.page.note("Two proofs: the code sent to the new number, and the password or the current number's code.")
    new = fresh_number()
    sent = visitor.call("POST", "/auth/change-mobile", {"new_mobile": new}, expect=202).json()
    body = {"new_mobile": new, "otp": sent["otp"], "current_otp": sent["current_otp"]}
    changed = visitor.call("POST", "/auth/change-mobile/verify", body, expect=200).json()
    visitor.mobile, visitor.token = new, changed["access_token"]
    visitor.page.note("Every other session has ended; rooms, Pro and the day's spent prompts went along.")
    used = visitor.call("GET", "/user/usage", expect=200).json()
    visitor.expect(used["used"] >= visitor.limit, "The new number got the day's prompts back.")


def let_a_program_in(visitor: Visitor) -> None:
    """A key for a program"""
    visitor.page.note("A server cannot type a code every day: it gets a key, shown once, for what it may do.")
    body = {"name": "Nightly report", "scopes": ["chat:read"], "expires_in_days": 90}
    made = visitor.call("POST", "/user/api-keys", body, expect=201).json()
    token, visitor.token = visitor.token, made["key"]
    visitor.page.note("With the key as the bearer: it may read, and nothing else.")
    visitor.call("GET", "/chatroom?limit=1", expect=200, brief=True)
    visitor.call("POST", "/chatroom", {}, expect=403)
    visitor.token = token
    visitor.call("DELETE", f"/user/api-keys/{made['id']}", expect=204)


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
    change_ones_mind,
    get_a_title,
    find_it_again,
    look_back,
    let_a_program_in,
    change_the_number,
]


def tell(story: list[Chapter], visitor: Visitor) -> None:
    """Go through the chapters; their docstrings are the headings. Raises TourError."""
    for chapter in story:
        visitor.page.heading(chapter.__doc__ or chapter.__name__)
        chapter(visitor)
