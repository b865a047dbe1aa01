"""Walks through the pages in Debian's Chromium, with the stack running; installs the browser where there is none.

The test-suite needs none of this. BASE_URL names a stack that runs already; else one is started.
"""

import os
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

from dotenv import dotenv_values
from sandbox.tour.own_stack import own_stack

ROOT = Path(__file__).resolve().parents[1]
HERE = ROOT / "ci" / "browser"
VIRTUALENV = ROOT / "var" / "browser"  # Playwright is a tool of this check alone
PICTURES = ROOT / "var" / "screenshots"


def install_chromium() -> None:
    """Debian's package, unless a Chromium is there."""
    if os.environ.get("CHROMIUM") or shutil.which("chromium"):
        return
    subprocess.run(["apt-get", "update", "-q"], check=True)
    command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", "chromium"]
    subprocess.run(command, check=True, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})


def install_playwright() -> Path:
    """Playwright in a virtual environment of its own, without its browsers; that environment's Python."""
    python = VIRTUALENV / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(VIRTUALENV)], check=True)
    command = [str(python), "-m", "pip", "install", "-q", "-r", str(HERE / "requirements.txt")]
    subprocess.run(command, check=True)
    return python


def main() -> None:
    install_chromium()
    python = install_playwright()
    given = os.environ.get("BASE_URL")
    with nullcontext(given) if given else own_stack(os.environ) as address:
        chat = dotenv_values(ROOT / "var" / "stack.env").get("FRONTEND_URL") or ""
        environ = {"SCREENSHOTS": str(PICTURES), "CHAT_URL": chat, **os.environ, "BASE_URL": str(address)}
        for walk in ("buy_pro.py", "chat_page.py"):
            subprocess.run([str(python), str(HERE / walk)], check=True, env=environ)


if __name__ == "__main__":
    main()
