"""The first page of a user's chatrooms, and that of the archived ones, cached in Redis.

Each user has a version, a random word that every change replaces. A reader takes the version before it
queries and stores it with the page, so a slow reader that races a change stores a page nobody will read.
Without Redis nothing is cached.
"""

import logging
import secrets
from collections.abc import Callable
from itertools import product
from uuid import UUID

import redis

from app.core.redis import CACHE_PREFIX, asking_redis, cache, redis_client
from app.core.schemas import MAX_LIMIT
from app.core.transactions import release_connection

log = logging.getLogger(__name__)

VERSION_TTL_SECONDS = 86_400


def through_cache(user_id: UUID, limit: int, query_page: Callable[[], str], *, archived: bool) -> tuple[str, bool]:
    """The user's first page as JSON, of `limit` chatrooms, and whether it was cached."""
    cache_of_page = ListCache(user_id, limit, archived=archived)
    cached = cache_of_page.read()
    if cached is not None:
        return cached, True
    page = query_page()
    cache_of_page.store(page)
    return page, False


class ListCache:
    """The cached first page of one user's chatrooms, for one page size."""

    def __init__(self, user_id: UUID, limit: int, *, archived: bool) -> None:
        self.version_key = version_key(user_id)
        self.page_key = page_key(user_id, limit, archived=archived)
        self.version: str | None = None

    def read(self) -> str | None:
        """The page's JSON as it was stored, or None. Remembers the version for `store`.

        Gives the database connection back first: while Redis is silent, waits for it must not use them all up.
        """
        release_connection()
        try:
            with asking_redis():
                self.version, stored = cache.get_many(self.version_key, self.page_key)
                if self.version is None:
                    version = secrets.token_hex(8)
                    added = cache.add(self.version_key, version, timeout=VERSION_TTL_SECONDS)
                    self.version = version if added else cache.get(self.version_key)
                    if self.version is None:  # what stands there is no version of ours
                        cache.set(self.version_key, version, timeout=VERSION_TTL_SECONDS)
                        self.version = version
                    return None
        except redis.RedisError:
            self.version = None
            return None
        version, _, page = (stored if isinstance(stored, str) else "").partition("\n")
        return page if version == self.version else None

    def store(self, page: str) -> None:
        """Keep the page's JSON, under the version that was read before its query."""
        if self.version is None:
            return
        release_connection()
        try:
            cache.set(self.page_key, f"{self.version}\n{page}")
        except redis.RedisError:
            log.warning("The list of chatrooms could not be cached")


def version_key(user_id: UUID) -> str:
    return f"chatrooms:{user_id}:version"


def page_key(user_id: UUID, limit: int, *, archived: bool) -> str:
    return f"chatrooms:{user_id}:{limit}{':archived' if archived else ''}"


def invalidate_list(user_id: UUID) -> None:
    """Make every cached page of the user stale. Call after the commit of a change."""
    try:
        cache.set(version_key(user_id), secrets.token_hex(8), timeout=VERSION_TTL_SECONDS)
    except redis.RedisError:
        log.warning("The cached list of chatrooms could not be renewed; it may be stale until it expires")


def forget_list(user_id: UUID) -> None:
    """As `invalidate_list`, and throw the pages away: they hold titles of what was deleted."""
    invalidate_list(user_id)
    try:
        pages = product(range(1, MAX_LIMIT + 1), (False, True))
        keys = (f"{CACHE_PREFIX}{page_key(user_id, limit, archived=archived)}" for limit, archived in pages)
        redis_client().unlink(*keys)  # the cache's own delete_many asks twice for each
    except redis.RedisError:
        log.warning("The cached list of chatrooms could not be thrown away; Redis keeps it until it expires")
