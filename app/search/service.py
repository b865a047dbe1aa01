"""Searching one's own messages, best first.

A GIN index returns rows in no order, so a word that is in most messages would be looked up in all of them. Therefore
the user's latest messages are compared first, one by one, and the index is asked only if few of them match. All that is
found in this way is a block. It is ranked as a whole; after its last page, the next block has older messages.

A query of many words can keep PostgreSQL busy for most of a second, and one user may send a hundred at once. So a
process runs only a few searches at a time: all other requests need connections too.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import (
    Boolean,
    ColumnElement,
    ForeignKey,
    Index,
    Integer,
    Select,
    Uuid,
    bindparam,
    case,
    cast,
    func,
    null,
    select,
    true,
    tuple_,
    union_all,
)
from sqlalchemy.dialects.postgresql import TSQUERY, TSVECTOR
from sqlalchemy.orm import Mapped, mapped_column

from app.chatrooms.models import Chatroom, Message
from app.chatrooms.service import get_chatroom
from app.core import settings
from app.core.db import Model, db
from app.core.errors import ServiceUnavailable
from app.core.schemas import Page, decode_cursor, encode_cursor
from app.core.transactions import release_connection
from app.search.words import Matcher, excerpt, query_words, tsquery

RECENT = 1_000  # messages that are compared one by one
ENOUGH = 25  # matches among them that make a block without the index
BLOCK = 200  # at most so many matches of the index in a block
RANKING = 1 | 32  # ts_rank: a word counts less in a long text; below 1, however many words begin with the query
MILLIONTHS = 1_000_000
OLDEST, NEWEST = UUID(int=0), UUID(int=2**128 - 1)
BEST = (MILLIONTHS + 1, NEWEST)  # sorts before the best match
IS_INDEXED = {"compared": False, "indexed": True}  # by a cursor's word; for "next" it is not decided yet (None)
FIRST = (NEWEST, OLDEST, None, *BEST)
SEARCHES_PER_PROCESS = 4  # but no more than a third of the connections
search_slots = cache(threading.BoundedSemaphore)  # by their number, so one for each process
SEARCH_SLOT_SECONDS = 2.0  # how long a request waits for a slot

log = logging.getLogger(__name__)


class SearchableMessage(Model):
    """The words of a message that is not superseded, written by a trigger on `messages` (migration 0014).

    Each word begins with a part of its owner's id, so that a search costs as much as its user has written, not as much
    as everybody has. A reader must check the owner. user_id: who owned the chatroom when the message was written. The
    rows of a deleted chatroom stay until it is purged.
    """

    __tablename__ = "searchable_messages"
    __table_args__ = (
        Index("ix_searchable_messages_user_id_message_id", "user_id", "message_id"),
        Index("ix_searchable_messages_chatroom_id_message_id", "chatroom_id", "message_id"),
        Index("ix_searchable_messages_words", "words", postgresql_using="gin"),
    )

    message_id: Mapped[UUID] = mapped_column(ForeignKey("messages.id", ondelete="CASCADE"), primary_key=True)
    chatroom_id: Mapped[UUID]
    user_id: Mapped[UUID]
    words: Mapped[str] = mapped_column(TSVECTOR)


searchable = SearchableMessage.__table__  # for statements that are built once


def count_of(table: Any) -> ColumnElement[int]:
    return select(func.count()).select_from(table).scalar_subquery()


def edge_of(table: Any, *, newest: bool = False) -> ColumnElement[UUID]:
    """The id of the oldest message in the table, or of the newest."""
    message_id = table.c.message_id
    return select(message_id).order_by(message_id.desc() if newest else message_id).limit(1).scalar_subquery()


def search_statement(column: str, parameter: str) -> Select[Any]:
    """Select a page of a block. Each row has the block's edges too; an empty page is one row without a message.

    column: `user_id` or `chatroom_id`; only messages with the value of the bound `parameter` there are searched.
    """
    query, value = cast(bindparam("query"), TSQUERY), bindparam(parameter, type_=Uuid)
    in_block = searchable.c.message_id.between(bindparam("oldest"), bindparam("newest"))
    latest = select(searchable).where(searchable.c[column] == value, in_block)
    recent = latest.order_by(searchable.c.message_id.desc()).limit(bindparam("recent")).cte("recent")
    among_recent = select(recent).where(recent.c.words.op("@@")(query)).cte("among_recent")
    are_all, are_enough = count_of(recent) < RECENT, count_of(among_recent) >= ENOUGH
    is_indexed = func.coalesce(bindparam("is_indexed", type_=Boolean), ~are_all & ~are_enough)
    # OFFSET 0 keeps PostgreSQL from scanning all messages in the order that is wanted: the GIN index is faster.
    indexed = select(searchable).where(searchable.c.words.op("@@")(query)).offset(0).subquery("indexed")
    older = (
        select(indexed)
        .where(indexed.c[column] == value, indexed.c.message_id < edge_of(recent), is_indexed)
        .where(indexed.c.message_id >= bindparam("oldest"))
        .order_by(indexed.c.message_id.desc())
        .limit(bindparam("older"))
        .cte("older")
    )
    block = union_all(select(among_recent), select(older)).cte("block")
    score = cast(func.ts_rank(block.c.words, query, RANKING) * MILLIONTHS, Integer)
    scored = select(block.c.message_id, score.label("score")).subquery("scored")
    after = tuple_(bindparam("score"), bindparam("after", type_=Uuid))
    in_order = select(scored).where(tuple_(scored.c.score, scored.c.message_id) < after)
    ranked = best_first(in_order, scored).offset(0).subquery("ranked")  # before the joins: only a page's rows get them
    page = (
        select(ranked.c.score, Message.id, Message.chatroom_id, Message.role, Message.created_at, Message.text)
        .join(Message, Message.id == ranked.c.message_id)
        .join(Chatroom, Chatroom.id == Message.chatroom_id)
        .where(Chatroom.user_id == bindparam("user"), ~Message.superseded)
    )
    page_of_block = best_first(page, ranked).limit(bindparam("limit")).subquery("page")
    # The block's edges: the newest and the oldest message that it covers, found or not; null if no older ones are left.
    oldest = case((are_all, null()), (are_enough, edge_of(recent)), (count_of(older) == BLOCK, edge_of(older)))
    newest = edge_of(recent, newest=True).label("newest")
    edges = select(newest, oldest.label("oldest"), is_indexed.label("is_indexed")).cte("edges")
    found = page_of_block.c
    with_edges = select(edges, page_of_block).select_from(edges.outerjoin(page_of_block, true()))
    return with_edges.order_by(found.score.desc(), found.id.desc())


def best_first(statement: Select[Any], table: Any) -> Select[Any]:
    return statement.order_by(table.c.score.desc(), table.c.message_id.desc())


@contextmanager
def search_slot() -> Iterator[None]:
    """Hold one of the process's few slots during the block, and no connection before and after it.

    Raises ServiceUnavailable when no slot becomes free in time.
    """
    slots = search_slots(max(1, min(SEARCHES_PER_PROCESS, settings().database_pool_size // 3)))
    release_connection()
    if not slots.acquire(timeout=SEARCH_SLOT_SECONDS):
        log.warning("Search refused: no slot became free within %.0f s", SEARCH_SLOT_SECONDS)
        raise ServiceUnavailable
    try:
        yield
    finally:
        release_connection()  # cutting excerpts out of long texts takes a moment
        slots.release()


IN_ALL, IN_CHATROOM = search_statement("user_id", "user"), search_statement("chatroom_id", "room")


def search(
    user_id: UUID, query: str, *, chatroom_id: UUID | None, limit: int, cursor: str | None
) -> Page[dict[str, Any]]:
    """A page of the user's messages that have all words of the query; the last one may be the beginning of a word.

    It may have fewer than `limit` items and still a next page. Each item is a row with its excerpt: `snippet`, and in
    `highlights` where the matches are in it.
    Raises NotFound if the room is not the user's, InvalidCursor, ServiceUnavailable.
    """
    newest, oldest, is_indexed, score, after = FIRST
    if cursor is not None:
        newest, oldest, is_indexed, score, after = decode_cursor(cursor, UUID, UUID, IS_INDEXED.get, int, UUID)
    if chatroom_id is not None:
        get_chatroom(user_id, chatroom_id)
    words = query_words(query)
    if not words:
        return Page([], None)
    values: dict[str, Any] = {"user": user_id, "room": chatroom_id, "query": tsquery(user_id, words)}
    values |= {"newest": newest, "oldest": oldest, "is_indexed": is_indexed}
    values |= {"score": min(score, BEST[0]), "after": after, "limit": limit + 1}
    # Replies that end between two pages join the block; the larger limits keep its last matches from falling out.
    factor = 1 if is_indexed is None else 2
    values |= {"recent": factor * RECENT, "older": factor * BLOCK}
    with search_slot():
        rows = db.session.execute(IN_ALL if chatroom_id is None else IN_CHATROOM, values).all()
    matcher = Matcher(words)
    items = [
        {**row._mapping, "snippet": snippet, "highlights": highlights}
        for row in rows[:limit]
        if row.id is not None
        for snippet, highlights in [excerpt(row.text, matcher)]
    ]
    if is_indexed is None:  # the block's edges stay fixed from now on, whatever messages come or go
        newest, oldest, is_indexed = rows[0].newest, rows[0].oldest or OLDEST, rows[0].is_indexed
    if len(rows) > limit:
        last, block = rows[limit - 1], "indexed" if is_indexed else "compared"
        return Page(items, encode_cursor(newest, oldest, block, last.score, last.id))
    return Page(items, None if oldest == OLDEST else encode_cursor(UUID(int=oldest.int - 1), OLDEST, "next", *BEST))
