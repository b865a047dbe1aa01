"""A person's visit to the chat page, in one window of a real browser: what chat_page.py's steps have in common."""

import os
import shutil
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, Playwright, expect

CHAT_URL = os.environ.get("CHAT_URL", "http://127.0.0.1:8083").rstrip("/")
SCREENSHOTS = os.environ.get("SCREENSHOTS", "")
DESK = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}
ENOUGH_STEPS = 4
OPTIONS = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
OPTIONS += ["--disable-component-update", "--disable-sync"]
TIMEOUT_MS = 60_000

READ_STORED = """async (id) => {
  const api = document.querySelector('meta[name=api]').content;
  const token = JSON.parse(localStorage.getItem('chat.tokens')).access_token;
  const room = location.hash.split('/').pop();
  const answer = await fetch(`${api}/chatroom/${room}`, {headers: {Authorization: `Bearer ${token}`}});
  return (await answer.json()).messages.filter((message) => message.role === 'model').at(-1).text;
}"""


def open_browser(playwright: Playwright) -> Browser:
    """Start the Chromium that CHROMIUM names, or the `chromium` on PATH."""
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    assert chromium, "There is no Chromium: install Debian's package, or name one in CHROMIUM."
    # Chromium's own sandbox does not work for root, the usual user in a container.
    return playwright.chromium.launch(
        executable_path=chromium, args=OPTIONS + (["--no-sandbox"] if os.geteuid() == 0 else [])
    )


class Visit:
    """One browser window, and the errors that its page reports."""

    def __init__(self, browser: Browser, size: dict[str, int], **options: Any) -> None:
        self.name = "phone" if size is PHONE else "desk"
        self.complaints: list[str] = []
        self.context = browser.new_context(viewport=size, **options)
        self.context.set_default_timeout(TIMEOUT_MS)
        self.context.grant_permissions(["clipboard-read", "clipboard-write"])
        self.page: Page = self.context.new_page()
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._listen)

    def _listen(self, message: Any) -> None:
        if message.type == "error" and "Failed to load resource" not in message.text:  # the page handles those
            self.complaints.append(message.text)

    def shot(self, what: str) -> None:
        """Take a picture in each of the two colour schemes."""
        if not SCREENSHOTS:
            return
        for scheme in ("dark", "light"):
            self.page.emulate_media(color_scheme=scheme)
            self.page.screenshot(path=Path(SCREENSHOTS) / f"{what}-{self.name}-{scheme}.png")

    def log_in(self) -> None:
        page = self.page
        page.goto(CHAT_URL)
        self.shot("login")
        page.get_by_role("button", name="Use a made-up number").click()
        page.get_by_label("Your name").fill("Ada")
        page.get_by_role("button", name="Send me a code").click()
        expect(page.get_by_label("One-time code")).not_to_have_value("")
        self.shot("code")
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_label("Message", exact=True)).to_be_visible()
        expect(page.locator("#quota")).to_contain_text("left today")

    def send(self, text: str) -> None:
        """Send a prompt, and wait until its reply has begun."""
        replies = self.page.locator("li.model")
        before = replies.count()
        self.type(text)
        expect(replies).to_have_count(before + 1)

    def type(self, text: str) -> None:
        self.page.get_by_label("Message", exact=True).fill(text)
        self.page.keyboard.press("Enter")

    def watch_growth(self) -> None:
        """Watch the latest reply grow in steps, each of which continues the one before."""
        text = self.page.locator("li.model .text").last
        seen, deadline = [""], time.monotonic() + TIMEOUT_MS / 1000
        while len(seen) <= ENOUGH_STEPS:
            assert time.monotonic() < deadline, f"the reply did not grow: {seen}"
            now = text.text_content() or ""
            assert now.startswith(seen[-1]), f"{now!r} does not continue {seen[-1]!r}"
            if now != seen[-1]:
                seen.append(now)
            self.page.wait_for_timeout(50)

    def wait_for(self, status: str) -> None:
        expect(self.page.locator("li.model").last).to_have_attribute("data-status", status)

    def stop(self, words: int) -> None:
        """Stop the latest reply before it has all of its words, and check that it keeps what was shown."""
        self.page.get_by_role("button", name="Stop the reply").click()
        self.wait_for("canceled")
        assert 0 < len(self.check_stored().split()) < words, "a stopped reply must keep what was written"

    def check_stored(self) -> str:
        """Return the latest reply's text as shown. Raises AssertionError if another text is stored."""
        self.page.evaluate("() => new Promise(requestAnimationFrame)")  # the frame in which the page draws it
        shown = self.page.locator("li.model .text").last.text_content() or ""
        assert shown == self.page.evaluate(READ_STORED), "the shown text is not the stored one"
        return shown
