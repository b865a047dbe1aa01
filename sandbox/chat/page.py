"""The page as it is served: the file, the API's address filled in, and a policy that lets nothing else run."""

import base64
import hashlib
import re
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import urlsplit

FILE = Path(__file__).with_name("index.html")
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
    if _API not in html:
        raise ValueError(f"{FILE.name} has no place for the API's address.")
    filled = html.replace(_API, f'<meta name="api" content="{escape(api.rstrip("/"))}">')
    headers = {
        "Content-Type": "text/html; charset=utf-8",
        "Cache-Control": "no-store",
        "Content-Security-Policy": policy(filled, origin),
        "Cross-Origin-Opener-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
    return Page(filled.encode(), headers)


def origin_of(api: str) -> str:
    """The origin of an http(s) address. Raises ValueError."""
    parts = urlsplit(api)
    if parts.scheme not in {"http", "https"} or not re.fullmatch(r"[\w.:\[\]-]+", parts.netloc):
        raise ValueError(f"{api!r} is not an http(s) address.")
    return f"{parts.scheme}://{parts.netloc}"


def policy(html: str, origin: str) -> str:
    """The Content-Security-Policy: this very script and style run, and only the API is talked to."""
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
