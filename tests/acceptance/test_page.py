"""The pages of the whole program on recorded data, in a real Chromium."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.acceptance.browser import Reader, chromium, reading
from tests.acceptance.program import Daemon, Place, place

# One Chromium and one program for all of them.
pytestmark = pytest.mark.xdist_group("browser")

# Of all elements that hold text of their own and are seen, the size of its letters.
_SIZES = """
[...document.querySelectorAll("main *")]
  .filter((each) => each.offsetWidth > 1)
  .filter((each) => [...each.childNodes].some((part) => part.nodeType === Node.TEXT_NODE && part.data.trim()))
  .map((each) => parseFloat(getComputedStyle(each).fontSize))
"""


@dataclass
class Stage:
    browser: Browser
    place: Place
    daemon: Daemon

    @property
    def base(self) -> str:
        return str(self.daemon.http.base_url).rstrip("/")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as it:
        yield it


@pytest.fixture(scope="module")
def stage(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with place(tmp_path_factory.mktemp("page")) as here, here.daemon() as daemon:
        daemon.wait_until_quiet()
        yield Stage(browser, here, daemon)


@pytest.fixture
def reader(stage: Stage) -> Iterator[Reader]:
    with reading(stage.browser, stage.base) as it:
        yield it
        it.at_ease()


def test_a_click_runs_a_collector_and_the_run_appears_and_ends(reader: Reader, stage: Stage) -> None:
    reader.go("/")
    card = reader.page.locator("#collector-training")
    before = card.locator(".bars a").count()
    card.get_by_role("button", name="Run training now").click()
    said = reader.page.locator("#said")
    expect(said).to_contain_text("training ended Complete")
    expect(card.locator(".bars a")).to_have_count(before + 1)
    # The keyboard stays where it was, though the page was drawn anew.
    expect(card.get_by_role("button", name="Run training now")).to_be_focused()
    run = said.get_by_role("link").inner_text()
    assert stage.daemon.get(f"/api/v1/runs/{run}")["cause"] == "http"
    said.get_by_role("link").click()
    expect(reader.page.get_by_role("heading", level=1)).to_contain_text(run)
    expect(reader.page.locator("#live")).to_contain_text("Compared with training-")
    expect(reader.page.locator(".log")).to_contain_text("run ended")
    expect(reader.page.locator("#live")).to_contain_text("metta.infra.stablesuite.hearts")


def test_a_bar_opens_its_run(reader: Reader) -> None:
    reader.go("/")
    bar = reader.page.locator("#collector-ci .bars a").last
    address = bar.get_attribute("href")
    bar.locator(".hit").click()
    reader.page.wait_for_url(f"{reader.base}{address}")
    expect(reader.page.get_by_role("heading", level=1)).to_contain_text("Complete")


def test_a_collector_is_paused_and_resumed_by_keyboard(reader: Reader, stage: Stage) -> None:
    reader.go("/")
    card = reader.page.locator("#collector-ci")
    card.get_by_role("button", name="Run ci now").focus()
    reader.page.keyboard.press("Tab")
    reader.page.keyboard.press("Enter")
    expect(card).to_contain_text("Paused")
    assert stage.daemon.get("/api/v1/collectors/ci")["paused"]
    reader.accessible()
    # The button in the place of the old one has the focus.
    expect(card.get_by_role("button", name="Resume ci")).to_be_focused()
    reader.page.keyboard.press("Enter")
    expect(card.locator(".countdown")).to_be_visible()
    assert not stage.daemon.get("/api/v1/collectors/ci")["paused"]


def test_a_tile_opens_the_check_with_its_evidence(reader: Reader) -> None:
    reader.go("/")
    reader.page.locator(".tile").first.click()
    reader.page.wait_for_url("**/checks/**")
    expect(reader.page.get_by_role("heading", name="Evidence")).to_be_visible()
    expect(reader.page.locator(".trend")).to_be_visible()
    for link in reader.page.locator(".evidence a").all():
        assert str(link.get_attribute("href")).startswith("https://github.com/")
    reader.page.locator("table a", has_text="ci-").first.click()
    reader.page.wait_for_url("**/runs/**")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_is_accessible_in_both_colour_schemes(stage: Stage, scheme: str) -> None:
    with reading(stage.browser, stage.base, scheme=scheme) as reader:
        reader.go("/")
        ground = reader.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(245, 246, 248)") == (scheme == "light")
        tile = str(reader.page.locator(".tile a").first.get_attribute("href"))
        run = str(reader.page.locator("#collector-ci .history small a").get_attribute("href"))
        for path in ("/", "/tv", "/collectors/ci", tile, run):
            reader.go(path)
            reader.accessible()
        reader.at_ease()


@pytest.mark.parametrize("size", [(390, 844), (768, 1024), (1200, 900), (1300, 1000)])
def test_nothing_is_wider_than_the_screen(stage: Stage, size: tuple[int, int]) -> None:
    with reading(stage.browser, stage.base, size=size) as reader:
        for path in ("/", "/collectors/ci"):
            reader.go(path)
            assert reader.page.evaluate("document.documentElement.scrollWidth") <= size[0]
            tops = (
                reader.page.locator(".buttons")
                .first.locator("button")
                .evaluate_all("buttons => buttons.map(each => each.getBoundingClientRect().top)")
            )
            assert len(set(tops)) == 1, "a button under another makes every collector twice as tall"
        reader.accessible()


def test_the_office_screen_fits_is_legible_and_refreshes_itself(stage: Stage) -> None:
    with reading(stage.browser, stage.base, size=(1920, 1080)) as reader:
        reader.go("/tv")
        assert reader.page.evaluate(
            "[document.documentElement.scrollWidth, document.documentElement.scrollHeight]"
        ) == [1920, 1080]
        # 24 pixels of a 55 inch screen are 15 mm: seen from five metres as print of 1 mm at arm's length is.
        sizes = reader.page.evaluate(_SIZES)
        assert min(sizes) >= 24
        cells = reader.page.locator("li", has_text="runs successfully").locator(".heat path:not(.ground)")
        before = cells.count()
        answer = stage.daemon.http.post("/api/v1/collectors/training/runs?wait=30")
        assert answer.status_code == 200
        expect(cells).to_have_count(before + 1)
        reader.at_ease()


@pytest.mark.parametrize(("path", "words"), [("/", "what you see is old"), ("/tv", "Old: no answer for")])
def test_a_page_says_plainly_that_it_is_old_once_the_daemon_is_gone(
    browser: Browser, tmp_path: Path, path: str, words: str
) -> None:
    with place(tmp_path) as here, here.daemon() as daemon:
        daemon.wait_until_quiet()
        with reading(browser, str(daemon.http.base_url).rstrip("/")) as reader:
            reader.page.clock.install()
            reader.go(path)
            expect(reader.page.locator("#stale")).to_be_hidden()
            daemon.end()
            reader.page.clock.run_for(40_000)
            expect(reader.page.locator("#stale")).to_contain_text(words)


def test_the_operators_token_is_asked_for_once_and_kept_for_the_tab(browser: Browser, tmp_path: Path) -> None:
    with place(tmp_path) as here, here.daemon(environ={"INFRA_HEALTH_TOKEN": "open-sesame"}) as daemon:
        daemon.wait_until_quiet()
        with reading(browser, str(daemon.http.base_url).rstrip("/")) as reader:
            page = reader.page
            reader.go("/")
            run, said = page.get_by_role("button", name="Run training now"), page.locator("#said")
            run.click()
            reader.accessible()
            page.get_by_role("button", name="Cancel").click()
            expect(said).to_be_empty()
            run.click()
            page.get_by_role("textbox", name="Token").fill("wrong")
            page.keyboard.press("Enter")
            expect(page.get_by_text("This was not the token.")).to_be_visible()
            page.get_by_role("textbox", name="Token").fill("open-sesame")
            page.get_by_role("button", name="Continue").click()
            expect(said).to_contain_text("training ended Complete")
            page.reload()
            page.get_by_role("button", name="Pause training").click()
            expect(said).to_contain_text("training is paused")
            assert page.evaluate("document.cookie + JSON.stringify(localStorage)") == "{}"
            assert "open-sesame" not in page.content()


def test_the_page_is_whole_without_a_script(stage: Stage) -> None:
    with reading(stage.browser, stage.base, script=False) as reader:
        reader.go("/")
        expect(reader.page.locator("#collector-ci")).to_contain_text("every 10 minutes")
        expect(reader.page.locator("#collector-ci .bars")).to_be_visible()
        expect(reader.page.get_by_role("button")).to_have_count(0)
        reader.page.locator(".tile a").first.click()
        expect(reader.page.get_by_role("heading", name="Evidence")).to_be_visible()
