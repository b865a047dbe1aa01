"""README and .env.example name every variable, every route and every command, and none that is not there."""

import re
from collections import Counter
from typing import Any

import pytest
from dotenv import dotenv_values
from pydantic_core import PydanticUndefined

from config import DEVELOPMENT_JWT_SECRET, ConfigError, Settings, load_settings
from sandbox.stack.run import conversation
from tests.deployment.files import process_names, setting_names
from tests.web_process import ROOT

README = (ROOT / "README.md").read_text()
REQUIRED = {"app_env": "development", "database_url": "postgresql://localhost/x", "redis_url": "redis://localhost"}
# Cells that describe a default rather than spell it.
DESCRIBED = {"required", "none", "for development", "a sentence"}
FILLED_IN = {
    "DATABASE_URL": "postgresql://db.example.org/app?sslmode=require",
    "REDIS_URL": "rediss://redis.example.org",
    "JWT_SECRET": "q8Zr2vXw5uTn7sLk3pYb9dHf4gJc6mRa",
    "GEMINI_API_KEY": "AIza-something",
    "STRIPE_WEBHOOK_SECRET": "whsec_something",
}
# Served, but no part of the API: the files behind /docs, and the way there.
UNLISTED = {"GET /", "GET /docs/assets/{}", "GET /docs/page/{}"}


def section(title: str) -> str:
    """The text under a heading of README, up to the next one."""
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#+ )", README, flags=re.MULTILINE | re.DOTALL)
    assert found, f"README has no section {title!r}"
    return found[1]


def documented_variables() -> dict[str, str]:
    """README's table: the variable and its default as it stands there."""
    return dict(re.findall(r"^\| `([A-Z_]+)` \| (.+?) \|", section("Configuration"), flags=re.MULTILINE))


def example_variables() -> dict[str, str | None]:
    return dotenv_values(ROOT / ".env.example")


def settings_with(**values: Any) -> Settings:
    return Settings(_env_file=None, **REQUIRED | values)


def test_readme_lists_only_existing_variables_and_all_that_must_be_set():
    required = {name.upper() for name, field in Settings.model_fields.items() if field.is_required()}
    assert required <= set(documented_variables()) <= setting_names()


def test_env_example_lists_every_variable_and_no_other():
    assert set(example_variables()) == setting_names(), "each setting of config.py has its line in .env.example"


def test_env_example_names_each_variable_once():
    names = re.findall(r"^([A-Z_]+)=", (ROOT / ".env.example").read_text(), flags=re.MULTILINE)
    assert [name for name, times in Counter(names).items() if times > 1] == []


def test_env_example_mentions_the_variables_of_the_processes():
    mentioned = re.findall(r"^# ([A-Z_]+)=$", (ROOT / ".env.example").read_text(), flags=re.MULTILINE)
    assert set(mentioned) == process_names()


def test_every_variable_of_env_example_has_a_comment_above():
    lines = (ROOT / ".env.example").read_text().splitlines()
    bare = [line for above, line in zip(["", *lines], lines, strict=False) if re.match("[A-Z]", line) and not above]
    assert not bare


def test_readme_names_the_variables_of_the_processes():
    assert not [name for name in process_names() if f"`{name}`" not in README]


@pytest.mark.parametrize("name", sorted(documented_variables()))
def test_readme_tells_the_true_default(name):
    cell = documented_variables()[name].strip("`")
    default = Settings.model_fields[name.lower()].default
    if cell in DESCRIBED:
        described = {
            "required": default is PydanticUndefined,
            "none": default in ("", None, ()) or default == [],
            "for development": default == DEVELOPMENT_JWT_SECRET,
            "a sentence": isinstance(default, str) and default.endswith("."),
        }
        assert described[cell], f"{name} defaults to {default!r}"
    else:
        assert getattr(settings_with(**{name.lower(): cell}), name.lower()) == default


def test_env_example_changes_nothing_when_copied(clean_environment):
    assert Settings(_env_file=ROOT / ".env.example", **REQUIRED) == settings_with()


def test_env_example_holds_no_secret():
    secret_ones = [name for name in setting_names() if re.search("SECRET|KEY|TOKEN|PASSWORD|_URL$", name)]
    given = {name: example_variables()[name] for name in secret_ones if example_variables()[name]}
    harmless = {
        "FRONTEND_URL",
        "STRIPE_TEST_KEY_IN_PRODUCTION",
        "GEMINI_MAX_OUTPUT_TOKENS",
        "GEMINI_HISTORY_MAX_TOKENS",
    }
    assert set(given) <= harmless, "leave it empty in .env.example, or add it to `harmless` if it only sounds like one"


def test_readme_lists_every_route_and_no_other(make_app):
    routes = {
        f"{method} {re.sub('<.*?>', '{}', rule.rule)}"
        for rule in make_app().url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    listed = re.findall(r"^\| `([A-Z]+ /[^`]*)`", section("Routes"), flags=re.MULTILINE)
    shown = {re.sub("{.*?}", "{}", call) for call in listed}
    assert shown == routes - UNLISTED, "each route has its row in README.md, under Routes"
    assert len(listed) == len(set(listed))


def test_readme_marks_the_routes_that_want_a_token(make_app):
    marked = dict(re.findall(r"^\| `([A-Z]+ /[^`]*)`( 🔒)?", section("Routes"), flags=re.MULTILINE))
    client = make_app().test_client()
    unlike = []
    for call, lock in marked.items():
        method, path = call.split()
        identifier = "0192d3a4-6b00-7c3f-8a55-0123456789ab"
        answer = client.open(re.sub("{.*?}", identifier, path), method=method)
        wants_token = answer.status_code == 401 and answer.json["code"] == "token_missing"
        if wants_token is not bool(lock):
            unlike.append(call)
    assert not unlike


def variables_to_deploy_with() -> dict[str, str]:
    """Return what the first sentence of README's second deployment step sets, with the open values filled in."""
    found = re.search(r"^2\. (.+?)\. ", section("Processes"), flags=re.MULTILINE | re.DOTALL)
    assert found
    named = dict(re.findall(r"`([A-Z_]+)=?([a-z]*)`", found[1]))
    return {name.lower(): value or FILLED_IN[name] for name, value in named.items()}


def test_the_variables_to_deploy_with_are_all_that_production_asks_for(clean_environment):
    settings = load_settings(**variables_to_deploy_with())
    assert settings.is_production
    assert settings.gemini_api_key


@pytest.mark.parametrize("name", ["DATABASE_URL", "REDIS_URL", "JWT_SECRET", "OTP_DELIVERY", "STRIPE_WEBHOOK_SECRET"])
def test_each_variable_to_deploy_with_is_asked_for(name, clean_environment):
    without = {field: value for field, value in variables_to_deploy_with().items() if field != name.lower()}
    with pytest.raises(ConfigError, match=name):
        load_settings(**without)


def test_the_first_curls_are_those_that_make_run_prints():
    assert f"```bash\n{conversation(5000)}```" in README
