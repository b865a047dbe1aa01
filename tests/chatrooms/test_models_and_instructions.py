"""The owner's choices for a chatroom's replies: an instruction, and a model that the tier may use."""

import pytest

from app.billing.tier import grant_pro
from app.core.clock import utc_now
from tests.problems import assert_problem

FLASH, PRO = "gemini-3.5-flash", "gemini-3.5-pro"
OFFER = f"{FLASH}:basic, {PRO}:pro"


@pytest.fixture
def room_of_choice(make_app, make_redis_url, make_user, make_runner_for, gemini):
    """A room where two models are on offer."""
    app = make_app(redis_url=make_redis_url(), gemini_models=OFFER)
    person = make_user()
    person.client = app.test_client()
    return make_runner_for(app, person)


def make_pro(room):
    with room.app.app_context():
        grant_pro(room.person.id, ends_at=None, reason="A test", now=utc_now())


def test_the_models_on_offer_are_listed(room_of_choice, user):
    assert room_of_choice.person.get("/models").json == {
        "items": [
            {"name": FLASH, "tier": "basic", "default": True},
            {"name": PRO, "tier": "pro", "default": False},
        ]
    }
    assert user.get("/models").json == {"items": [{"name": FLASH, "tier": "basic", "default": True}]}


def test_gemini_gets_the_rooms_instruction_after_the_services_own(room, runner, gemini):
    room.person.patch(room.path, json={"instruction": "  Speak like a pirate.  "})
    assert room.person.get(room.path).json["instruction"] == "Speak like a pirate."
    room.answer(runner, "Hello")
    parts = gemini.requests()[-1]["system_parts"]
    assert parts[0] == "Be brief."
    assert parts[1].endswith(":\nSpeak like a pirate.")
    assert len(parts) == 2
    assert room.person.patch(room.path, json={"instruction": None}).json["instruction"] is None
    room.answer(runner, "Hello again")
    assert gemini.requests()[-1]["system_parts"] == ["Be brief."]


@pytest.mark.parametrize("instruction", ["", " \n", "x" * 4_001, "a\0b", "\ud800", 7, ["x"]])
def test_an_invalid_instruction_is_refused(user, instruction):
    path = user.make_chatroom()
    for answer in (
        user.post("/chatroom", json={"instruction": instruction}),
        user.patch(path, json={"instruction": instruction}),
    ):
        assert list(assert_problem(answer, 422, "validation_error")["errors"]) == ["instruction"]
    assert user.post("/chatroom", json={"instruction": "x" * 4_000}).status_code == 201


def test_a_model_above_the_tier_is_refused_and_nothing_is_spent(room_of_choice):
    person, path = room_of_choice.person, room_of_choice.path
    assert_problem(person.post("/chatroom", json={"model": PRO}), 403, "model_not_in_tier")
    assert_problem(person.patch(path, json={"model": PRO}), 403, "model_not_in_tier")
    assert_problem(person.patch(f"/chatroom/{person.id}", json={"model": PRO}), 404, "not_found")
    assert_problem(person.patch(path, json={"model": "gemini-none"}), 422, "validation_error")
    assert_problem(person.post("/chatroom", json={"model": 7}), 422, "validation_error")
    assert person.get(path).json["model"] is None
    assert len(person.get("/chatroom").json["items"]) == 1


def test_the_tier_is_checked_at_each_prompt(room_of_choice):
    room = room_of_choice
    make_pro(room)
    assert room.person.patch(room.path, json={"model": PRO}).json["model"] == PRO
    reply = room.answer(room.runner, "Hello")
    assert (reply.status, reply.model) == ("completed", PRO)

    room.sql("UPDATE pro_grants SET ends_at = now() - interval '1 second'")
    message = f"{room.path}/messages"
    for answer in (
        room.person.post(f"{room.path}/message", json={"text": "Hello"}),
        room.person.post(f"{message}/{reply.id}/retry"),
        room.person.post(f"{message}/{reply.in_reply_to}/edit", json={"text": "Hello"}),
    ):
        assert_problem(answer, 403, "model_not_in_tier")
    assert room.used() == 1
    assert not room.read(reply.id).superseded
    assert room.person.patch(room.path, json={"model": None}).status_code == 200
    assert room.answer(room.runner, "Hello").model == FLASH


def test_a_model_that_was_taken_off_the_list_gives_way_to_the_default(room, runner):
    room.sql("UPDATE chatrooms SET model = 'gemini-of-last-year'")
    assert room.person.get(room.path).json["model"] == "gemini-of-last-year"
    assert room.answer(runner, "Hello").model == FLASH
