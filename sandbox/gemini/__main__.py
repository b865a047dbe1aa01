"""`python -m sandbox.gemini`: serves the stand-in until it is told to stop."""

import argparse

from sandbox.serving import serve


def main() -> None:
    """Read the options and replace this process with gunicorn, so that signals reach it directly."""
    parser = argparse.ArgumentParser(prog="python -m sandbox.gemini", description="A stand-in for the Gemini API.")
    parser.add_argument("--port", type=int, default=8081, help="port on 127.0.0.1 (default 8081)")
    parser.add_argument("--pace", type=float, default=0.03, help="seconds between the words of a stream (default 0.03)")
    options = parser.parse_args()
    serve("Gemini stand-in", "sandbox.gemini.app:create_app", port=options.port, pace=options.pace)


if __name__ == "__main__":
    main()
