"""One stand-in for the whole suite, wiped before each test, and a receiver for its webhooks."""

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import stripe

from sandbox.stand_ins import RunningStandIn, running_stripe_stand_in

SECRET = "whsec_test_secret"
WAIT_SECONDS = 10


@pytest.fixture(scope="session")
def running() -> Iterator[RunningStandIn]:
    with running_stripe_stand_in(webhook_secret=SECRET) as one:
        yield one


@pytest.fixture
def stand_in(running: RunningStandIn) -> RunningStandIn:
    running.reset()
    return running


def sdk(url: str, key: str = "sk_test_123456789", *, retries: int = 0, read_timeout: float = 5) -> stripe.StripeClient:
    """The real SDK, pointed at the stand-in."""
    return stripe.StripeClient(
        key,
        base_addresses={"api": url},
        max_network_retries=retries,
        http_client=stripe.RequestsClient(timeout=(3, read_timeout)),
    )


@pytest.fixture
def client(stand_in: RunningStandIn) -> stripe.StripeClient:
    return sdk(stand_in.url)


@pytest.fixture
def open_session(client: stripe.StripeClient) -> Callable[..., Any]:
    """Make a customer and an open session for it."""

    def make(**params: Any) -> Any:
        if "customer" not in params and "customer_email" not in params:
            params["customer"] = client.v1.customers.create({"email": "ada@example.com"}).id
        return client.v1.checkout.sessions.create(
            {  # type: ignore[arg-type]
                "mode": "subscription",
                "line_items": [{"price": "price_pro", "quantity": 1}],
                "client_reference_id": "user-1",
                "metadata": {"user_id": "user-1"},
                "subscription_data": {"metadata": {"user_id": "user-1"}},
                "success_url": "http://127.0.0.1:1/ok?session={CHECKOUT_SESSION_ID}",
                "cancel_url": "http://127.0.0.1:1/no",
                **params,
            }
        )

    return make


@pytest.fixture
def subscribed(stand_in: RunningStandIn, client: stripe.StripeClient, open_session: Any) -> Any:
    """A subscription just paid for."""
    return client.v1.subscriptions.retrieve(stand_in.pay(open_session().id)["subscription"])


@dataclass
class Receiver:
    """Takes webhooks; answers the statuses in `answers` first, then 200."""

    url: str = ""
    answers: list[int] = field(default_factory=list)
    arrived: "queue.Queue[tuple[bytes, str]]" = field(default_factory=queue.Queue)

    def next(self) -> tuple[bytes, str]:
        """Return the next body and signature to arrive."""
        return self.arrived.get(timeout=WAIT_SECONDS)

    def next_event(self) -> stripe.Event:
        """Return the next event to arrive. The SDK checks its signature."""
        body, signature = self.next()
        return stripe.Webhook.construct_event(body, signature, SECRET)

    def types(self, count: int) -> list[str]:
        """Return the types of the next events to arrive."""
        return [self.next_event().type for _ in range(count)]


@pytest.fixture
def receiver(stand_in: RunningStandIn) -> Iterator[Receiver]:
    """A receiver that the stand-in sends to."""
    inbox = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = inbox.answers.pop(0) if inbox.answers else 200
            self.send_response(status)
            self.send_header("Content-Length", "0")
            inbox.arrived.put((body, self.headers["Stripe-Signature"]))  # first: the answer lets the next one come
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    inbox.url = f"http://127.0.0.1:{server.server_address[1]}/webhook"
    stand_in.webhooks(url=inbox.url)
    yield inbox
    stand_in.webhooks(url="")
    server.shutdown()
    server.server_close()
