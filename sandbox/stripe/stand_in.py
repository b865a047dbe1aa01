"""The parts of the stand-in, put together, and how a request finds them."""

from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from flask import current_app, request

from sandbox.stripe.behaviour import Behaviours
from sandbox.stripe.events import Events
from sandbox.stripe.idempotency import IdempotencyKeys
from sandbox.stripe.lifecycle import Lifecycle
from sandbox.stripe.payment import Payments
from sandbox.stripe.store import Json, Store
from sandbox.stripe.webhooks import Endpoint, Sender

EXTENSION = "stripe_stand_in"
REMEMBERED_CALLS = 5_000


@dataclass
class Settings:
    """How to run. public_url: how browsers reach the pages; as the API was reached when empty."""

    webhook_url: str = ""
    webhook_secret: str = "whsec_sandbox"
    state_file: Path | None = None
    public_url: str = ""


@dataclass
class StandIn:
    """Everything one running stand-in consists of."""

    settings: Settings
    store: Store = field(init=False)
    sender: Sender = field(init=False)
    events: Events = field(init=False)
    payments: Payments = field(init=False)
    lifecycle: Lifecycle = field(init=False)
    keys: IdempotencyKeys = field(init=False)
    behaviours: Behaviours = field(default_factory=Behaviours)
    calls: deque[Json] = field(default_factory=lambda: deque(maxlen=REMEMBERED_CALLS))

    def __post_init__(self) -> None:
        self.store = Store(self.settings.state_file)
        endpoint = Endpoint(self.settings.webhook_url, self.settings.webhook_secret)
        self.sender = Sender(self.store, endpoint)
        self.events = Events(self.store, self.sender.hand_on)
        self.payments = Payments(self.store, self.events)
        self.lifecycle = Lifecycle(self.store, self.events, self.payments)
        self.keys = IdempotencyKeys(self.store)

    def reset(self) -> None:
        """Forget everything, the settings of the control API included."""
        self.behaviours.replace([])
        with self.store.lock:
            self.sender.reset()
            self.store.reset()
            self.calls.clear()
            self.store.save()

    def base_url(self) -> str:
        """Where browsers find the pages."""
        return (self.settings.public_url or request.host_url).rstrip("/")


def stand_in() -> StandIn:
    """The stand-in that serves the current request."""
    return cast(StandIn, current_app.extensions[EXTENSION])
