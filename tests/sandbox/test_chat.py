"""The chat page: what it is served with, and what it must not contain."""

import base64
import hashlib
import re

import pytest
from werkzeug.datastructures import Headers
from werkzeug.test import TestResponse

from sandbox.chat import FILE, LIBRARY, create_app
from sandbox.stack import settings

API = "http://127.0.0.1:5999"
LIBRARY_SHA256 = "391f2aa638e75e6c7859d0a5c5650ef0956722a45998f17e05b83bc655778e1e"


def ask(path: str, host: str = "127.0.0.1") -> TestResponse:
    return create_app(API).test_client().get(path, base_url=f"http://{host}:8083")


def directives(headers: Headers) -> dict[str, str]:
    parts = (part.partition(" ") for part in headers["Content-Security-Policy"].split("; "))
    return {name: value for name, _, value in parts}


@pytest.mark.parametrize("path", ["/", "/billing", "/billing/cancel", "/billing/success?session_id=cs_test_1"])
def test_the_page_answers_where_payments_lead_back_to(path: str):
    answer = ask(path)
    headers = answer.headers

    assert answer.status_code == 200
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert f'<meta name="api" content="{API}">' in answer.text


def test_the_policy_lets_this_script_and_style_run_and_the_api_be_called():
    answer = ask("/")
    headers, body = answer.headers, answer.text
    policy = directives(headers)

    for element, count in (("script", 2), ("style", 1)):
        contents = re.findall(rf"<{element}>(.*?)</{element}>", body, flags=re.DOTALL)
        digests = [base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() for content in contents]
        assert len(digests) == count
        assert policy[f"{element}-src"] == " ".join(f"'sha256-{digest}'" for digest in digests)
    assert policy["connect-src"] == API
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert "unsafe" not in headers["Content-Security-Policy"]


def test_localhost_is_led_to_the_origin_that_the_api_lets_in():
    answer = ask("/billing?x=1", host="localhost")

    assert answer.status_code == 307
    assert answer.location == "http://127.0.0.1:8083/billing?x=1"


def test_the_page_asks_nobody_else_for_anything():
    html = FILE.read_text().replace(f'<script src="{LIBRARY}"></script>', "")

    assert not re.search(r"https?://|//[\w-]+\.\w|@import|url\(", html)
    assert not re.search(r"<(link|script|img|iframe)[^>]* (src|href)=(?!\"data:,\")", html)


def test_the_library_is_in_the_page_as_it_was_published_with_its_licence_beside_it():
    library = FILE.parent / LIBRARY
    assert hashlib.sha256(library.read_bytes()).hexdigest() == LIBRARY_SHA256
    assert library.read_text() in ask("/").text
    assert "Permission is hereby granted" in library.with_name("markdown-it.LICENSE").read_text()


def test_the_page_never_makes_html_of_text():
    html = FILE.read_text()

    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|srcdoc", html)
    assert not re.search(r"<[^>]+ (on\w+|style)=", html)


def test_the_stack_serves_the_page_in_development_and_lets_it_in():
    page = settings.chat_page({}, api_port=5000)

    assert page is not None
    origin = f"http://127.0.0.1:{page.port}"
    assert page.variables == {"CORS_ORIGINS": origin, "FRONTEND_URL": origin}
    assert page.command[-1] == "sandbox.chat:create_app(api='http://127.0.0.1:5000')"


def test_the_stack_keeps_given_origins_and_has_no_page_in_production():
    page = settings.chat_page({"FRONTEND_URL": "https://app.example.com"}, api_port=5000)

    assert page is not None
    assert set(page.variables) == {"CORS_ORIGINS"}
    assert settings.chat_page({"APP_ENV": "production"}, api_port=5000) is None
