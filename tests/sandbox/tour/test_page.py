"""What the tour shows, and what it leaves out."""

import json

from sandbox.tour.page import Page, curl_line, shortened


def test_long_texts_and_lists_are_cut_and_tokens_are_not_shown():
    told = {"access_token": "secret" * 20, "text": "a" * 1000, "items": [1, 2, 3, 4], "page": {"items": [1, 2]}}
    shown = shortened(told)
    assert shown["access_token"] == "secretsecret…"
    assert shown["text"] == "a" * 300 + "…"
    assert shown["items"] == [1, 2, "… and 2 more"]
    assert shown["page"] == {"items": [1, 2]}


def test_short_values_are_shown_as_they_are():
    told = {"id": "0192", "error": None, "used": 3, "has_password": False, "items": []}
    assert shortened(told) == told


def test_a_short_request_is_one_line():
    assert curl_line("GET", "/chatroom", {}) == 'curl "$API/chatroom"'
    assert curl_line("DELETE", "/chatroom/1", {}) == 'curl -X DELETE "$API/chatroom/1"'


def test_a_long_request_goes_on_below_and_quotes_its_body_for_the_shell():
    line = curl_line("POST", "/chatroom", {"Authorization": "Bearer $TOKEN"}, {"title": "It's ours"})
    assert line.splitlines() == [
        'curl "$API/chatroom" \\',
        '    -H "Authorization: Bearer $TOKEN" \\',
        '    -H "Content-Type: application/json" \\',
        """    -d '{"title": "It'"'"'s ours"}'""",
    ]


def test_a_change_names_its_method():
    assert curl_line("PATCH", "/user/me", {}, {"name": "Ada"}).startswith('curl -X PATCH "$API/user/me"')


def test_headers_worth_seeing_are_shown_and_the_others_are_not(capsys):
    page = Page(colour=False)
    page.answer("429 TOO MANY REQUESTS", {"Retry-After": "60", "Server": "x"}, {"code": "rate_limited"}, brief=False)
    first, second, *body = capsys.readouterr().out.splitlines()
    assert (first, second) == ("429 TOO MANY REQUESTS", "Retry-After: 60")
    assert json.loads("\n".join(body)) == {"code": "rate_limited"}


def test_there_is_no_colour_unless_asked_for(capsys):
    for colour in (False, True):
        page = Page(colour=colour)
        page.heading("One")
        page.request("curl")
        page.answer("200 OK", {}, None, brief=True)
        assert ("\x1b" in capsys.readouterr().out) is colour
