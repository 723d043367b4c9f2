"""A browser window that reaches one server and nothing else, and tells what happened in it."""

from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, BrowserContext, Page, Route

SHOWN = "http://shown.test/"


class Visitor:
    """One window, with its own cookies.

    Attributes:
        page: What it shows.
        attacks: The numbers with which a page called `attack(...)`.
        asked_for: Addresses elsewhere from which a page wanted something, and got nothing.
        failed: Answers of the server that say that it has failed.
    """

    def __init__(self, context: BrowserContext, server: str) -> None:
        """Open the window on a server, or on a file by its address."""
        self.server = server
        self.attacks: list[int] = []
        self.asked_for: list[str] = []
        self.failed: list[str] = []
        context.set_default_timeout(180_000)  # of a busy machine
        context.expose_function("attack", lambda number: self.attacks.append(number))
        context.route("**/*", self._let_through)
        context.on("response", lambda answer: self.failed.append(answer.url) if answer.status >= 500 else None)
        self.context = context
        self.page = context.new_page()

    def _let_through(self, route: Route) -> None:
        if self.server and route.request.url.startswith(self.server):
            route.continue_()
        else:
            self.asked_for.append(route.request.url)
            route.abort()

    def open(self, place: str = "") -> Page:
        """Show a page of the server."""
        self.page.goto(self.server + place)
        return self.page

    def show(self, html: str) -> Page:
        """Show a page as if a server had sent it."""
        self.context.route(SHOWN, lambda route: route.fulfill(body=html, content_type="text/html; charset=utf-8"))
        self.page.goto(SHOWN, wait_until="networkidle")
        return self.page

    def click_on_everything(self, part: str) -> None:
        """Click on all that a part of the page holds, but for links to other sites."""
        self.page.evaluate(
            """part => document.querySelectorAll(`${part} *`).forEach(element => {
                if (element.click && !element.closest("a[href^=http]")) element.click();
            })""",
            part,
        )
        self.page.wait_for_timeout(300)


@contextmanager
def visiting(browser: Browser, server: str = "") -> Iterator[Visitor]:
    """A new window."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    yield Visitor(context, server)
    context.close()
