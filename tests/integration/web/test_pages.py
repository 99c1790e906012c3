"""The pages as a reader gets them: well-formed, complete, cheap, and nothing a collector says can become markup."""

import re
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import anyio
import pytest

from service.domain.checks import check_id, check_key
from service.domain.delivery import DeliveryStatus
from service.domain.errors import Rejected, Unavailable
from service.domain.runs import NoData, PartialFailure
from service.domain.samples import Evidence
from tests.integration.web.stage import START, Stage, a_check, problem_of, secret

EVIL = "<script>alert('x')</script> & \"quoted\""
BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


class Document:
    """Read as XML, which forgives nothing, once what HTML may leave out is filled in; ids are unique."""

    def __init__(self, html: str) -> None:
        html = re.sub(r" (selected|disabled|hidden|defer|required|formnovalidate|data-time)(?=[ >])", r' \1=""', html)
        html = re.sub(r"(<(?:meta|link|br|img|hr|input|wbr)\b[^>]*)>", r"\1/>", html.removeprefix("<!DOCTYPE html>"))
        self._root = ElementTree.fromstring(html)
        self.words = " ".join("".join(self._root.itertext()).split())
        ids = [each.get("id") for each in self._root.iter() if each.get("id")]
        assert len(ids) == len(set(ids))

    def all(self, tag: str, attribute: str = "", value: str = "") -> list[dict[str, str]]:
        """The attributes of these elements, of those alone that have this one where it is given."""
        return [each.attrib for each in self._root.iter(tag) if each.get(attribute, "") == value]

    def links(self, attribute: str = "", value: str = "") -> list[str]:
        return [link["href"] for link in self.all("a", attribute, value)]


async def read(stage: Stage, path: str) -> Document:
    answer = await stage.client.get(path)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert EVIL not in answer.text
    return Document(answer.text)


def address_of(**tags: Any) -> str:
    key = check_key(a_check(**tags).tags)
    assert key
    return f"/checks/ci/{check_id('ci', key):x}"


async def test_the_page_shows_state_schedule_runs_and_delivery_from_before_the_first_run_on(stage: Stage) -> None:
    before = await read(stage, "/")
    for text in ("Nothing has run yet", "No check has been measured yet: no run has brought one so far"):
        assert text in before.words
    await read(stage, "/tv")
    await stage.run()
    stage.collectors["ci"].error = Rejected("GitHub: no token; set GITHUB_TOKEN")
    run = await stage.run()
    await stage.client.post("/api/v1/collectors/training/pause")
    page = await read(stage, "/")
    for text in (
        *("1.2.3", "test", "1 of 2 failing", "Failing", "Paused", "every 10 minutes", "*/10 * * * *", "1 of 1 red"),
        *("2026-03-04 05:10:00", "GitHub: no token; set GITHUB_TOKEN", run.id, "10 pending"),
    ):
        assert text in page.words, text
    (upcoming,) = page.all("time", "class", "countdown")
    assert upcoming["data-time"] == "2026-03-04T05:10:00+00:00"
    training = stage.collectors["training"]
    training.error = Unavailable("GitHub answered 502")
    await stage.client.post("/api/v1/collectors/training/runs")
    await training.asked.wait()
    await anyio.wait_all_tasks_blocked()
    stage.clock.ahead += 2
    page = await read(stage, "/")
    cards = [each["id"] for each in page.all("li") if each.get("id", "").startswith("collector-")]
    assert cards == ["collector-training", "collector-ci"], "what is in back-off stands on top"
    for text in ("Retrying (attempt 1 of 4)", "GitHub answered 502"):
        assert text in page.words


async def test_a_page_is_rendered_once_a_second_whoever_asks_but_a_reload_shows_at_once(stage: Stage) -> None:
    first = await read(stage, "/")
    running = await stage.hold()
    await stage.client.post("/api/v1/collectors/training/pause")
    assert (await read(stage, "/")).words == first.words
    stage.clock.ahead += 1.1
    second = await read(stage, "/")
    assert running.id in second.words
    assert "1 running" in second.words
    assert "not yet" in (await read(stage, f"/runs/{running.id}")).words
    addresses = ("/", "/collectors/ci", "/api/v1/collectors", "/api/v1/collectors/ci")
    for address in addresses:
        assert "*/10" in (await stage.client.get(address)).text
    job = stage.context.scheduler.jobs["ci"]
    settings = job.settings.model_copy(update={"schedule": "*/7 * * * *"})
    await stage.context.scheduler.set_jobs([replace(job, settings=settings)])
    stage.context.cache.forget()  # as the daemon does after a reload
    for address in addresses:
        answer = (await stage.client.get(address)).text
        assert ("*/7" in answer, "*/10" in answer) == (True, False)
    await stage.context.scheduler.set_jobs([])
    stage.context.cache.forget()
    assert "No collector is configured" in (await read(stage, "/")).words


async def test_every_page_stays_true_and_makes_no_markup_of_what_a_source_says(stage: Stage) -> None:
    evil = Evidence(EVIL, f"https://github.com/{EVIL}", None, EVIL, EVIL)
    tags: dict[str, Any] = {"workflow_name": EVIL, "task": EVIL, "check": EVIL}
    ci = stage.collectors["ci"]
    ci.samples, ci.note = [a_check(condition=EVIL, evidence=[evil], **tags)], EVIL
    ci.failures = [PartialFailure(EVIL, EVIL)]
    run = await stage.run()
    for path in ("/", f"/runs/{run.id}", "/collectors/ci", address_of(**tags), "/tv"):
        page = await read(stage, path)
        assert EVIL in page.words.replace("_", " ") or path == "/tv"
        assert " ago" not in page.words
        assert all(time["datetime"].startswith("2026-") for time in page.all("time"))


async def test_a_page_of_a_run_shows_why_when_and_every_sample(stage: Stage) -> None:
    stage.collectors["ci"].samples = [a_check(i, label=f"l{i}") for i in range(20)]
    stage.collectors["ci"].failures = [PartialFailure("502", "pull requests")]
    run = await stage.run()
    words = (await read(stage, f"/runs/{run.id}")).words
    assert "Partial" in words
    assert "pull requests: 502" in words
    assert words.count("ci.hotfix.count") == 20
    collected, _, own = words.partition("samples of the daemon’s own")
    assert collected.count("workflow_category:ci") == 1, "what all have stands above them"
    assert "metta.infra.check.state" in own
    (following,) = (await read(stage, f"/runs/{run.id}?limit=7")).links("rel", "next")
    second = await read(stage, f"/runs/{run.id}{following}")
    assert "8 to 14 of 20" in second.words
    assert second.links("rel", "prev") == ["?offset=0&limit=7"]
    narrowed = await read(stage, f"/runs/{run.id}?q=LABEL:L1&limit=5")
    assert narrowed.links("rel", "next") == ["?q=LABEL%3AL1&offset=5&limit=5"]


async def test_the_board_shows_each_check_with_its_collectors_sentence_and_evidence_or_why_there_is_no_value(
    stage: Stage,
) -> None:
    fix = ("Fix the fix", "https://github.com/o/r/pull/7", START, "merged", "main", "1f0c2a9bd47755aa", "octocat")
    elsewhere = Evidence("Elsewhere", "https://github.com.example/o/r/pull/7")
    evidence = [Evidence(*fix, "first red"), elsewhere, Evidence("Not an address", "javascript:alert(1)")]
    said = replace(a_check(task="said"), summary="tests.yml is red since Monday")
    reason, waits = "no run ended in the last 24 h", address_of(task="waits")
    tags = {**a_check(task="waits").tags, "status": "unknown"}
    stage.collectors["ci"].samples = [a_check(41000.0, evidence=evidence), said]
    stage.collectors["ci"].no_data = [NoData(tags, reason)]
    run = await stage.run()
    page, check = await read(stage, "/"), await read(stage, address_of())
    for text in ("2 of 3 red", "last 1 cycles: 1 fail", "first red 1f0c2a9 by octocat Fix the fix"):
        assert text in page.words
    assert {f"/runs/{run.id}", address_of()} <= set(page.links())
    titles = {each["href"]: each["title"] for each in page.all("a") if "title" in each}
    assert (titles[address_of(task="said")], titles[waits]) == (said.summary, "No run ended in the last 24 h")
    assert f"nothing was measured yet: {reason}" in (await read(stage, waits)).words.lower()
    for each in (page, check, await read(stage, "/tv")):
        assert "Merged pull requests with a hotfix label: 41,000 is not < 10" in each.words
    assert check.links("target", "_blank") == [fix[1], elsewhere.url]
    for text in ("merged", "octocat", "1f0c2a9", "javascript:alert(1)", "new tab) github.com.example"):
        assert text in check.words
    for query, kinds in (
        ("q=SAID", ["fail"]),
        ("collector=ci&category=ci&status=unknown", ["unknown"]),
        ("q=nope", []),
    ):
        narrowed = await read(stage, f"/?{query}")
        assert [kind for kind in ("fail", "unknown") for _ in narrowed.all("li", "class", f"tile {kind}")] == kinds
    problem_of(await stage.client.get("/checks/ci/0"), 404)


async def test_runs_are_paged_and_one_whose_record_is_gone_says_so(stage: Stage) -> None:
    runs = [await stage.run() for _ in range(5)]
    (older,) = (await read(stage, "/collectors/ci?limit=3")).links("rel", "next")
    second = await read(stage, f"/collectors/ci{older}")
    assert (runs[1].id in second.words, runs[2].id in second.words) == (True, False)
    assert not second.links("rel", "next")
    store, now = stage.context.store, stage.clock.now()
    await store.outbox.settle(await store.outbox.claim(now, 10**9, 10**6), DeliveryStatus.DELIVERED)
    store.history_limits = {"ci": (1, 1)}
    await store.prune(now)
    page = await read(stage, f"/runs/{runs[0].id}")
    assert f"{runs[0].id} Complete" in page.words
    assert "has had its time" in page.words


@pytest.mark.parametrize("options", [{"collectors": ["ci", *(f"c{number:02}" for number in range(59))]}])
async def test_of_very_many_the_worst_are_shown_in_full_and_how_many_more_there_are(stage: Stage) -> None:
    stage.collectors["c58"].error = Rejected("GitHub: no token")
    stage.collectors["ci"].samples = [*(a_check(1, "pass", label=f"l{i}") for i in range(30)), a_check()]
    for name in ("c58", "ci"):
        await stage.run(name)
    page, screen = await read(stage, "/"), await read(stage, "/tv")
    full = [item["id"] for item in page.all("li") if item.get("id", "").startswith("collector-")]
    assert (len(full), "collector-c58" in full) == (30, True)
    assert "30 more, none worse" in page.words
    assert {f"/collectors/{name}" for name in stage.collectors} <= set(page.links())
    assert "1 of 31 red" in screen.words
    assert "11 more checks, none worse" in screen.words
    assert [item.get("class") for item in screen.all("li")] == ["fail", *["pass"] * 19]


@pytest.mark.parametrize("options", [{"in_cluster": True}])
async def test_a_page_that_may_not_write_has_no_button_to_press(stage: Stage) -> None:
    page = await read(stage, "/")
    assert page.all("body", "data-writes", "refused")
    assert {"disabled" in button for button in page.all("button") if "data-call" in button} == {True}


@pytest.mark.parametrize("options", [{"read_token": secret("for the readers")}])
async def test_a_browser_gets_pages_for_errors_and_a_program_problems(stage: Stage) -> None:
    for path, status, text in (
        ("/", 401, "INFRA_HEALTH_READ_TOKEN"),
        ("/runs/ci-never", 404, "There is no run 'ci-never' (any more)."),
        ("/nope", 404, "There is nothing at this address."),
        ("/collectors/trainin", 404, "did you mean training?"),
    ):
        answer = await stage.client.get(path, headers=BROWSER)
        assert answer.status_code == status
        assert answer.headers["content-type"].startswith("text/html")
        assert text in Document(answer.text).words
        problem_of(await stage.client.get(path, headers={"accept": "*/*"}), status)
        stage.client.headers["authorization"] = "Bearer for the readers"


async def test_all_links_lead_somewhere_browsers_keep_the_files_of_a_version_and_all_texts_come_packed(
    stage: Stage,
) -> None:
    await stage.run()
    page, docs = await read(stage, "/"), await read(stage, "/docs")
    kept = [*(link["href"] for link in page.all("link")), *(script["src"] for script in page.all("script"))]
    for address in {*page.links(), *docs.links(), *kept} - {"#live"}:
        assert address.startswith("/")
        assert (await stage.client.get(address)).status_code == 200, address
    for path in (*kept, "/", "/docs", "/metrics", "/openapi.json", "/api/v1/collectors"):
        packed = await stage.client.get(path, headers={"accept-encoding": "br;q=1.0, GZip;q=0.001"})
        plain = await stage.client.get(path, headers={"accept-encoding": "br, gzip;q=0"})
        assert (packed.headers["content-encoding"], "content-encoding" in plain.headers) == ("gzip", False)
        assert packed.headers["vary"] == plain.headers["vary"] == "accept-encoding"
        assert path == "/metrics" or plain.content == packed.content
        assert int(plain.headers["content-length"]) == len(plain.content) > int(packed.headers["content-length"])
        told = "private, max-age=" if path in kept else ("no-store", "private, no-")
        assert packed.headers["cache-control"].startswith(told)
    asset = await stage.client.get("/static/page.js?v=older")
    assert asset.headers["cache-control"] == "private, no-cache"
    again = await stage.client.get("/static/page.js", headers={"if-none-match": asset.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
