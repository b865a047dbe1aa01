"""No call to a model is endless: bounded as a whole, ended from outside, many at once."""

import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.integrations.bounded_calls import BoundedCall
from app.integrations.gemini.client import CallAborted, FinishReason, ModelTimeout
from tests.integrations.scripted import serving
from tests.integrations.test_model_client_contract import both_ways

GRACE_SECONDS = 5.0  # for a machine that is busy with others; without a bound it would be 30 and more


@both_ways
@pytest.mark.parametrize("directive", ["hang", "trickle=0.05", "delay=30"])
@pytest.mark.parametrize("kept_alive", [False, True], ids=["new", "kept-alive"])
def test_a_call_is_bounded_as_a_whole(make_asker, streamed, directive, kept_alive):
    model = make_asker()
    if kept_alive:
        assert model.ask("Hello").answer
    outcome = model.ask(f"[[sandbox: {directive}]]", streamed=streamed, seconds=0.3)

    assert isinstance(outcome.error, ModelTimeout)
    assert 0.25 < outcome.seconds < 0.3 + GRACE_SECONDS
    assert model.ask("Hello again", streamed=streamed).answer


@pytest.mark.parametrize(
    ("directive", "seconds"),
    [
        pytest.param("hang_after=3", 3.5, id="silent"),
        pytest.param("hang_after=3", 30, id="over"),
        pytest.param("pace=0.2 words=40", 3.5, id="slow"),  # each piece comes in time, but not all of them together
    ],
)
def test_a_stream_that_runs_out_of_time_is_an_answer_with_the_text_so_far(model, directive, seconds):
    outcome = model.ask(f"[[sandbox: {directive}]]", streamed=True, seconds=seconds, call=BoundedCall(4))

    assert outcome.answer.finish_reason == FinishReason.TIME_LIMIT
    assert outcome.answer.text == "".join(outcome.pieces)
    assert len(outcome.pieces) >= 3
    assert outcome.answer.usage.prompt_tokens > 0
    assert outcome.seconds < 4 + GRACE_SECONDS


@both_ways
def test_the_time_out_of_a_read_holds_by_itself(model, streamed):
    outcome = model.ask("[[sandbox: hang]]", streamed=streamed, seconds=0.3, call=BoundedCall(30))

    assert isinstance(outcome.error, ModelTimeout)
    assert outcome.seconds < 0.3 + GRACE_SECONDS


@pytest.mark.parametrize(("directive", "streamed"), [("hang", False), ("trickle=0.05", False), ("hang_after=3", True)])
def test_another_thread_can_end_a_call(model, gemini, directive, streamed):
    gemini.clear_requests()
    with ThreadPoolExecutor(1) as others:
        call = BoundedCall(30)
        asked = others.submit(model.ask, f"[[sandbox: {directive}]]", streamed=streamed, seconds=30, call=call)
        gemini.wait_for(in_flight_at_least=1)
        call.abort()
        outcome = asked.result(timeout=GRACE_SECONDS)

    assert isinstance(outcome.error, CallAborted)
    gemini.wait_for(in_flight_at_most=0)  # Google notices when the connection ends
    assert model.ask("Hello again").answer


def test_a_call_can_be_ended_from_within_its_own_stream(model, gemini):
    call = BoundedCall(30)
    outcome = model.ask("[[sandbox: pace=0.05]]", streamed=True, call=call, on_piece=lambda _: call.abort())

    assert isinstance(outcome.error, CallAborted)
    gemini.wait_for(in_flight_at_most=0)


@both_ways
def test_a_call_aborted_before_it_began_ends_at_once(model, streamed):
    call = BoundedCall(30)
    call.abort()
    outcome = model.ask("[[sandbox: hang]]", streamed=streamed, seconds=30, call=call)

    assert isinstance(outcome.error, CallAborted)
    assert outcome.seconds < GRACE_SECONDS


# Many at once


def test_threads_share_a_client_and_each_has_a_connection(model, gemini):
    together = 140  # more than a worker's 128 threads
    gemini.clear_requests()
    gemini.behave(hang=True)
    with ThreadPoolExecutor(together) as threads:
        asked = [threads.submit(model.ask, f"[[sandbox: say={number}]]", seconds=50) for number in range(together)]
        gemini.wait_for(in_flight_at_least=together, timeout=30)
        gemini.reset()
        outcomes = [one.result() for one in asked]

    texts = [outcome.answer and outcome.answer.text for outcome in outcomes]
    assert texts == [str(number) for number in range(together)]


def test_only_calls_that_run_out_of_time_end(model):
    late, in_time = ("[[sandbox: hang]]", 0.5), ("[[sandbox: delay=1 say=here]]", 20)
    with ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(model.ask, prompt, seconds=seconds) for prompt, seconds in [late, in_time] * 4]
        outcomes = [one.result() for one in asked]

    assert [isinstance(outcome.error, ModelTimeout) for outcome in outcomes] == [True, False] * 4
    assert [outcome.answer and outcome.answer.text for outcome in outcomes] == [None, "here"] * 4


@pytest.mark.parametrize("excepted", [False, True], ids=["used", "excepted"])
def test_a_proxy_of_the_environment_is_used_and_bounded(make_asker, monkeypatch, excepted):
    asked = []

    def silent(connection: socket.socket) -> None:
        asked.append(connection)
        connection.recv(1)

    with serving(silent) as proxy:
        for name, value in (("HTTP_PROXY", proxy), ("NO_PROXY", "127.0.0.1" if excepted else "")):
            monkeypatch.setenv(name, value)
            monkeypatch.setenv(name.lower(), value)
        outcome = make_asker().ask("Hello", seconds=30, call=BoundedCall(30 if excepted else 4))

    assert (bool(outcome.answer), len(asked)) == (excepted, not excepted)
    assert outcome.seconds < 4 + GRACE_SECONDS
