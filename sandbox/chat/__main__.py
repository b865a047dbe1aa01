"""`python -m sandbox.chat`: serve the page until Ctrl-C."""

import argparse
import sys
from contextlib import suppress

from sandbox.chat.server import ChatServer, load_page

DEFAULT_PORT = 8083


def main() -> None:
    """Read the options and serve."""
    parser = argparse.ArgumentParser(prog="python -m sandbox.chat", description="A chat page that uses the API.")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="port on 127.0.0.1 (default 8083)")
    parser.add_argument("--api", default="http://127.0.0.1:5000", help="the API's address, as browsers reach it")
    options = parser.parse_args()
    try:
        server = ChatServer(options.port, load_page(options.api))
    except OSError as error:
        sys.exit(f"The chat page cannot be served on 127.0.0.1:{options.port}: {error.strerror}.")
    except (ValueError, OverflowError) as error:
        sys.exit(str(error))
    print(f"The chat page is on {server.address}", flush=True)
    with server, suppress(KeyboardInterrupt):
        server.serve_forever()


if __name__ == "__main__":
    main()
