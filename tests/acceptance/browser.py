"""A real Chromium for the pages. It comes from the system: no package of the index carries one."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
_WHY = "no Chromium on this machine; `apt-get install chromium` (or CHROMIUM=/path/to/it) and the pages are tested, too"

_AXE = Axe().axe_script
# Not what passed as well: it is thousands of elements.
_TOLD = (
    "results => results.violations.map(each => [each.help, each.nodes.map(node => node.html + node.failureSummary)])"
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Skips the test where there is none; in CI, which installs one (.ci/run), its absence is a failure."""
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
    if path is None:
        if os.environ.get("CI"):
            pytest.fail(_WHY)
        pytest.skip(_WHY)
    with sync_playwright() as playwright:
        # Root, as which containers and CI run, has no sandbox of Chromium's; only our own pages are opened.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        try:
            yield browser
        finally:
            browser.close()


@dataclass(eq=False)
class Reader:
    """A page in a browser of its own, and what went wrong or abroad meanwhile."""

    page: Page
    base: str
    wrong: list[str] = field(default_factory=list)
    abroad: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", self._request)

    def go(self, path: str) -> None:
        answer = self.page.goto(f"{self.base}{path}")
        assert answer
        assert answer.ok

    def accessible(self, *rules: str) -> None:
        """axe-core finds nothing, by all of its rules or by these."""
        options = {"resultTypes": ["violations"]} | ({"runOnly": rules} if rules else {})
        self.page.evaluate(_AXE)
        assert self.page.evaluate(f"options => axe.run(options).then({_TOLD})", options) == [], self.page.url

    def at_ease(self) -> None:
        """No error was told, and nobody else was asked."""
        assert self.wrong == []
        assert self.abroad == []

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.wrong.append(message.text)

    def _request(self, request: Request) -> None:
        if not request.url.startswith(self.base):
            self.abroad.append(request.url)


@contextmanager
def reading(
    browser: Browser,
    base: str,
    *,
    size: tuple[int, int] = (1300, 1000),
    scheme: str = "light",
    script: bool = True,
) -> Iterator[Reader]:
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme="dark" if scheme == "dark" else "light",
        java_script_enabled=script,
    )
    context.set_default_timeout(20_000)
    try:
        yield Reader(context.new_page(), base)
    finally:
        context.close()
