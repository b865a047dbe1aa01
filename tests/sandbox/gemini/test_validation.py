"""What Google refuses, and how it says so."""

import pytest

GOOD = {"role": "user", "parts": [{"text": "Hi"}]}
MODEL_TURN = {"role": "model", "parts": [{"text": "Hi"}]}

REFUSED = {
    "no contents": ({}, "contents is not specified"),
    "empty contents": ({"contents": []}, "contents is not specified"),
    "no parts": ({"contents": [{"role": "user"}]}, "contents[0].parts: contents.parts must not be empty"),
    "empty text": (
        {"contents": [GOOD, {"role": "user", "parts": [{"text": ""}]}]},
        "contents[1].parts[0].data: required oneof field 'data'",
    ),
    "strange role": ({"contents": [GOOD | {"role": "assistant"}]}, "Please use a valid role: user, model."),
    "ends with the model": ({"contents": [GOOD, MODEL_TURN]}, "Requests ending with a model turn"),
    "unknown field": (
        {"contents": [GOOD], "colour": "red"},
        'Invalid JSON payload received. Unknown name "colour": Cannot find field.',
    ),
    "unknown field below": (
        {"contents": [{"role": "user", "parts": [{"txt": "Hi"}]}]},
        "Unknown name \"txt\" at 'contents[0].parts[0]': Cannot find field.",
    ),
    "no object": (b"[]", "an object is expected."),
    "no object below": ({"contents": "Hi"}, "Invalid value at 'contents[0]': an object is expected."),
    "broken JSON": (b'{"contents": ', "Invalid JSON payload received."),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_request_is_an_invalid_argument(post, name):
    body, message = REFUSED[name]

    response = post(body)

    assert response.status_code == 400
    error = response.json()["error"]
    assert error["code"] == 400
    assert error["status"] == "INVALID_ARGUMENT"
    assert message in error["message"]


def test_consecutive_turns_of_the_user_are_accepted(post):
    assert post({"contents": [GOOD, GOOD]}).status_code == 200


def test_missing_key_is_permission_denied(post):
    response = post({"contents": [GOOD]}, key=None)

    assert response.status_code == 403
    assert response.json()["error"]["status"] == "PERMISSION_DENIED"


def test_key_may_come_in_the_query(post):
    assert post({"contents": [GOOD]}, key=None, query={"key": "anything"}).status_code == 200


def test_invalid_key_is_named_in_the_details(post):
    response = post({"contents": [GOOD]}, key="invalid-key")

    assert response.status_code == 400
    assert response.json()["error"]["details"][0]["reason"] == "API_KEY_INVALID"


@pytest.mark.parametrize("model", ["gemini-2.0-flash", "gpt-4"])
def test_model_that_is_not_there_is_not_found(post, model):
    response = post({"contents": [GOOD]}, model=model)

    assert response.status_code == 404
    assert response.json()["error"]["status"] == "NOT_FOUND"


def test_errors_of_a_json_stream_come_in_an_array_and_those_of_sse_do_not(post):
    body = {"contents": [GOOD]}

    as_array = post(body, "streamGenerateContent", key=None).json()
    plain = post(body, "streamGenerateContent", key=None, query={"alt": "sse"}).json()

    assert as_array == [plain]


def test_an_unknown_directive_is_refused(post, prompt):
    response = post(prompt("[[sandbox: stauts=503]]"))

    assert response.status_code == 400
    assert "no directive 'stauts'" in response.json()["error"]["message"]
