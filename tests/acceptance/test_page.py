"""The pages in a real Chromium, in front of a real scheduler and store (tests/integration/web/stage.py)."""

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

from service.domain.samples import Evidence
from tests.integration.web import stage as web

# One Chromium and one server for all of them.
pytestmark = pytest.mark.xdist_group("browser")

# It comes from the system: no package of the index carries one.
_NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
_WHY = "no Chromium on this machine; `apt-get install chromium` (or CHROMIUM=/path/to/it) and the pages are tested, too"
_PHONE = {"width": 390, "height": 844}
_SCREEN = {"width": 1920, "height": 1080}
_AXE = Axe().axe_script
# Not what passed as well: it is thousands of elements.
_FIND_BARRIERS = """
([within, options]) => axe.run(within, {resultTypes: ["violations"], ...options}).then(results =>
  results.violations.map(each => [each.help, each.nodes.map(node => node.html + node.failureSummary)]))
"""
# Of all elements that hold text of their own and are seen, the size of its letters.
_SIZES = """
[...document.querySelectorAll("main *")]
  .filter((each) => each.offsetWidth > 1)
  .filter((each) => [...each.childNodes].some((part) => part.nodeType === Node.TEXT_NODE && part.data.trim()))
  .map((each) => parseFloat(getComputedStyle(each).fontSize))
"""


@dataclass(eq=False)
class Reader:
    """A page in a browser of its own. ``wrong``: the errors that were told, and who else was asked."""

    page: Page
    base: str
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", self._request)

    def go(self, path: str) -> None:
        answer = self.page.goto(f"{self.base}{path}")
        assert answer
        assert answer.ok

    def accessible(self, *rules: str, within: str = "html") -> None:
        """axe-core finds nothing, by all of its rules or by these."""
        if not self.page.evaluate("'axe' in window"):
            self.page.evaluate(_AXE)
        options = {"runOnly": rules} if rules else {}
        assert self.page.evaluate(_FIND_BARRIERS, [within, options]) == [], self.page.url

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.wrong.append(message.text)

    def _request(self, request: Request) -> None:
        if not request.url.startswith(self.base):
            self.wrong.append(f"asked {request.url}")


@contextmanager
def reading(browser: Browser, base: str, **options: Any) -> Iterator[Reader]:
    """``options``: of a context of Playwright's."""
    context = browser.new_context(**{"viewport": {"width": 1300, "height": 1000}, **options})
    context.set_default_timeout(20_000)
    try:
        reader = Reader(context.new_page(), base)
        yield reader
        assert reader.wrong == []
    finally:
        context.close()


@dataclass
class Stage:
    """The stage in a thread of its own, since Playwright's calls block."""

    portal: BlockingPortal
    web: web.Stage

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.web.port}"

    def call(self, function: Callable[..., Any], *args: object) -> Any:
        return self.portal.call(function, *args)


@contextmanager
def staged(folder: Path, **options: Any) -> Iterator[Stage]:
    tasks = ("tests_blocking_merge", "other_workflows", "hotfix_commits", "reverts")
    evidence = [Evidence("Fix the fix", "https://github.com/o/r/pull/7", web.START, "merged", "main")]
    with (
        start_blocking_portal() as portal,
        suppress(CancelledError),  # by a test that ends its server
        portal.wrap_async_context_manager(web.served(folder, **options)) as served,
    ):
        for value in (3.0, 12.0):
            served.collectors["ci"].samples = [web.a_check(value, evidence=evidence, task=task) for task in tasks]
            for name in served.collectors:
                portal.call(served.run, name)
        yield Stage(portal, served)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Skips the tests where there is none; in CI, which installs one (.ci/run), its absence is a failure."""
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
    if path is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(_WHY)
    expect.set_options(timeout=20_000)
    with sync_playwright() as playwright:
        # Root, as which containers and CI run, has no sandbox of Chromium's; only our own pages are opened.
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        try:
            yield started
        finally:
            started.close()


@pytest.fixture(scope="module")
def stage(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged(tmp_path_factory.mktemp("page")) as it:
        yield it


@pytest.fixture
def reader(browser: Browser, stage: Stage) -> Iterator[Reader]:
    with reading(browser, stage.base) as it:
        yield it


def test_a_click_runs_a_collector_and_the_run_appears_and_ends(reader: Reader, stage: Stage) -> None:
    reader.go("/")
    card = reader.page.locator("#collector-training")
    before = card.locator(".bars a").count()
    card.get_by_role("button", name="Run training now").click()
    reader.page.keyboard.press("Enter")
    said = reader.page.locator("#said")
    expect(said).to_contain_text("training ended Complete")
    expect(card.locator(".bars a")).to_have_count(before + 1)
    # The keyboard stays where it was, though the page was drawn anew.
    expect(card.get_by_role("button", name="Run training now")).to_be_focused()
    run = said.get_by_role("link").inner_text()
    assert stage.call(stage.web.json, f"/api/v1/runs/{run}")["cause"] == "http"
    said.get_by_role("link").click()
    expect(reader.page.get_by_role("heading", level=1)).to_contain_text(run)
    expect(reader.page.locator("#live")).to_contain_text("ci.hotfix.count")


def test_a_collector_is_paused_and_resumed_by_keyboard(reader: Reader, stage: Stage) -> None:
    reader.go("/")
    card = reader.page.locator("#collector-ci")
    card.get_by_role("button", name="Run ci now").focus()
    reader.page.keyboard.press("Tab")
    reader.page.keyboard.press("Enter")
    reader.accessible(within="dialog")
    reader.page.get_by_label("Reason").fill("the token is being replaced")
    reader.page.get_by_label("Your name").fill("Zoë")
    reader.page.keyboard.press("Enter")
    expect(card).to_contain_text("Paused by Zoë")
    expect(card).to_contain_text("the token is being replaced")
    pause = stage.call(stage.web.json, "/api/v1/collectors/ci")["pause"]
    assert (pause["by"], pause["reason"]) == ("Zoë", "the token is being replaced")
    # The button in the place of the old one has the focus.
    expect(card.get_by_role("button", name="Resume ci")).to_be_focused()
    reader.page.keyboard.press("Enter")
    expect(card.get_by_role("button", name="Pause ci")).to_be_visible()
    assert not stage.call(stage.web.json, "/api/v1/collectors/ci")["paused"]


def test_a_tile_opens_the_check_with_its_evidence_and_a_chart_of_its_values(browser: Browser, stage: Stage) -> None:
    with reading(browser, stage.base, viewport=_PHONE, color_scheme="dark") as reader:
        page = reader.page
        reader.go("/")
        page.locator(".tile.fail").first.click()
        page.wait_for_url("**/checks/**")
        expect(page.get_by_role("heading", name="Evidence")).to_be_visible()
        for link in page.locator(".evidence a").all():
            assert str(link.get_attribute("href")).startswith("https://github.com/")
        values = page.locator("#values")
        expect(values).to_contain_text("12, fail, threshold 10")
        expect(values.locator(".trend")).to_be_hidden()
        values.get_by_role("button", name="7 d").click()
        over = values.locator(".u-over")
        over.hover(position={"x": 5, "y": 40})
        expect(values).to_contain_text("UTC: 3, fail")
        # An update leaves the chart where it is, with the new value in it.
        stage.call(stage.web.run, "ci")
        over.hover(position={"x": 100, "y": 40})
        expect(page.locator("tbody tr", has_text="ci-")).to_have_count(3)
        expect(values.locator(".u-over")).to_have_count(1)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        reader.accessible()
        page.locator("table a", has_text="ci-").first.click()
        page.wait_for_url("**/runs/**")


def test_times_are_told_as_distances_and_in_the_readers_zone_if_that_is_wanted(browser: Browser, stage: Stage) -> None:
    with reading(browser, stage.base, timezone_id="Asia/Tokyo") as reader:
        page = reader.page
        reader.go("/")
        card = page.locator("#collector-ci")
        expect(card.locator(".countdown")).to_contain_text("in ")
        expect(card.locator(".last time")).to_contain_text(" ago")
        expect(page.locator("header .name")).to_contain_text("up ")
        bar = card.locator(".bars a").first
        address = bar.get_attribute("href")
        bar.locator(".hit").click()
        page.wait_for_url(f"{reader.base}{address}")
        expect(page.get_by_role("heading", level=1)).to_contain_text("Complete")
        expect(page.locator("dl")).to_contain_text("2026-03-04 05:00")
        page.get_by_role("button", name="Show them in Asia/Tokyo").click()
        expect(page.locator("dl")).to_contain_text("2026-03-04 14:00")
        expect(page.locator(".as-of")).to_contain_text("Asia/Tokyo")
        reader.go("/")
        title = page.locator("#collector-ci .bars title").first
        assert str(title.text_content()).startswith("2026-03-04 14:00"), title.text_content()
        page.get_by_role("button", name="Show them in UTC").click()
        expect(page.locator("footer")).to_contain_text("All times are UTC")


def test_every_page_is_accessible_in_both_colour_schemes(reader: Reader) -> None:
    reader.go("/")
    tile = str(reader.page.locator(".tile a").first.get_attribute("href"))
    run = str(reader.page.locator("#collector-ci .history small a").get_attribute("href"))
    for path in ("/", "/tv", "/collectors/ci", tile, run):
        reader.go(path)
        reader.accessible()
        light = reader.page.evaluate("getComputedStyle(document.body).backgroundColor")
        reader.page.emulate_media(color_scheme="dark")
        assert reader.page.evaluate("getComputedStyle(document.body).backgroundColor") != light
        reader.accessible("color-contrast", "link-in-text-block")
        reader.page.emulate_media(color_scheme="light")
    assert reader.wrong == []
    reader.page.goto(f"{reader.base}/runs/ci-never")
    expect(reader.page.get_by_role("heading", level=1)).to_contain_text("Unknown run 404")
    reader.accessible()
    reader.wrong.clear()  # the console names the 404


def test_the_documentation_works_within_the_policy(reader: Reader) -> None:
    reader.go("/docs")
    call = reader.page.locator("#operations-health-get_version")
    call.locator("button").first.click()
    call.get_by_role("button", name="Try it out").click()
    call.get_by_role("button", name="Execute").click()
    expect(call.locator(".live-responses-table")).to_contain_text("abc1234")


def test_a_search_stands_in_the_address_and_narrows_the_board(reader: Reader) -> None:
    reader.go("/")
    reader.page.get_by_label("Text").fill("reverts")
    reader.page.keyboard.press("Enter")
    expect(reader.page).to_have_url(f"{reader.base}/?q=reverts")
    expect(reader.page.locator(".tile")).to_have_count(1)
    reader.page.get_by_label("Status").select_option("pass")
    expect(reader.page).to_have_url(f"{reader.base}/?q=reverts&status=pass")
    expect(reader.page.locator("#live")).to_contain_text("No check matches")


def test_nothing_is_wider_than_the_screen(reader: Reader) -> None:
    top = "each => each.getBoundingClientRect().top"
    for path in ("/collectors/ci", "/"):
        reader.go(path)
        for width in (390, 768, 1200):
            reader.page.set_viewport_size({"width": width, "height": 900})
            assert reader.page.evaluate("document.documentElement.scrollWidth") <= width
            buttons = reader.page.locator(".buttons").first.locator("button").all()
            assert len({each.evaluate(top) for each in buttons}) == 1, "one under another: each collector twice as tall"
            if path == "/":
                red = reader.page.locator(".tile.fail").last.evaluate(top)
                assert red < reader.page.locator(".collector").first.evaluate(top)


def test_the_office_screen_fits_is_legible_and_refreshes_itself(browser: Browser, stage: Stage) -> None:
    with reading(browser, stage.base, viewport=_SCREEN) as reader:
        reader.go("/tv")
        size = "[document.documentElement.scrollWidth, document.documentElement.scrollHeight]"
        assert reader.page.evaluate(size) == [1920, 1080]
        # 24 pixels of a 55 inch screen are 15 mm: seen from five metres as print of 1 mm at arm's length is.
        assert min(reader.page.evaluate(_SIZES)) >= 24
        cells = reader.page.locator("li", has_text="reverts").first.locator(".heat path:not(.ground)")
        before = cells.count()
        stage.call(stage.web.run, "ci")
        expect(cells).to_have_count(before + 1)


def test_pages_say_plainly_that_they_are_old_once_the_daemon_is_gone(browser: Browser, tmp_path: Path) -> None:
    with staged(tmp_path) as gone, reading(browser, gone.base) as page, reading(browser, gone.base) as screen:
        told = {page: ("/", "what you see is old"), screen: ("/tv", "Old: no answer for")}
        for reader, (path, _) in told.items():
            reader.page.clock.install()
            reader.go(path)
            expect(reader.page.locator("#stale")).to_be_hidden()
        gone.portal.call(gone.web.stop)
        for reader, (_, words) in told.items():
            reader.page.clock.run_for(40_000)
            expect(reader.page.locator("#stale")).to_contain_text(words)
            reader.wrong.clear()  # the console names each call without an answer


def test_the_operators_token_is_asked_for_once_and_kept_for_the_tab(browser: Browser, tmp_path: Path) -> None:
    with staged(tmp_path, token=web.secret("open-sesame")) as here, reading(browser, here.base) as reader:
        page = reader.page
        reader.go("/")
        run, said = page.get_by_role("button", name="Run training now"), page.locator("#said")
        for _ in range(2):
            run.click()
            page.keyboard.press("Enter")
            expect(page.get_by_role("textbox", name="Token")).to_be_visible()
            page.get_by_role("button", name="Cancel").click()
            expect(said).to_be_empty()
        run.click()
        page.keyboard.press("Enter")
        reader.accessible(within="dialog")
        page.get_by_role("textbox", name="Token").fill("wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_text("This was not the token.")).to_be_visible()
        page.get_by_role("textbox", name="Token").fill("open-sesame")
        page.get_by_role("button", name="Continue").click()
        expect(said).to_contain_text("training ended Complete")
        reader.wrong.clear()  # the console names each 401
        page.reload()
        page.get_by_role("button", name="Pause training").click()
        page.keyboard.press("Enter")
        expect(said).to_contain_text("training is paused")
        assert page.evaluate("document.cookie + JSON.stringify(localStorage)") == "{}"
        assert "open-sesame" not in page.content()


def test_the_page_is_whole_without_a_script(browser: Browser, stage: Stage) -> None:
    with reading(browser, stage.base, java_script_enabled=False) as reader:
        reader.go("/")
        expect(reader.page.locator("#collector-ci")).to_contain_text("every 10 minutes")
        expect(reader.page.locator("#collector-ci .bars")).to_be_visible()
        expect(reader.page.get_by_role("button")).to_have_count(0)
        expect(reader.page.locator("footer")).to_contain_text("All times are UTC")
        reader.page.locator(".tile a").first.click()
        expect(reader.page.get_by_role("heading", name="Evidence")).to_be_visible()
        expect(reader.page.locator(".trend")).to_be_visible()
