"""The pages as a reader gets them: well-formed, complete, and nothing a collector says can become markup."""

import re
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser
from typing import Any

import pytest

from service.domain.checks import Check
from service.domain.history import check_id
from service.domain.runs import Outcome
from service.domain.samples import Evidence, Status
from service.web.board import QuotaView
from service.web.page import Pages
from service.web.words import number, relative, span
from tests.integration.web_stage import START, Daemon, problem_of, served

VOID = {"meta", "link", "br", "img", "hr", "input", "wbr"}
RED = Check(
    key=(
        ("source", "cron"),
        ("workflow_category", "ci"),
        ("workflow_name", "main"),
        ("task", "hotfix"),
        ("check", "n"),
    ),
    status=Status.FAIL,
    condition="< 10",
    since=START - timedelta(hours=2),
    value=12.0,
    measured_at=START,
    metric="ci.hotfix.count",
    evidence=(
        Evidence("Fix the fix", "https://github.com/o/r/pull/7", START, "merged", "main"),
        Evidence("Elsewhere", "https://github.com.example/o/r/pull/7"),
        Evidence("Not an address", "javascript:alert(1)"),
    ),
)
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
    (upcoming,) = [time for time in page.all("time") if time.get("class") == "countdown"]
    assert upcoming["datetime"] == "2026-03-04T05:10:00+00:00"


async def test_the_last_success_is_not_given_the_samples_of_a_later_failure() -> None:
    daemon = Daemon()
    daemon.end(daemon.begin("ci"))

    async def told() -> list[str]:
        async with served(daemon) as stage:
            page = Document((await stage.client.get("/")).text)
        return re.findall(r"Last success .*? ago(?: \d+ samples)?", page.words)[:1]

    (well,) = await told()
    assert well.endswith(" samples")
    daemon.end(daemon.begin("ci"), Outcome.FAILED, "GitHub is away")
    (failed,) = await told()
    assert failed.endswith(" ago")


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


async def test_the_board_shows_each_check_and_links_its_evidence() -> None:
    daemon = Daemon(collector_names=["ci"], known_checks=[RED])
    daemon.end(daemon.begin("ci"))
    async with served(daemon) as stage:
        page = Document((await stage.client.get("/")).text)
        assert "1 of 1 red" in page.words
        assert "last 1 cycles: 1 fail" in page.words
        assert "/runs/ci-0" in [link["href"] for link in page.all("a")]
        address = f"/checks/ci/{check_id('ci', RED.key):x}"
        assert address in [link["href"] for link in page.all("a")]
        check = Document((await stage.client.get(address)).text)
        assert "12 is not < 10, fail since" in check.words
        problem_of(await stage.client.get("/checks/ci/0"), 404)
        problem_of(await stage.client.get(f"/checks/other/{check_id('ci', RED.key):x}"), 404)
    links = [link["href"] for link in check.all("a") if link.get("target") == "_blank"]
    assert links == ["https://github.com/o/r/pull/7"]
    for text in ("Fix the fix", "merged", "Elsewhere", "https://github.com.example/o/r/pull/7", "javascript:alert(1)"):
        assert text in check.words


async def test_the_quota_is_shown_with_what_becomes_of_it() -> None:
    daemon = Daemon()
    daemon.board.limits = [
        QuotaView(resource="core", limit=5000, remaining=4000, reset_at=START, left_at_reset=3000),
        QuotaView(resource="graphql", limit=5000, remaining=90, reset_at=START, left_at_reset=0, empty_at=START),
    ]
    async with served(daemon) as stage:
        page = Document((await stage.client.get("/")).text)
        assert "90 of 5000 left GraphQL: at this rate none left" in page.words
        assert "REST: 4000 of 5000 left" in page.words


async def test_a_run_is_compared_with_the_run_before_and_shows_its_log() -> None:
    daemon = Daemon()
    daemon.end(daemon.begin("ci"))
    daemon.end(daemon.begin("ci"))
    async with served(daemon) as stage:
        page = Document((await stage.client.get("/runs/ci-1")).text)
        assert "Compared with ci-0." in page.words
        assert "ci.cancelled 3 12 pass → fail task:jobs_cancelled" in page.words
        assert "run started cause=http" in page.words
        assert "Against the run before" not in Document((await stage.client.get("/runs/ci-0")).text).words


async def test_a_run_whose_record_is_gone_says_so_and_one_that_never_was_is_not_there() -> None:
    async with served(Daemon()) as stage:
        page = Document((await stage.client.get("/runs/ci-gone")).text)
        assert "ci-gone Failed" in page.words
        assert "has had its time" in page.words
        problem_of(await stage.client.get("/runs/ci-never"), 404)


async def test_the_runs_of_a_collector_are_paged() -> None:
    daemon = Daemon()
    for _ in range(5):
        daemon.end(daemon.begin("ci"))
    async with served(daemon) as stage:
        first = Document((await stage.client.get("/collectors/ci?limit=3")).text)
        (older,) = [link["href"] for link in first.all("a") if link.get("rel") == "next"]
        assert older == "?limit=3&before=ci-2"
        second = Document((await stage.client.get(f"/collectors/ci{older}")).text)
        assert "ci-1" in second.words
        assert "ci-3" not in " ".join(link["href"] or "" for link in second.all("a") if link.get("rel"))
        assert not [link for link in second.all("a") if link.get("rel") == "next"]
        problem_of(await stage.client.get("/collectors/other"), 404)


async def test_of_very_many_collectors_the_worst_are_shown_in_full_and_each_has_its_line() -> None:
    names = [f"c{number:03}" for number in range(120)]
    daemon = Daemon(collector_names=names)
    daemon.end(daemon.begin("c119"), Outcome.FAILED, "GitHub: no token")
    async with served(daemon) as stage:
        page = Document((await stage.client.get("/")).text)
    full = [item["id"] for item in page.all("li") if (item.get("id") or "").startswith("collector-")]
    assert "collector-c119" in full
    assert len(full) == 40
    assert "80 more, none worse" in page.words
    assert {f"/collectors/{name}" for name in names} <= {link.get("href") for link in page.all("a")}


async def test_the_office_screen_shows_the_worst_checks_and_how_many_more_there_are() -> None:
    well = [replace(RED, key=(*RED.key, ("label", f"l{i}")), status=Status.PASS, value=1.0) for i in range(30)]
    daemon = Daemon(collector_names=["ci"], known_checks=[*well, RED])
    daemon.end(daemon.begin("ci"))
    async with served(daemon) as stage:
        page = Document((await stage.client.get("/tv")).text)
    assert "1 of 31 red" in page.words
    assert "11 more checks, none worse" in page.words
    tiles = [item.get("class") for item in page.all("li")]
    assert tiles == ["fail", *["pass"] * 19]


async def test_the_state_changes_its_revision_with_what_is_shown_and_only_then() -> None:
    daemon = Daemon(known_checks=[RED])
    async with served(daemon) as stage:

        async def state() -> dict[str, Any]:
            answer: dict[str, Any] = (await stage.client.get("/api/v1/state")).json()
            return answer

        before = await state()
        assert (await state())["revision"] == before["revision"]
        run = daemon.begin("ci")
        during = await state()
        assert during["active"] == [run]
        daemon.end(run)
        after = await state()
        assert len({each["revision"] for each in (before, during, after)}) == 3
        assert after["collectors"] == {"total": 2, "failing": 0, "running": 0, "paused": 0}
        assert after["checks"]["failing"] == 2
        assert after["next_run"]["collector"] == "ci"


@pytest.mark.parametrize(
    ("token", "in_cluster", "writes"), [(None, False, "local"), (None, True, "refused"), ("t", True, "token")]
)
async def test_the_page_knows_whether_it_may_write(token: str | None, in_cluster: bool, writes: str) -> None:
    async with served(Daemon(), token=token, in_cluster=in_cluster) as stage:
        page = Document((await stage.client.get("/")).text)
        assert page.all("body")[0]["data-writes"] == writes
        assert all(
            ("disabled" in button) == (writes == "refused") for button in page.all("button") if "data-call" in button
        )


async def test_nothing_that_a_source_says_becomes_markup() -> None:
    evil = Evidence(EVIL, f"https://github.com/{EVIL}", None, EVIL, EVIL)
    key = tuple((name, EVIL) for name, _ in RED.key)
    check = replace(RED, key=key, condition=EVIL, metric=EVIL, evidence=(evil,))
    daemon = Daemon(trouble=EVIL, known_checks=[check])
    daemon.end(daemon.begin("ci"), Outcome.FAILED, EVIL)
    async with served(daemon) as stage:
        for path in ("/", "/runs/ci-0", "/collectors/ci", "/tv", f"/checks/ci/{check_id('ci', key):x}"):
            html = (await stage.client.get(path)).text
            text = Document(html).text.replace("_", " ")
            assert EVIL in text or path == "/tv"
            assert "<script>alert" not in html


async def test_the_page_asks_no_other_host_and_brings_its_own_parts() -> None:
    async with served(Daemon()) as stage:
        page = Document((await stage.client.get("/")).text)
        addresses = [a["href"] for tag in ("a", "link") for a in page.all(tag)] + [s["src"] for s in page.all("script")]
        for address in addresses:
            assert address
            if address == "#live":
                continue
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


async def test_a_page_that_is_made_beforehand_ends_nothing_when_it_fails() -> None:
    for daemon in (Daemon(), Daemon(store_open=False), Daemon(bug="what is this?")):
        await Pages(daemon, "local").warm()


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
