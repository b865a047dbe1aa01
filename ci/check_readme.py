"""Pastes README's first curls into a shell, with the stack running, and looks for the reply they promise."""

import os
import re
import subprocess
from pathlib import Path

from sandbox.tour.own_stack import own_stack

README = Path(__file__).resolve().parents[1] / "README.md"
ADDRESS = "http://127.0.0.1:5000"


def first_curls() -> str:
    """The block of README that signs up and ends with an answered message."""
    blocks = re.findall(r"^```bash\n(.*?)^```", README.read_text(), flags=re.MULTILINE | re.DOTALL)
    found = [block for block in blocks if "/auth/signup" in block]
    assert len(found) == 1, "README must have one block of commands that begins at /auth/signup"
    assert ADDRESS in found[0], f"README's commands must be for {ADDRESS}"
    return found[0]


def main() -> None:
    with own_stack(os.environ) as address:
        commands = first_curls().replace(ADDRESS, address)
        done = subprocess.run(
            ["bash"], input=commands, capture_output=True, text=True, timeout=60, check=False, env={**os.environ}
        )
    print(done.stdout + done.stderr)
    replies = re.findall(r'"reply": *\{.*"status": *"completed"', done.stdout)
    assert replies, "README's commands did not end with a completed reply"
    print("README's commands work when pasted.")


if __name__ == "__main__":
    main()
