"""`python -m sandbox.stripe`: serves the stand-in until it is told to stop."""

import argparse
import os

from sandbox.serving import serve


def main() -> None:
    """Read the options and replace this process with gunicorn, so that signals reach it directly."""
    parser = argparse.ArgumentParser(prog="python -m sandbox.stripe", description="A stand-in for the Stripe API.")
    parser.add_argument("--port", type=int, default=8082, help="port on 127.0.0.1 (default 8082)")
    parser.add_argument("--webhook-url", default="", help="where events are sent; nowhere if empty")
    parser.add_argument("--webhook-secret", default="whsec_sandbox", help="the secret that signs events")
    parser.add_argument("--state", default="", metavar="FILE", help="keep the state in this JSON file")
    options = parser.parse_args()
    serve(
        "Stripe stand-in",
        "sandbox.stripe.app:create_app",
        port=options.port,
        webhook_url=options.webhook_url,
        webhook_secret=options.webhook_secret,
        state_file=os.path.abspath(options.state) if options.state else "",
    )


if __name__ == "__main__":
    main()
