"""How a tour looks on the screen: headings, requests as curl lines, answers as short JSON."""

import json
import shlex
import sys
from collections.abc import Mapping
from typing import Any

SHOWN_HEADERS = (
    "Location",
    "X-Cache",
    "Preference-Applied",
    "Idempotent-Replayed",
    "RateLimit-Limit",
    "RateLimit-Remaining",
    "RateLimit-Reset",
    "Retry-After",
)
WIDTH = 78
_MAX_CHARS = 300
_MAX_ITEMS = 2
_SECRETS = {"access_token", "refresh_token", "key"}
_SECRET_CHARS = 12
_BOLD, _DIM, _GREEN, _YELLOW, _PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[32m", "\x1b[33m", "\x1b[0m"


def shortened(value: Any, name: str = "") -> Any:
    """Return a JSON value with long texts and lists cut, and tokens reduced to their first characters."""
    if isinstance(value, dict):
        return {key: shortened(item, key) for key, item in value.items()}
    if isinstance(value, list):
        rest = len(value) - _MAX_ITEMS
        shown = [shortened(item) for item in value[:_MAX_ITEMS]]
        return [*shown, f"… and {rest} more"] if rest > 0 else shown
    if isinstance(value, str):
        limit = _SECRET_CHARS if name in _SECRETS else _MAX_CHARS
        return value if len(value) <= limit else value[:limit].rstrip() + "…"
    return value


def curl_line(method: str, path: str, headers: Mapping[str, str], body: Any = None) -> str:
    """Return the request as a shell command; `$API` and `$TOKEN` stand for the address and the token."""
    verb = "" if method == ("GET" if body is None else "POST") else f"-X {method} "
    words = [f'curl {verb}"$API{path}"']
    words += [f'-H "{name}: {value}"' for name, value in headers.items()]
    if body is not None:
        words += ['-H "Content-Type: application/json"', f"-d {shlex.quote(json.dumps(body, ensure_ascii=False))}"]
    line = " ".join(words)
    return line if len(line) <= WIDTH - len("$ ") else " \\\n    ".join(words)


class Page:
    """Prints to standard output; in colour on a terminal."""

    def __init__(self, *, colour: bool) -> None:
        self._colour = colour
        self._chapters = 0
        self._after_note = False

    def say(self, text: str = "") -> None:
        print(text, flush=True)

    def heading(self, title: str) -> None:
        """Begin a chapter."""
        self._chapters += 1
        line = f"── {self._chapters}. {title} "
        self.say(f"\n{self._in(_BOLD, line.ljust(WIDTH, '─'))}")

    def note(self, text: str) -> None:
        """Print a sentence about what comes next."""
        self.say(f"\n{self._in(_DIM, f'# {text}')}")
        self._after_note = True

    def request(self, line: str) -> None:
        gap = "" if self._after_note else "\n"
        self._after_note = False
        self.say(f"{gap}{self._in(_BOLD, '$')} {line}")

    def answer(self, status: str, headers: Mapping[str, str], body: Any, *, brief: bool) -> None:
        """Print an answer. status: such as `200 OK`. brief: leave out the body."""
        self.say(self._in(_GREEN if status.startswith("2") else _YELLOW, status))
        for name in SHOWN_HEADERS:
            if name in headers:
                self.say(f"{self._in(_DIM, f'{name}:')} {headers[name]}")
        if body is not None and not brief:
            self.say(json.dumps(shortened(body), indent=2, ensure_ascii=False))

    def write(self, text: str) -> None:
        """Print a piece of text right after the one before."""
        print(text, end="", flush=True)

    def _in(self, style: str, text: str) -> str:
        return f"{style}{text}{_PLAIN}" if self._colour else text


def wants_colour(environ: Mapping[str, str]) -> bool:
    """Return whether to print in colour: on a terminal, unless NO_COLOR is set (https://no-color.org)."""
    return sys.stdout.isatty() and not environ.get("NO_COLOR")
