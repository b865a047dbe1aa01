"""The application factory."""

from typing import TYPE_CHECKING

from flask import Flask
from flask.json.provider import DefaultJSONProvider
from flask_migrate import Migrate

from app.account.views import blp as account_blp
from app.auth.sessions import is_session_active
from app.auth.views import blp as auth_blp
from app.auth.views import sessions_blp
from app.billing.cli import commands as billing_commands
from app.billing.views import blp as billing_blp
from app.chatrooms.views import blp as chatrooms_blp
from app.core.auth import register_auth
from app.core.celery import register_celery
from app.core.db import db, engine_options
from app.core.errors import register_error_handlers
from app.core.http import register_http, register_request_log
from app.core.ids import register_request_ids
from app.core.logging import configure_logging, secrets_of
from app.core.redis import register_redis
from app.generation.cli import replies
from app.messages.views import blp as messages_blp
from app.openapi import make_api
from app.ops.commands import health
from app.ops.commands import users as users_commands
from app.ops.views import blp as operations_blp
from app.ops.views import docs
from app.schedule import ROUTES, beat_schedule
from config import load_settings

if TYPE_CHECKING:
    from config import Settings


def create_app(settings: "Settings | None" = None) -> Flask:
    """A new application. settings: read from the environment when None. Raises config.ConfigError."""
    settings = settings or load_settings()
    configure_logging(level=settings.log_level, as_json=settings.logs_json, secrets=secrets_of(settings.model_dump()))
    app = Flask(__name__, static_folder=None)
    app.json = DefaultJSONProvider(app)
    app.json.sort_keys = False  # fields come in the order that the schemas declare
    app.extensions["settings"] = settings
    app.config.update(
        SQLALCHEMY_DATABASE_URI=settings.database_url,
        SQLALCHEMY_ENGINE_OPTIONS=engine_options(settings.database_pool_size),
        JWT_ACCESS_TOKEN_EXPIRES=settings.jwt_expires_in,
        JWT_REFRESH_TOKEN_EXPIRES=settings.refresh_expires_in,
    )
    register_request_ids(app)
    register_request_log(app)
    register_http(app, trusted_proxies=settings.trusted_proxies, cors_origins=settings.cors_origins)
    register_error_handlers(app)
    register_auth(
        app,
        secret=settings.jwt_secret,
        previous_secret=settings.jwt_secret_previous,
        is_session_active=is_session_active,
    )
    db.init_app(app)
    Migrate(app, db, render_as_batch=False, compare_type=True)
    register_redis(
        app,
        settings.redis_url,
        list_ttl_seconds=settings.chatroom_list_ttl_seconds,
        pool_size=settings.redis_pool_size,
        held_requests=settings.streams_per_process,
    )
    register_celery(
        app,
        settings.redis_url,
        pool_size=settings.redis_pool_size,
        routes=ROUTES,
        schedule=beat_schedule(settings),
    )
    api = make_api(app)
    for blueprint in (
        auth_blp,
        sessions_blp,
        account_blp,
        chatrooms_blp,
        messages_blp,
        billing_blp,
        operations_blp,
    ):
        api.register_blueprint(blueprint)
    app.register_blueprint(docs)
    for command in (replies, users_commands, billing_commands, health):
        app.cli.add_command(command)
    return app
