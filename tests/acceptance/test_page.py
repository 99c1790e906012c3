"""The pages in a real Chromium, in front of a real scheduler and store (tests/integration/web/stage.py)."""

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from service.domain.samples import Evidence
from tests.integration.web.stage import START, Stage, a_check, secret, served

# One Chromium and one server for all of them.
pytestmark = pytest.mark.xdist_group("browser")

# It comes from the system: no package of the index carries one.
_NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
_WHY = "no Chromium on this machine; `apt-get install chromium` (or CHROMIUM=/path/to/it) and the pages are tested, too"
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


@contextmanager
def reading(browser: Browser, stage: Stage, may_fail: bool = False, **options: Any) -> Iterator[Page]:
    """A page in a context of its own with these ``options`` of Playwright's. No error may be told, and nobody else
    asked; ``may_fail``: but for calls that are refused.
    """
    base = str(stage.client.base_url)
    context = browser.new_context(**{"base_url": base, "viewport": {"width": 1300, "height": 1000}, **options})
    context.set_default_timeout(20_000)
    page, wrong = context.new_page(), list[str]()

    def note(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not (may_fail and "Failed to load resource" in message.text):
            wrong.append(message.text)

    page.on("console", note)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith(base) else wrong.append(request.url))
    try:
        yield page
        assert wrong == []
    finally:
        context.close()


def assert_accessible(page: Page, *rules: str, within: str = "html") -> None:
    """axe-core finds nothing, by all of its rules or by these."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(_AXE)
    assert page.evaluate(_FIND_BARRIERS, [within, {"runOnly": rules} if rules else {}]) == [], page.url


@contextmanager
def staged(portal: BlockingPortal, folder: Path, **options: Any) -> Iterator[Stage]:
    tasks = ("tests_blocking_merge", "other_workflows", "hotfix_commits", "reverts")
    evidence = [Evidence("Fix the fix", "https://github.com/o/r/pull/7", START, "merged", "main")]
    # A server that its test has ended is cancelled.
    with suppress(CancelledError), portal.wrap_async_context_manager(served(folder, **options)) as stage:
        for value in (3.0, 12.0):
            stage.collectors["ci"].samples = [a_check(value, evidence=evidence, task=task) for task in tasks]
            for name in stage.collectors:
                portal.call(stage.run, name)
        yield stage


@pytest.fixture(scope="module")
def portal() -> Iterator[BlockingPortal]:
    """The stage is in a thread of its own, since Playwright's calls block."""
    with start_blocking_portal() as it:
        yield it


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Skips the tests where there is none; in CI, which installs one (.ci/run), its absence is a failure."""
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
    if path is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(_WHY)
    expect.set_options(timeout=20_000)
    # Root, as which containers and CI run, has no sandbox of Chromium's; only our own pages are opened.
    arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=path, args=arguments) as it:
        yield it


@pytest.fixture(scope="module")
def stage(browser: Browser, portal: BlockingPortal, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged(portal, tmp_path_factory.mktemp("page")) as it:
        yield it


@pytest.fixture
def page(browser: Browser, stage: Stage) -> Iterator[Page]:
    with reading(browser, stage) as it:
        yield it


def test_a_click_runs_a_collector_and_the_run_appears_and_ends(page: Page) -> None:
    page.goto("/")
    card = page.locator("#collector-training")
    before = card.locator(".bars a").count()
    card.get_by_role("button", name="Run training now").click()
    page.keyboard.press("Enter")
    said = page.locator("#said")
    expect(said).to_contain_text("training ended Complete")
    expect(card.locator(".bars a")).to_have_count(before + 1)
    # The keyboard stays where it was, though the page was drawn anew.
    expect(card.get_by_role("button", name="Run training now")).to_be_focused()
    run = said.get_by_role("link").inner_text()
    assert page.request.get(f"/api/v1/runs/{run}").json()["cause"] == "http"
    said.get_by_role("link").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(run)
    expect(page.locator("#live")).to_contain_text("ci.hotfix.count")


def test_a_collector_is_paused_and_resumed_by_keyboard(page: Page) -> None:
    page.goto("/")
    card = page.locator("#collector-ci")
    card.get_by_role("button", name="Run ci now").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert_accessible(page, within="dialog")
    page.get_by_label("Reason").fill("the token is being replaced")
    page.get_by_label("Your name").fill("Zoë")
    page.keyboard.press("Enter")
    expect(card).to_contain_text("Paused by Zoë")
    expect(card).to_contain_text("the token is being replaced")
    pause = page.request.get("/api/v1/collectors/ci").json()["pause"]
    assert (pause["by"], pause["reason"]) == ("Zoë", "the token is being replaced")
    # The button in the place of the old one has the focus.
    expect(card.get_by_role("button", name="Resume ci")).to_be_focused()
    page.keyboard.press("Enter")
    expect(card.get_by_role("button", name="Pause ci")).to_be_visible()
    assert not page.request.get("/api/v1/collectors/ci").json()["paused"]


def test_a_tile_opens_the_check_with_its_evidence_and_a_chart_of_its_values(
    browser: Browser, stage: Stage, portal: BlockingPortal
) -> None:
    with reading(browser, stage, viewport={"width": 390, "height": 844}, color_scheme="dark") as page:
        page.goto("/")
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
        portal.call(stage.run, "ci")
        over.hover(position={"x": 100, "y": 40})
        expect(page.locator("tbody tr", has_text="ci-")).to_have_count(3)
        expect(values.locator(".u-over")).to_have_count(1)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert_accessible(page)
        page.locator("table a", has_text="ci-").first.click()
        page.wait_for_url("**/runs/**")


def test_times_are_told_as_distances_and_in_the_readers_zone_if_that_is_wanted(browser: Browser, stage: Stage) -> None:
    with reading(browser, stage, timezone_id="Asia/Tokyo") as page:
        page.goto("/")
        card = page.locator("#collector-ci")
        expect(card.locator(".countdown")).to_contain_text("in ")
        expect(card.locator(".last time")).to_contain_text(" ago")
        expect(page.locator("header .name")).to_contain_text("up ")
        page.goto(str(card.locator(".bars a").first.get_attribute("href")))
        expect(page.locator("dl")).to_contain_text("2026-03-04 05:00")
        page.get_by_role("button", name="Show them in Asia/Tokyo").click()
        expect(page.locator("dl")).to_contain_text("2026-03-04 14:00")
        expect(page.locator(".as-of")).to_contain_text("Asia/Tokyo")
        page.get_by_role("button", name="Show them in UTC").click()
        expect(page.locator("footer")).to_contain_text("All times are UTC")


def test_every_page_is_accessible_in_both_colour_schemes(browser: Browser, stage: Stage) -> None:
    with reading(browser, stage, may_fail=True) as page:
        page.goto("/")
        tile = str(page.locator(".tile a").first.get_attribute("href"))
        run = str(page.locator("#collector-ci .history small a").get_attribute("href"))
        for path in ("/tv", "/collectors/ci", tile, run, "/"):
            page.goto(path)
            assert_accessible(page)
            light = page.evaluate("getComputedStyle(document.body).backgroundColor")
            page.emulate_media(color_scheme="dark")
            assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
            assert_accessible(page, "color-contrast", "link-in-text-block")
            page.emulate_media(color_scheme="light")
        page.goto("/runs/ci-never")
        expect(page.get_by_role("heading", level=1)).to_contain_text("Unknown run 404")
        assert_accessible(page)


def test_a_search_stands_in_the_address_and_the_documentation_works_within_the_policy(page: Page) -> None:
    page.goto("/")
    page.get_by_label("Text").fill("reverts")
    page.keyboard.press("Enter")
    expect(page).to_have_url("/?q=reverts")
    expect(page.locator(".tile")).to_have_count(1)
    page.get_by_label("Status").select_option("pass")
    expect(page).to_have_url("/?q=reverts&status=pass")
    expect(page.locator("#live")).to_contain_text("No check matches")
    page.goto("/docs")
    call = page.locator("#operations-health-get_version")
    call.locator("button").first.click()
    call.get_by_role("button", name="Try it out").click()
    call.get_by_role("button", name="Execute").click()
    expect(call.locator(".live-responses-table")).to_contain_text("abc1234")


def test_nothing_is_wider_than_the_screen(page: Page) -> None:
    top = "each => each.getBoundingClientRect().top"
    for path in ("/collectors/ci", "/"):
        page.goto(path)
        for width in (390, 768, 1200):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            buttons = page.locator(".buttons").first.locator("button").all()
            assert len({each.evaluate(top) for each in buttons}) == 1, "one under another: each collector twice as tall"
            if path == "/":
                red = page.locator(".tile.fail").last.evaluate(top)
                assert red < page.locator(".collector").first.evaluate(top)


def test_the_office_screen_fits_is_legible_and_refreshes_itself(
    browser: Browser, stage: Stage, portal: BlockingPortal
) -> None:
    with reading(browser, stage, viewport={"width": 1920, "height": 1080}) as page:
        page.goto("/tv")
        size = "[document.documentElement.scrollWidth, document.documentElement.scrollHeight]"
        assert page.evaluate(size) == [1920, 1080]
        # 24 pixels of a 55 inch screen are 15 mm: seen from five metres as print of 1 mm at arm's length is.
        assert min(page.evaluate(_SIZES)) >= 24
        cells = page.locator("li", has_text="reverts").first.locator(".heat path:not(.ground)")
        before = cells.count()
        portal.call(stage.run, "ci")
        expect(cells).to_have_count(before + 1)


def test_pages_say_plainly_that_they_are_old_once_the_daemon_is_gone(
    browser: Browser, portal: BlockingPortal, tmp_path: Path
) -> None:
    with staged(portal, tmp_path) as stage, reading(browser, stage, may_fail=True) as page:
        screen = page.context.new_page()
        told = {page: ("/", "what you see is old"), screen: ("/tv", "Old: no answer for")}
        for each, (path, _) in told.items():
            each.clock.install()
            each.goto(path)
            expect(each.locator("#stale")).to_be_hidden()
        portal.call(stage.stop)
        for each, (_, words) in told.items():
            each.clock.run_for(40_000)
            expect(each.locator("#stale")).to_contain_text(words)


def test_the_operators_token_is_asked_for_once_and_kept_for_the_tab(
    browser: Browser, portal: BlockingPortal, tmp_path: Path
) -> None:
    with (
        staged(portal, tmp_path, token=secret("open-sesame")) as stage,
        reading(browser, stage, may_fail=True) as page,
    ):
        page.goto("/")
        run, said = page.get_by_role("button", name="Run training now"), page.locator("#said")
        run.click()
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Cancel").click()
        expect(said).to_be_empty()
        run.click()
        page.keyboard.press("Enter")
        assert_accessible(page, within="dialog")
        page.get_by_role("textbox", name="Token").fill("wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_text("This was not the token.")).to_be_visible()
        page.get_by_role("textbox", name="Token").fill("open-sesame")
        page.get_by_role("button", name="Continue").click()
        expect(said).to_contain_text("training ended Complete")
        page.reload()
        page.get_by_role("button", name="Pause training").click()
        page.keyboard.press("Enter")
        expect(said).to_contain_text("training is paused")
        assert page.evaluate("document.cookie + JSON.stringify(localStorage)") == "{}"
        assert "open-sesame" not in page.content()


def test_the_page_is_whole_without_a_script(browser: Browser, stage: Stage) -> None:
    with reading(browser, stage, java_script_enabled=False) as page:
        page.goto("/")
        expect(page.locator("#collector-ci")).to_contain_text("every 10 minutes")
        expect(page.locator("#collector-ci .bars")).to_be_visible()
        expect(page.get_by_role("button")).to_have_count(0)
        expect(page.locator("footer")).to_contain_text("All times are UTC")
        page.locator(".tile a").first.click()
        expect(page.get_by_role("heading", name="Evidence")).to_be_visible()
        expect(page.locator(".trend")).to_be_visible()
