"""Whether the process answers, and whether what it needs does."""

import redis
import sqlalchemy.exc
from sqlalchemy import text

from app.core.database import db
from app.core.redis_clients import require_redis


def failing_dependencies() -> list[str]:
    """Names of the dependencies that do not answer, each asked within its time-out."""
    failing = []
    try:
        db.session.execute(text("SELECT 1"))
    except sqlalchemy.exc.SQLAlchemyError:
        db.session.rollback()
        failing.append("postgres")
    try:
        require_redis()
    except redis.RedisError:
        failing.append("redis")
    return failing
