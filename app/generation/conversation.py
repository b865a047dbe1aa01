"""A room's conversation: which of its turns are current, and how many of them are sent to Gemini.

An edit or a new reply supersedes the turn it replaces and all turns after it. Nothing is deleted. The replacement goes
to the end of the room, so positions order each branch. Only ended replies are superseded, so no worker ever writes to a
superseded reply. Gemini is sent the newest current turns that fit into the budget, then the prompt.
"""

from uuid import UUID

from sqlalchemy import bindparam, exists, func, select, update

from app.chatrooms.models import Role, Status, messages
from app.core.db import db
from app.core.transactions import release_connection
from app.generation.queueing import IS_OPEN, chatrooms
from app.integrations.gemini.client import Turn

FIRST_WITH_HISTORY = 3  # the position of a room's second reply
MAX_PAIRS = 200  # a bound on rows read, whatever the budget of characters
MAX_REPLIES = 1_000  # and a bound on the replies searched for them, in case most have failed

replies, prompts = messages.alias("replies"), messages.alias("prompts")
reply = (
    select(replies.c.in_reply_to, replies.c.position, replies.c.status, replies.c.text, replies.c.output_tokens)
    .where(
        replies.c.chatroom_id == bindparam("room"),
        replies.c.position < bindparam("position"),
        replies.c.role == Role.MODEL,
        ~replies.c.superseded,
    )
    .order_by(replies.c.position.desc())
    .limit(MAX_REPLIES)
    .subquery("reply")
)
PAIRS = (
    select(
        prompts.c.text.label("prompt"),
        reply.c.text.label("reply"),
        func.sum(func.length(prompts.c.text) + func.length(reply.c.text))
        .over(order_by=reply.c.position.desc())
        .label("length_so_far"),
        (
            func.sum(func.length(reply.c.text)).filter(reply.c.output_tokens > 0).over()
            / func.sum(reply.c.output_tokens).filter(reply.c.output_tokens > 0).over()
        ).label("chars_per_token"),
    )
    .join(prompts, prompts.c.id == reply.c.in_reply_to)
    .where(
        reply.c.status.in_([Status.COMPLETED, Status.CANCELED]),
        reply.c.text != "",
    )
    .order_by(reply.c.position.desc())
    .limit(MAX_PAIRS)
    .subquery()
)
# Gemini's counts for the room's own replies tell how many characters of its language a token has: four in English,
# about one in Chinese. Without a count, only the characters are bounded.
BUDGET = func.least(bindparam("max_chars"), bindparam("max_tokens") * PAIRS.c.chars_per_token)
FITTING_PAIRS = (
    select(PAIRS.c.prompt, PAIRS.c.reply)
    .where(PAIRS.c.length_so_far <= BUDGET - bindparam("prompt_chars"))
    .order_by(PAIRS.c.length_so_far)
)


def supersede(chatroom_id: UUID, first: int) -> bool:
    """Supersede a room's current turns from the position `first` on. The caller has locked the user.

    Returns False while a reply of the room is under way: then the caller must not commit its transaction.
    """
    is_under_way = exists().where(messages.c.chatroom_id == chatrooms.c.id, IS_OPEN).correlate(chatrooms)
    statement = select(is_under_way).where(chatrooms.c.id == chatroom_id)
    # Locks the room before its messages, as a purge does.
    if db.session.scalar(statement.with_for_update(key_share=True, of=chatrooms)):
        return False
    current = (messages.c.chatroom_id == chatroom_id, messages.c.position >= first, ~messages.c.superseded)
    superseded = update(messages).where(*current).values(superseded=True)
    ended = db.session.scalars(superseded.returning(messages.c.completed_at)).all()
    return all(at is not None for at in ended)  # an operator may just have queued a failed one again


def conversation(
    chatroom_id: UUID, position: int, prompt: str, *, max_chars: int, max_tokens: int | None = None
) -> list[Turn]:
    """Return the turns to send, oldest first, user and model alternating, ending with the prompt.

    position: the reply's, in its room. The prompt is always sent, after as many of the newest turns as fit with it into
    `max_chars` characters and about `max_tokens` tokens (None: no limit). A prompt whose reply failed or has no text is
    left out, and so is that reply. Holds no connection afterwards.
    """
    if position < FIRST_WITH_HISTORY:
        return [Turn("user", prompt)]
    values = {"room": chatroom_id, "position": position, "prompt_chars": len(prompt)}
    values |= {"max_chars": max_chars, "max_tokens": max_tokens}
    try:
        newest_first = db.session.execute(FITTING_PAIRS, values).all()
    finally:
        release_connection()
    turns = [
        turn
        for prompt_text, reply_text in reversed(newest_first)
        for turn in (Turn("user", prompt_text), Turn("model", reply_text))
    ]
    return [*turns, Turn("user", prompt)]
