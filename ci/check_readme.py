"""Pastes README's commands into a shell and looks for the answers that they promise. BASE_URL is the stack's address.

A command that fails, even in a pipe, ends the shell and the check.
"""

import os
import re
import subprocess
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"
ADDRESS = "http://127.0.0.1:5000"
PASTE_SECONDS = 180
PROMISED = {
    "a completed reply": r'"reply": *\{.*"status": *"completed"',
    "pieces of a reply": r"^event: delta$",
    "the end of a stream": r"^event: completed$",
    "a canceled reply": r'^\{.*"status": *"canceled"',
    "a reply that is regenerated": r'^\{.*"status": *"queued"',
}


def curls() -> str:
    """Return README's commands in their order. The first block signs up."""
    blocks = re.findall(r"^```bash\n(.*?)^```", README.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert "/auth/signup" in blocks[0], "README's first block of commands must begin at /auth/signup"
    assert ADDRESS in blocks[0], f"README's commands must be for {ADDRESS}"
    return "".join(blocks)


def main() -> None:
    commands = curls().replace(ADDRESS, os.environ["BASE_URL"])
    shell = ["bash", "-euo", "pipefail"]
    done = subprocess.run(shell, input=commands, capture_output=True, text=True, timeout=PASTE_SECONDS, check=False)
    print(done.stdout + done.stderr)
    assert done.returncode == 0, f"One of README's commands failed ({done.returncode})"
    missing = [what for what, sign in PROMISED.items() if not re.search(sign, done.stdout, flags=re.MULTILINE)]
    assert not missing, f"README's commands did not show: {', '.join(missing)}"
    print("README's commands work when pasted.")


if __name__ == "__main__":
    main()
