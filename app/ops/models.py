"""What metrics are read from: heartbeats, and totals that only grow."""

from datetime import datetime

from sqlalchemy import Double, String
from sqlalchemy.orm import Mapped, mapped_column

from app.core.db import Model


class Heartbeat(Model):
    """When something was last done."""

    __tablename__ = "heartbeats"

    name: Mapped[str] = mapped_column(String(50), primary_key=True)
    at: Mapped[datetime]


class Total(Model):
    """A number that only grows, by its name and one label (empty: it has none)."""

    __tablename__ = "totals"

    name: Mapped[str] = mapped_column(String(50), primary_key=True)
    label: Mapped[str] = mapped_column(String(160), primary_key=True)
    value: Mapped[float] = mapped_column(Double)
