"""The pages as a reader gets them: well-formed, complete, cheap, and nothing a collector says can become markup."""

from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import anyio
import pytest

from service.domain.checks import check_id, check_key
from service.domain.delivery import DeliveryStatus
from service.domain.errors import Rejected, Unavailable
from service.domain.runs import NoData, PartialFailure
from service.domain.samples import Evidence
from service.store import Store
from tests.integration.web.stage import START, Stage, a_check, problem_of, served

VOID = {"meta", "link", "br", "img", "hr", "input", "wbr"}
EVIL = "<script>alert('x')</script> & \"quoted\""
BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


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


async def read(stage: Stage, path: str) -> Document:
    answer = await stage.client.get(path)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    return Document(answer.text)


def address_of(**tags: Any) -> str:
    key = check_key(a_check(**tags).tags)
    assert key
    return f"/checks/ci/{check_id('ci', key):x}"


async def test_the_page_shows_state_schedule_runs_and_delivery(tmp_path: Path) -> None:
    async with served(tmp_path) as stage:
        await stage.run()
        stage.collectors["ci"].error = Rejected("GitHub: no token; set GITHUB_TOKEN")
        run = await stage.run()
        await stage.client.post("/api/v1/collectors/training/pause")
        page = await read(stage, "/")
    for text in (
        *("1.2.3", "test", "1 of 2 failing", "Failing", "Paused", "every 10 minutes", "*/10 * * * *", "1 of 1 red"),
        *("2026-03-04 05:10:00", "GitHub: no token; set GITHUB_TOKEN", run.id, "10 pending", "REST: lasts"),
    ):
        assert text in page.words or text == "REST: lasts", text
    (upcoming,) = [time for time in page.all("time") if time.get("class") == "countdown"]
    assert upcoming["data-time"] == "2026-03-04T05:10:00+00:00"
    assert page.all("main")[0]["data-revision"]


async def test_a_collector_in_back_off_is_retrying_on_top_with_its_error(stage: Stage) -> None:
    scheduler = stage.context.scheduler
    training = scheduler.jobs["training"]
    patient = training.settings.model_copy(update={"backoff_limit": 3})
    await scheduler.set_jobs([scheduler.jobs["ci"], replace(training, settings=patient)])
    stage.collectors["training"].error = Unavailable("GitHub answered 502")
    await stage.begin("training")
    await stage.collectors["training"].asked.wait()
    await anyio.wait_all_tasks_blocked()
    stage.clock.pass_time(2)
    page = await read(stage, "/")
    cards = [each for each in page.all("li") if str(each.get("id")).startswith("collector-")]
    assert cards[0] == {"id": "collector-training", "class": "collector warn"}
    for path in ("/", "/collectors/training"):
        words = (await read(stage, path)).words
        assert "Retrying (attempt 1 of 4)" in words
        assert "GitHub answered 502" in words


async def test_a_page_is_rendered_once_a_second_whoever_asks(stage: Stage) -> None:
    first = (await stage.client.get("/")).text
    running = await stage.hold()
    await stage.client.post("/api/v1/collectors/training/pause")
    assert (await stage.client.get("/")).text == first
    stage.clock.pass_time(1.1)
    second = (await stage.client.get("/")).text
    assert running.id in second
    assert running.id not in first
    assert (await stage.client.get("/tv")).text != second
    await stage.release(running)


async def test_a_reload_shows_at_once_in_every_call_and_page(tmp_path: Path) -> None:
    addresses = ("/", "/collectors/ci", "/api/v1/collectors", "/api/v1/collectors/ci")
    async with served(tmp_path) as stage:
        for address in addresses:
            assert "every 10 minutes" in (await stage.client.get(address)).text
        job = stage.context.scheduler.jobs["ci"]
        settings = job.settings.model_copy(update={"schedule": "*/7 * * * *"})
        await stage.context.scheduler.set_jobs([replace(job, settings=settings)])
        assert "*/7" in (await stage.client.get("/api/v1/collectors/ci")).text
        stage.context.cache.forget()  # as the daemon does after a reload
        for address in addresses:
            answer = (await stage.client.get(address)).text
            assert "*/7" in answer
            assert "*/10" not in answer


async def test_times_are_absolute_so_that_a_page_stays_true(stage: Stage) -> None:
    run = await stage.run()
    for path in ("/", "/tv", "/collectors/ci", f"/runs/{run.id}", address_of()):
        page = await read(stage, path)
        assert " ago" not in page.words
        for time in page.all("time"):
            assert str(time["datetime"]).startswith("2026-")


async def test_a_page_of_a_run_shows_why_when_and_every_sample(stage: Stage) -> None:
    stage.collectors["ci"].samples = [a_check(i, label=f"l{i}") for i in range(20)]
    stage.collectors["ci"].failures = [PartialFailure("502", "pull requests")]
    run = await stage.run()
    first = await read(stage, f"/runs/{run.id}")
    assert "pull requests: 502" in first.words
    assert "Partial" in first.words
    assert first.words.count("ci.hotfix.count") == 20
    assert first.words.count("label:l19") == 1 + 4, "in the collector's and, folded, in the daemon's own"
    own = first.words.index("samples of the daemon’s own")
    assert first.words[:own].count("workflow_category:ci") == 1, "what all have stands above them"
    assert first.words.index("metta.infra.check.state") > own > first.words.index("ci.hotfix.count")
    second = await read(stage, f"/runs/{run.id}?limit=7")
    (following,) = [link["href"] for link in second.all("a") if link.get("rel") == "next"]
    third = await read(stage, f"/runs/{run.id}{following}")
    assert "8 to 14 of 20" in third.words
    assert [link["href"] for link in third.all("a") if link.get("rel") == "prev"] == ["?offset=0&limit=7"]
    narrowed = await read(stage, f"/runs/{run.id}?q=LABEL:L1&limit=5")
    assert "1 to 5 of 11" in narrowed.words
    assert "label:l2" not in narrowed.words
    assert [link["href"] for link in narrowed.all("a") if link.get("rel") == "next"] == [
        "?q=LABEL%3AL1&offset=5&limit=5"
    ]


async def test_pages_before_the_first_run_and_of_a_running_run_are_whole(stage: Stage) -> None:
    assert "Nothing has run yet" in (await read(stage, "/")).words
    await read(stage, "/tv")
    run = await stage.hold()
    stage.clock.pass_time(2)
    assert "1 running" in (await read(stage, "/")).words
    assert "not yet" in (await read(stage, f"/runs/{run.id}")).words
    await stage.release(run)
    await stage.context.scheduler.set_jobs([])
    stage.clock.pass_time(2)
    assert "No collector is configured" in (await read(stage, "/")).words


async def test_the_board_shows_each_check_and_links_its_evidence(tmp_path: Path) -> None:
    evidence = [
        Evidence(
            *("Fix the fix", "https://github.com/o/r/pull/7", START, "merged", "main"),
            *("1f0c2a9bd47755aa", "octocat", "first red"),
        ),
        Evidence("Elsewhere", "https://github.com.example/o/r/pull/7"),
        Evidence("Not an address", "javascript:alert(1)"),
    ]
    async with served(tmp_path, collectors=["ci"]) as stage:
        stage.collectors["ci"].samples = [a_check(evidence=evidence)]
        run = await stage.run()
        page = await read(stage, "/")
        assert "1 of 1 red" in page.words
        assert "last 1 cycles: 1 fail" in page.words
        assert f"/runs/{run.id}" in [link["href"] for link in page.all("a")]
        assert address_of() in [link["href"] for link in page.all("a")]
        check = await read(stage, address_of())
        assert "Merged pull requests with a hotfix label: 12 is not < 10 fail" in check.words
        for path in ("/", "/tv"):
            assert "Merged pull requests with a hotfix label: 12 is not < 10" in (await read(stage, path)).words
        problem_of(await stage.client.get("/checks/ci/0"), 404)
        problem_of(await stage.client.get(address_of().replace("/ci/", "/other/")), 404)
    links = [link["href"] for link in check.all("a") if link.get("target") == "_blank"]
    assert links == ["https://github.com/o/r/pull/7", "https://github.com.example/o/r/pull/7"]
    for text in (
        *("Fix the fix", "merged", "Elsewhere", "in a new tab) github.com.example", "javascript:alert(1)"),
        *("1f0c2a9", "octocat", "first red"),
    ):
        assert text in check.words
    assert "first red 1f0c2a9 by octocat Fix the fix" in page.words


async def test_a_check_leads_with_its_collectors_sentence_and_one_without_data_with_the_reason(stage: Stage) -> None:
    assert "No check has been measured yet: no run has brought one so far" in (await read(stage, "/")).words
    sample = replace(a_check(), summary="tests.yml is red since Monday")
    reason = "no run ended in the last 24 h"
    tags = {**a_check(task="waits").tags, "status": "unknown"}
    stage.collectors["ci"].samples, stage.collectors["ci"].no_data = [sample], [NoData(tags, reason)]
    await stage.run()
    page, waits = await read(stage, "/"), address_of(task="waits")
    titles = [(each["href"], each["title"]) for each in page.all("a") if "title" in each]
    assert (address_of(), sample.summary) in titles
    assert (waits, "No run ended in the last 24 h") in titles
    check = await read(stage, waits)
    assert f"nothing was measured yet: {reason}" in check.words.lower()
    stage.clock.pass_time(2 * 86400)
    views = (await stage.json("/api/v1/collectors/ci/checks"))["checks"]
    assert [each["summary"] for each in views] == [
        "tests.yml is red since Monday; the value is too old to judge by",
        reason,
    ]


async def test_the_board_is_narrowed_by_its_address(stage: Stage) -> None:
    stage.collectors["ci"].samples = [a_check(task="red"), a_check(41000.0, "pass", "> 10", task="green")]
    await stage.run()
    for query, shown, hidden in (
        ("", ("red", "green", "41,000"), ()),
        ("?q=GREEN", ("green",), ("red",)),
        ("?status=fail", ("red",), ("green",)),
        ("?q=&status=pass&category=ci&collector=ci", ("green",), ("red",)),
        ("?category=nope", ("No check matches", "No collector matches"), ("green", "red")),
    ):
        html = (await stage.client.get(f"/{query}")).text
        assert all(text in html for text in shown)
        assert not [text for text in hidden if f">{text}</a>" in html]
    assert (await stage.client.get("/?status=odd")).status_code == 422
    page = (await stage.client.get("/")).text
    assert page.index('aria-label="Failing checks"') < page.index('class="collectors"') < page.index("Other checks")


async def test_a_run_whose_record_is_gone_says_so_and_one_that_never_was_is_not_there(stage: Stage) -> None:
    run = await stage.run()
    for _ in range(2):
        await stage.run()
    store, now = stage.context.store, stage.clock.now()
    await store.outbox.settle(await store.outbox.claim(now, 10**9, 10**6), DeliveryStatus.DELIVERED)
    store.history_limits = {"ci": (1, 1)}
    await store.prune(now)
    page = await read(stage, f"/runs/{run.id}")
    assert f"{run.id} Complete" in page.words
    assert "has had its time" in page.words
    problem_of(await stage.client.get("/runs/ci-never"), 404)


async def test_the_runs_of_a_collector_are_paged(stage: Stage) -> None:
    runs = [await stage.run() for _ in range(5)]
    first = await read(stage, "/collectors/ci?limit=3")
    (older,) = [link["href"] for link in first.all("a") if link.get("rel") == "next"]
    assert older == f"?limit=3&before={runs[2].id}"
    second = await read(stage, f"/collectors/ci{older}")
    assert runs[1].id in second.words
    assert not [link for link in second.all("a") if link.get("rel") == "next"]
    problem_of(await stage.client.get("/collectors/other"), 404)


async def test_of_very_many_collectors_the_worst_are_shown_in_full_and_each_has_its_line(tmp_path: Path) -> None:
    names = [f"c{number:03}" for number in range(120)]
    async with served(tmp_path, collectors=names) as stage:
        stage.collectors["c119"].error = Rejected("GitHub: no token")
        await stage.run("c119")
        page = await read(stage, "/")
    full = [item["id"] for item in page.all("li") if (item.get("id") or "").startswith("collector-")]
    assert "collector-c119" in full
    assert len(full) == 30
    assert "90 more, none worse" in page.words
    assert {f"/collectors/{name}" for name in names} <= {link.get("href") for link in page.all("a")}


async def test_the_office_screen_shows_the_worst_checks_and_how_many_more_there_are(tmp_path: Path) -> None:
    async with served(tmp_path, collectors=["ci"]) as stage:
        stage.collectors["ci"].samples = [*(a_check(1, "pass", label=f"l{i}") for i in range(30)), a_check()]
        await stage.run()
        page = await read(stage, "/tv")
    assert "1 of 31 red" in page.words
    assert "11 more checks, none worse" in page.words
    assert [item.get("class") for item in page.all("li")] == ["fail", *["pass"] * 19]


@pytest.mark.parametrize(
    ("token", "in_cluster", "writes"), [(None, False, "local"), (None, True, "refused"), ("t", True, "token")]
)
async def test_the_page_knows_whether_it_may_write(
    token: str | None, in_cluster: bool, writes: str, tmp_path: Path
) -> None:
    async with served(tmp_path, token=token, in_cluster=in_cluster) as stage:
        page = await read(stage, "/")
        assert page.all("body")[0]["data-writes"] == writes
        buttons = [button for button in page.all("button") if "data-call" in button]
        assert {"disabled" in button for button in buttons} == {writes == "refused"}


async def test_nothing_that_a_source_says_becomes_markup(tmp_path: Path) -> None:
    evil = Evidence(EVIL, f"https://github.com/{EVIL}", None, EVIL, EVIL)
    tags: dict[str, Any] = {"workflow_name": EVIL, "task": EVIL, "check": EVIL}
    async with served(tmp_path) as stage:
        stage.collectors["ci"].samples = [a_check(condition=EVIL, evidence=[evil], **tags)]
        stage.collectors["ci"].failures = [PartialFailure(EVIL, EVIL)]
        stage.collectors["ci"].note = EVIL
        run = await stage.run()
        for path in ("/", f"/runs/{run.id}", "/collectors/ci", "/tv", address_of(**tags)):
            html = (await stage.client.get(path)).text
            text = Document(html).text.replace("_", " ")
            assert EVIL in text or path == "/tv"
            assert "<script>alert" not in html


async def test_the_page_asks_no_other_host_and_brings_its_own_parts(stage: Stage) -> None:
    for path in ("/", "/docs"):
        page = await read(stage, path)
        addresses = [a["href"] for tag in ("a", "link") for a in page.all(tag)]
        for address in [*addresses, *(script["src"] for script in page.all("script"))]:
            assert address
            if address != "#live":
                assert address.startswith("/")
                assert (await stage.client.get(address)).status_code == 200, address
        assert not [attributes for _, attributes in page.tags if "style" in attributes or "onclick" in attributes]
    assert (await stage.client.get("/favicon.ico")).status_code == 204


async def test_a_browser_gets_pages_for_errors_and_a_program_problems(tmp_path: Path) -> None:
    async with served(tmp_path, read_token="for the readers") as stage:
        refused = await stage.client.get("/", headers=BROWSER)
        assert refused.status_code == 401
        assert "INFRA_HEALTH_READ_TOKEN" in Document(refused.text).words
    async with served(tmp_path) as stage:
        for path, status, text in (
            ("/runs/ci-never", 404, "There is no run 'ci-never' (any more)."),
            ("/nope", 404, "There is nothing at this address."),
            ("/collectors/trainin", 404, "did you mean training?"),
        ):
            answer = await stage.client.get(path, headers=BROWSER)
            assert answer.status_code == status
            assert answer.headers["content-type"].startswith("text/html")
            assert text in Document(answer.text).words
            problem_of(await stage.client.get(path, headers={"accept": "*/*"}), status)


async def test_the_page_warns_of_what_is_wrong(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.context.reload_error = "config.yaml:3:1: unknown key"
    monkeypatch.setattr(Store, "trouble", "the disk is full")
    page = await read(stage, "/")
    assert "config.yaml:3:1" in page.words
    assert "the disk is full" in page.words
    assert stage.clock.at == START + timedelta(0)


async def test_a_browser_keeps_the_files_of_a_version_and_all_texts_come_packed_for_who_accepts_it(
    stage: Stage,
) -> None:
    await stage.run()
    page = await read(stage, "/")
    files = [link["href"] for link in page.all("link")] + [script["src"] for script in page.all("script")]
    for path in (*filter(None, files), "/", "/docs", "/metrics", "/openapi.json", "/api/v1/collectors"):
        packed = await stage.client.get(path)
        assert packed.headers["content-encoding"] == "gzip"
        plain = await stage.client.get(path, headers={"accept-encoding": "identity"})
        assert "content-encoding" not in plain.headers
        assert packed.headers["vary"] == plain.headers["vary"] == "accept-encoding"
        assert path == "/metrics" or plain.content == packed.content
        assert int(plain.headers["content-length"]) == len(plain.content) > int(packed.headers["content-length"])
        is_kept = path in files
        assert packed.headers["cache-control"].startswith(
            "private, max-age=" if is_kept else ("no-store", "private, no-")
        )
    for accepted in ("gzip;q=0", "br, GZIP ; q=0.000", "*", "notgzip"):
        for path in ("/", "/static/page.js", "/metrics"):
            refused = await stage.client.get(path, headers={"accept-encoding": accepted})
            assert "content-encoding" not in refused.headers, accepted
    for accepted in ("br;q=1.0, gzip;q=0.001", "identity,GZip", "*;q=0, gzip;q=1.000"):
        taken = await stage.client.get("/", headers={"accept-encoding": accepted})
        assert taken.headers["content-encoding"] == "gzip", accepted
    asset = await stage.client.get("/static/page.js?v=older")
    assert asset.headers["cache-control"] == "private, no-cache"
    again = await stage.client.get("/static/page.js", headers={"if-none-match": asset.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
