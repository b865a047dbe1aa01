"""Caches each user's first page of chatrooms in Redis, and that of archived ones, for the `limit` asked for last.

Each user has a version, a random word that every change deletes and the next reader creates. A reader takes the version
before it queries and stores it with the page, so a slow reader that races a change stores a page that nobody will read.
Without Redis nothing is cached.
"""

import logging
import secrets
from collections.abc import Callable
from uuid import UUID

import redis

from app.core.redis import CACHE_PREFIX, cache, redis_client, redis_guard
from app.core.transactions import release_connection

log = logging.getLogger(__name__)

VERSION_TTL_SECONDS = 86_400
MAX_PAGE_CHARS = 200_000  # with long instructions a page may take megabytes, and all users share the memory


def through_cache(user_id: UUID, limit: int, query_page: Callable[[], str], *, archived: bool) -> tuple[str, bool]:
    """Return the user's first page of `limit` chatrooms, as JSON, and whether it was cached."""
    key = page_key(user_id, archived=archived)
    release_connection()  # requests that wait for a silent Redis must not hold all connections
    try:
        with redis_guard():
            version, stored = cache.get_many(version_key(user_id), key)
            if version is None:  # two readers may both set one: as each is new, that costs only a miss
                version, stored = secrets.token_hex(8), None
                cache.set(version_key(user_id), version, timeout=VERSION_TTL_SECONDS)
    except redis.RedisError:
        return query_page(), False
    stored_under, _, page = (stored or "").partition("\n")
    if stored_under == f"{version} {limit}":
        return page, True
    page = query_page()
    if len(page) <= MAX_PAGE_CHARS:
        release_connection()
        try:
            cache.set(key, f"{version} {limit}\n{page}")
        except redis.RedisError:
            log.warning("The list of chatrooms could not be cached")
    return page, False


def version_key(user_id: UUID) -> str:
    return f"chatrooms:{user_id}:version"


def page_key(user_id: UUID, *, archived: bool) -> str:
    return f"chatrooms:{user_id}:{'archived' if archived else 'page'}"


def invalidate_list(user_id: UUID) -> None:
    """Make every cached page of the user stale, and delete it. Call it after the commit of a change.

    This works even while Redis is full and stores nothing.
    """
    keys = (version_key(user_id), *(page_key(user_id, archived=archived) for archived in (False, True)))
    try:
        redis_client().unlink(*(CACHE_PREFIX + key for key in keys))  # the cache's own delete_many asks twice for each
    except redis.RedisError:
        log.warning("The cached list of chatrooms could not be invalidated; it may be stale until it expires")
