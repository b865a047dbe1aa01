"""The docs page: Swagger UI, with everything it needs from this service alone."""

import re
from html.parser import HTMLParser
from urllib.parse import urlsplit

import pytest

from tests.problems import assert_problem


class Page(HTMLParser):
    """What a page loads, and which scripts are in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.inline: list[str] = []
        self.handlers: list[str] = []
        self.inside_script = False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.addresses += [values[name] for name in ("src", "href", "action", "data") if values.get(name)]
        self.handlers += [name for name in values if name.startswith("on") or name == "style"]
        self.inside_script = tag in {"script", "style"}

    def handle_endtag(self, _tag):
        self.inside_script = False

    def handle_data(self, data):
        if self.inside_script and data.strip():
            self.inline.append(data)


@pytest.fixture
def page(client) -> Page:
    return Page(client.get("/docs").text)


def policy(response) -> dict[str, list[str]]:
    rules = [rule.split() for rule in response.headers["Content-Security-Policy"].split(";")]
    return {name: sources for name, *sources in rules}


def test_home_leads_to_the_docs(client):
    response = client.get("/")
    assert response.status_code == 302
    assert response.headers["Location"] == "/docs"


def test_page_loads_everything_from_this_origin(client, page):
    assert len(page.addresses) >= 4
    for address in page.addresses:
        parts = urlsplit(address)
        assert not parts.scheme, address
        assert not parts.netloc, address
        asset = client.get(address, buffered=True)
        assert asset.status_code == 200, address
        assert asset.data


def test_assets_have_the_types_that_nosniff_asks_for(client, page):
    types = {"js": "text/javascript", "css": "text/css", "png": "image/png"}
    for address in page.addresses:
        asset = client.get(address, buffered=True)
        assert asset.mimetype == types[address.rsplit(".", 1)[1]]
        assert asset.headers["Cache-Control"] != "no-store"
        assert asset.headers["ETag"]


def test_page_fits_its_content_security_policy(client, page):
    rules = policy(client.get("/docs"))
    assert rules["default-src"] == ["'none'"]
    assert rules["script-src"] == ["'self'"]
    assert rules["connect-src"] == ["'self'"]
    assert set(rules["img-src"]) == {"'self'", "data:"}
    assert not [source for sources in rules.values() for source in sources if "http" in source or "*" in source]
    assert page.inline == []
    assert page.handlers == []


def test_page_starts_on_this_description_and_asks_no_validator_elsewhere(client, page):
    script = next(client.get(address, buffered=True).text for address in page.addresses if address.endswith("docs.js"))
    assert 'url: "/openapi.json"' in script
    assert "validatorUrl: null" in script
    assert not re.search(r"https?://", script)
    assert client.get("/openapi.json").json["servers"] == [{"url": "/"}]


@pytest.mark.parametrize(
    "name", ["../package.json", "..%2f__init__.py", "/etc/passwd", "%2fetc%2fpasswd", "nothing.js", ""]
)
def test_assets_are_only_those_of_swagger_ui(client, name):
    assert_problem(client.get(f"/docs/assets/{name}"), 404, "not_found")


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("If-Match", '"another"'),
        ("If-Modified-Since", f"Sat, {'9' * 30} Nov 2026 00:00:00 GMT"),
        ("Range", "bytes=99999999-"),
        ("Range", "bytes=0-1,4-5"),
    ],
)
def test_a_condition_or_a_range_that_cannot_be_met_brings_the_whole_asset(client, page, header, value):
    for address in page.addresses:
        whole = client.get(address, buffered=True)
        asset = client.get(address, headers={header: value}, buffered=True)
        assert (asset.status_code, asset.data) == (200, whole.data)
        assert client.get(address, headers={"If-None-Match": whole.headers["ETag"]}).status_code == 304


def test_openapi_is_json_that_browsers_may_read(client):
    response = client.get("/openapi.json")
    assert response.mimetype == "application/json"
    assert response.json["openapi"].startswith("3.1")


def test_a_file_of_the_page_is_logged_as_a_request_like_others(client, caplog):
    caplog.set_level("INFO")
    assert client.get("/docs/assets/swagger-ui.css", buffered=True).status_code == 200
    [line] = [record for record in caplog.records if getattr(record, "event", "") == "request"]
    assert (line.route, line.status) == ("/docs/assets/<path:name>", 200)
