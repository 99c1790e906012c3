"""What boards and monitors shall show: from the configuration where a type knows its metrics, else from the store."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from service.adapters.store import SqliteStore
from service.boards.queries import HOLDS
from service.boards.subjects import Catalogue, CollectorSubject, Spread, Subject
from service.collectors import ci_metrics, registry
from service.collectors.github_ci import GithubCi
from service.config import SHADOW_PREFIX, CollectorSettings, Mode, Settings
from service.domain import cron
from service.domain.checks import CHECK_METRICS, Check, key_of
from service.domain.points import SeenSeries
from service.domain.samples import Kind, Metric
from service.pipeline.job import COLLECTOR_METRICS

# A metric that nothing was measured of for so long leaves the boards with the next push.
SEEN_WITHIN = timedelta(days=7)
_OWN = frozenset(metric.name for metric in (*CHECK_METRICS, *COLLECTOR_METRICS))
# What a distribution can be told apart by; each more is billed by its combinations with the others.
_SPREAD_TAGS = ("env", "repo", "kind", "workflow_category", "workflow_name", "workflow")
_KINDS = ("main", "pre_merge")
_SPLITTING = ("label", "repo")
_LOOK_AHEAD = timedelta(days=15)
_FIRES = 400


async def catalogue(settings: Settings, now: datetime | None = None) -> tuple[Catalogue, list[str]]:
    """The catalogue of the enabled collectors, and what to tell the operator about it. Reads the store, if any."""
    now = now or datetime.now(UTC)
    enabled = {name: each for name, each in settings.collectors.items() if each.enabled}
    store = await SqliteStore.open_reading(settings.state_dir)
    # Boards are about live points, also where the store has those of a shadow, now or from before the cutover.
    prefix = settings.shadow_prefix or SHADOW_PREFIX
    try:
        stored = await store.seen(list(enabled), now - SEEN_WITHIN)
        checks = {name: await store.checks(name) for name in enabled}
    finally:
        await store.close()
    seen = [replace(each, metric=each.metric.removeprefix(prefix)) for each in stored]
    types = registry.installed()
    subjects: list[Subject] = []
    spreads: list[Spread] = []
    notes = []
    if settings.mode is Mode.SHADOW:
        notes.append("mode is shadow: boards and monitors look at the live names, under which nothing arrives so far")
    if settings.datadog.heartbeat > HOLDS:
        notes.append(
            f"datadog.heartbeat is {settings.datadog.heartbeat}: boards of Datadog hold a value for {HOLDS} at most, so"
            " states will have holes"
        )
    contested = _contested(enabled.values())
    for name, each in enabled.items():
        every = longest_interval(each, now)
        of_job = [one for one in seen if one.job == name and one.metric not in _OWN]
        if isinstance(each, GithubCi.Settings):
            subjects += _known(each, every, checks[name], contested)
        else:
            subjects += _seen(each, every, of_job, _declared(types[each.type]))
            if not of_job:
                notes.append(
                    f"nothing of {name} has been stored in {settings.state_dir} within a week, so it has no tiles and"
                    " no monitor of its checks; push where the daemon keeps its state"
                )
        spreads += _spreads(each, of_job, _declared(types[each.type]))
    merged = list(_merged(subjects))
    measured = {each.metric.name: each.metric for each in merged} | {each.metric.name: each.metric for each in spreads}
    own = dict.fromkeys(one for each in enabled.values() for one in getattr(types[each.type], "own_metrics", ()))
    return (
        Catalogue(
            env=settings.datadog.env,
            collectors=tuple(
                CollectorSubject(name, longest_interval(each, now), isinstance(each, GithubCi.Settings))
                for name, each in enabled.items()
            ),
            subjects=tuple(merged),
            spreads=tuple({each.metric.name: each for each in spreads}.values()),
            metrics=(*measured.values(), *CHECK_METRICS, *COLLECTOR_METRICS, *own),
            heartbeat=settings.datadog.heartbeat,
            page=settings.http.public_url,
            runbook=settings.datadog.runbook_url,
            notify=settings.datadog.notify,
        ),
        notes,
    )


def longest_interval(settings: CollectorSettings, now: datetime) -> timedelta:
    """The longest time between two slots of the next two weeks: the weekend's for a schedule of working days."""
    schedule, longest = cron.parse(settings.schedule), timedelta(seconds=1)
    last = schedule.next(now, settings.time_zone)
    for _ in range(_FIRES):
        fire = schedule.next(last, settings.time_zone) if last else None
        if last is None or fire is None:
            break
        longest = max(longest, fire - last)
        if fire - now > _LOOK_AHEAD:
            break
        last = fire
    return longest


def _declared(kind: Any) -> dict[str, Metric]:
    """The metrics that a collector's type names, if it does so without being built first."""
    found = getattr(kind, "metrics", ())
    return {each.name: each for each in found if isinstance(each, Metric)} if isinstance(found, tuple) else {}


def _contested(enabled: Iterable[CollectorSettings]) -> set[str]:
    """Metrics of github_ci that several collectors judge by different conditions or measure at different times."""
    found: dict[str, set[tuple[str, str]]] = {}
    for each in enabled:
        if isinstance(each, GithubCi.Settings):
            for line in ci_metrics.expected_lines(each):
                found.setdefault(line.metric.name, set()).add((line.condition, each.schedule))
    return {name for name, each in found.items() if len(each) > 1}


def _known(settings: Any, every: timedelta, checks: Iterable[Check], contested: Collection[str]) -> Iterator[Subject]:
    """The checks that the settings ask for. Which tags split them, the stored checks and the settings tell.

    One of ``contested`` is a subject for each repository, because no condition holds for all.
    """
    everywhere = {tag for tag in settings.tags if tag in _SPLITTING} | ({"repo"} if settings.repositories else set())
    known = [check.tags for check in checks]
    for line in ci_metrics.expected_lines(settings):
        place = {"workflow_name": line.workflow_name, "task": line.task, "check": line.check}
        here = {tag for tags in known if place.items() <= tags.items() for tag in tags if tag in _SPLITTING}
        only = {tag: settings.tags[tag] for tag in _SPLITTING if tag in settings.tags}
        apart = settings.repositories if line.metric.name in contested else ()
        for each in [only | {"repo": repository} for repository in apart] or [only]:
            yield Subject(
                line.metric,
                "ci",
                line.workflow_name,
                line.task,
                line.check,
                line.condition,
                every,
                settings.max_age,
                only=each,
                groups=tuple(sorted(everywhere | here)),
            )


def _seen(
    settings: CollectorSettings, every: timedelta, seen: Iterable[SeenSeries], declared: Mapping[str, Metric]
) -> Iterator[Subject]:
    """A subject for each metric and check, as its newest series says; a flip of a tag began a new one."""
    newest: dict[Any, SeenSeries] = {}
    for each in sorted(seen, key=lambda one: one.last):
        key = key_of(each.tags)
        if key is not None and each.kind is not Kind.DISTRIBUTION:
            newest[each.metric, key] = each
    for each in sorted(newest.values(), key=lambda one: (one.metric, sorted(one.tags.items()))):
        tags = each.tags
        yield Subject(
            _metric(each.metric, each.kind, declared),
            tags["workflow_category"],
            tags["workflow_name"],
            tags["task"],
            tags["check"],
            tags.get("condition", ""),
            every,
            settings.max_age,
            only={tag: tags[tag] for tag in _SPLITTING if tag in tags},
            groups=tuple(tag for tag in sorted(_SPLITTING) if tag in tags),
            is_catalogued=False,
        )


def _metric(name: str, kind: Kind, declared: Mapping[str, Metric]) -> Metric:
    """The metric as its type declares it, else what the store knows of it; the store knows no words."""
    known = declared.get(name)
    return known if known and known.kind is kind else Metric(name, kind)


def _spreads(
    settings: CollectorSettings, seen: Iterable[SeenSeries], declared: Mapping[str, Metric]
) -> Iterator[Spread]:
    """The distributions: those of the CI collector's catalogue, and what others were seen to send."""
    if isinstance(settings, GithubCi.Settings):
        has_repo = "repo" in settings.tags or settings.repositories
        tags = tuple(tag for tag in _SPREAD_TAGS if tag != "repo" or has_repo)
        for metric in GithubCi.metrics:
            if metric.kind is Kind.DISTRIBUTION:
                yield Spread(metric, "ci", tags, _KINDS)
        return
    found: dict[str, list[SeenSeries]] = {}
    for each in seen:
        if each.kind is Kind.DISTRIBUTION:
            found.setdefault(each.metric, []).append(each)
    for name, series in found.items():
        has = {tag for each in series for tag in each.tags}
        category = next((each.tags["workflow_category"] for each in series if "workflow_category" in each.tags), "")
        kinds = sorted({each.tags["kind"] for each in series if "kind" in each.tags})
        metric = _metric(name, Kind.DISTRIBUTION, declared)
        yield Spread(metric, category, tuple(tag for tag in _SPREAD_TAGS if tag in has), tuple(kinds))


def _merged(subjects: Iterable[Subject]) -> Iterator[Subject]:
    """One subject for namesakes with one condition and interval; otherwise each stays by itself, by its ``only``."""
    together: dict[tuple[str, ...], list[Subject]] = {}
    for each in subjects:
        together.setdefault((each.metric.name, each.category, each.workflow_name, each.task, each.check), []).append(
            each
        )
    for same in together.values():
        apart: dict[tuple[Any, ...], list[Subject]] = {}
        for each in same:
            differs = len({(one.condition, one.every) for one in same}) > 1
            apart.setdefault(tuple(each.only.items()) if differs else (), []).append(each)
        for key, group in apart.items():
            yield replace(
                group[-1],
                only=dict(key),
                every=max(each.every for each in group),
                max_age=max(each.max_age for each in group),
                groups=tuple(sorted({tag for each in group for tag in each.groups} - set(dict(key)))),
            )
