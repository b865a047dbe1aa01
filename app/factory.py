"""The application factory: everything that is registered, from top to bottom."""

from importlib import import_module

from flask import Flask
from flask.json.provider import DefaultJSONProvider
from werkzeug.routing import UUIDConverter
from werkzeug.utils import import_string

from app.auth.sessions import find_key, is_key_active, is_session_active
from app.core.auth import register_auth
from app.core.celery import register_celery
from app.core.db import db, register_database
from app.core.errors import register_error_handlers
from app.core.http import register_http, register_request_log
from app.core.logging import configure_logging, secrets_of
from app.core.redis import register_redis
from app.core.tracing import register_tracing
from app.schedule import ROUTES
from config import Settings, load_settings

# By name, because each is imported only where it is needed.
BLUEPRINTS = (
    *("app.auth.views:blp", "app.auth.views:sessions_blp", "app.account.views:blp"),
    *("app.chatrooms.views:blp", "app.chatrooms.views:models_blp", "app.messages.views:blp"),
    *("app.search.views:blp", "app.billing.views:blp", "app.ops.views:blp"),
)
TASKS = ("app.generation.tasks", "app.billing.tasks", "app.auth.tasks", "app.account.tasks", "app.ops.tasks")
COMMANDS = (
    *("app.generation.cli:replies", "app.generation.cli:gemini", "app.ops.cli:usage"),
    *("app.ops.cli:users", "app.ops.cli:billing", "app.ops.cli:health"),
)


def create_app(settings: Settings | None = None, *, routes: bool = True, commands: bool = True) -> Flask:
    """Create an application. settings: read from the environment if None. Raises config.ConfigError.

    routes: register the routes, of which a worker needs none. commands: register the commands of `flask`. A process
    that only serves is lighter without them: alembic alone takes 12 MB.
    """
    settings = settings or load_settings()
    configure_logging(level=settings.log_level, as_json=settings.logs_json, secrets=secrets_of(settings.model_dump()))
    app = Flask("app", static_folder=None)
    app.extensions["settings"] = settings
    app.json = DefaultJSONProvider(app)
    app.json.sort_keys = False  # fields come in the order that the schemas declare
    app.url_map.converters["id"] = UUIDConverter
    register_tracing(app, endpoint=settings.otel_exporter_otlp_endpoint)
    register_request_log(app)
    register_http(app, trusted_proxies=settings.trusted_proxies, cors_origins=settings.cors_origins)
    register_error_handlers(app)
    register_auth(app, settings, is_session_active=is_session_active, find_key=find_key, is_key_active=is_key_active)
    register_database(app, settings.database_url, pool_size=settings.database_pool_size)
    register_redis(app, settings)
    register_celery(app, settings.redis_url, pool_size=settings.redis_pool_size, routes=ROUTES)
    if routes:
        blueprints = [import_string(name) for name in BLUEPRINTS]
        for blueprint in (*blueprints, import_string("app.ops.views:docs")):
            app.register_blueprint(blueprint)
        import_module("app.openapi").register_description(app, blueprints)
    if commands:
        import_module("flask_migrate").Migrate(app, db, render_as_batch=False, compare_type=True)  # `flask db`
        for command in COMMANDS:
            app.cli.add_command(import_string(command))
    return app
