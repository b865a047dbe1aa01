"""The story of the tour, chapter by chapter.

Each chapter is called with the visitor and leaves on it what later chapters need.
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
    visitor.page.note("Signing up only claims the number. The claim counts once a code proves it.")
    for _ in range(_TRIES):
        visitor.mobile = fresh_number()
        body = {"mobile": visitor.mobile, "name": "Ada"}
        if visitor.call("POST", "/auth/signup", body, expect=(201, 409)).status_code == HTTPStatus.CREATED:
            return
    raise TourError(f"All {_TRIES} random numbers were already taken.")


def log_in(visitor: Visitor) -> None:
    """Prove the number: trade a code for a token"""
    visitor.page.note("With OTP_DELIVERY=response, the code comes in the answer.")
    sent = visitor.call("POST", "/auth/send-otp", {"mobile": visitor.mobile}, expect=202).json()
    visitor.expect("otp" in sent, "The code is not in the answer: the tour needs OTP_DELIVERY=response.")
    visitor.page.note("The code works once. Every request from here on carries the access token.")
    body = {"mobile": visitor.mobile, "otp": sent["otp"]}
    visitor.token = visitor.call("POST", "/auth/verify-otp", body, expect=200).json()["access_token"]


def open_chatroom(visitor: Visitor) -> None:
    """Open a chatroom"""
    room = visitor.call("POST", "/chatroom", {"title": "By the sea"}, expect=201)
    visitor.room = f"/chatroom/{room.json()['id']}"


def first_message(visitor: Visitor) -> None:
    """Send a message and wait for the reply"""
    visitor.page.note("The prompt is stored and its reply queued. `Prefer: wait` makes the answer wait for the reply.")
    answer, _ = visitor.prompt("My name is Ada, and I love tide pools. What lives in them?")
    visitor.limit = int(answer.headers.get("RateLimit-Limit", 0))
    visitor.expect(
        2 < visitor.limit <= _MOST_PROMPTS,
        f"The tour needs a daily limit of 3 to {_MOST_PROMPTS} prompts: set BASIC_DAILY_PROMPTS accordingly.",
    )
    visitor.page.note("A client that does not wait reads the reply at its `Location`.")
    visitor.call("GET", answer.headers["Location"], expect=200, brief=True)


def second_message(visitor: Visitor) -> None:
    """The model sees the conversation"""
    visitor.page.note("This question makes no sense without the message before it.")
    _, reply = visitor.prompt("What is my name, and what do I love?")
    visitor.expect("Ada" in reply["text"], "The second reply does not know of the first message.")


def look_around(visitor: Visitor) -> None:
    """The list of chatrooms, and the room with its messages"""
    visitor.page.note("The list comes from PostgreSQL the first time, then from the cache in Redis.")
    for cache in ("MISS", "HIT"):
        listed = visitor.call("GET", "/chatroom", expect=200, brief=cache == "HIT")
        visitor.expect(listed.headers.get("X-Cache") == cache, f"The list's X-Cache is not {cache}.")
    visitor.page.note("The room shows its latest messages, oldest first.")
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
    """Use up the day's prompts"""
    visitor.page.note(f"A Basic user has {visitor.limit} prompts per calendar day (UTC).")
    for number in range(4, visitor.limit + 1):
        answer, _ = visitor.prompt(f"Prompt number {number}: and then?", brief=True)
        left = answer.headers["RateLimit-Remaining"]
        visitor.expect(left == str(visitor.limit - number), f"{left} prompts are left after prompt number {number}.")


def one_too_many(visitor: Visitor) -> None:
    """One prompt too many"""
    visitor.page.note(f"Prompt number {visitor.limit + 1} is refused. The answer says when to try again.")
    refused = visitor.call("POST", f"{visitor.room}/message", {"text": "One more?"}, expect=429)
    visitor.expect(refused.json()["code"] == "daily_quota_exceeded", "The refusal is not daily_quota_exceeded.")
    missing = {"Retry-After", "RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"} - set(refused.headers)
    visitor.expect(not missing, f"The refusal lacks {', '.join(sorted(missing))}.")


def usage(visitor: Visitor) -> None:
    """See what is left of the day"""
    used = visitor.call("GET", "/user/usage", expect=200).json()
    visitor.expect(used["used"] == visitor.limit, f"{visitor.limit} prompts were spent, but usage says {used['used']}.")


def buy_pro(visitor: Visitor) -> None:
    """Buy Pro"""
    visitor.page.note("Stripe's Checkout page takes the payment. In the sandbox a stand-in does, and no money moves.")
    opened = visitor.call("POST", "/subscribe/pro", expect=(200, 503))
    if opened.status_code != HTTPStatus.OK:
        visitor.page.note("Payments are not set up here, so the tour cannot buy Pro.")
        return
    url = str(opened.json()["url"])
    if urlsplit(url).hostname != "127.0.0.1":
        visitor.page.note("This is the real Stripe, so the tour does not pay. You can pay on that page yourself.")
        return
    visitor.page.note("This is what the page's Pay button does. The stand-in then sends signed webhooks, like Stripe.")
    visitor.press(f"{url}/pay")
    visitor.read_until(lambda status: status["tier"] == "pro", "/subscription/status", "The Pro tier that was paid for")
    visitor.page.note("The prompt that was refused is now answered: Pro has no daily limit.")
    answer, _ = visitor.prompt("One more?")
    visitor.expect("RateLimit-Limit" not in answer.headers, "A Pro user's prompt was counted against a limit.")


def change_ones_mind(visitor: Visitor) -> None:
    """Regenerate a reply and edit a prompt"""
    items = visitor.call("GET", f"{visitor.room}/messages?limit=100", expect=200, brief=True).json()["items"]
    prompt, reply = ([item for item in items if item["role"] == role] for role in ("user", "model"))
    if visitor.call("GET", "/subscription/status", expect=200, brief=True).json()["tier"] != "pro":
        visitor.page.note("Each of them costs a prompt, and today's are spent.")
        return
    visitor.page.note("A new reply replaces the first one, which is superseded with everything that followed it.")
    again = visitor.call("POST", f"{visitor.room}/messages/{reply[-1]['id']}/retry", expect=202)
    visitor.wait_for_reply(again.headers["Location"])
    visitor.page.note("Now the prompt itself is edited.")
    body, path = {"text": "I love tide pools. Who lives there?"}, f"{visitor.room}/messages/{prompt[-1]['id']}/edit"
    edited = visitor.call("POST", path, body, headers={"Prefer": "wait=20"}, expect=(200, 202))
    visitor.wait_for_reply(edited.headers["Location"])
    visitor.page.note("The room shows the current conversation. Superseded messages are listed only on request.")
    current = visitor.call("GET", visitor.room, expect=200).json()["messages"]
    visitor.expect(len(current) == 2, "The room shows more than the edited prompt and its reply.")
    everything = visitor.call("GET", f"{visitor.room}/messages?superseded=include&limit=100", expect=200, brief=True)
    visitor.expect(len(everything.json()["items"]) == len(items) + 3, "The superseded messages are no longer listed.")


def get_a_title(visitor: Visitor) -> None:
    """Let a chatroom get its title by itself"""
    visitor.page.note("The new room has its own instruction and model, and is pinned to the top of the list.")
    models = visitor.call("GET", "/models", expect=200).json()["items"]
    default = next(model["name"] for model in models if model["default"])
    body = {"instruction": "Answer like a lighthouse keeper.", "model": default}
    visitor.room = visitor.call("POST", "/chatroom", body, expect=201).headers["Location"]
    visitor.call("PATCH", visitor.room, {"pinned": True}, expect=200, brief=True)
    if visitor.call("GET", "/subscription/status", expect=200, brief=True).json()["tier"] != "pro":
        visitor.page.note("The title needs a first reply, and today's prompts are spent.")
        return
    visitor.prompt("Why do lighthouses blink?", brief=True)
    visitor.page.note("A moment after its first reply the room has a title, in the cached list too.")
    listed = visitor.read_until(lambda page: page["items"][0]["title"], "/chatroom?limit=1", "The chatroom's title")
    room = listed["items"][0]
    visitor.expect(
        room["title_source"] == "generated" and room["pinned"], "The first room is not the pinned, titled one."
    )


def find_it_again(visitor: Visitor) -> None:
    """Find a message again"""
    visitor.page.note("Search finds words in all of your messages. For the last word, its beginning is enough.")
    found = visitor.call("GET", "/search?q=tide%20poo", expect=200).json()["items"]
    marked = [item["snippet"][start:end].lower() for item in found for start, end in item["highlights"]]
    visitor.expect({"tide", "poo"} <= set(marked), "The tide pools are not found, or not highlighted.")


def look_back(visitor: Visitor) -> None:
    """See the usage, day by day"""
    visitor.page.note("Deleting a chatroom deletes its text, but not the record of the prompts it took.")
    visitor.call("DELETE", visitor.room, expect=204)
    days = visitor.call("GET", "/user/usage/history", expect=200, brief=True).json()["items"]
    visitor.expect(days[-1]["prompts"] >= visitor.limit, "Today's prompts are not in the history.")


def change_the_number(visitor: Visitor) -> None:
    """Change the account's number"""
    visitor.page.note("It takes two proofs: the new number's code, and the password or the current number's code.")
    new = fresh_number()
    sent = visitor.call("POST", "/auth/change-mobile", {"new_mobile": new}, expect=202).json()
    body = {"new_mobile": new, "otp": sent["otp"], "current_otp": sent["current_otp"]}
    changed = visitor.call("POST", "/auth/change-mobile/verify", body, expect=200).json()
    visitor.mobile, visitor.token = new, changed["access_token"]
    visitor.page.note("Every other session has ended. Rooms, Pro and the day's spent prompts stay with the account.")
    used = visitor.call("GET", "/user/usage", expect=200).json()
    visitor.expect(used["used"] >= visitor.limit, "The new number got the day's prompts back.")


def let_a_program_in(visitor: Visitor) -> None:
    """Give a program an API key"""
    visitor.page.note("A server cannot type in codes. It gets an API key, shown once, with the scopes it needs.")
    body = {"name": "Nightly report", "scopes": ["chat:read"], "expires_in_days": 90}
    made = visitor.call("POST", "/user/api-keys", body, expect=201).json()
    token, visitor.token = visitor.token, made["key"]
    visitor.page.note("With the key as the bearer, the program may read, and nothing else.")
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
    """Tell the chapters in order. Their docstrings are the headings. Raises TourError."""
    for chapter in story:
        visitor.page.heading(chapter.__doc__ or chapter.__name__)
        chapter(visitor)
