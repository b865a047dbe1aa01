"""What the documents name - links, functions, log lines, metrics, commands, queries, variables - is there."""

import ast
import importlib
import importlib.util
import inspect
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import celery.beat
import celery.worker.consumer.consumer
import click
import pytest
from flask import Flask
from flask.cli import FlaskGroup, ScriptInfo
from sqlalchemy import text

from app.auth.otp import MAX_CODES, MAX_GUESSES
from app.auth.throttles import AUTH_REQUESTS, CODES_SENT, MAX_PASSWORD_ATTEMPTS, MAX_WRONG_CODES
from app.billing.subscriptions import LIVE_STATUSES
from app.billing.views import MAX_EVENT_BYTES
from app.chatrooms.models import Status
from app.core.clock import utc_now
from app.core.db import db
from app.core.http import MAX_BODY_BYTES
from app.generation import state
from app.integrations.stripe import ENDED
from app.ops import totals
from config import WHEN_UNSET, Settings
from tests.deployment.files import process_names, setting_names
from tests.web_process import ROOT

README = (ROOT / "README.md").read_text()
OPERATIONS = (ROOT / "docs/operations.md").read_text()
SECURITY = (ROOT / "docs/security.md").read_text()
DOCS = [f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")]
DECISIONS = [f"docs/decisions/{page.name}" for page in (ROOT / "docs/decisions").glob("*.md")]
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", *DOCS, *DECISIONS]


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


def test_architecture_draws_every_table_and_no_unknown_column(app):
    tables = {name: set(table.columns.keys()) for name, table in db.metadata.tables.items()}
    drawn = drawn_tables()
    assert set(drawn) == set(tables), "each table is drawn in docs/architecture.md, under The tables"
    assert {name: columns - tables[name] for name, columns in drawn.items() if columns - tables[name]} == {}


def test_architecture_knows_every_state_of_a_reply_and_every_status_that_counts_as_a_live_subscription():
    page = (ROOT / "docs/architecture.md").read_text()
    drawn = set(re.findall(r"^ +(\w+) --> ", page, flags=re.MULTILINE))
    assert {*map(str, Status), *LIVE_STATUSES, *ENDED} <= drawn


def test_architecture_names_only_functions_that_exist():
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


def test_architecture_has_the_state_machine_of_the_code():
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
    """Every text in the code of the product, of Celery's beat and of its workers, with `…` for what is filled in."""
    files = [*(ROOT / "app").rglob("*.py"), ROOT / "gunicorn.conf.py", ROOT / "celery_worker.py"]
    sources = [path.read_text() for path in files]
    sources += [inspect.getsource(celery.beat), inspect.getsource(celery.worker.consumer.consumer)]
    found = set()
    for node in (node for source in sources for node in ast.walk(ast.parse(source))):
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


def test_security_tells_the_limits_of_production():
    told = dict(re.findall(r"^\| (.+?) \| (.+?) \|$", table_of(SECURITY, "Limits"), flags=re.MULTILINE))
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    per_minute, codes, wrong_codes = (
        WHEN_UNSET[name][0] for name in ("rate_limit_per_minute", "codes_per_hour", "wrong_codes_per_hour")
    )
    words = {5: "five", 10: "ten"}
    assert told["Requests of a user, or of an address without a valid token"] == f"{per_minute} a minute"
    [of_auth] = [limit for name, limit in told.items() if "public routes of /auth" in name]
    assert of_auth == f"{AUTH_REQUESTS.share(per_minute)} a minute"
    assert told["Codes for an address"] == f"{CODES_SENT.share(per_minute)} an hour"
    assert told["Codes of the whole service"] == f"{codes:,} an hour"
    assert told["Codes for a number"].startswith(f"one a minute and {words[MAX_CODES]} an hour, for each purpose")
    assert told["Wrong codes for a number"] == f"{words[MAX_GUESSES]} for a code, {words[MAX_WRONG_CODES]} an hour"
    assert told["Wrong codes of the whole service"] == f"{wrong_codes:,} an hour"
    assert told["Wrong passwords for a number"] == f"{words[MAX_PASSWORD_ATTEMPTS]} in a quarter of an hour"
    assert told["Replies that a user follows at once"] == words[defaults["streams_per_user"]]
    assert told["Body"] == f"{MAX_BODY_BYTES // 1024} KiB (the webhook: {MAX_EVENT_BYTES // 1024**2} MiB)"


def test_security_counts_what_bandit_skips():
    danger = re.search(r"bandit .*pyproject.toml (.*)", (ROOT / "Makefile").read_text())
    names = [ROOT / name for name in danger[1].split()]
    sources = [source for path in names for source in (path.rglob("*.py") if path.is_dir() else [path])]
    lines = sum(source.read_text().count("# nosec") for source in sources)
    kinds = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["bandit"]["skips"]
    assert (len(kinds), lines) == (2, 3)
    assert "two kinds of finding in `pyproject.toml` and three single lines" in SECURITY


def test_every_metric_that_the_documents_name_is_exported(client, app):
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


def test_every_flask_command_and_option_that_the_documents_name_exists_with_help(app: Flask):
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
            assert command.help, call
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
def test_every_variable_that_a_document_names_exists(page):
    named = set(re.findall(r"`([A-Z]+(?:_[A-Z]+)+)[`=]", (ROOT / page).read_text()))
    opentelemetrys = {name for name in named if name.startswith("OTEL_")}
    assert named - setting_names() - process_names() - opentelemetrys == set()
