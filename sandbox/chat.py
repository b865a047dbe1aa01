"""A page to try the whole product in a browser, by nothing but its public API; never in production.

`python -m sandbox.chat` serves chat.html on this machine, with the API's address filled in and a policy that lets
nothing else run.
"""

import argparse
import base64
import hashlib
import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

HOST = "127.0.0.1"
DEFAULT_PORT = 8083
FILE = Path(__file__).with_name("chat.html")
LIBRARY = "vendor/markdown-it-15.0.3.min.js"  # from npm, as it came; its licence is beside it
LIBRARY_SHA256 = "391f2aa638e75e6c7859d0a5c5650ef0956722a45998f17e05b83bc655778e1e"
_API = '<meta name="api" content="">'
# The addresses under FRONTEND_URL that Stripe's pages lead back to, and the page's own.
PATHS = frozenset({"/", "/billing", "/billing/success", "/billing/cancel"})


@dataclass(frozen=True)
class Page:
    """What every path of the page answers."""

    html: bytes
    headers: dict[str, str]


def load_page(api: str) -> Page:
    """The page for the API at this address. Raises ValueError when that is no http(s) address."""
    origin = origin_of(api)
    html = FILE.read_text(encoding="utf-8")
    places = {
        _API: f'<meta name="api" content="{escape(api.rstrip("/"))}">',
        f'<script src="{LIBRARY}"></script>': f"<script>{library()}</script>",
    }
    filled = html
    for place, content in places.items():
        if place not in html:
            raise ValueError(f"{FILE.name} has no place for {place}.")
        filled = filled.replace(place, content)
    headers = {
        "Content-Type": "text/html; charset=utf-8",
        "Cache-Control": "no-store",
        "Content-Security-Policy": policy(filled, origin),
        "Cross-Origin-Opener-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
    return Page(filled.encode(), headers)


def library() -> str:
    """The Markdown parser that the page holds. Raises ValueError when it is not the file that was chosen."""
    text = FILE.parent.joinpath(LIBRARY).read_bytes()
    if hashlib.sha256(text).hexdigest() != LIBRARY_SHA256:
        raise ValueError(f"{LIBRARY} is not the file that was published.")
    return text.decode()


def origin_of(api: str) -> str:
    """The origin of an http(s) address. Raises ValueError."""
    parts = urlsplit(api)
    if parts.scheme not in {"http", "https"} or not re.fullmatch(r"[\w.:\[\]-]+", parts.netloc):
        raise ValueError(f"{api!r} is not an http(s) address.")
    return f"{parts.scheme}://{parts.netloc}"


def policy(html: str, origin: str) -> str:
    """The Content-Security-Policy: these very scripts and style run, and only the API is talked to."""
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {_hashes(html, 'script')}",
            f"style-src {_hashes(html, 'style')}",
            f"connect-src {origin}",
            "img-src data:",  # the empty icon
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",  # text never becomes HTML
        ]
    )


def _hashes(html: str, element: str) -> str:
    contents: list[str] = re.findall(rf"<{element}>(.*?)</{element}>", html, flags=re.DOTALL)
    digests = (hashlib.sha256(content.encode()).digest() for content in contents)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)


class ChatServer(ThreadingHTTPServer):
    """Answers the page's paths with the page, and nothing else."""

    daemon_threads = True

    def __init__(self, port: int, page: Page) -> None:
        super().__init__((HOST, port), _Handler)
        self.page = page

    @property
    def address(self) -> str:
        """The page's origin."""
        return f"http://{HOST}:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: ChatServer
    protocol_version = "HTTP/1.1"
    timeout = 30

    def do_GET(self) -> None:
        """The page; from `localhost` to the origin that the API knows."""
        if (self.headers["Host"] or "").partition(":")[0].lower() == "localhost":
            target = "/" + self.path.lstrip("/")
            self._answer(HTTPStatus.TEMPORARY_REDIRECT, {"Location": self.server.address + target})
        elif urlsplit(self.path).path in PATHS:
            self._answer(HTTPStatus.OK, self.server.page.headers, self.server.page.html)
        else:
            self._answer(HTTPStatus.NOT_FOUND, {"Content-Type": "text/plain"}, b"There is nothing here.\n")

    def do_HEAD(self) -> None:
        """As GET, without the body."""
        self.do_GET()

    def _answer(self, status: HTTPStatus, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def version_string(self) -> str:
        """The `Server` header: no versions."""
        return "sandbox"

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def main() -> None:
    """Read the options and serve."""
    parser = argparse.ArgumentParser(prog="python -m sandbox.chat", description="A chat page that uses the API.")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="port on 127.0.0.1 (default 8083)")
    parser.add_argument("--api", default="http://127.0.0.1:5000", help="the API's address, as browsers reach it")
    options = parser.parse_args()
    try:
        server = ChatServer(options.port, load_page(options.api))
    except OSError as error:
        sys.exit(f"The chat page cannot be served on 127.0.0.1:{options.port}: {error.strerror}.")
    except (ValueError, OverflowError) as error:
        sys.exit(str(error))
    print(f"The chat page is on {server.address}", flush=True)
    with server, suppress(KeyboardInterrupt):
        server.serve_forever()


if __name__ == "__main__":
    main()
