"""compose.yaml says what the Compose specification knows, and starts what the Procfile starts.

Fields: https://github.com/compose-spec/compose-spec/blob/main/spec.md, read in November 2026. What is listed here is
what we rely on.
"""

import os
import re
import subprocess
import sys
from typing import Any

import pytest
import yaml

from tests.deployment.files import process_names, procfile_lines, setting_names
from tests.web_process import ROOT

TOP_FIELDS = {"name", "services", "volumes"}
SERVICE_FIELDS = {
    "build", "cap_drop", "command", "depends_on", "environment", "healthcheck", "image", "init", "ports", "read_only",
    "restart", "security_opt", "stop_grace_period", "tmpfs", "volumes",
}  # fmt: skip
HEALTH_FIELDS = {"test", "interval", "timeout", "retries", "start_period", "disable"}
CONDITIONS = {"service_started", "service_healthy", "service_completed_successfully"}
APP = {"web", "worker", "beat", "migrate"}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "compose.yaml").read_text())


@pytest.fixture(scope="module")
def services(compose) -> dict[str, dict[str, Any]]:
    return compose["services"]


def test_every_field_is_documented(compose, services):
    assert {name for name in compose if not name.startswith("x-")} == TOP_FIELDS
    for name, service in services.items():
        assert set(service) <= SERVICE_FIELDS, name
        assert set(service.get("healthcheck", {})) <= HEALTH_FIELDS
        for awaited, how in service.get("depends_on", {}).items():
            assert awaited in services
            assert how["condition"] in CONDITIONS


def test_compose_has_all_processes_and_their_stores(services, compose):
    assert set(services) == APP | {"postgres", "redis"}
    assert {services[name]["image"] for name in APP} == {"gemini-backend"}
    assert services["redis"]["command"].endswith("--maxmemory-policy noeviction")
    assert {volume.split(":")[0] for name in ("postgres", "redis") for volume in services[name]["volumes"]} == set(
        compose["volumes"]
    )


@pytest.mark.parametrize("name", ["worker", "beat"])
def test_commands_are_those_of_the_procfile(services, name):
    assert services[name]["command"] == procfile_lines()[name]


def test_processes_are_given_the_time_to_end(services):
    page = (ROOT / "docs/operations.md").read_text()
    assert "Send SIGTERM to every process and allow 30 seconds before SIGKILL" in page
    assert {services[name]["stop_grace_period"] for name in APP} == {"30s"}


def test_nothing_starts_before_the_migrations(services):
    for name in APP - {"migrate"}:
        assert services[name]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
    assert services["migrate"]["command"] == "flask db upgrade"


def test_every_variable_is_a_setting(services):
    for name in APP:
        unknown = set(services[name]["environment"]) - setting_names() - process_names()
        assert not unknown, f"{name} is given {unknown}, which nothing reads"


def given(variables: dict[str, str | None], shell: dict[str, str]) -> dict[str, str]:
    """The variables of a container, as Compose fills them in: one without a value is the shell's, if there is one."""

    def fill(found: re.Match[str]) -> str:
        assert shell.get(found[1]) or found[2] != ":?", found[1]
        return shell.get(found[1]) or (found[3] if found[2] == ":-" else "")

    passed_on = {name: shell[name] for name, value in variables.items() if value is None and name in shell}
    said = {name: value for name, value in variables.items() if value is not None}
    return passed_on | {name: re.sub(r"\$\{(\w+)(?:(:-|:\?)([^}]*))?\}", fill, value) for name, value in said.items()}


SHELL = {  # the head of compose.yaml asks for these
    "JWT_SECRET": "q7" * 24,
    "GEMINI_API_KEY": "a-key",
    "STRIPE_SECRET_KEY": "sk_live_of_the_test",
    "STRIPE_WEBHOOK_SECRET": "whsec_of_the_test",
    "STRIPE_PRO_PRICE_ID": "price_of_the_test",
}
TWILIO = {
    "OTP_DELIVERY": "twilio",
    "TWILIO_ACCOUNT_SID": "AC1",
    "TWILIO_AUTH_TOKEN": "t",
    "TWILIO_FROM": "+14155550100",
}
IN_RESPONSE = {"OTP_DELIVERY": "response", "OTP_RESPONSE_IN_PRODUCTION": "true"}


@pytest.mark.parametrize("more", [{}, TWILIO | {"WEB_CONCURRENCY": "3", "WEB_THREADS": "8"}, IN_RESPONSE])
def test_gunicorn_takes_what_compose_tells_it(services, more, tmp_path):
    command = [sys.executable, "-m", "gunicorn", "--check-config", "-c", "gunicorn.conf.py", "wsgi:app"]
    own = {"PATH": os.environ["PATH"], "ENV_FILE": os.devnull, "FLASK_SKIP_DOTENV": "1", "TMPDIR": str(tmp_path)}
    told = given(services["web"]["environment"], SHELL | more)
    outcome = subprocess.run(command, cwd=ROOT, env=own | told, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr


def test_every_variable_of_the_shell_is_explained(services):
    used = set(re.findall(r"\$\{([A-Z_]+)", (ROOT / "compose.yaml").read_text()))
    assert used - setting_names() - process_names() == {"POSTGRES_PASSWORD"}


def test_secrets_are_taken_from_the_shell(services):
    for name in APP:
        for variable, value in services[name]["environment"].items():
            if any(part in variable for part in ("SECRET", "_KEY", "TOKEN")):
                assert str(value).startswith("${"), variable


def test_worker_and_beat_are_not_asked_over_http(services):
    """The image's own health check is for web."""
    assert services["beat"]["healthcheck"] == {"disable": True}
    assert "flask health" in services["worker"]["healthcheck"]["test"][1]
