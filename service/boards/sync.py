"""Brings Datadog to what is desired: finds our objects by their marks, writes what differs, keeps edits by hand.

Each object carries a mark with the fingerprint of what was pushed, so that without any memory of ours a change of the
code or the settings (another fingerprint is desired) is told from an edit by hand (the object has another one).
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from service.boards.catalogue import Catalogue, read_catalogue
from service.boards.dashboards import DASHBOARDS
from service.boards.fingerprint import Content, describe_changes, fingerprint, keys_of, overlay, project, restrict
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
_BOARD_KEYS = ("title", "description", "layout_type", "reflow_type", "template_variables", "widgets")
# What people set on a board beside its content; a push that left it out would take it away.
_BESIDE = ("notify_list", "restricted_roles", "tags", "template_variable_presets")
_MONITOR_KEYS = ("name", "type", "query", "message", "tags", "priority", "options")


class Kind(StrEnum):
    """What there is, by the words of the command line."""

    DASHBOARD = "dashboards"
    MONITOR = "monitors"
    METRIC = "metadata"


WORDS = (*Kind, *DASHBOARDS)


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
class Actual:
    """An object as Datadog has it. ``content``: without its mark. ``fingerprint``: the mark's; empty: it is not ours.

    ``share``: the token of a board's public address. Datadog gives a share by its token only, so the mark keeps it.
    """

    kind: Kind
    key: str
    id: str
    content: Content
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
    """What ``words`` (of WORDS; none: everything) shall be, and what to tell the operator. Reads the store, if any."""
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
        tags = {"metric_type": "distribution", "include_percentiles": True, "tags": sorted(each.tags)}
        metrics[each.metric.name]["tags"] = tags
    return [
        *(Desired(Kind.DASHBOARD, key, build_board(catalogue)) for key, build_board in DASHBOARDS.items()),
        *(Desired(Kind.MONITOR, key, content) for key, content in build_monitors(catalogue).items()),
        *(Desired(Kind.METRIC, name, content) for name, content in metrics.items()),
    ]


def is_meant(each: Desired | Actual, words: Sequence[str]) -> bool:
    """Whether ``words`` mean this object, by its kind or as a single board; no words mean everything."""
    return not words or each.kind in words or (each.kind is Kind.DASHBOARD and each.key in words)


def render(desired: Iterable[Desired], env: str) -> dict[str, list[Content]]:
    """What a push would write, by kind."""
    found: dict[str, list[Content]] = {kind.value: [] for kind in Kind}
    for each in desired:
        name = {"metric": each.key} if each.kind is Kind.METRIC else {}
        found[each.kind].append({**name, **_mark(each, normalize_tag_value("env", env))})
    return {kind: content for kind, content in found.items() if content}


def compare(desired: Desired, actual: Actual | None, *, force: bool = False) -> Difference:
    """What a push would do with one object. ``force``: edits by hand are overwritten.

    Only the keys that we set count: Datadog fills in defaults, and people add what we know nothing of.
    """
    if actual is None:
        return Difference(Action.CREATE, desired.kind, desired.key, desired)
    keys = keys_of(desired.content)
    wanted, there = restrict(desired.content, keys), restrict(actual.content, keys)
    if actual.fingerprint == fingerprint(wanted):
        # Pushed as it is desired: a key of ours where we did not set it is Datadog's default.
        changes = describe_changes(project(there, wanted), wanted)
        action = Action.EDITED if changes else Action.SAME
    else:
        changes = describe_changes(there, wanted)
        if actual.fingerprint:
            is_edited = fingerprint(there) != actual.fingerprint
        else:  # only a metric is there before we speak of it; its words may be somebody's
            is_edited = bool(there.get("tags") or there.get("metadata", {}).get("description"))
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
        found: list[Actual] = []
        if not words or {Kind.DASHBOARD, *DASHBOARDS} & set(words):
            found += self._dashboards()
        if not words or Kind.MONITOR in words:
            found += self._monitors()
        found += [metric for each in desired if each.kind is Kind.METRIC and (metric := self._metric(each))]
        return [each for each in found if is_meant(each, words)]

    def push(self, differences: Iterable[Difference], *, prune: bool = False) -> Iterator[Difference]:
        """Carries out one after the other. Raises Unauthorized and Unavailable: the next ones would fare alike."""
        for each in differences:
            try:
                yield self._carry_out(each, prune)
            except (Unauthorized, Unavailable):
                raise
            except NotFound as error:
                is_metric = each.kind is Kind.METRIC
                reason = "Datadog has no point of it so far; push again when it has" if is_metric else str(error)
                yield replace(each, action=Action.WAITING if is_metric else Action.FAILED, reason=reason)
            except HealthError as error:
                yield replace(each, action=Action.FAILED, reason=str(error))

    def delete(self, actual: Actual) -> None:
        """Removes one of ours. Raises HealthError; what is gone already is no error."""
        try:
            if actual.kind is Kind.DASHBOARD:
                self._api.delete_dashboard(actual.id)
            elif actual.kind is Kind.MONITOR:
                self._api.delete_monitor(int(actual.id))
            else:
                # A metric lives as long as its points do; ours are the words and the configuration.
                if actual.content.get("tags"):
                    self._api.delete_tag_configuration(actual.id)
                facts = {name: value for name, value in actual.content["metadata"].items() if value is not None}
                self._api.update_metadata(actual.id, {**facts, "description": ""})
        except NotFound:
            return

    def share(self, key: str, dashboard_type: str = "custom_screenboard") -> str:
        """The address under which our board ``key`` is public; made where there is none. Raises HealthError.

        ``dashboard_type``: a free layout is what Datadog calls a screenboard.
        """
        board = next((each for each in self._dashboards() if each.key == key), None)
        if board is None:
            raise Rejected(f"there is no board {key} of ours to share")
        if board.share and (address := self._public_address(board.share)):
            return address
        share = self._api.share_dashboard(board.id, dashboard_type)
        marked = _mark_board(board.content, key, self._env, board.fingerprint, str(share.get("token")))
        try:
            self._api.update_dashboard(board.id, marked)
        except HealthError as error:
            self.notes.append(f"board {key} could not keep its address, so the next --share makes another: {error}")
        return str(share.get("public_url"))

    def _public_address(self, token: str) -> str:
        try:
            share = self._api.shared_dashboard(token)
        except NotFound:
            return ""
        is_open = share.get("share_type") == "open" and share.get("status") in (None, "active")
        return str(share.get("public_url") or "") if is_open else ""

    def _carry_out(self, difference: Difference, prune: bool) -> Difference:
        actual, desired = difference.actual, difference.desired
        if difference.action is Action.UNWANTED and actual and prune:
            self.delete(actual)
            return replace(difference, action=Action.REMOVED)
        if desired is None or difference.action not in (Action.CREATE, Action.UPDATE):
            return difference
        number = self._write(desired, actual)
        return replace(difference, action=Action.UPDATED if actual else Action.CREATED, id=number)

    def _write(self, desired: Desired, actual: Actual | None) -> str:
        """Creates or updates the object; its id. Raises HealthError, NotFound for a metric without points."""
        body = _mark(desired, self._env, actual.share if actual else "")
        if desired.kind is Kind.DASHBOARD:
            if not actual:
                return str(self._api.create_dashboard(body).get("id"))
            self._api.update_dashboard(actual.id, overlay(actual.content, body, keys_of(body)))
            return actual.id
        if desired.kind is Kind.MONITOR:
            if not actual:
                return str(self._api.create_monitor(body).get("id"))
            self._api.update_monitor(int(actual.id), overlay(actual.content, body, keys_of(body)))
            return actual.id
        # The mark is in the metadata, so it goes last: a push that breaks off in between is repeated by the next.
        if "tags" in body:
            if not actual:
                # Of a metric without points this says that it is not there; the next one calls that a bad request.
                self._api.update_metadata(desired.key, desired.content["metadata"])
            self._api.configure_tags(desired.key, body["tags"], is_new=not (actual and actual.content.get("tags")))
        self._api.update_metadata(desired.key, body["metadata"])
        return desired.key

    def _dashboards(self) -> list[Actual]:
        found: dict[str, Actual] = {}
        for summary in sorted(self._api.dashboards(), key=lambda each: str(each.get("created_at", ""))):
            mark = _BOARD_MARK.search(summary.get("description") or "")
            if mark is None or mark["env"] != self._env:
                continue
            key, board_id = mark["key"], str(summary["id"])
            if key in found:
                # Cloning a board clones its mark: the oldest is ours.
                self.notes.append(f"dashboard {board_id} ({summary.get('title')}) is a copy of ours and left alone")
                continue
            raw = self._api.dashboard(board_id)
            content = {name: raw[name] for name in (*_BOARD_KEYS, *_BESIDE) if raw.get(name) is not None}
            content["description"] = _BOARD_MARK.sub("", raw.get("description") or "")
            found[key] = Actual(Kind.DASHBOARD, key, board_id, content, mark["fingerprint"], mark["share"] or "")
        return list(found.values())

    def _monitors(self) -> list[Actual]:
        found: dict[str, Actual] = {}
        for raw in sorted(self._api.monitors(_MANAGED), key=lambda each: int(each["id"])):
            tags = [str(tag) for tag in raw.get("tags") or ()]
            key, mark, env = (
                next((tag.removeprefix(prefix) for tag in tags if tag.startswith(prefix)), "")
                for prefix in (_KEY, _FINGERPRINT, "env:")
            )
            if _MANAGED not in tags or not key or env != self._env:
                continue
            if key in found:
                self.notes.append(f"monitor {raw['id']} ({raw.get('name')}) is a copy of ours and left alone")
                continue
            content = {name: raw[name] for name in _MONITOR_KEYS if name in raw}
            content["tags"] = [tag for tag in tags if tag != _MANAGED and not tag.startswith((_KEY, _FINGERPRINT))]
            found[key] = Actual(Kind.MONITOR, key, str(raw["id"]), content, mark or "none")
        return list(found.values())

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
        return Actual(Kind.METRIC, desired.key, desired.key, content, mark["fingerprint"] if mark else "")


def _mark(desired: Desired, env: str, share: str = "") -> Content:
    """The content with the mark by which it is found again. ``env``: as Datadog keeps it."""
    content = desired.content
    pushed = fingerprint(restrict(content, keys_of(content)))
    if desired.kind is Kind.DASHBOARD:
        return _mark_board(content, desired.key, env, pushed, share)
    if desired.kind is Kind.MONITOR:
        return {**content, "tags": [*content["tags"], _MANAGED, f"{_KEY}{desired.key}", f"{_FINGERPRINT}{pushed}"]}
    described = f"{content['metadata']['description']} [infra-health {pushed}]"
    return {**content, "metadata": {**content["metadata"], "description": described}}


def _mark_board(content: Content, key: str, env: str, pushed: str, share: str) -> Content:
    shared = f" share={share}" if share else ""
    mark = f"[infra-health board={key} env={env} fingerprint={pushed}{shared}]"
    note = "Kept as code: the next push does not overwrite edits unless forced."
    return {**content, "description": f"{content['description']}\n\n{note} {mark}"}
