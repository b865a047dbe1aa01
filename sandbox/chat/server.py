"""A server for one page, on this machine only."""

from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from sandbox.chat.page import PATHS, Page

HOST = "127.0.0.1"


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
