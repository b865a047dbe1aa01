"""The chat page: what it is served with, and what it must not contain."""

import base64
import hashlib
import http.client
import re
import threading
from collections.abc import Iterator

import pytest

from sandbox.chat import FILE, LIBRARY, ChatServer, load_page
from sandbox.stack import settings
from sandbox.stack.run import welcome

API = "http://127.0.0.1:5999"


@pytest.fixture(scope="module")
def server() -> Iterator[ChatServer]:
    with ChatServer(0, load_page(API)) as running:
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield running
        running.shutdown()


def ask(server: ChatServer, path: str, method: str = "GET", host: str = "127.0.0.1") -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
    connection.request(method, path, headers={"Host": f"{host}:{server.server_address[1]}"})
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, dict(answer.getheaders()), body


def directives(headers: dict[str, str]) -> dict[str, str]:
    parts = (part.partition(" ") for part in headers["Content-Security-Policy"].split("; "))
    return {name: value for name, _, value in parts}


@pytest.mark.parametrize("path", ["/", "/billing", "/billing/cancel", "/billing/success?session_id=cs_test_1"])
def test_the_page_answers_where_payments_lead_back_to(server: ChatServer, path: str):
    status, headers, body = ask(server, path)

    assert status == 200
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert f'<meta name="api" content="{API}">' in body


def test_the_policy_lets_this_script_and_style_run_and_the_api_be_called(server: ChatServer):
    _, headers, body = ask(server, "/")
    policy = directives(headers)

    for element, count in (("script", 2), ("style", 1)):
        contents = re.findall(rf"<{element}>(.*?)</{element}>", body, flags=re.DOTALL)
        digests = [base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() for content in contents]
        assert len(digests) == count
        assert policy[f"{element}-src"] == " ".join(f"'sha256-{digest}'" for digest in digests)
    assert policy["connect-src"] == API
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert "unsafe" not in headers["Content-Security-Policy"]


def test_other_paths_and_methods_are_refused(server: ChatServer):
    assert ask(server, "/index.html")[0] == 404
    assert ask(server, "/../page.py")[0] == 404
    assert ask(server, "/", "POST")[0] == 501
    status, headers, body = ask(server, "/", "HEAD")
    assert (status, body) == (200, "")
    assert int(headers["Content-Length"]) > 0


def test_localhost_is_led_to_the_origin_that_the_api_lets_in(server: ChatServer):
    status, headers, _ = ask(server, "//evil.example/billing?x=1", host="localhost")

    assert status == 307
    assert headers["Location"] == f"{server.address}/evil.example/billing?x=1"


def test_the_page_asks_nobody_else_for_anything():
    html = FILE.read_text().replace(f'<script src="{LIBRARY}"></script>', "")

    assert not re.search(r"https?://|//[\w-]+\.\w|@import|url\(", html)
    assert not re.search(r"<(link|script|img|iframe)[^>]* (src|href)=(?!\"data:,\")", html)


def test_the_library_is_in_the_page_as_it_was_published_with_its_licence_beside_it(server: ChatServer, monkeypatch):
    library = FILE.parent / LIBRARY
    assert library.read_text() in ask(server, "/")[2]
    assert "Permission is hereby granted" in library.with_name("markdown-it.LICENSE").read_text()
    monkeypatch.setattr("sandbox.chat.LIBRARY_SHA256", "0" * 64)
    with pytest.raises(ValueError, match="is not the file that was published"):
        load_page(API)


def test_the_page_never_makes_html_of_text():
    html = FILE.read_text()

    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|srcdoc", html)
    assert not re.search(r"<[^>]+ (on\w+|style)=", html)


@pytest.mark.parametrize("api", ["", "127.0.0.1:5000", "ftp://host", "http://", "http://h;script-src *", 'http://h"'])
def test_an_api_address_that_is_none_is_refused(api: str):
    with pytest.raises(ValueError, match="is not an http"):
        load_page(api)


def test_the_stack_serves_the_page_in_development_and_lets_it_in():
    page = settings.chat_page({}, api_port=5000)

    assert page is not None
    origin = f"http://127.0.0.1:{page.port}"
    assert page.variables == {"CORS_ORIGINS": origin, "FRONTEND_URL": origin}
    assert page.command[-1] == "http://127.0.0.1:5000"


def test_the_stack_keeps_given_origins_and_has_no_page_in_production():
    page = settings.chat_page({"FRONTEND_URL": "https://app.example.com"}, api_port=5000)

    assert page is not None
    assert set(page.variables) == {"CORS_ORIGINS"}
    assert settings.chat_page({"APP_ENV": "production"}, api_port=5000) is None


def test_the_welcome_names_the_page_in_one_line():
    text = welcome(port=5000, chat="http://127.0.0.1:8083", locations={})

    assert [line.split()[0] for line in text.splitlines() if "http://127.0.0.1:8083" in line] == ["Chat"]
    assert "Chat" not in welcome(port=5000, chat=None, locations={})
