"""What Gemini is told of a room: its turns before a prompt, as far as the budget goes, and the prompt."""

from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import aliased

from app.core.database import db
from app.integrations.model_calls import Turn
from app.messages.models import Message, Status

MAX_PAIRS = 200  # a bound on rows read, whatever the budget of characters


def conversation(chatroom_id: UUID, prompt: Message, *, max_chars: int) -> list[Turn]:
    """The turns to send, oldest first, user and model by turns, ending with the prompt.

    Only pairs with an answer count: failed ones are left out with their prompts. The newest pairs whose
    characters, together with the prompt's, fit into `max_chars` are sent; the prompt always is.
    """
    reply, asked = aliased(Message), aliased(Message)
    length_so_far = func.sum(func.length(asked.text) + func.length(reply.text)).over(order_by=reply.position.desc())
    pairs = (
        select(asked.text.label("asked"), reply.text.label("replied"), length_so_far.label("length_so_far"))
        .join(asked, asked.id == reply.in_reply_to)
        .where(
            reply.chatroom_id == chatroom_id,
            reply.position < prompt.position,
            reply.status.in_([Status.COMPLETED, Status.CANCELED]),
            reply.text != "",
        )
        .order_by(reply.position.desc())
        .limit(MAX_PAIRS)
        .subquery()
    )
    budget = max_chars - len(prompt.text or "")
    fitting = select(pairs.c.asked, pairs.c.replied).where(pairs.c.length_so_far <= budget)
    newest_first = db.session.execute(fitting.order_by(pairs.c.length_so_far)).all()
    turns = [
        turn
        for asked_text, replied_text in reversed(newest_first)
        for turn in (Turn("user", asked_text), Turn("model", replied_text))
    ]
    return [*turns, Turn("user", prompt.text or "")]
