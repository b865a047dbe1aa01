"""Choosing the SDK: only the chosen one is imported, and a missing one is reported at once."""

import os
import subprocess
import sys
from typing import get_args

import pytest

from app.integrations.gemini.client import CLIENTS
from config import ConfigError, Settings, load_settings
from tests.web_process import ROOT

PACKAGES = {"google-generativeai": "google.generativeai", "google-genai": "google.genai"}
WORKER = (
    "import sys; {}; from celery.__main__ import main; sys.argv = ['celery', '-A', 'celery_worker', 'worker']; main()"
)


def run(code: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a piece of Python in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def test_every_choice_of_the_setting_has_a_client():
    assert set(CLIENTS) == set(get_args(Settings.model_fields["gemini_sdk"].annotation))


@pytest.mark.parametrize("sdk", sorted(CLIENTS))
def test_only_the_chosen_library_is_imported_and_without_a_warning(sdk):
    others = [package for name, package in PACKAGES.items() if name != sdk]
    done = run(
        f"import sys; from app.integrations.gemini.client import model_client_class; model_client_class({sdk!r});"
        f"print({PACKAGES[sdk]!r} in sys.modules, [name for name in {others!r} if name in sys.modules])"
    )

    assert (done.stdout.split("\n")[0], done.stderr) == ("True []", "")


@pytest.mark.parametrize(
    ("sdk", "file"), [("google-generativeai", "requirements.txt"), ("google-genai", "requirements-genai.txt")]
)
def test_a_worker_without_the_chosen_library_ends_with_one_sentence(environment, sdk, file):
    missing = f"sys.modules[{PACKAGES[sdk]!r}] = None"
    done = run(WORKER.format(missing), **environment | {"GEMINI_SDK": sdk})

    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"Configuration: GEMINI_SDK is {sdk}, which is not installed (")
    assert last.endswith(f"): install {file}.")
    assert "Traceback" not in done.stderr


def test_a_library_that_does_not_exist_is_refused():
    with pytest.raises(
        ConfigError, match="GEMINI_SDK is wrong: Input should be 'google-generativeai' or 'google-genai'"
    ):
        load_settings(gemini_sdk="google-gemini", database_url="postgresql://x/y", redis_url="redis://x")
