"""The ledger's table."""

from datetime import date, datetime
from uuid import UUID

from sqlalchemy import ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.billing.models import Tier
from app.core.db import Model, RowId, text_enum

NOBODY = UUID(int=0)


class PromptCharge(Model):
    """One prompt of a day, spent by a number: the ledger behind the quota's counter in Redis.

    It outlives the message, the chatroom and the account, so that deleting them refills no day. When the reply is
    completed, its cost is noted here, so that deleting the reply removes the text and not the cost. When the user's
    number changes, each of the day's charges is copied to the new one, with the original in `carried_from`. A copy
    counts for the quota and nowhere else.
    """

    __tablename__ = "prompt_charges"
    __table_args__ = (
        Index("ix_prompt_charges_spent", "mobile_key", "day", postgresql_where="given_back_at IS NULL"),
        Index("ix_prompt_charges_of_user", "user_id", "day"),
        Index("ix_prompt_charges_carried", "carried_from", postgresql_where="carried_from IS NOT NULL"),
        Index("ix_prompt_charges_by_day", "day", postgresql_using="brin"),  # small, since rows are stored in this order
    )

    id: Mapped[RowId]
    mobile_key: Mapped[str] = mapped_column(String(64))
    # NOBODY once the account is gone; null: a carried copy, or a charge from before migration 0016 whose reply is gone
    user_id: Mapped[UUID | None]
    day: Mapped[date]
    reply_id: Mapped[UUID | None] = mapped_column(ForeignKey("messages.id", ondelete="SET NULL"), index=True)
    created_at: Mapped[datetime]
    refunded_at: Mapped[datetime | None] = mapped_column("given_back_at")
    carried_from: Mapped[UUID | None]
    tier: Mapped[Tier | None] = mapped_column(text_enum(Tier, "tier_is_known"))  # null: charged by an earlier version
    model: Mapped[str | None] = mapped_column(String(100))
    prompt_tokens: Mapped[int | None]
    output_tokens: Mapped[int | None]
    thinking_tokens: Mapped[int | None]
