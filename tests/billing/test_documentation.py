"""What docs/stripe.md tells an operator to set up is what the code wants."""

import re
from pathlib import Path

import stripe

from app.billing.webhook import HANDLERS
from config import Settings

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "stripe.md").read_text()


def test_the_events_to_subscribe_to_are_those_that_are_handled() -> None:
    listed = re.findall(r"^ {6}([a-z_]+\.[a-z_.]+)$", TEXT, re.MULTILINE)
    assert sorted(listed) == sorted(HANDLERS)
    (for_the_cli,) = re.findall(r"--events (\S+)", TEXT)
    assert sorted(for_the_cli.split(",")) == sorted(HANDLERS)


def test_the_api_version_is_that_of_the_pinned_package() -> None:
    assert f"`{stripe.api_version}`" in TEXT


def test_the_documented_variables_exist() -> None:
    named = set(re.findall(r"^\| `([A-Z_]+)`", TEXT, re.MULTILINE))
    fields = {name.upper() for name in Settings.model_fields}
    assert named <= fields
    assert {name for name in fields if name.startswith(("STRIPE_", "BILLING_"))} <= named
