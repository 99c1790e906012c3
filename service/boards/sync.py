"""Brings Datadog to what is desired: finds our objects by their marks, writes what differs, keeps edits by hand.

Each object carries a mark with the fingerprint of what was pushed, so that without any memory of ours a change of the
code or the settings (another fingerprint is desired) is told from an edit by hand (the object has another one).
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from service.boards.catalogue import DISTRIBUTION_TAGS, Catalogue, read_catalogue
from service.boards.dashboards import DASHBOARDS
from service.boards.fingerprint import Content, describe_changes, fingerprint, keys_of, overlay, restrict
from service.boards.monitors import build_monitors
from service.config.settings import Settings
from service.datadog.api import DatadogApi, NotFound
from service.domain.errors import HealthError, Rejected, Unauthorized, Unavailable
from service.domain.samples import normalize_tag_value

_MANAGED = "managed_by:infra-health"
_KEY, _FINGERPRINT = "infra_health_key:", "infra_health_fingerprint:"
_BOARD_MARK = re.compile(
    r"\s*Kept as code[^\[\]]*\[infra-health board=(?P<key>\S+) env=(?P<env>\S*) fingerprint=(?P<fingerprint>\w+)"
    r"(?: share=(?P<share>[\w-]+))?\]"
)
_METRIC_MARK = re.compile(r"\s*\[infra-health (?P<fingerprint>\w+)\]")
# What we set and, last, what people set beside it: a push that left it out would take it away.
_BOARD_KEYS = (
    *("title", "description", "layout_type", "reflow_type", "template_variables", "widgets"),
    *("notify_list", "restricted_roles", "tags", "template_variable_presets"),
)
_MONITOR_KEYS = ("name", "type", "query", "message", "tags", "priority", "options")


class Kind(StrEnum):
    """What there is, by the words of the command line."""

    DASHBOARD = "dashboards"
    MONITOR = "monitors"
    METRIC = "metadata"


class Action(StrEnum):
    """What a push would do with an object (the first five), or has done."""

    CREATE = "create"
    UPDATE = "update"
    SAME = "same"
    EDITED = "edited"  # by hand, or somebody else's words: left alone unless forced
    UNWANTED = "unwanted"  # ours, but of something that is not configured any more: removed where asked
    CREATED = "created"
    UPDATED = "updated"
    REMOVED = "removed"
    WAITING = "waiting"  # a metric that Datadog has no point of so far
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Desired:
    """An object as it should be, without its mark."""

    kind: Kind
    key: str
    content: Content


@dataclass(frozen=True, slots=True)
class Actual(Desired):
    """An object as Datadog has it, without its mark. ``fingerprint``: the mark's; empty: it is not ours.

    ``share``: the token of a board's public address. Datadog gives a share by its token only, so the mark keeps it.
    """

    id: str
    fingerprint: str = ""
    share: str = ""


@dataclass(frozen=True, slots=True)
class Difference:
    """One object's part of a push. ``changes``: a line for each value that differs, from what is there to the new.

    ``id``: Datadog's, empty while there is none. ``reason``: why nothing was done, where something should have been.
    """

    action: Action
    kind: Kind
    key: str
    desired: Desired | None = None
    actual: Actual | None = None
    changes: tuple[str, ...] = ()
    id: str = ""
    reason: str = ""


async def read_desired(settings: Settings, now: datetime, words: Sequence[str] = ()) -> tuple[list[Desired], list[str]]:
    """What ``words`` (kinds and boards) shall be, and what to tell the operator. Reads the store, if any."""
    catalogue, notes = await read_catalogue(settings, now)
    return [each for each in build(catalogue) if is_meant(each, words)], notes


def build(catalogue: Catalogue) -> list[Desired]:
    """Everything that one installation wants to have in Datadog."""
    metrics: dict[str, Content] = {}
    for metric in catalogue.metrics:
        facts = {"type": metric.kind.value, "description": metric.help or f"{metric.name}, from snapshot records"}
        metrics[metric.name] = {"metadata": facts | ({"unit": metric.unit} if metric.unit else {})}
    for each in catalogue.distributions:
        # Percentiles are billed by each queryable combination of tags: only the few that are asked for are queryable.
        tags = {"metric_type": "distribution", "include_percentiles": True, "tags": sorted(DISTRIBUTION_TAGS)}
        metrics[each.metric.name]["tags"] = tags
    return [
        *(Desired(Kind.DASHBOARD, key, build_board(catalogue)) for key, build_board in DASHBOARDS.items()),
        *(Desired(Kind.MONITOR, key, content) for key, content in build_monitors(catalogue).items()),
        *(Desired(Kind.METRIC, name, content) for name, content in metrics.items()),
    ]


def is_meant(each: Desired, words: Sequence[str]) -> bool:
    """Whether ``words`` mean this object, by its kind or as a single board; no words mean everything."""
    return not words or each.kind in words or (each.kind is Kind.DASHBOARD and each.key in words)


def render(desired: Iterable[Desired], env: str) -> dict[str, list[Content]]:
    """What a push would write, by kind."""
    found: dict[str, list[Content]] = {kind.value: [] for kind in Kind}
    for each in desired:
        name = {"metric": each.key} if each.kind is Kind.METRIC else {}
        found[each.kind].append({**name, **_mark(each, normalize_tag_value("env", env), _fingerprint_of(each))})
    return {kind: content for kind, content in found.items() if content}


def compare(desired: Desired, actual: Actual | None, *, force: bool = False) -> Difference:
    """What a push would do with one object. ``force``: edits by hand are overwritten.

    Only the keys that we set count: Datadog fills in defaults, and people add what we know nothing of.
    """
    if actual is None:
        return Difference(Action.CREATE, desired.kind, desired.key, desired)
    keys = keys_of(desired.content)
    wanted, there = restrict(desired.content, keys), restrict(actual.content, keys)
    changes = describe_changes(there, wanted)
    if actual.fingerprint == fingerprint(wanted):
        action = Action.EDITED if changes else Action.SAME
    else:
        if actual.fingerprint:
            is_edited = fingerprint(there) != actual.fingerprint
        else:  # only a metric is there before we speak of it; its words may be somebody's
            is_edited = "tags" in there or "description" in there.get("metadata", {})
        action = Action.EDITED if is_edited and changes else Action.UPDATE
    if action is Action.EDITED and force:
        action = Action.UPDATE
    return Difference(action, desired.kind, desired.key, desired, actual, tuple(changes), actual.id)


class Sync:
    """Finds, writes and removes the objects of one environment. ``notes``: what the operator should know."""

    def __init__(self, api: DatadogApi, env: str) -> None:
        self.notes: list[str] = []
        self._api = api
        self._env = normalize_tag_value("env", env)

    def diff(self, desired: Sequence[Desired], words: Sequence[str] = (), *, force: bool = False) -> list[Difference]:
        """A difference for each that is desired and each of ours that nobody wants any more. Raises HealthError."""
        there = {(each.kind, each.key): each for each in self.find(desired, words)}
        found = [compare(each, there.pop((each.kind, each.key), None), force=force) for each in desired]
        unwanted = [each for each in there.values() if each.fingerprint]
        return found + [Difference(Action.UNWANTED, each.kind, each.key, None, each, (), each.id) for each in unwanted]

    def find(self, desired: Iterable[Desired], words: Sequence[str] = ()) -> list[Actual]:
        """Our objects that ``words`` mean, one a key; of metrics all that are desired and there. Raises HealthError."""
        metrics = (self._metric(each) for each in desired if each.kind is Kind.METRIC)
        found = [*self._dashboards(), *self._monitors(), *(metric for metric in metrics if metric)]
        return [each for each in found if is_meant(each, words)]

    def push(self, differences: Iterable[Difference], *, prune: bool = False) -> Iterator[Difference]:
        """Carries out one after the other. Raises Unauthorized and Unavailable: the next ones would fare alike."""
        for each in differences:
            try:
                yield self._carry_out(each, prune)
            except (Unauthorized, Unavailable):
                raise
            except HealthError as error:
                if isinstance(error, NotFound) and each.kind is Kind.METRIC:
                    reason = "Datadog has no point of it so far; push again when it has"
                    yield replace(each, action=Action.WAITING, reason=reason)
                else:
                    yield replace(each, action=Action.FAILED, reason=str(error))

    def delete(self, actual: Actual) -> None:
        """Removes one of ours. Raises HealthError; what is gone already is no error."""
        try:
            if actual.kind is not Kind.METRIC:
                self._api.delete(actual.kind.value, actual.id)
            else:
                # A metric lives as long as its points do; ours are the words and the configuration.
                if actual.content.get("tags"):
                    self._api.delete_tag_configuration(actual.id)
                self._api.update_metadata(actual.id, {"description": ""})
        except NotFound:
            return

    def share(self, key: str) -> str:
        """The address under which our board ``key`` is public; made where there is none. Raises HealthError."""
        board = next((each for each in self._dashboards() if each.key == key), None)
        if board is None:
            raise Rejected(f"there is no board {key} of ours to share")
        try:
            if board.share:
                return str(self._api.shared_dashboard(board.share)["public_url"])
        except NotFound:
            pass  # somebody has ended it
        share = self._api.share_dashboard(board.id)
        self._api.update("dashboards", board.id, _mark(board, self._env, board.fingerprint, str(share["token"])))
        return str(share["public_url"])

    def _carry_out(self, difference: Difference, prune: bool) -> Difference:
        actual, desired = difference.actual, difference.desired
        if difference.action is Action.UNWANTED and actual and prune:
            self.delete(actual)
            return replace(difference, action=Action.REMOVED)
        if desired is None or difference.action not in (Action.CREATE, Action.UPDATE):
            return difference
        id = self._write(desired, actual)
        return replace(difference, action=Action.UPDATED if actual else Action.CREATED, id=id)

    def _write(self, desired: Desired, actual: Actual | None) -> str:
        """Creates or updates the object; its id. Raises HealthError, NotFound for a metric without points."""
        body = _mark(desired, self._env, _fingerprint_of(desired), actual.share if actual else "")
        if desired.kind is Kind.METRIC:
            # The mark is in the metadata, so it goes last: a push that breaks off in between is repeated by the next.
            if "tags" in body:
                if not actual:
                    # Of a metric without points this says that it is not there; the next one calls that a bad request.
                    self._api.update_metadata(desired.key, desired.content["metadata"])
                self._api.configure_tags(desired.key, body["tags"], is_new=not (actual and actual.content.get("tags")))
            self._api.update_metadata(desired.key, body["metadata"])
            return desired.key
        if actual:
            self._api.update(desired.kind.value, actual.id, overlay(actual.content, body, keys_of(body)))
            return actual.id
        return str(self._api.create(desired.kind.value, body)["id"])

    def _dashboards(self) -> list[Actual]:
        found: list[Actual] = []
        for summary in sorted(self._api.dashboards(), key=lambda each: str(each.get("created_at", ""))):
            mark = _BOARD_MARK.search(summary.get("description") or "")
            if mark and mark["env"] == self._env:
                raw = self._api.dashboard(str(summary["id"]))
                content = {name: raw[name] for name in _BOARD_KEYS if raw.get(name) is not None}
                content["description"] = _BOARD_MARK.sub("", raw["description"])
                found.append(
                    Actual(Kind.DASHBOARD, mark["key"], content, raw["id"], mark["fingerprint"], mark["share"] or "")
                )
        return self._leave_copies(found)

    def _monitors(self) -> list[Actual]:
        found: list[Actual] = []
        for raw in sorted(self._api.monitors(_MANAGED), key=lambda each: int(each["id"])):
            tags: list[str] = raw["tags"]
            key, mark, env = (
                next((tag.removeprefix(prefix) for tag in tags if tag.startswith(prefix)), "")
                for prefix in (_KEY, _FINGERPRINT, "env:")
            )
            if _MANAGED in tags and key and env == self._env:
                content = {name: raw[name] for name in _MONITOR_KEYS if name in raw}
                content["tags"] = [tag for tag in tags if tag != _MANAGED and not tag.startswith((_KEY, _FINGERPRINT))]
                found.append(Actual(Kind.MONITOR, key, content, str(raw["id"]), mark or "none"))
        return self._leave_copies(found)

    def _leave_copies(self, found: Iterable[Actual]) -> list[Actual]:
        """Cloning an object clones its mark: the oldest, which comes first, is ours."""
        ours: dict[str, Actual] = {}
        for each in found:
            if ours.setdefault(each.key, each) is not each:
                name = each.content.get("title") or each.content.get("name")
                self.notes.append(f"{each.kind} {each.id} ({name}) is a copy of ours and left alone")
        return list(ours.values())

    def _metric(self, desired: Desired) -> Actual | None:
        try:
            facts = self._api.metadata(desired.key)
        except NotFound:
            return None
        described = facts.get("description") or ""
        mark = _METRIC_MARK.search(described)
        own = {"type": facts.get("type"), "unit": facts.get("unit"), "description": _METRIC_MARK.sub("", described)}
        content: Content = {"metadata": own}
        if "tags" in desired.content:
            try:
                content["tags"] = self._api.tag_configuration(desired.key)
            except NotFound:
                content["tags"] = {}
        return Actual(Kind.METRIC, desired.key, content, desired.key, mark["fingerprint"] if mark else "")


def _fingerprint_of(desired: Desired) -> str:
    """What the mark of a push of ``desired`` holds."""
    return fingerprint(restrict(desired.content, keys_of(desired.content)))


def _mark(desired: Desired, env: str, pushed: str, share: str = "") -> Content:
    """The content with the mark by which it is found again. ``env``: as Datadog keeps it."""
    content = desired.content
    if desired.kind is Kind.DASHBOARD:
        shared = f" share={share}" if share else ""
        mark = f"[infra-health board={desired.key} env={env} fingerprint={pushed}{shared}]"
        note = "Kept as code: the next push does not overwrite edits unless forced."
        return {**content, "description": f"{content['description']}\n\n{note} {mark}"}
    if desired.kind is Kind.MONITOR:
        return {**content, "tags": [*content["tags"], _MANAGED, f"{_KEY}{desired.key}", f"{_FINGERPRINT}{pushed}"]}
    described = f"{content['metadata']['description']} [infra-health {pushed}]"
    return {**content, "metadata": {**content["metadata"], "description": described}}
