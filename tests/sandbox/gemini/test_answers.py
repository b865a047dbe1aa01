"""Good answers, through the real SDK and through raw HTTP."""

import json

import google.generativeai as genai
import pytest

HISTORY = [
    ("user", "Name three rivers"),
    ("model", "Rhine, Nile, Po"),
    ("user", "And lakes?"),
    ("model", "Como, Garda"),
    ("user", "Which is the longest?"),
]


def text_of(response):
    return response.candidates[0].content.parts[0].text


def test_answer_shows_that_it_saw_the_conversation(ask):
    response = ask(*HISTORY, system="Be brief.")

    text = text_of(response)
    assert text.startswith("[sandbox] ")
    assert "5 turns in this conversation, 3 of them from you" in text
    assert "“Which is the longest?”" in text
    assert "“And lakes?”" in text
    assert "“Name three rivers”" in text
    assert "“Como, Garda”" in text
    assert "A system instruction of 9 characters" in text
    assert response.candidates[0].finish_reason.name == "STOP"
    usage = response.usage_metadata
    assert usage.prompt_token_count > 0
    assert usage.total_token_count == usage.prompt_token_count + usage.candidates_token_count


def test_the_same_request_gets_the_same_answer(post, prompt):
    assert post(prompt("Twice")).json() == post(prompt("Twice")).json()


def test_generative_model_chats_over_rest(gemini):
    genai.configure(api_key=gemini.api_key, transport="rest", client_options={"api_endpoint": gemini.url})
    chat = genai.GenerativeModel("gemini-3.5-flash", system_instruction="Be kind.").start_chat()
    options = {"timeout": 5, "retry": None}

    chat.send_message("My name is Ada", request_options=options)
    second = chat.send_message("Who am I?", request_options=options)

    assert "3 turns" in second.text
    assert "“My name is Ada”" in second.text
    assert "8 characters" in second.text


def test_stream_joined_equals_the_whole(ask, stream):
    pieces = list(stream(*HISTORY))

    assert len(pieces) > 20
    assert "".join(pieces) == text_of(ask(*HISTORY))


def test_awkward_text_survives_both_ways(ask, stream):
    text = 'héllo {["]} \\ 🙂\n\n  second line \u2028 end '
    directive = f"[[sandbox: say={json.dumps(text, ensure_ascii=False)}]]"

    assert text_of(ask(directive)) == text
    assert "".join(stream(directive)) == text


def test_server_sent_events(post, prompt):
    response = post(prompt("Count"), "streamGenerateContent", query={"alt": "sse"})

    assert response.headers["Content-Type"].startswith("text/event-stream")
    events = response.content.decode().split("\r\n\r\n")
    assert events.pop() == ""
    assert all(event.startswith("data: ") for event in events)
    answers = [json.loads(event.removeprefix("data: ")) for event in events]
    whole = post(prompt("Count")).json()
    parts = [answer["candidates"][0]["content"]["parts"][0]["text"] for answer in answers]
    assert "".join(parts) == whole["candidates"][0]["content"]["parts"][0]["text"]
    assert [answer["candidates"][0].get("finishReason") for answer in answers[-2:]] == [None, "STOP"]
    assert answers[-1]["usageMetadata"] == whole["usageMetadata"]


def test_stream_without_sse_is_one_json_array(post, prompt):
    pieces = post(prompt("Hello"), "streamGenerateContent").json()

    assert isinstance(pieces, list)
    assert pieces[-1]["candidates"][0]["finishReason"] == "STOP"


def test_first_pieces_come_before_the_stream_is_done(gemini, stream):
    pieces = stream("Slowly [[sandbox: hang_after=3]]")

    assert [next(pieces) for _ in range(3)] == ["[sandbox]", " This", " is"]
    pieces.close()


def test_enums_are_names_or_numbers_as_asked(post, prompt):
    blocked = prompt("[[sandbox: block]]")
    numbers = {"$alt": "json;enum-encoding=int"}

    assert post(prompt("Hi")).json()["candidates"][0]["finishReason"] == "STOP"
    assert post(prompt("Hi"), query=numbers).json()["candidates"][0]["finishReason"] == 1
    assert post(blocked).json()["promptFeedback"]["blockReason"] == "SAFETY"
    assert post(blocked, query=numbers).json()["promptFeedback"]["blockReason"] == 1


def test_max_output_tokens_cuts_the_text(ask):
    response = ask("Tell me everything", max_output_tokens=5)

    assert response.candidates[0].finish_reason.name == "MAX_TOKENS"
    assert response.usage_metadata.candidates_token_count == 5
    assert len(text_of(response)) == 20


def test_words_gives_a_text_of_that_length(ask):
    assert len(text_of(ask("[[sandbox: words=500]]")).split()) == 500


@pytest.mark.parametrize(
    "fields", [("systemInstruction", "generationConfig"), ("system_instruction", "generation_config")]
)
def test_camel_case_and_snake_case_are_the_same(post, prompt, fields):
    system, config = fields
    limit = "maxOutputTokens" if config == "generationConfig" else "max_output_tokens"
    body = prompt("Hi") | {system: {"parts": {"text": "Be brief."}}, config: {limit: 4000}}

    answer = post(body).json()

    assert "A system instruction of 9 characters" in answer["candidates"][0]["content"]["parts"][0]["text"]
