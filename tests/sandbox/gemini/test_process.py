"""The process: what it remembers, how much it holds at once, how it ends."""

import concurrent.futures
import json
import time

import pytest
import requests

from sandbox.stand_ins import running_gemini_stand_in


def test_requests_are_remembered_without_the_key(quiet_gemini, post, prompt):
    post(prompt("Remember me") | {"systemInstruction": {"parts": [{"text": "Be brief."}]}}, key="top-secret")

    (seen,) = quiet_gemini.requests()
    assert seen["model"] == "gemini-3.5-flash"
    assert seen["contents"] == [{"role": "user", "parts": [{"text": "Remember me"}]}]
    assert seen["system_instruction"] == "Be brief."
    assert "top-secret" not in json.dumps(seen)


def test_three_hundred_calls_hang_while_another_is_answered(quiet_gemini, post, prompt):
    with concurrent.futures.ThreadPoolExecutor(300) as pool:
        calls = [pool.submit(post, prompt("[[sandbox: hang]]"), timeout=20) for _ in range(300)]
        quiet_gemini.wait_for(in_flight_at_least=300)
        assert post(prompt("And me?"), timeout=10).status_code == 200
        quiet_gemini.reset()
        assert {call.result(20).status_code for call in calls} == {200}


def test_connection_is_kept_alive(gemini, prompt):
    url = f"{gemini.url}/v1beta/models/gemini-3.5-flash:generateContent?key=k"
    with requests.Session() as session:
        for _ in range(3):
            assert session.post(url, json=prompt("Hi"), timeout=5).status_code == 200
        pools = session.get_adapter(url).poolmanager.pools
        assert [pools[key].num_connections for key in pools.keys()] == [1]  # noqa: SIM118


def test_the_root_page_names_the_stand_in(gemini):
    assert "stand-in for the Gemini API" in requests.get(gemini.url, timeout=5).text
    assert requests.get(f"{gemini.url}/healthz", timeout=5).status_code == 200


def test_pace_spaces_the_words_of_a_stream(prompt, post):
    begin = time.monotonic()
    post(prompt('[[sandbox: pace=0.05 say="one two three four five"]]'), "streamGenerateContent")

    assert time.monotonic() - begin >= 0.2


def test_sigterm_ends_the_stand_in_even_with_hanging_calls():
    with running_gemini_stand_in() as stand_in, concurrent.futures.ThreadPoolExecutor() as pool:
        url = f"{stand_in.url}/v1beta/models/gemini-3.5-flash:generateContent?key=k"
        body = {"contents": [{"parts": [{"text": "[[sandbox: hang]]"}]}]}
        calls = [pool.submit(requests.post, url, json=body, timeout=20) for _ in range(5)]
        stand_in.wait_for(in_flight_at_least=5)

        stand_in.process.terminate()
        stand_in.process.wait(5)

        for call in calls:
            with pytest.raises(requests.exceptions.ConnectionError):
                call.result(5)
