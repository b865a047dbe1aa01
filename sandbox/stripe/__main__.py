"""`python -m sandbox.stripe`: run the stand-in under gunicorn, on this machine only."""

import argparse
import os
import sys

from sandbox.stripe.app import ENVIRONMENT_PREFIX

DEFAULT_PORT = 8082


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m sandbox.stripe", description=__doc__)
    parser.add_argument("--port", type=int, default=DEFAULT_PORT)
    parser.add_argument("--webhook-url", default="", help="where events are sent; nowhere when empty")
    parser.add_argument("--webhook-secret", default="", help="what events are signed with")
    parser.add_argument("--state", default="", metavar="FILE", help="keep the state in this JSON file")
    parser.add_argument("--public-url", default="", help="where browsers reach the pages, if elsewhere")
    return parser.parse_args()


def main() -> None:
    """Become gunicorn."""
    options = arguments()
    settings = {
        "WEBHOOK_URL": options.webhook_url,
        "WEBHOOK_SECRET": options.webhook_secret,
        "STATE_FILE": os.path.abspath(options.state) if options.state else "",
        "PUBLIC_URL": options.public_url,
    }
    os.environ.update({ENVIRONMENT_PREFIX + name: value for name, value in settings.items()})
    command = [sys.executable, "-m", "gunicorn", "--no-control-socket"]
    command += ["--config", "python:sandbox.stripe.gunicorn_conf"]
    command += ["--bind", f"127.0.0.1:{options.port}", "sandbox.stripe.app:create_app()"]
    os.execv(sys.executable, command)


if __name__ == "__main__":
    main()
