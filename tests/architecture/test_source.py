"""Rules that the source keeps: error codes, imports, sizes, and a schema that agrees with its models."""

import ast
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from sqlalchemy import text

from app.core.db import db
from app.core.errors import CODES, AppError
from app.factory import BLUEPRINTS, COMMANDS, TASKS
from tests.web_process import ROOT

SOURCES = sorted((ROOT / "app").rglob("*.py"))
MAX_LINES = 350
MIN_LINES = 40
MAY_BE_SHORT = {"__init__", "errors", "models", "tasks", "cli"}  # a feature has modules of these names, however short

# The codes of the API's contract: public, never renamed.
PUBLIC_CODES = {
    "malformed_json", "invalid_cursor", "invalid_signature",
    "token_missing", "token_invalid", "token_expired", "token_revoked", "otp_invalid", "invalid_credentials",
    "wrong_password", "insufficient_scope", "model_not_in_tier",
    "not_found", "account_not_found",
    "method_not_allowed", "body_too_large", "unsupported_media_type",
    "account_exists", "already_subscribed", "reply_not_retryable", "reply_not_cancelable",
    "message_not_editable", "too_many_api_keys",
    "validation_error", "idempotency_key_reused",
    "daily_quota_exceeded", "rate_limited", "otp_cooldown", "otp_locked", "too_many_streams",
    "internal_error", "payment_provider_error", "service_unavailable",
}  # fmt: skip
# Codes of requests that are not valid HTTP or do not arrive whole: every route may answer them, and none declares them.
RARE_CODES = {"bad_request", "request_timeout", "uri_too_long", "headers_too_large", "not_implemented"}


def error_classes() -> list[type[AppError]]:
    """Return the error classes of every feature."""
    for source in SOURCES:
        import_module(".".join(source.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))

    def below(kind: type[AppError]) -> Iterator[type[AppError]]:
        for child in kind.__subclasses__():
            yield child
            yield from below(child)

    return [AppError, *below(AppError)]


def test_every_error_code_is_one_of_the_contract():
    told = {kind.code for kind in error_classes()} | set(CODES.values())
    unknown = told - RARE_CODES - PUBLIC_CODES
    assert not unknown, f"codes are never renamed: add {sorted(unknown)} to PUBLIC_CODES in this file if you mean it"


def test_every_error_code_belongs_to_one_class():
    own = [kind.code for kind in error_classes() if "code" in vars(kind)]
    assert [code for code, count in Counter(own).items() if count > 1] == []


def test_every_error_has_a_status_and_a_sentence_for_people():
    for kind in error_classes():
        assert 400 <= kind.status <= 599, kind
        assert kind.detail[-1] in ".`", kind


@pytest.fixture(scope="module")
def trees() -> dict[Path, ast.Module]:
    return {source: ast.parse(source.read_text()) for source in SOURCES}


def test_nothing_is_printed(trees):
    found = [
        f"{path.name}:{node.lineno}"
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"print", "breakpoint"}
    ]
    assert found == []


def test_nothing_is_imported_inside_a_function(trees):
    found = [
        f"{path.name}:{inner.lineno}"
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(node)
        if isinstance(inner, ast.Import | ast.ImportFrom)
    ]
    assert found == []


def test_no_view_uses_the_database_session(trees):
    found = [
        str(path.relative_to(ROOT))
        for path, tree in trees.items()
        if "views" in path.parts or path.stem.endswith("views")
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr == "session"
    ]
    assert found == []


def test_only_one_module_commits(trees):
    found = {
        str(path.relative_to(ROOT))
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "commit"
    }
    assert found == {"app/core/transactions.py"}


def test_only_one_module_reads_the_clock(trees):
    found = {
        str(path.relative_to(ROOT))
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in {"now", "utcnow", "today"}
        if isinstance(node.value, ast.Name) and node.value.id in {"datetime", "date"}
    }
    assert found == {"app/core/clock.py"}


def test_every_file_stays_short():
    long = [str(path.relative_to(ROOT)) for path in SOURCES if len(path.read_text().splitlines()) > MAX_LINES]
    assert not long, f"over {MAX_LINES} lines: move what is a thing of its own out of {long}"


def test_no_file_is_too_short():
    short = [path for path in SOURCES if len(path.read_text().splitlines()) < MIN_LINES]
    slivers = [str(path.relative_to(ROOT)) for path in short if path.stem not in MAY_BE_SHORT]
    assert not slivers, f"under {MIN_LINES} lines: put {slivers} into the module that uses it"


@pytest.mark.parametrize(("name", "registered"), [("views", BLUEPRINTS), ("tasks", TASKS), ("cli", COMMANDS)])
def test_every_module_of_views_tasks_and_commands_is_registered(name, registered):
    doors = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in SOURCES if path.stem == name}
    shut = doors - {module.partition(":")[0] for module in registered}
    assert not shut, f"add {sorted(shut)} to BLUEPRINTS, TASKS or COMMANDS in app/factory.py"


def test_every_module_says_what_it_is_for(trees):
    assert [str(path.relative_to(ROOT)) for path, tree in trees.items() if not ast.get_docstring(tree)] == []


def test_import_rules_hold():
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_web_process_imports_only_what_it_needs(environment):
    program = (
        "import sys; from app.factory import create_app; create_app(commands=False);"
        "others = ('google.', 'grpc', 'sandbox', 'alembic', 'opentelemetry');"
        "print([name for name in sys.modules if name.startswith(others)])"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ | environment)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_a_worker_imports_no_route(environment):
    program = (
        "import sys, celery_worker; celery_worker.import_tasks();"
        "print([name for name in sys.modules if name.endswith('.views') or name.startswith('flask_smorest')])"
    )
    command, variables = [sys.executable, "-c", program], os.environ | environment | {"GEMINI_API_KEY": "a-key"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=variables)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_beat_imports_neither_the_application_nor_its_heavy_dependencies():
    program = (
        "import sys, celery_beat; heavy = ('app.factory', 'config', 'pydantic', 'sqlalchemy', 'flask_', 'stripe');"
        "print([name for name in sys.modules if name.startswith(heavy)])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


CONSTRAINTS = """
    SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid)
    FROM pg_constraint WHERE connamespace = current_schema()::regnamespace
    AND conrelid::regclass::text <> 'alembic_version'
"""


def test_the_migrated_database_has_exactly_the_constraints_of_the_models(migrated_app):
    """Autogeneration compares neither checks nor actions of foreign keys, so PostgreSQL spells both sides out."""
    in_transaction = {"isolation_level": "READ COMMITTED"}
    with migrated_app.app_context(), db.engine.connect().execution_options(**in_transaction) as connection:
        migrated = {tuple(row) for row in connection.execute(text(CONSTRAINTS))}
        connection.execute(text("CREATE SCHEMA of_the_models"))
        connection.execute(text("SET search_path TO of_the_models"))
        db.metadata.create_all(connection)
        declared = {tuple(row) for row in connection.execute(text(CONSTRAINTS))}
        connection.rollback()
    assert declared
    assert migrated == declared
