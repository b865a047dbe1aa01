"""Each way to fail, as the SDK tells it."""

import concurrent.futures
import uuid

import pytest
import requests
from google.api_core import exceptions
from google.protobuf.json_format import ParseError

STATUSES = {
    400: exceptions.BadRequest,
    403: exceptions.Forbidden,
    404: exceptions.NotFound,
    429: exceptions.TooManyRequests,
    500: exceptions.InternalServerError,
    502: exceptions.BadGateway,
    503: exceptions.ServiceUnavailable,
    504: exceptions.GatewayTimeout,
}


@pytest.mark.parametrize("status", STATUSES)
def test_status_raises_the_class_of_the_sdk(ask, status):
    with pytest.raises(STATUSES[status]) as caught:
        ask(f"[[sandbox: status={status}]]")
    assert caught.value.code == status


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_in_the_details_and_the_header(ask, status):
    with pytest.raises(STATUSES[status]) as caught:
        ask(f"[[sandbox: status={status} retry_after=1.5]]")

    details = {detail["@type"].rpartition(".")[2]: detail for detail in caught.value.details}
    assert details["RetryInfo"]["retryDelay"] == "1.5s"
    assert caught.value.response.headers["Retry-After"] == "2"


def test_times_fails_that_often_for_this_prompt_and_then_answers(ask):
    prompt = f"{uuid.uuid4()} [[sandbox: status=503 times=2 say=done]]"

    for _ in range(2):
        with pytest.raises(exceptions.ServiceUnavailable):
            ask(prompt)
        ask("another prompt meanwhile")
    assert ask(prompt).candidates[0].content.parts[0].text == "done"


def test_directives_of_earlier_turns_do_nothing(ask):
    assert ask("[[sandbox: status=503]]", ("model", "sorry"), "Again?").candidates


def test_blocked_prompt_has_no_candidate(ask):
    response = ask("[[sandbox: block]]")

    assert response.prompt_feedback.block_reason.name == "SAFETY"
    assert not response.candidates


@pytest.mark.parametrize("finish", ["SAFETY", "MAX_TOKENS", "RECITATION", "PROHIBITED_CONTENT"])
def test_finish_gives_a_candidate_without_text(ask, finish):
    candidate = ask(f"[[sandbox: finish={finish}]]").candidates[0]

    assert candidate.finish_reason.name == finish
    assert not candidate.content.parts


def test_empty_is_a_stop_without_parts(ask):
    candidate = ask("[[sandbox: empty]]").candidates[0]

    assert candidate.finish_reason.name == "STOP"
    assert not candidate.content.parts


def test_unknown_fields_do_not_trouble_the_sdk(ask, stream):
    assert ask("[[sandbox: unknown_fields]]").candidates[0].content.parts[0].text
    assert "".join(stream("[[sandbox: unknown_fields say=fine]]")) == "fine"


def test_drop_is_a_connection_error(ask):
    with pytest.raises(requests.exceptions.ConnectionError):
        ask("[[sandbox: drop]]")


def test_drop_after_breaks_a_stream_in_the_middle(ask, stream):
    pieces = stream("[[sandbox: drop_after=2]]")

    assert next(pieces) + next(pieces) == "[sandbox] This"
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        next(pieces)
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        ask("[[sandbox: drop_after=2]]")


def test_garbage_is_a_parse_error(ask):
    with pytest.raises(ParseError):
        ask("[[sandbox: garbage]]")


def test_hang_is_a_read_timeout(ask):
    with pytest.raises(requests.exceptions.ReadTimeout):
        ask("[[sandbox: hang]]", timeout=0.2)


def test_client_that_leaves_a_hanging_call_is_noticed(quiet_gemini, ask):
    with pytest.raises(requests.exceptions.ReadTimeout):
        ask("[[sandbox: hang]]", timeout=0.2)

    assert quiet_gemini.wait_for(in_flight_at_most=0, timeout=3)["in_flight"] == 0


def test_trickle_sends_bytes_that_keep_a_read_timeout_from_firing(gemini, prompt):
    url = f"{gemini.url}/v1beta/models/gemini-3.5-flash:generateContent?key=k"
    body = prompt("[[sandbox: trickle=0.01]]")

    with requests.post(url, json=body, stream=True, timeout=5) as response:
        trickle = response.iter_content(1)
        assert b"".join(next(trickle) for _ in range(30)) == b"{" + b" " * 29


def test_behaviour_set_for_all_requests_ends_with_reset(quiet_gemini, ask):
    quiet_gemini.behave(status=503, times=None)
    with pytest.raises(exceptions.ServiceUnavailable):
        ask("Hello")
    quiet_gemini.reset()

    assert ask("Hello").candidates


def test_behaviour_with_times_counts_requests(quiet_gemini, ask):
    quiet_gemini.behave(status=500, times=1)
    with pytest.raises(exceptions.InternalServerError):
        ask("One")

    assert ask("Two").candidates


def test_reset_lets_hanging_calls_go_on(quiet_gemini, ask):
    quiet_gemini.behave(hang=True)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        calls = [pool.submit(ask, f"Call {number}") for number in range(5)]
        quiet_gemini.wait_for(in_flight_at_least=5)
        quiet_gemini.reset()
        assert all(call.result(5).candidates for call in calls)


def test_bad_behaviour_is_refused(gemini):
    with pytest.raises(ValueError, match="no directive 'colour'"):
        gemini.behave(colour="red")
    with pytest.raises(ValueError, match="'soon' is not a value for 'delay'"):
        gemini.behave(delay="soon")
    answer = requests.put(f"{gemini.url}/sandbox/behaviour", json=["delay"], timeout=5)
    assert (answer.status_code, answer.json()["error"]["status"]) == (400, "INVALID_ARGUMENT")
