"""Searching one's own messages, through the API."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from urllib.parse import quote
from uuid import UUID

import pytest
from sqlalchemy import event, text

from app.account.tasks import purge_chatroom
from app.core.db import db
from app.core.schemas import encode_cursor
from app.search import service
from tests.problems import assert_problem

PROMPTS = """INSERT INTO messages (id, chatroom_id, position, role, text, status, created_at, completed_at,
    streamed, attempt, failures, superseded)
    SELECT CAST(lpad(to_hex(:ids + :first + n), 32, '0') AS uuid), :room, :first + n, 'user',
        replace(:text, 'N', n::text), 'completed', now(), now(), false, 0, 0, false FROM generate_series(1, :count) n"""


class Searcher:
    """A person's messages, written to the database, and searches in them."""

    def __init__(self, person):
        self.person, self.room, self.stored = person, person.make_chatroom(), 0
        self.ids = UUID(person.id).int % 2**40 * 2**16

    def say(self, words, *, count=1, room=None):
        """Store prompts with these words, the later ones newer. `N` becomes the number of each."""
        values = {
            "room": (room or self.room).rsplit("/", 1)[1],
            "text": words,
            "count": count,
            "first": self.stored,
            "ids": self.ids,
        }
        with self.person.client.application.app_context():
            db.session.execute(text(PROMPTS), values)
            db.session.commit()
        self.stored += count

    def get(self, query, **more):
        return self.person.get(f"/search?q={quote(query)}" + "".join(f"&{key}={value}" for key, value in more.items()))

    def find(self, query, **more):
        """Return what is found, as snippets."""
        answer = self.get(query, **more)
        assert answer.status_code == 200, answer.text
        return [item["snippet"] for item in answer.json["items"]]

    def pages(self, query, **more):
        """Return the snippets of all pages."""
        pages, cursor = [], {}
        while True:
            answer = self.get(query, **more, **cursor).json
            pages.append([item["snippet"] for item in answer["items"]])
            if answer["next_cursor"] is None:
                return pages
            cursor = {"cursor": answer["next_cursor"]}

    def after(self, first, query, limit):
        """Return the ids of a page's messages and of all pages after it."""
        found, cursor = [item["message_id"] for item in first["items"]], first["next_cursor"]
        while cursor:
            page = self.get(query, limit=limit, cursor=cursor).json
            found, cursor = found + [item["message_id"] for item in page["items"]], page["next_cursor"]
        return found


@pytest.fixture
def mine(user):
    return Searcher(user)


def test_prompts_and_replies_are_found_with_what_is_highlighted(room, runner):
    reply = room.answer(runner, '[[sandbox: say="DNS is the phone book of the internet."]] Explain DNS')
    answer = room.person.get("/search?q=phone%20boo")
    assert answer.json["next_cursor"] is None
    both = {item["role"]: item for item in answer.json["items"]}
    assert both["model"] == {
        "message_id": reply.id,
        "chatroom_id": reply.chatroom_id,
        "role": "model",
        "created_at": reply.created_at,
        "snippet": "DNS is the phone book of the internet.",
        "highlights": [[11, 16], [17, 20]],
    }
    assert both["user"]["message_id"] == reply.in_reply_to
    assert len(answer.json["items"]) == 2


def test_a_message_is_found_while_it_is_current(room, runner):
    """It is found from when it has a text until it is superseded or its chatroom is deleted."""

    def found(word):
        return [item["role"] for item in room.person.get(f"/search?q={word}").json["items"]]

    reply_id = room.send('[[sandbox: say="Elephants."]] Zebras')
    assert (found("zebra"), found("eleph")) == (["user"], ["user"])
    room.generate(runner, reply_id)
    assert sorted(found("eleph")) == ["model", "user"]
    reply = room.read(reply_id)
    edited = room.person.post(f"{room.path}/messages/{reply.in_reply_to}/edit", json={"text": "Giraffes"})
    assert (found("zebra"), found("eleph"), found("giraffe")) == ([], [], ["user"])
    canceled = room.person.post(f"{room.path}/messages/{edited.json['reply']['id']}/cancel")
    assert canceled.status_code == 200
    assert room.person.patch(room.path, json={"archived": True}).status_code == 200
    assert found("giraffe") == ["user"]
    assert room.person.delete(room.path).status_code == 204
    assert found("giraffe") == []


def test_messages_of_other_users_are_not_found(mine, make_user):
    other = Searcher(make_user())
    mine.say("A secret word")
    assert other.find("secret") == []
    assert_problem(other.get("secret", chatroom_id=mine.room.rsplit("/", 1)[1]), 404, "not_found")
    other.say("My secret")
    assert (mine.find("secret"), other.find("secret")) == (["A secret word"], ["My secret"])


def test_users_whose_ids_end_alike_do_not_find_each_others_messages(mine, make_user, app):
    """The words carry only a part of their owner's id."""
    other = Searcher(make_user())
    other.say("A secret word")
    with app.app_context():
        words = "search_words(:user, 'secret')"
        db.session.execute(text(f"UPDATE searchable_messages SET words = {words}"), {"user": mine.person.id})
        db.session.commit()
    assert mine.find("secret") == []


def test_a_search_may_be_limited_to_one_chatroom(mine):
    second = mine.person.make_chatroom("Second")
    mine.say("word here")
    mine.say("word there", room=second)
    assert mine.find("word", chatroom_id=second.rsplit("/", 1)[1]) == ["word there"]
    assert sorted(mine.find("word")) == ["word here", "word there"]


def test_the_best_matches_come_first_and_then_the_newest(mine):
    mine.say("apple and a long text about pears, plums, grapes and many other things that grow on trees")
    mine.say("apple apple apple")
    mine.say("apple pie")
    mine.say("apple tart")
    assert [snippet[:11] for snippet in mine.find("apple")] == ["apple apple", "apple tart", "apple pie", "apple and a"]


def test_a_message_with_many_words_of_one_prefix_is_found(mine):
    mine.say(" ".join(f"sku{number}" for number in range(450)))
    mine.say("one sku1 and more")
    assert len(mine.find("sku")) == 2
    assert len(mine.pages("sku", limit=1)) == 2


@pytest.mark.parametrize("limit", [1, 7, 100])
def test_pages_have_every_match_once(mine, limit):
    mine.say("word N", count=60)
    mine.say("another N", count=30)
    pages = mine.pages("wor", limit=limit)
    assert sorted(chain(*pages)) == sorted(f"word {number}" for number in range(1, 61))
    assert {len(page) for page in pages[:-1]} <= {limit}


@pytest.mark.parametrize(
    ("groups"),
    [
        [("word N", 2_500)],  # in most messages: blocks of the latest
        [("word N", 30), ("other", 1_100)],  # in few: the index
        [("word N", 1_200), ("other", 1_100)],  # in many, of which the index gives two blocks
        [("word N", 700), ("other", 2_100)],  # in more of the older ones than one look into the index gives
        [("word N", 500), ("other", 700), ("word 1N", 400), ("other", 500)],  # first the one, then the other
    ],
)
def test_a_search_goes_on_after_the_messages_that_are_ranked_at_once(mine, groups):
    for words, count in groups:
        mine.say(words, count=count)
    found = chain(*mine.pages("word", limit=100))
    expected = [words.replace("N", str(n)) for words, count in groups if "word" in words for n in range(1, count + 1)]
    assert sorted(found) == sorted(expected)


def test_messages_written_between_two_pages_repeat_nothing(mine):
    mine.say("word N", count=service.RECENT + 50)
    first = mine.get("word", limit=100).json
    mine.say("word of later N", count=60)
    found = mine.after(first, "word", limit=100)
    old = [one for one in found if UUID(one).int - mine.ids <= service.RECENT + 50]
    assert len(found) == len(set(found))
    assert len(old) == service.RECENT + 50


def test_a_reply_that_ends_between_two_pages_repeats_nothing(mine, app):
    """With its text, enough of the latest messages match to make a block, and the index is not asked for another."""
    mine.say("word N", count=40)
    mine.say("other", count=service.RECENT + 100)
    mine.say("word late", count=service.ENOUGH - 1)
    mine.say("pending")
    pending = UUID(int=mine.ids + mine.stored)
    mine.say("other")
    first = mine.get("word", limit=50).json
    with app.app_context():
        db.session.execute(text("UPDATE messages SET text = 'word at last' WHERE id = :id"), {"id": pending})
        db.session.commit()
    found = mine.after(first, "word", limit=50)
    assert len(found) == len(set(found))
    assert len(set(found) - {str(pending)}) == 40 + service.ENOUGH - 1


def test_many_replies_that_end_between_two_pages_push_nothing_out(mine, app):
    mine.say("word N", count=40)
    first_pending = mine.ids + mine.stored + 1
    mine.say("pending", count=service.BLOCK + 50)
    mine.say("other", count=service.RECENT + 2 * service.BLOCK)
    first = mine.get("word", limit=20).json
    with app.app_context():
        ended = {"first": UUID(int=first_pending), "last": UUID(int=first_pending + service.BLOCK + 49)}
        db.session.execute(text("UPDATE messages SET text = 'word at last' WHERE id BETWEEN :first AND :last"), ended)
        db.session.commit()
    found = mine.after(first, "word", limit=100)
    assert len(found) == len(set(found))
    assert len([one for one in found if UUID(one).int < first_pending]) == 40


def test_a_room_that_is_deleted_between_two_pages_hides_no_other(mine, app):
    """Better matches take its place, and stand before what the first page has shown."""
    mine.say("word word word word N", count=20)
    mine.say("other", count=service.RECENT - 100)
    second = mine.person.make_chatroom("Second")
    mine.say("gone", count=60, room=second)
    mine.say("word N and some more text", count=60)
    first = mine.get("word", limit=30).json
    assert mine.person.delete(second).status_code == 204
    with app.app_context():
        while purge_chatroom():
            pass
    found = mine.after(first, "word", limit=30)
    assert len(found) == len(set(found)) == 80


@pytest.mark.parametrize("query", ["!!", "🎉", "'; -- \\", "& | ! <-> :*", "()", "..."])
def test_punctuation_alone_finds_nothing(mine, query):
    mine.say("Words, and signs: !! 🎉 & | ( ) ...")
    assert mine.find(query) == []


@pytest.mark.parametrize("query", ["it's", "a & b", "a | b:*", "!a", "'a'", "a <-> b", "\\a", "a%", "a_", '"a b"'])
def test_operators_in_a_query_have_no_meaning(mine, query):
    mine.say("it's a, then b")
    assert mine.find(query) == ["it's a, then b"]


@pytest.mark.parametrize(
    "query",
    [
        "",
        "q=",
        "q=%20%09%0A",
        "q=a%00b",
        f"q={'x' * 201}",
        f"q={'x' * 10_240}",
        "q=a&q=b",
        "q=a&limit=0",
        "q=a&limit=101",
        "q=a&sort=new",
    ],
)
def test_an_invalid_search_is_422(user, query):
    assert_problem(user.get(f"/search?{query}"), 422, "validation_error")


@pytest.mark.parametrize("chatroom_id", ["", "1", "%00", f"{UUID(int=1)}x"])
def test_a_malformed_id_of_a_chatroom_is_404_as_an_unknown_one(user, chatroom_id):
    assert_problem(user.get(f"/search?q=a&chatroom_id={chatroom_id}"), 404, "not_found")
    assert_problem(user.get(f"/search?q=a&chatroom_id={UUID(int=1)}"), 404, "not_found")


@pytest.mark.parametrize("cursor", ["x", "a|b", "0|0|0", "%00", "x" * 300])
def test_a_cursor_from_elsewhere_is_refused(user, cursor):
    assert_problem(user.get(f"/search?q=a&cursor={cursor}"), 400, "invalid_cursor")
    elsewhere = user.get("/chatroom?limit=1").json["next_cursor"] or "MHww"
    assert_problem(user.get(f"/search?q=a&cursor={elsewhere}"), 400, "invalid_cursor")


def test_a_cursor_may_contain_any_number(user):
    for score in (-(10**19), -1, 0, 2**31, 10**19):
        for block in ("compared", "indexed", "next", "other"):
            cursor = encode_cursor(UUID(int=0), UUID(int=0), block, score, UUID(int=0))
            assert user.get(f"/search?q=a&cursor={cursor}").status_code == 200


def test_a_query_may_have_two_hundred_words_of_one_letter(mine):
    mine.say(" ".join("abcdefghij"))
    assert len(mine.find(" ".join("abcdefghij" * 10))) == 1
    assert mine.find("日" * 200) == []


@pytest.fixture
def pooled_app(make_app, pool_size):
    return make_app(database_pool_size=pool_size)


@pytest.mark.parametrize(("pool_size", "at_once"), [(20, 4), (6, 2)])
def test_slow_searches_leave_most_connections_to_other_requests(user, pooled_app, caplog, at_once):
    app, mine = pooled_app, Searcher(replace(user, client=pooled_app.test_client()))
    mine.find("hello")  # from here on the session is known, and only searches need a connection
    connections = []
    with app.app_context():
        engine = db.engine
    with engine.connect().execution_options(isolation_level="READ COMMITTED") as blocker:
        blocker.execute(text("LOCK TABLE searchable_messages"))
        note = lambda *_: connections.append(engine.pool.checkedout())  # noqa: E731
        event.listen(engine, "checkout", note)
        try:
            with ThreadPoolExecutor(40) as threads:
                answers = list(threads.map(lambda _: mine.get("hello"), range(40)))
        finally:
            event.remove(engine, "checkout", note)
    for answer in answers:
        assert_problem(answer, 503, "service_unavailable")
    assert max(connections) == 1 + at_once, "the blocker's, and one for each search that runs"
    assert "Search refused: no slot became free" in caplog.text
    assert mine.find("hello") == []


def test_a_search_needs_a_token(client):
    assert_problem(client.get("/search?q=a"), 401, "token_missing")


def test_purged_messages_leave_no_words(room, app):
    room.send("Hello")
    assert room.person.delete(room.path).status_code == 204
    with app.app_context():
        while purge_chatroom():
            pass
        assert db.session.scalar(text("SELECT count(*) FROM searchable_messages")) == 0
