"""Runs a command with its own stack, which it finds by BASE_URL and CHAT_URL, or by `{address}` in its words.

    python -m ci.with_stack curl {address}/healthz

SANDBOX_VAR names the folder for the stack's data.
"""

import os
import subprocess
import sys

from dotenv import dotenv_values

from sandbox.stack.deployment import own_stack
from sandbox.stack.folder import stack_folder


def main() -> int:
    with own_stack(os.environ) as address:
        chat = dotenv_values(stack_folder() / "stack.env").get("FRONTEND_URL") or ""
        command = [word.replace("{address}", address) for word in sys.argv[1:]]
        return subprocess.run(command, check=False, env=os.environ | {"BASE_URL": address, "CHAT_URL": chat}).returncode


if __name__ == "__main__":
    sys.exit(main())
