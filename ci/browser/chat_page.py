"""Uses the chat page of a running stack as a person does, in a real browser: log in, send, watch the reply grow,
refresh in mid-reply, stop, retry, edit, regenerate, upgrade, pay, log out; on a desk, then on a phone.

    sh ci/install.sh var/tools
    CHAT_URL=http://127.0.0.1:8083 SCREENSHOTS=var/screenshots var/tools/bin/python -m ci.browser.chat_page

CHROMIUM is the browser's path (by default `chromium` on PATH), SCREENSHOTS a folder for pictures of what was seen.
"""

import json

from playwright.sync_api import Route, expect, sync_playwright

from ci.browser.visit import CHAT_URL, DESK, PHONE, TIMEOUT_MS, Visit, open_browser

# The stand-in writes a word every 30 ms. The first reply would take 27 seconds, so that pictures and a reload fit into
# it on a slow machine too; nothing waits for its end. The second one would take 12 seconds.
LONGEST_WORDS, LONG_WORDS = 900, 400
LONGEST = f"Explain DNS to a child [[sandbox:words={LONGEST_WORDS}]]"
LONG = f"And IPv6 [[sandbox:words={LONG_WORDS}]]"
MARKDOWN = """## A plan

1. **Look** at `code`, *emphasis* and [a page](https://example.com/?a=1&b=2)
2. Beware of [this](javascript:alert(1)), <script>alert(1)</script>, <img src=x onerror=alert(1)> and ![a
   picture](https://example.com/x.png)

> שלום עולם, a quotation from right to left

```python
print('Grüße, 東京')
```

| City | A column that is wider than a telephone, since it goes on and on without a place to break it |
|---|--:|
| Lisbon | one_very_long_word_that_nobody_can_break_anywhere_whatever_the_width_of_the_window_may_be |
| Porto | 2 |

```
a line of code that is longer than any telephone is wide, so that it has to be scrolled within its own box, and not more
```
"""


def talk(visit: Visit) -> None:
    """Watch a reply grow, refresh the page in the middle, and stop it; stop another one and retry it."""
    page = visit.page
    visit.send(LONGEST)
    visit.watch_growth()
    visit.shot("writing")
    expect(page.get_by_role("button", name="Stop the reply")).to_be_visible()
    page.reload()
    visit.watch_growth()
    visit.stop(LONGEST_WORDS)
    expect(page.locator("#quota")).to_contain_text("4 of 5 left today")

    visit.send(LONG)
    visit.watch_growth()
    visit.stop(LONG_WORDS)
    page.get_by_role("button", name="Retry").last.click()
    visit.wait_for("completed")
    visit.check_stored()
    visit.shot("chat")


def keep_rooms(visit: Visit) -> None:
    """Rename, make and delete a room."""
    page = visit.page
    page.get_by_role("button", name="Rename this room").click()
    visit.shot("rename")
    page.get_by_role("dialog").get_by_role("textbox").fill("<b>Names & numbers</b>")
    page.keyboard.press("Enter")
    expect(page.locator("#title")).to_have_text("<b>Names & numbers</b>")
    page.get_by_role("button", name="New room").click()
    visit.shot("empty")
    page.get_by_role("button", name="Plan three days in Lisbon").click()
    visit.wait_for("completed")
    expect(page.locator("#rooms li")).to_have_count(2)
    page.get_by_role("button", name="Delete this room").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.locator("#rooms li")).to_have_count(1)
    page.locator("#rooms a").click()
    expect(page.locator("li.model")).to_have_count(2)


def set_a_room_up(visit: Visit) -> None:
    """Set an instruction and a model, archive the room, and bring it back."""
    page = visit.page
    settings = page.get_by_role("dialog", name="Settings of this room")
    page.get_by_role("button", name="Settings of this room").click()
    settings.get_by_label("How Gemini should reply").fill("Answer like a pirate.")
    settings.get_by_label("Model").select_option(index=1)
    settings.get_by_label("Move it to the archived rooms").check()
    visit.shot("settings")
    settings.get_by_role("button", name="Save").click()
    expect(page.locator("#rooms li")).to_have_count(0)
    page.get_by_role("button", name="Archived rooms").click()
    expect(page.locator("#rooms li")).to_have_count(1)
    page.get_by_role("button", name="Settings of this room").click()
    expect(settings.get_by_label("How Gemini should reply")).to_have_value("Answer like a pirate.")
    settings.get_by_label("Move it to the archived rooms").uncheck()
    settings.get_by_role("button", name="Save").click()
    expect(page.locator("#rooms li")).to_have_count(0)
    page.get_by_role("button", name="Back to all rooms").click()
    expect(page.locator("#rooms li")).to_have_count(1)
    expect(page.locator("#month-text")).to_contain_text("tokens in 30 days")
    expect(page.get_by_role("img", name="tokens in 30 days")).to_be_visible()


def spend_the_day(visit: Visit) -> None:
    """The sixth prompt is refused kindly, and stays in the box."""
    visit.send("The fifth")
    visit.wait_for("completed")
    visit.type("The sixth")
    expect(visit.page.locator("#notice")).to_contain_text("That was it for today")
    expect(visit.page.get_by_label("Message", exact=True)).to_have_value("The sixth")
    visit.shot("quota")


def upgrade(visit: Visit) -> None:
    """Pay on the checkout page, come back, and be Pro."""
    page = visit.page
    page.locator("#notice").get_by_role("button", name="Upgrade").click()
    page.wait_for_url("**/c/pay/**")
    page.get_by_role("button", name="Pay $").click()
    page.wait_for_url(f"{CHAT_URL}/**")
    expect(page.locator("#tier")).to_have_text("Pro")
    expect(page.locator("#notice")).to_contain_text("You are Pro now")
    expect(page.get_by_text("The fifth", exact=True)).to_be_visible()  # the room is open again
    visit.shot("pro")
    page.get_by_role("button", name="Manage").click()
    page.get_by_role("link", name="Back to app").click()
    expect(page.locator("#notice")).to_contain_text("Welcome back")


def read_markdown(visit: Visit) -> None:
    """A long Markdown answer is formatted, holds nothing that runs or loads, and continues after a cut."""
    page = visit.page
    expect(page.locator("li.user").first).to_be_visible()
    visit.send(f"[[sandbox: finish=MAX_TOKENS pace=0 say={json.dumps(MARKDOWN)}]]")
    visit.wait_for("completed")
    reply = page.locator("li.model").last
    expect(reply.locator("h2")).to_have_text("A plan")
    expect(reply.locator("ol > li")).to_have_count(2)
    expect(reply.locator("td")).to_have_count(4)
    expect(reply.get_by_role("link", name="a page")).to_have_attribute("rel", "noopener noreferrer")
    expect(reply.locator("script, img, iframe, [href^=javascript]")).to_have_count(0)
    expect(reply.locator(".text")).to_contain_text("<script>alert(1)</script>")
    reply.get_by_role("button", name="Copy this code").first.click()
    expect(reply.get_by_role("button", name="Copy this code").first).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == "print('Grüße, 東京')\n"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page is wider than the window"
    expect(reply).to_contain_text("Cut at the length limit")
    visit.shot("markdown")
    reply.scroll_into_view_if_needed()
    before = page.locator("li.model").count()
    reply.get_by_role("button", name="Continue").click()
    expect(page.locator("li.model")).to_have_count(before + 1)
    expect(page.locator("li.user .text").last).to_have_text("Continue where you stopped.")
    visit.wait_for("completed")


def change_ones_mind(visit: Visit) -> None:
    """An edited prompt and a regenerated reply replace the earlier ones, which can still be shown."""
    page = visit.page
    before = page.locator("li.user").count()
    page.locator("li.user").last.get_by_role("button", name="Edit").click()
    box = page.get_by_label("Message", exact=True)
    expect(box).to_have_value("Continue where you stopped.")
    box.fill("Something else")
    page.keyboard.press("Enter")
    expect(page.locator("li.user .text").last).to_have_text("Something else")
    expect(page.locator("li.user")).to_have_count(before)
    visit.wait_for("completed")
    with page.expect_response(lambda answer: "superseded=include" in answer.url):  # the room is opened again
        page.locator("li.model").last.get_by_role("button", name="Regenerate").click()
    expect(page.get_by_role("button", name="Show replaced messages")).to_be_visible()
    visit.wait_for("completed")
    expect(page.locator("li.superseded")).to_have_count(0)
    page.get_by_role("button", name="Show replaced messages").click()
    expect(page.locator("li.superseded")).to_have_count(3)
    visit.shot("replaced")
    assert page.evaluate("document.scrollingElement.scrollTop") == 0, "the page itself has scrolled"
    page.get_by_role("button", name="Hide replaced messages").click()
    expect(page.locator("li.superseded")).to_have_count(0)


def find_it_again(visit: Visit) -> None:
    """A search highlights its words and leads to the message. Superseded messages are not found."""
    page = visit.page
    box = page.get_by_role("searchbox", name="Search messages")
    box.fill("dns chi")
    expect(page.locator("#found mark", has_text="chi").first).to_be_visible()
    visit.shot("search")
    box.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator("li.jumped")).to_be_focused()
    expect(page.locator("li.jumped")).to_contain_text("DNS")
    visit.shot("found")
    box.fill("Continue where you stopped")
    expect(page.locator("#found-count")).to_have_text("No messages found")
    box.fill("")
    expect(page.locator("#found")).to_be_hidden()
    expect(page.locator("#rooms li")).to_have_count(1)
    page.locator("#rooms a").click()


def use_keyboard(visit: Visit) -> None:
    """The skip link leads to the message box; Shift+Enter makes a new line and sends nothing."""
    page = visit.page
    page.get_by_role("link", name="Skip to the message box").focus()
    page.keyboard.press("Enter")
    box = page.get_by_label("Message", exact=True)
    expect(box).to_be_focused()
    box.fill("")
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    expect(box).to_have_value("one\ntwo")
    box.fill("")


def on_a_phone(visit: Visit) -> None:
    """The rooms are in a drawer that Escape closes, and nothing is wider than the screen."""
    page = visit.page
    visit.send("Explain DNS to a child")
    visit.wait_for("completed")
    visit.shot("chat")
    page.get_by_role("button", name="Rooms and account").click()
    expect(page.get_by_role("link", name="Explain DNS to a child")).to_be_visible()
    page.wait_for_timeout(300)  # the drawer slides
    visit.shot("drawer")
    page.keyboard.press("Escape")
    expect(page.get_by_role("link", name="Explain DNS to a child")).to_be_hidden()
    expect(page.get_by_role("button", name="Rooms and account")).to_be_focused()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page is wider than the phone"


def lose_things(visit: Visit) -> None:
    """After a lost answer, a broken stream and an expired token, nothing is doubled or missing."""
    page, asked = visit.page, []

    def lose_answer(route: Route) -> None:
        route.fetch()
        route.abort()

    def break_off(route: Route) -> None:
        body = 'event: delta\ndata: {"text": "[sand"}\nid: 1:5\n\nevent: delta\ndata: {"te'
        route.fulfill(body=body, content_type="text/event-stream", headers={"Access-Control-Allow-Origin": "*"})

    def expire(route: Route) -> None:
        headers = {"Access-Control-Allow-Origin": "*"}
        route.fulfill(status=401, json={"status": 401, "code": "token_expired"}, headers=headers)

    page.route("**/message", lose_answer, times=1)
    page.route("**/stream", break_off, times=1)
    page.on("request", lambda request: asked.append((request.url, request.headers)))
    visit.send("Hello")
    visit.wait_for("completed")
    expect(page.locator("li.user")).to_have_count(2)
    keys = {headers["idempotency-key"] for _, headers in asked if "idempotency-key" in headers}
    places = [headers.get("last-event-id") for url, headers in asked if url.endswith("/stream")]
    assert len(keys) == 1, "a retried prompt must have the same key"
    assert places[-2:] == [None, "1:5"], places
    visit.check_stored()

    before = page.evaluate("localStorage.getItem('chat.tokens')")
    page.route("**/user/me", expire, times=1)
    page.reload()
    expect(page.locator("li.user")).to_have_count(2)
    assert page.evaluate("localStorage.getItem('chat.tokens')") != before, "the token was not renewed"


def log_out(visit: Visit) -> None:
    if visit.name == "phone":
        visit.page.get_by_role("button", name="Rooms and account").click()
    visit.page.get_by_role("button", name="Log out").click()
    expect(visit.page.locator("#notice")).to_contain_text("You are logged out")
    assert visit.page.evaluate("localStorage.getItem('chat.tokens')") is None


def main() -> None:
    expect.set_options(timeout=TIMEOUT_MS)
    with sync_playwright() as playwright:
        browser = open_browser(playwright)
        for visit, steps in (
            (
                Visit(browser, DESK),
                (
                    *(talk, use_keyboard, keep_rooms, set_a_room_up, spend_the_day),
                    *(upgrade, read_markdown, change_ones_mind, find_it_again, log_out),
                ),
            ),
            (
                Visit(browser, PHONE, has_touch=True, device_scale_factor=2),
                (on_a_phone, lose_things, read_markdown, log_out),
            ),
        ):
            visit.log_in()
            for step in steps:
                step(visit)
                print(f"{visit.name}: {step.__name__}", flush=True)
            assert not visit.complaints, visit.complaints
            visit.context.close()
        browser.close()
    print("The chat page works.")


if __name__ == "__main__":
    main()
