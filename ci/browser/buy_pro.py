"""Buys Pro in a browser from a running stack, through the checkout page of the Stripe stand-in.

    BASE_URL=http://127.0.0.1:5000 SCREENSHOTS=var/screenshots python -m ci.browser.buy_pro

CHROMIUM is the browser's path (by default `chromium` on PATH). The pages are used as a person would: on a large screen
and a phone, with buttons and with the keyboard alone. SCREENSHOTS is the folder for pictures of them.
"""

import os
import time
from pathlib import Path
from typing import Any

import requests
from playwright.sync_api import Browser, Page, expect, sync_playwright

from ci.browser.visit import open_browser
from ci.newcomer import tokens

WAIT_SECONDS = 60
PHONE = {"width": 360, "height": 740}


class Client:
    """A new user who calls the API."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self.headers = {"Authorization": f"Bearer {tokens(base_url)['access_token']}"}

    def call(self, method: str, path: str, status: int, body: Any = None) -> Any:
        """Make a call. Returns the answer's JSON. Raises AssertionError for another status."""
        answer = requests.request(method, self.base_url + path, headers=self.headers, json=body, timeout=WAIT_SECONDS)
        assert answer.status_code == status, f"{method} {path}: {answer.status_code} instead of {status}: {answer.text}"
        return answer.json()

    def wait_for_status(self, **wanted: Any) -> None:
        """Wait until GET /subscription/status says this."""
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            told = self.call("GET", "/subscription/status", 200)
            if {name: told[name] for name in wanted} == wanted:
                return
            assert time.monotonic() < deadline, f"The status is {told} instead of {wanted}."
            time.sleep(0.2)


def spend_the_day(client: Client) -> str:
    """Use up a Basic user's day. Returns the path that prompts go to."""
    room = client.call("POST", "/chatroom", 201, {"title": "Browser"})["id"]
    path = f"/chatroom/{room}/message"
    limit = client.call("GET", "/user/usage", 200)["limit"]
    for _ in range(limit):
        client.call("POST", path, 202, {"text": "Explain DNS"})
    refused = client.call("POST", path, 429, {"text": "Explain DNS"})
    assert refused["code"] == "daily_quota_exceeded", refused
    return path


def open_page(browser: Browser, url: str, **options: Any) -> Page:
    """Open a page in a new browser context."""
    page = browser.new_context(**options).new_page()
    page.goto(url)
    return page


def check_on_a_phone(browser: Browser, url: str, picture: Path) -> None:
    """Check that the page fits a small screen, and that its buttons are large enough for a thumb."""
    page = open_page(browser, url, viewport=PHONE, is_mobile=True, has_touch=True)
    wider = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wider <= 0, f"The checkout page is {wider} px wider than a phone's screen."
    box = page.get_by_role("button", name="Pay $").bounding_box()
    assert box is not None
    assert box["height"] >= 44, box
    page.screenshot(path=picture, full_page=True)
    page.context.close()


def pay_by_keyboard(browser: Browser, url: str, pictures: Path) -> None:
    """Have the card declined first, then press Tab until Pay, and Enter."""
    page = open_page(browser, url)
    page.screenshot(path=pictures / "checkout.png", full_page=True)
    page.get_by_role("button", name="Decline the card").click()
    expect(page.get_by_role("alert")).to_contain_text("declined")
    page.screenshot(path=pictures / "declined.png", full_page=True)
    for _ in range(20):
        page.keyboard.press("Tab")
        if str(page.evaluate("document.activeElement.textContent")).strip().startswith("Pay $"):
            break
    else:
        raise AssertionError("Tab does not reach the button that pays.")
    with page.expect_request("**/billing/success?session_id=cs_*"):  # the frontend itself need not be there
        page.keyboard.press("Enter")
    page.context.close()
    page = open_page(browser, url)
    expect(page.get_by_role("status")).to_contain_text("paid")
    page.screenshot(path=pictures / "paid.png", full_page=True)
    page.context.close()


def cancel_in_the_portal(browser: Browser, client: Client, picture: Path) -> None:
    """Cancel at the end of the period, then withdraw the cancellation."""
    page = open_page(browser, client.call("POST", "/subscription/portal", 200)["url"])
    page.get_by_role("button", name="Cancel at period end").click()
    expect(page.get_by_role("button", name="Keep the subscription")).to_be_visible()
    client.wait_for_status(tier="pro", cancel_at_period_end=True)
    page.get_by_role("button", name="Keep the subscription").click()
    client.wait_for_status(tier="pro", cancel_at_period_end=False)
    page.screenshot(path=picture, full_page=True)
    page.context.close()


def main() -> None:
    """Raises AssertionError or playwright's errors if something is not as a person would expect."""
    base_url = os.environ.get("BASE_URL", "http://127.0.0.1:5000")
    pictures = Path(os.environ.get("SCREENSHOTS", "var/screenshots"))
    pictures.mkdir(parents=True, exist_ok=True)
    expect.set_options(timeout=WAIT_SECONDS * 1_000)
    with sync_playwright() as playwright:
        browser = open_browser(playwright)
        client = Client(base_url)
        prompts = spend_the_day(client)
        url = client.call("POST", "/subscribe/pro", 200)["url"]
        check_on_a_phone(browser, url, pictures / "checkout-phone.png")
        pay_by_keyboard(browser, url, pictures)
        client.wait_for_status(tier="pro", status="active")
        client.call("POST", prompts, 202, {"text": "Explain DNS"})
        client.call("POST", "/subscribe/pro", 409)
        cancel_in_the_portal(browser, client, pictures / "portal.png")
        browser.close()
    print(f"Pro was bought in a browser; pictures are in {pictures}.")


if __name__ == "__main__":
    main()
