"""`python -m sandbox.gemini`: become the gunicorn that serves the stand-in."""

import argparse
import os
import socket
import sys

THREADS = 400
GRACEFUL_TIMEOUT_SECONDS = 1


def gunicorn_arguments(*, port: int, pace: float, delay: float) -> list[str]:
    """Return the command line: one worker holds all state, many threads hold the waiting calls."""
    return [
        *(sys.executable, "-m", "gunicorn"),
        f"sandbox.gemini.app:create_app(pace={pace!r}, delay={delay!r})",
        *("--config", "python:sandbox.gemini.gunicorn_conf"),
        *("--bind", f"127.0.0.1:{port}"),
        *("--worker-class", "gthread", "--workers", "1", "--threads", str(THREADS)),
        *("--worker-connections", str(3 * THREADS), "--backlog", "1024", "--keep-alive", "30"),
        *("--timeout", "60", "--graceful-timeout", str(GRACEFUL_TIMEOUT_SECONDS)),
        *("--log-level", "warning", "--no-control-socket"),
    ]


def require_free_port(port: int) -> None:
    """End with one sentence when the port is taken; gunicorn would try for five seconds first."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            sys.exit(f"The Gemini stand-in cannot listen on 127.0.0.1:{port}: {error.strerror}.")


def main() -> None:
    """Read the options and exec gunicorn, so that signals reach it directly."""
    parser = argparse.ArgumentParser(prog="python -m sandbox.gemini", description="A stand-in for the Gemini API.")
    parser.add_argument("--port", type=int, default=8081, help="port on 127.0.0.1 (default 8081)")
    parser.add_argument("--pace", type=float, default=0.03, help="seconds between the words of a stream (default 0.03)")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before every answer (default 0)")
    options = parser.parse_args()
    require_free_port(options.port)
    print(f"The Gemini stand-in listens on http://127.0.0.1:{options.port}", flush=True)
    command = gunicorn_arguments(port=options.port, pace=options.pace, delay=options.delay)
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
