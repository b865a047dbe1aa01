"""README and .env.example name every variable, every route and every command, and none that is not there.

What the other documents name - log lines, metrics, commands, queries, variables - exists as well.
"""

import ast
import importlib
import importlib.util
import inspect
import re
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import celery.beat
import click
import pytest
from dotenv import dotenv_values
from flask import Flask
from flask.cli import FlaskGroup, ScriptInfo
from pydantic_core import PydanticUndefined
from sqlalchemy import text

from app.billing.subscriptions import LIVE_STATUSES
from app.chatrooms.models import Status
from app.core.clock import utc_now
from app.core.db import db
from app.generation import state
from app.integrations.stripe import ENDED
from app.ops import totals
from config import DEVELOPMENT_JWT_SECRET, ConfigError, Settings, load_settings
from sandbox.stack.run import conversation

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
OPERATIONS = (ROOT / "docs/operations.md").read_text()
SECURITY = (ROOT / "docs/security.md").read_text()
DOCS = [f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")]
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", *DOCS]
VARIABLES = {field.upper() for field in Settings.model_fields}
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


def variables_of_processes() -> set[str]:
    """What gunicorn.conf.py and Procfile read besides config.py."""
    read = re.findall(r"environ(?:\.get\(|\[)\"([A-Z_]+)\"", (ROOT / "gunicorn.conf.py").read_text())
    read += re.findall(r"\$\{?([A-Z_]+)", (ROOT / "Procfile").read_text())
    return set(read) - VARIABLES


def settings_with(**values: Any) -> Settings:
    return Settings(_env_file=None, **REQUIRED | values)


def test_readme_lists_variables_that_there_are_and_all_that_must_be_set():
    required = {name.upper() for name, field in Settings.model_fields.items() if field.is_required()}
    assert required <= set(documented_variables()) <= VARIABLES


def test_env_example_lists_every_variable_and_no_other():
    assert set(example_variables()) == VARIABLES


def test_env_example_names_each_variable_once():
    names = re.findall(r"^([A-Z_]+)=", (ROOT / ".env.example").read_text(), flags=re.MULTILINE)
    assert [name for name, times in Counter(names).items() if times > 1] == []


def test_env_example_mentions_the_variables_of_the_processes():
    mentioned = re.findall(r"^# ([A-Z_]+)=$", (ROOT / ".env.example").read_text(), flags=re.MULTILINE)
    assert set(mentioned) == variables_of_processes()


def test_every_variable_of_env_example_has_a_comment_above():
    lines = (ROOT / ".env.example").read_text().splitlines()
    bare = [line for above, line in zip(["", *lines], lines, strict=False) if re.match("[A-Z]", line) and not above]
    assert not bare


def test_readme_names_the_variables_of_the_processes():
    assert not [name for name in variables_of_processes() if f"`{name}`" not in README]


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
    secret_ones = [name for name in VARIABLES if re.search("SECRET|KEY|TOKEN|PASSWORD|_URL$", name)]
    given = {name: example_variables()[name] for name in secret_ones if example_variables()[name]}
    assert set(given) <= {
        "FRONTEND_URL",
        "STRIPE_TEST_KEY_IN_PRODUCTION",
        "GEMINI_MAX_OUTPUT_TOKENS",
        "GEMINI_HISTORY_MAX_TOKENS",
    }


def test_readme_lists_every_route_and_no_other(make_app):
    routes = {
        f"{method} {re.sub('<.*?>', '{}', rule.rule)}"
        for rule in make_app().url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    listed = re.findall(r"^\| `([A-Z]+ /[^`]*)`", section("Routes"), flags=re.MULTILINE)
    assert {re.sub("{.*?}", "{}", call) for call in listed} == routes - UNLISTED
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
    """What the first sentence of README's second step of a deployment sets; the values it leaves open are filled in."""
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


def leads_somewhere(target: str, page: Path) -> bool:
    """Whether a link within the repository leads to a file and, below a `#`, to a heading of it."""
    path, _, anchor = target.partition("#")
    file = page.parent / path if path else page
    if not file.exists() or not anchor:
        return file.exists()
    headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
    return anchor in {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)]+)\)", (ROOT / page).read_text())
    assert not [
        target for target in targets if not target.startswith("http") and not leads_somewhere(target, ROOT / page)
    ]


def drawn_tables() -> dict[str, set[str]]:
    """The tables of the diagram in docs/architecture.md, and the columns it shows."""
    diagram = re.search(r"erDiagram\n(.*?)```", (ROOT / "docs/architecture.md").read_text(), flags=re.DOTALL)
    assert diagram
    drawn = re.findall(r"^    (\w+) \{\n(.*?)^    \}", diagram[1], flags=re.MULTILINE | re.DOTALL)
    return {table: set(re.findall(r"^ +\w+ (\w+)", columns, flags=re.MULTILINE)) for table, columns in drawn}


def test_architecture_draws_every_table_and_no_column_that_is_not_there():
    tables = {name: set(table.columns.keys()) for name, table in db.metadata.tables.items()}
    drawn = drawn_tables()
    assert set(drawn) == set(tables)
    assert {name: columns - tables[name] for name, columns in drawn.items() if columns - tables[name]} == {}


def test_architecture_knows_every_state_of_a_reply_and_every_status_that_counts_as_a_live_subscription():
    page = (ROOT / "docs/architecture.md").read_text()
    drawn = set(re.findall(r"^ +(\w+) --> ", page, flags=re.MULTILINE))
    assert {*map(str, Status), *LIVE_STATUSES, *ENDED} <= drawn


def test_architecture_names_functions_that_there_are():
    table = re.search(
        r"^### In the code\n(.*?)^## ", (ROOT / "docs/architecture.md").read_text(), re.MULTILINE | re.DOTALL
    )
    named = re.findall(r"`(app/[\w/]+)\.py`((?: [^`;|(]*`[A-Za-z_.]+`,?)+)", table[1] if table else "")
    found = [(module, name) for module, names in named for name in re.findall(r"`([A-Za-z_.]+)`", names)]
    assert len(found) > 30
    missing = []
    for module, name in found:
        thing: Any = importlib.import_module(module.replace("/", "."))
        for part in name.split("."):
            thing = getattr(thing, part, None)
        if thing is None:
            missing.append((module, name))
    assert missing == []


def test_architecture_has_the_state_machine_as_the_code_tells_it():
    told = [line for line in (state.__doc__ or "").splitlines() if line.startswith("|")]
    functions = re.findall(r"^\| `(\w+)`", "\n".join(told), re.MULTILINE)
    assert len(functions) > 8
    assert all(callable(getattr(state, name)) for name in functions)
    assert "\n".join(told) in (ROOT / "docs/architecture.md").read_text()


def test_every_make_target_that_the_documents_name_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    named = {name for page in pages for name in re.findall(r"`(?:PORT=\d+ )?make ([a-z-]+)", page.read_text())}
    assert named <= targets


def table_of(page: str, title: str) -> str:
    """The rows below a heading, up to the next one."""
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", page, flags=re.MULTILINE | re.DOTALL)
    assert found, f"no section {title!r}"
    return "\n".join(row for row in found[1].splitlines() if row.startswith("|"))


def texts_of_code() -> set[str]:
    """Every text in the code of the product and of Celery's beat, with `…` for what is filled in."""
    sources = [path.read_text() for path in (*(ROOT / "app").rglob("*.py"), ROOT / "gunicorn.conf.py")]
    found = set()
    for node in (node for source in (*sources, inspect.getsource(celery.beat)) for node in ast.walk(ast.parse(source))):
        if isinstance(node, ast.JoinedStr):
            found.add("".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(re.sub(r"%[.\d]*[sdf]|\{[^{}]*\}", "…", node.value))
    return found


def test_every_line_to_watch_for_is_one_that_the_code_writes():
    rows = table_of(OPERATIONS, "What to watch") + table_of(SECURITY, "To watch")
    lines = {quoted for quoted in re.findall(r"`([^`]+)`", rows) if " " in quoted and not quoted.startswith("flask ")}
    assert len(lines) > 15
    texts = texts_of_code()
    assert {line for line in lines if not any(line in text for text in texts)} == set()


def test_every_metric_that_the_documents_name_is_told(client, app):
    with app.app_context():
        totals.tick(utc_now())
    named = set(re.findall(r"`([a-z_]+_(?:total|seconds|unfinished))`", OPERATIONS + SECURITY))
    assert len(named) > 8
    told = re.findall(r"^# TYPE (\w+) ", client.get("/metrics").text, flags=re.MULTILINE)
    assert named - set(told) == set()


def test_every_query_that_the_documents_show_runs(app):
    queries = ";".join(re.findall(r"```sql\n(.*?)```", OPERATIONS, flags=re.DOTALL)).split(";")
    shown = [query for query in queries if query.strip()]
    assert len(shown) > 3
    with app.app_context():
        for query in shown:
            db.session.execute(text(query))


def flask_calls() -> list[tuple[str, list[str], set[str]]]:
    """Each call of `flask` in the documents: the call, its words (after a `|` the last one alone), and its options."""
    calls = []
    for page in PAGES:
        text_of_page = (ROOT / page).read_text()
        for inline, indented in re.findall(r"`(flask [^`]+)`|^    (flask .+)$", text_of_page, re.MULTILINE):
            call, _, remark = (inline or indented).replace("--app wsgi ", "").partition("#")
            for words in re.split(r" \| ", call):
                names = [word for word in shlex.split(words) if re.fullmatch("[a-z-]+", word) and word[0] != "-"]
                calls.append((call, names, set(re.findall(r"--[a-z-]+", words + remark)) - {"--help"}))
    return calls


def test_every_flask_command_and_option_that_the_documents_name_exists(app: Flask):
    group = FlaskGroup(create_app=lambda: app)
    before: list[str] = []
    seen = set()
    with click.Context(group, obj=ScriptInfo(create_app=lambda: app)) as context:  # closes the contexts it opens
        for call, names, options in flask_calls():
            before = names if names[:1] == ["flask"] else [*before[:2], *names]
            command: click.Command | None = group
            for name in before[1:]:
                if isinstance(command, click.Group):
                    command = command.get_command(context, name)
            assert command, call
            assert options <= {option for parameter in command.params for option in parameter.opts}, call
            seen.add(command.name)
    assert {"find", "grant-pro", "retry", "sync", "health", "upgrade"} <= seen


@pytest.mark.parametrize("page", PAGES)
def test_every_module_that_a_document_runs_exists(page):
    assert not [
        name
        for name in re.findall(r"python -m ([\w.]+)", (ROOT / page).read_text())
        if importlib.util.find_spec(name) is None
    ]


@pytest.mark.parametrize("page", DOCS)
def test_every_variable_that_a_document_names_is_one(page):
    named = set(re.findall(r"`([A-Z]+(?:_[A-Z]+)+)[`=]", (ROOT / page).read_text()))
    opentelemetrys = {name for name in named if name.startswith("OTEL_")}
    assert named - VARIABLES - variables_of_processes() - opentelemetrys == set()
