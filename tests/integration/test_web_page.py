"""The pages as a reader gets them: well-formed, complete, and nothing a collector says can become markup."""

from datetime import timedelta
from html.parser import HTMLParser

import pytest

from service.domain.runs import Outcome
from service.web.page import number, relative, span
from tests.integration.web_stage import START, Daemon, problem_of, served

VOID = {"meta", "link", "br", "img", "hr", "input"}
EVIL = "<script>alert('x')</script> & \"quoted\""


class Document(HTMLParser):
    """A strict reader: every tag is closed where it must be, ids are unique."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text = ""
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open
        ids = [attributes["id"] for _, attributes in self.tags if "id" in attributes]
        assert len(ids) == len(set(ids))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(attrs) == len(dict(attrs)), f"an attribute twice in {tag}"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        assert self._open[-1:] != ["script"], "an inline script"
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


async def test_the_page_shows_state_schedule_runs_and_delivery() -> None:
    daemon = Daemon(paused={"training"}, trouble="401: the key was refused")
    daemon.end(daemon.begin("ci"))
    daemon.end(daemon.begin("ci"), Outcome.FAILED, "GitHub: no token; set GITHUB_TOKEN")
    async with served(daemon) as stage:
        answer = await stage.client.get("/")
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        page = Document(answer.text)
    for text in (
        "1.2.3",
        "test",
        "1 of 2 failing",
        "401: the key was refused",
        "4 expired",
        "Failing",
        "Paused",
        "every 10 minutes",
        "*/10 * * * *",
        "2026-03-04 05:10:00",
        "GitHub: no token; set GITHUB_TOKEN",
        "4.4 s",
        "ci-1",
        "3 delivered",
    ):
        assert text in page.words, text
    assert {"datetime": "2026-03-04T05:10:00+00:00", "title": "2026-03-04 05:10:00 UTC"} in page.all("time")


async def test_a_page_of_a_run_shows_why_when_and_every_sample() -> None:
    daemon = Daemon(samples_each=150)
    daemon.end(daemon.begin("ci"), Outcome.PARTIAL, "pull requests: 502")
    async with served(daemon) as stage:
        first = Document((await stage.client.get("/runs/ci-0")).text)
        assert "pull requests: 502" in first.words
        assert "Partial" in first.words
        assert "1 to 100 of 150" in first.words
        (following,) = [link["href"] for link in first.all("a") if link.get("rel") == "next"]
        second = Document((await stage.client.get(f"/runs/ci-0{following}")).text)
        assert "101 to 150 of 150" in second.words
        assert [link["href"] for link in second.all("a") if link.get("rel") == "prev"] == ["?offset=0&limit=100"]


async def test_pages_before_the_first_run_and_of_a_running_run_are_whole() -> None:
    daemon = Daemon()
    async with served(daemon) as stage:
        assert "Nothing has run yet" in Document((await stage.client.get("/")).text).words
        daemon.begin("ci")
        assert "1 running" in Document((await stage.client.get("/")).text).words
        assert "not yet" in Document((await stage.client.get("/runs/ci-0")).text).words
        daemon.collector_names.clear()
        assert "No collector is configured" in Document((await stage.client.get("/")).text).words


async def test_nothing_that_a_source_says_becomes_markup() -> None:
    daemon = Daemon(trouble=EVIL)
    daemon.end(daemon.begin("ci"), Outcome.FAILED, EVIL)
    async with served(daemon) as stage:
        for path in ("/", "/runs/ci-0"):
            html = (await stage.client.get(path)).text
            assert EVIL in Document(html).text
            assert "<script>alert" not in html


async def test_the_page_asks_no_other_host_and_brings_its_own_parts() -> None:
    async with served(Daemon()) as stage:
        page = Document((await stage.client.get("/")).text)
        addresses = [a["href"] for tag in ("a", "link") for a in page.all(tag)] + [s["src"] for s in page.all("script")]
        for address in addresses:
            assert address
            assert address.startswith("/")
            assert (await stage.client.get(address)).status_code == 200, address
        assert not [attributes for _, attributes in page.tags if "style" in attributes or "onclick" in attributes]
        kinds = [(await stage.client.get(f"/static/page.{end}")).headers["content-type"] for end in ("css", "js")]
        assert kinds == ["text/css; charset=utf-8", "text/javascript; charset=utf-8"]
        assert (await stage.client.get("/favicon.ico")).status_code == 204
        problem_of(await stage.client.get("/static/../server.py"), 404)
        problem_of(await stage.client.get("/static/%2e%2e/server.py"), 404)


async def test_tables_and_regions_have_names_and_heads() -> None:
    async with served(Daemon()) as stage:
        page = Document((await stage.client.get("/")).text)
        ids = {attributes.get("id") for _, attributes in page.tags}
        assert page.all("html") == [{"lang": "en"}]
        assert len(page.all("main")) == 1
        assert all(region["aria-labelledby"] in ids for region in page.all("div") if region.get("role") == "region")
        assert all(head.get("scope") in ("col", "row") for head in page.all("th"))


async def test_the_page_of_a_daemon_without_its_store_says_so() -> None:
    async with served(Daemon(store_open=False)) as stage:
        assert "store" in problem_of(await stage.client.get("/"), 503)["detail"]


async def test_start_is_shown_as_uptime() -> None:
    async with served(Daemon()) as stage:
        page = Document((await stage.client.get("/")).text)
        assert f"since {START:%Y-%m-%d %H:%M:%S} UTC" in [span.get("title") for span in page.all("span")]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.04, "40 ms"),
        (0.9996, "1.0 s"),
        (4.4, "4.4 s"),
        (59.6, "1 min"),
        (65, "1 min 5 s"),
        (3600, "1 h"),
        (7199.7, "2 h"),
        (90061, "1 d 1 h"),
    ],
)
def test_lengths_of_time_are_written_in_their_two_largest_units(seconds: float, text: str) -> None:
    assert span(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "now"), (-0.4, "now"), (59.7, "1 min ago"), (-360, "in 6 min"), (200000, "2 d ago")]
)
def test_distances_are_written_in_one_unit(seconds: float, text: str) -> None:
    assert relative(START - timedelta(seconds=seconds), START) == text


@pytest.mark.parametrize(("value", "text"), [(1.0, "1"), (0.91, "0.91"), (-0.0, "0"), (1e300, "1e+300")])
def test_numbers_are_written_as_short_as_they_can_be(value: float, text: str) -> None:
    assert number(value) == text
