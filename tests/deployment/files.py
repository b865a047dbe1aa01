"""What the files that describe a deployment have in common."""

import re

from config import Settings
from tests.web_process import ROOT


def setting_names() -> set[str]:
    """The variables that config.py reads."""
    return {name.upper() for name in Settings.model_fields}


def process_names() -> set[str]:
    """The variables that gunicorn.conf.py and the Procfile read beside config.py."""
    read = re.findall(r"environ\.get\(\"([A-Z_]+)\"", (ROOT / "gunicorn.conf.py").read_text())
    return {*read, *re.findall(r"\$\{?([A-Z_]+)", (ROOT / "Procfile").read_text())} - setting_names()


def procfile_lines() -> dict[str, str]:
    """The Procfile's commands with the defaults of their variables."""
    lines = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines() if line)
    return {name: re.sub(r"\$\{\w+:-(\w+)\}", r"\1", line) for name, line in lines.items()}
