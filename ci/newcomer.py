"""Signs a new user up at a running service, for checks that need a token."""

import secrets
from typing import Any

import requests

SECONDS = 30


def tokens(base_url: str) -> dict[str, Any]:
    """Sign a new user up and log in. Returns the service's answer. Raises requests.HTTPError."""
    mobile = {"mobile": f"+1415{secrets.randbelow(8_000_000) + 2_000_000}"}
    post(f"{base_url}/auth/signup", mobile)
    otp = post(f"{base_url}/auth/send-otp", mobile)["otp"]
    return post(f"{base_url}/auth/verify-otp", mobile | {"otp": otp})


def post(url: str, body: dict[str, str]) -> dict[str, Any]:
    answer = requests.post(url, json=body, timeout=SECONDS)
    answer.raise_for_status()
    document: dict[str, Any] = answer.json()
    return document
