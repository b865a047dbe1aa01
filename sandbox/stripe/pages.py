"""The pages that people see: home, Checkout and the billing portal. Plain HTML and forms, no JavaScript."""

from datetime import UTC, datetime

from flask import Blueprint, Response, redirect, render_template, request
from werkzeug.wrappers import Response as BaseResponse

from sandbox.stripe.api import StandIn, stand_in
from sandbox.stripe.lifecycle import ENDED
from sandbox.stripe.store import Json
from sandbox.stripe.wire import StripeError

blueprint = Blueprint("pages", __name__)
# Stripe's Checkout waits up to ten seconds for the webhook's answer before it redirects to the success URL.
REDIRECT_WAIT_SECONDS = 10
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
}
OUTCOMES = {
    "cancel_at_period_end": "The subscription will end with the current period.",
    "resume": "The subscription continues.",
    "cancel": "The subscription was canceled at once.",
    "renew": "The period ended.",
    "fail_payment": "The period ended and its payment failed: the subscription is past due.",
    "recover": "The open invoice was paid.",
}


@blueprint.after_request
def page_headers(response: Response) -> Response:
    """Forbid scripts, caching and referrers."""
    response.headers.update(PAGE_HEADERS)
    return response


@blueprint.app_template_filter()
def money(cents: int) -> str:
    """Format an amount for people: every price of the stand-in is in US dollars."""
    return f"${cents / 100:,.2f}"


@blueprint.app_template_filter()
def day(timestamp: int) -> str:
    """Format a date for people."""
    at = datetime.fromtimestamp(timestamp, UTC)
    return f"{at.day} {at:%B %Y}"


@blueprint.get("/")
def home() -> str:
    """Say what this server is."""
    return render_template("base.html")


@blueprint.get("/healthz")
def health() -> Json:
    """Say that the process answers."""
    return {"status": "ok"}


@blueprint.get("/c/pay/<session_id>")
def checkout_page(session_id: str) -> str:
    """Offer to pay, decline or cancel, or say how the session ended."""
    here = stand_in()
    with here.store.lock:
        session = here.payments.session(session_id)
        here.events.flush()
        return render_template(
            "checkout.html",
            session=session,
            price=here.store.table("line_items")[session_id]["data"][0]["price"],
            return_to=_success_url(session) if session["status"] == "complete" else session["cancel_url"],
            declined="declined" in request.args,
            can_settle=(session["status"], session["payment_status"]) == ("complete", "unpaid")
            and here.store.get("subscription", session["subscription"])["status"] == "incomplete",
        )


@blueprint.post("/c/pay/<session_id>/<any(pay,pay_async,async_succeed,async_fail):action>")
def pay(session_id: str, action: str) -> BaseResponse:
    """Do what the button says, wait for the webhooks' answers, and go to the success URL."""
    here = stand_in()
    with here.store.lock:
        session = here.payments.session(session_id)
        if action.startswith("pay") and session["status"] != "open":
            return redirect(_page(session_id), 303)
        session = here.payments.act(session_id, action)
        made = here.events.flush()
        here.store.save()
        target = _success_url(session) if action.startswith("pay") else _page(session_id)
    here.sender.wait_tried(made, REDIRECT_WAIT_SECONDS)
    return redirect(target, 303)


@blueprint.post("/c/pay/<session_id>/decline")
def decline(session_id: str) -> BaseResponse:
    """The card is declined: the session stays open."""
    return redirect(_page(session_id) + "?declined", 303)


@blueprint.post("/c/pay/<session_id>/cancel")
def leave(session_id: str) -> BaseResponse:
    """Go back to the cancel URL; the session stays open."""
    here = stand_in()
    with here.store.lock:
        session = here.payments.session(session_id)
        return redirect(session["cancel_url"] or _page(session_id), 303)


@blueprint.get("/portal/<portal_id>")
def portal_page(portal_id: str) -> str:
    """Show the customer's subscriptions and what can be done with each."""
    here = stand_in()
    with here.store.lock:
        portal = here.store.get("billing_portal.session", portal_id)
        customer = here.store.get("customer", portal["customer"])
        subscriptions = _of_customer(here, customer["id"])
        return render_template(
            "portal.html",
            portal=portal,
            customer=customer,
            subscriptions=subscriptions,
            ended=ENDED,
            outcome=OUTCOMES.get(request.args.get("done", "")),
        )


@blueprint.post("/portal/<portal_id>/<subscription_id>/<action>")
def portal_action(portal_id: str, subscription_id: str, action: str) -> BaseResponse:
    """Do what the button says, wait for the webhooks' answers, and show the page again."""
    here = stand_in()
    with here.store.lock:
        portal = here.store.get("billing_portal.session", portal_id)
        owned = [one["id"] for one in _of_customer(here, portal["customer"])]
        if subscription_id not in owned or action not in OUTCOMES:
            raise StripeError(404, "There is no such subscription or action.")
        here.lifecycle.act(subscription_id, action, {})
        made = here.events.flush()
        here.store.save()
    here.sender.wait_tried(made, REDIRECT_WAIT_SECONDS)
    return redirect(f"/portal/{portal_id}?done={action}", 303)


@blueprint.errorhandler(StripeError)
def not_possible(error: StripeError) -> tuple[str, int]:
    """Show an error as a page."""
    return render_template("base.html", problem=str(error)), error.status


def _of_customer(here: StandIn, customer_id: str) -> list[Json]:
    every = here.store.newest_first("subscription")
    return [subscription for subscription in every if subscription["customer"] == customer_id]


def _page(session_id: str) -> str:
    return f"/c/pay/{session_id}"


def _success_url(session: Json) -> str:
    return str(session["success_url"]).replace("{CHECKOUT_SESSION_ID}", session["id"])
