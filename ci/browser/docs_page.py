"""Opens /docs in headless Chromium, authorizes, sends a message with "Try it out" and sees the reply.

No request may leave the service's own origin, and the console may show no error.

    BASE_URL=http://127.0.0.1:5000 SCREENSHOTS=var/screenshots python -m ci.browser.docs_page

CHROMIUM is the browser's path (by default `chromium` on PATH). SCREENSHOTS is the folder for a picture.
"""

import json
import os
from pathlib import Path
from typing import Any

from playwright.sync_api import ConsoleMessage, Locator, Page, Request, expect, sync_playwright

from ci.browser.visit import open_browser
from ci.newcomer import tokens

# In the order of the story.
TAGS = ["auth", "sessions", "user", "chatroom", "models", "messages", "search", "billing", "operations"]
PROMPT = "Explain DNS to a child"
WAIT_MS = 60_000


class Visit:
    """A page, and what must not happen while it is open."""

    def __init__(self, page: Page, address: str) -> None:
        self.page = page
        self.address = address
        self.elsewhere: list[str] = []
        self.errors: list[str] = []
        page.on("request", self.note_request)
        page.on("console", self.note_console)
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def note_request(self, request: Request) -> None:
        if not request.url.startswith((self.address, "data:", "blob:")):
            self.elsewhere.append(request.url)

    def note_console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    def operation(self, method: str, path: str) -> Locator:
        """Open an operation of the page. Returns its block."""
        block = self.page.locator(f".opblock-{method}").filter(
            has=self.page.locator(f'.opblock-summary-path[data-path="{path}"]')
        )
        block.locator(".opblock-summary-control").first.click()
        expect(block.locator(".opblock-body")).to_be_visible()
        return block

    def authorize(self, token: str) -> None:
        self.page.locator(".auth-wrapper .authorize").first.click()
        dialog = self.page.locator(".dialog-ux")
        form = dialog.locator(".auth-container").filter(has_text="accessToken").first
        form.locator("input").fill(token)
        form.locator("button.authorize").click()
        expect(form.get_by_text("Authorized")).to_be_visible()
        dialog.locator("button.close-modal").click()

    def send(self, block: Locator) -> Any:
        """Press Execute. Returns the answer as the page shows it."""
        block.locator("button.execute").click()
        live = block.locator(".live-responses-table .response")
        expect(live).to_be_visible()
        status = live.locator(".response-col_status").inner_text().split()[0]
        shown = live.locator(".response-col_description .highlight-code code").first.inner_text()
        assert status.startswith("2"), f"{status}: {shown}"
        return json.loads(shown)


def tour(visit: Visit, token: str) -> str:
    """Do what a newcomer does on the page. Returns the reply's text."""
    page = visit.page
    page.goto(f"{visit.address}/docs")
    expect(page.locator(".opblock").first).to_be_visible()
    shown = page.locator(".opblock-tag").evaluate_all("tags => tags.map(tag => tag.dataset.tag)")
    assert shown == TAGS, f"The tags are not those of the story, in its order: {shown}"
    visit.authorize(token)
    room = visit.send(visit.operation("post", "/chatroom"))
    block = visit.operation("post", "/chatroom/{chatroom_id}/message")
    block.locator('tr[data-param-name="chatroom_id"] input').fill(room["id"])
    block.locator('tr[data-param-name="Prefer"] input').fill("wait=15")
    block.locator("textarea.body-param__text").fill(json.dumps({"text": PROMPT}))
    reply = visit.send(block)["reply"]
    assert reply["status"] == "completed", reply
    block.locator(".live-responses-table").scroll_into_view_if_needed()
    return str(reply["text"])


def main() -> None:
    address = os.environ.get("BASE_URL", "http://127.0.0.1:5000")
    picture = Path(os.environ.get("SCREENSHOTS", "var/screenshots")) / "docs.png"
    token = tokens(address)["access_token"]
    expect.set_options(timeout=WAIT_MS)
    with sync_playwright() as playwright:
        browser = open_browser(playwright)
        page = browser.new_page(viewport={"width": 1280, "height": 1400})
        visit = Visit(page, address)
        reply = tour(visit, token)
        picture.parent.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=picture)
        browser.close()
    assert not visit.elsewhere, f"Requests left the origin: {visit.elsewhere}"
    assert not visit.errors, f"Errors in the console: {visit.errors}"
    print(f"/docs works in Chromium: the reply was {reply[:60]!r}. Picture: {picture}")


if __name__ == "__main__":
    main()
