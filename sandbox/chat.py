"""A page for trying the whole product in a browser, through its public API alone. It is not for production.

`make run` serves chat.html on this machine, with the API's address filled in and a Content-Security-Policy that lets no
other script run.
"""

import base64
import hashlib
import re
from html import escape
from pathlib import Path
from urllib.parse import urlsplit

from flask import Flask, redirect, request
from flask.typing import ResponseReturnValue

FILE = Path(__file__).with_name("chat.html")
LIBRARY = "vendor/markdown-it-15.0.3.min.js"  # from npm, unchanged; its licence is next to it
# The page's own path, and the paths under FRONTEND_URL that Stripe's pages lead back to.
PATHS = ("/", "/billing", "/billing/success", "/billing/cancel")


def create_app(api: str) -> Flask:
    """Return an app that serves the page at each of PATHS, for the API at this address."""
    html = filled(api.rstrip("/"))
    headers = {
        "Cache-Control": "no-store",
        "Content-Security-Policy": policy(html, urlsplit(api)._replace(path="").geturl()),
        "Cross-Origin-Opener-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
    app = Flask(__name__, static_folder=None)

    def page() -> ResponseReturnValue:
        if request.host.partition(":")[0] == "localhost":  # the API allows the origin with 127.0.0.1
            return redirect(request.url.replace("localhost", "127.0.0.1", 1), 307)
        return html, headers

    for path in PATHS:
        app.add_url_rule(path, view_func=page)
    return app


def filled(api: str) -> str:
    """Return the page with the API's address and the Markdown parser in it."""
    library = (FILE.parent / LIBRARY).read_text()
    html = FILE.read_text().replace('<meta name="api" content="">', f'<meta name="api" content="{escape(api)}">')
    return html.replace(f'<script src="{LIBRARY}"></script>', f"<script>{library}</script>")


def policy(html: str, origin: str) -> str:
    """Return the Content-Security-Policy: only this page's scripts and style run, and they reach only the API."""
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
