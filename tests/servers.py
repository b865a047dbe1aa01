"""One PostgreSQL and one Valkey for a run; each of the processes that test has its own databases on them.

pytest itself starts them and tells the processes of xdist where they are; alone it does the same for itself. They end
with it, however it ends: see `sandbox.stack.servers`.
"""

import os
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg2
import pytest
from psycopg2.sql import SQL, Identifier

from sandbox.stack.postgres import KEPT_CLUSTER, PostgresServer
from sandbox.stack.servers import ValkeyServer
from tests.web_process import ROOT

DATABASES_EACH = 256  # of Valkey's, for one process: more than its tests ask for
MAX_PROCESSES = 64
_MAX_CONNECTIONS = 600
_TEMPLATE = "migrated"
_running = pytest.StashKey[dict[str, str]]()


@dataclass(frozen=True)
class Database:
    """Where a process has its data: its PostgreSQL database, or the first of its Valkey databases."""

    url: str


def pytest_configure(config: Any) -> None:
    """Let initdb run once: the processes that test, and those they start, copy what it made."""
    if KEPT_CLUSTER not in os.environ:
        folder = TemporaryDirectory(prefix="run-")
        config.add_cleanup(folder.cleanup)
        os.environ[KEPT_CLUSTER] = str(Path(folder.name) / "cluster")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a process of xdist where the servers are, before it begins."""
    node.workerinput["servers"] = servers_of_run(node.config)


def servers_of_run(config: Any) -> dict[str, str]:
    """Return the addresses of the run's two servers. The first call starts them."""
    if hasattr(config, "workerinput"):
        return dict(config.workerinput["servers"])
    if _running not in config.stash:
        exits = ExitStack()
        config.add_cleanup(exits.close)
        postgres = exits.enter_context(PostgresServer(durable=False, max_connections=_MAX_CONNECTIONS))
        valkey = exits.enter_context(ValkeyServer(append_only=False, databases=DATABASES_EACH * MAX_PROCESSES))
        config.stash[_running] = {"postgres": postgres.url, "valkey": valkey.url.removesuffix("/0")}
    return config.stash[_running]


def process_number(config: Any) -> int:
    """Return 0, 1, 2, … for the processes of xdist, and 0 for a pytest that runs alone."""
    name = config.workerinput["workerid"] if hasattr(config, "workerinput") else "gw0"
    return int(name.removeprefix("gw"))


def own_database(server_url: str, name: str, *, redis_url: str) -> Database:
    """Make a new database with everything the migrations make. They run once for all processes."""
    with closing(psycopg2.connect(server_url)) as admin, admin.cursor() as cursor:
        admin.autocommit = True
        cursor.execute("SELECT pg_advisory_lock(1)")  # until this connection is closed
        cursor.execute("SELECT FROM pg_database WHERE datname = %s", [_TEMPLATE])
        if cursor.fetchone() is None:
            cursor.execute("CREATE DATABASE unfinished")
            migrate(_address_of(server_url, "unfinished"), redis_url=redis_url)
            cursor.execute(SQL("ALTER DATABASE unfinished RENAME TO {}").format(Identifier(_TEMPLATE)))
        made = SQL("CREATE DATABASE {} TEMPLATE {}").format(Identifier(name), Identifier(_TEMPLATE))
        cursor.execute(made)
    return Database(_address_of(server_url, name))


def migrate(database_url: str, *, redis_url: str) -> None:
    """Bring a database up to the newest migration."""
    from flask_migrate import upgrade

    from app.core.db import db
    from app.factory import create_app
    from config import load_settings

    settings = {"database_url": database_url, "redis_url": redis_url, "app_env": "development", "jwt_secret": "j" * 32}
    with create_app(load_settings(**settings)).app_context():
        upgrade(directory=str(ROOT / "migrations"))
        db.engine.dispose()


def _address_of(server_url: str, name: str) -> str:
    return server_url.replace("@/postgres?", f"@/{name}?")
