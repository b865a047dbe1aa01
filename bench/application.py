"""The whole application in the bench's process, on its own databases."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flask import Flask
from flask_migrate import upgrade

from app.factory import create_app
from config import load_settings
from sandbox.stack.postgres import PostgresServer
from sandbox.stack.servers import ValkeyServer

MIGRATIONS = Path(__file__).resolve().parents[1] / "migrations"


def make_app(database_url: str, redis_url: str, **others: Any) -> Flask:
    """Return an application with the newest tables and no limit that a load would reach. others: more settings.

    A second application runs the migrations, as web processes do not: Alembic leaves connections that send one more
    SET.
    """
    urls = {"database_url": database_url, "redis_url": redis_url}
    limits = {"rate_limit_per_minute": 0, "basic_daily_prompts": 100_000}
    own: dict[str, Any] = {"app_env": "development", "jwt_secret": "j" * 32, "log_level": "ERROR"} | limits | urls
    settings = load_settings(**own | others)
    with create_app(settings).app_context():
        upgrade(directory=str(MIGRATIONS))
    return create_app(settings)


@contextmanager
def application(**settings: Any) -> Iterator[Flask]:
    """Yield an application as `make_app` does, with PostgreSQL and Valkey during the block."""
    with PostgresServer(durable=False) as postgres, ValkeyServer(append_only=False) as valkey:
        yield make_app(postgres.url, valkey.url, **settings)
