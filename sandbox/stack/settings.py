"""The environment of the stack's processes: what was given, and a stand-in for what was not."""

import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dotenv import dotenv_values

from sandbox.serving import serving_command
from sandbox.stack.folder import kept_secret
from sandbox.stack.processes import StackError, bind_error, free_port, reserve

DEFAULT_PORT = 5000
MIGRATE = [sys.executable, "-m", "flask", "--app", "wsgi", "db", "upgrade"]
_GEMINI_PORT = 8081
_STRIPE_PORT = 8082
_CHAT_PORT = 8083
_PACE_SECONDS = 0.03  # between the words of a stream
_WEBHOOK_SECRET = "whsec_sandbox"
_LAST_PORT = 65_535
_OTHER_PORT = "`PORT=5001 make run`"


@dataclass(frozen=True)
class StandIn:
    """A stand-in for an outside service: how to start it, and the variables that the product needs to use it."""

    name: str
    port: int
    command: list[str]
    variables: dict[str, str]


def given_environment(root: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment, with `.env` (or ENV_FILE) for what it lacks, as the application does. Empty means unset.

    The application requires APP_ENV; without one the stack runs in `development`.
    """
    given = {name: value for name, value in environ.items() if value.strip()}
    if given.get("APP_ENV", "").strip().lower() == "production":
        return given
    values = dotenv_values(root / given.get("ENV_FILE", ".env"))
    written = {name: value for name, value in values.items() if value and value.strip()}
    return {"APP_ENV": "development"} | written | given


def chosen_port(environ: Mapping[str, str]) -> int:
    """Return the API's port. Raises StackError if PORT is not a port, or the API cannot listen on it."""
    text = environ.get("PORT", str(DEFAULT_PORT)).strip()
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= _LAST_PORT:
        raise StackError(f"PORT is {text!r}, but must be a number from 1 to {_LAST_PORT}.")
    port = int(text)
    in_use = f"Port {port} is in use: free it, or choose another, as in {_OTHER_PORT}."
    for host in ("127.0.0.1", "0.0.0.0"):  # on some systems, only one of the two fails
        error = bind_error(port, host)
        if isinstance(error, PermissionError):
            raise StackError(f"This account may not use port {port}: choose another, as in {_OTHER_PORT}.")
        if error is not None:
            raise StackError(in_use)
    if "PORT" not in environ and not reserve(port):  # another stack is starting on it
        raise StackError(in_use)
    return port


def stand_ins(environ: Mapping[str, str], *, port: int, var: Path) -> list[StandIn]:
    """Return the stand-ins for the services that have no given key."""
    wanted = []
    if not environ.get("GEMINI_API_KEY"):
        wanted.append(_gemini())
    if not environ.get("STRIPE_SECRET_KEY"):
        wanted.append(_stripe(port, var))
    return wanted


def _gemini() -> StandIn:
    port = free_port(_GEMINI_PORT)
    return StandIn(
        "gemini",
        port,
        serving_command("sandbox.gemini.app:create_app", port=port, pace=_PACE_SECONDS),
        {"GEMINI_API_KEY": "sandbox-key", "GEMINI_API_ENDPOINT": f"http://127.0.0.1:{port}"},
    )


def _stripe(api_port: int, var: Path) -> StandIn:
    port = free_port(_STRIPE_PORT)
    command = serving_command(
        "sandbox.stripe.app:create_app",
        port=port,
        webhook_url=f"http://127.0.0.1:{api_port}/webhook/stripe",
        webhook_secret=_WEBHOOK_SECRET,
        state_file=str(var / "stripe.json"),
    )
    variables = {
        "STRIPE_SECRET_KEY": "sk_test_sandbox",
        "STRIPE_API_BASE": f"http://127.0.0.1:{port}",
        "STRIPE_WEBHOOK_SECRET": _WEBHOOK_SECRET,
        "STRIPE_PRO_PRICE_ID": "price_sandbox_pro",
    }
    return StandIn("stripe", port, command, variables)


def chat_page(environ: Mapping[str, str], *, api_port: int) -> StandIn | None:
    """Return the chat page, or None outside development. The API allows its origin and sends payers back to it."""
    if not _in_development(environ):
        return None
    port = free_port(_CHAT_PORT)
    command = serving_command("sandbox.chat:create_app", port=port, api=f"http://127.0.0.1:{api_port}")
    origin = f"http://127.0.0.1:{port}"
    wanted = {"CORS_ORIGINS": origin, "FRONTEND_URL": origin}
    return StandIn("chat", port, command, {name: value for name, value in wanted.items() if not environ.get(name)})


def _in_development(environ: Mapping[str, str]) -> bool:
    return environ.get("APP_ENV", "development").strip().lower() == "development"


def token_secret(environ: Mapping[str, str], var: Path) -> dict[str, str]:
    """Return a kept secret in development, so that tokens outlive a restart. In production one must be given."""
    if environ.get("JWT_SECRET") or not _in_development(environ):
        return {}
    return {"JWT_SECRET": kept_secret(var / "jwt_secret")}


def process_environment(given: Mapping[str, str], added: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the stack's processes: what was given and what the stack adds."""
    environ = {**given, **added}
    programs = str(Path(sys.executable).parent)
    environ["PATH"] = f"{programs}{os.pathsep}{environ.get('PATH', os.defpath)}"
    environ["PYTHONUNBUFFERED"] = "1"  # log lines appear as soon as they are written
    return environ


def write_exports(path: Path, variables: Mapping[str, str]) -> None:
    """Write a file that a shell can source to reach the running stack. It holds passwords, so it is private."""
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in sorted(variables.items())]
    path.write_text("".join(lines))
