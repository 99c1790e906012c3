"""Brings Datadog to what is desired: finds our objects by their marks, writes what differs, keeps edits by hand.

Each object carries a mark with the fingerprint of what was pushed, so that without any memory of ours a change of the
code or the settings (another fingerprint is desired) is told from an edit by hand (the object has another one). Only
the keys that we set count: Datadog fills in defaults, and people add what we know nothing of.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from service.boards.catalogue import DISTRIBUTION_TAGS, Catalogue
from service.boards.dashboards import DASHBOARDS
from service.boards.fingerprint import describe_changes, fingerprint, keys_of, overlay, select
from service.boards.monitors import build_monitors
from service.datadog.api import DatadogApi, NotFound
from service.domain.errors import HealthError, Rejected, Unauthorized, Unavailable
from service.domain.samples import normalize_tag_value

Content = dict[str, Any]

_MANAGED = "managed_by:infra-health"
_TAGS = (_MANAGED, "infra_health_key:", "infra_health_fingerprint:")  # a monitor's mark
_MARK = re.compile(  # of a board and of a metric, in the description
    r"\s*(Kept as code[^\[\]]*)?\[infra-health (board=(?P<key>\S+) env=(?P<env>\S*) fingerprint=)?(?P<fingerprint>\w+)"
    r"( share=(?P<share>[\w-]+))?\]"
)
# What we set and, last, what people set beside it: a push that left it out would take it away.
_BOARD_KEYS = (
    *("title", "description", "layout_type", "reflow_type", "template_variables", "widgets"),
    *("notify_list", "restricted_roles", "tags", "template_variable_presets"),
)
_MONITOR_KEYS = ("name", "type", "query", "message", "tags", "priority", "options")


# What there is, by the words of the command line.
Kind = Literal["dashboards", "monitors", "metadata"]
# What a push would do with an object, or has done. "edited": by hand, or somebody else's words: left alone unless
# forced. "unwanted": ours, but of something that is not configured any more. "waiting": Datadog has no point of it.
Action = Literal["create", "update", "same", "edited", "unwanted", "created", "updated", "removed", "waiting", "failed"]


@dataclass(frozen=True, slots=True)
class Resource:
    """An object, without its mark: as it should be, or as Datadog has it under ``id``.

    ``fingerprint``: the mark's; empty: it is not ours. ``share``: the token of a board's public address. Datadog gives
    a share by its token only, so the mark keeps it.
    """

    kind: Kind
    key: str
    content: Content
    id: str = ""
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
    desired: Resource | None = None
    actual: Resource | None = None
    changes: tuple[str, ...] = ()
    id: str = ""
    reason: str = ""


def build(catalogue: Catalogue) -> list[Resource]:
    """Everything that one installation wants to have in Datadog."""
    metrics: dict[str, Content] = {}
    for metric in catalogue.metrics.values():
        facts = {"type": metric.kind, "description": metric.help or f"{metric.name}, from snapshot records"}
        metrics[metric.name] = {"metadata": facts | ({"unit": metric.unit} if metric.unit else {})}
    for metric in catalogue.distributions:
        # Percentiles are billed by each queryable combination of tags: only the few that are asked for are queryable.
        tags = {"metric_type": "distribution", "include_percentiles": True, "tags": sorted(DISTRIBUTION_TAGS)}
        metrics[metric.name]["tags"] = tags
    return [
        *(Resource("dashboards", key, content) for key, each in DASHBOARDS.items() if (content := each(catalogue))),
        *(Resource("monitors", key, content) for key, content in build_monitors(catalogue).items()),
        *(Resource("metadata", name, content) for name, content in metrics.items()),
    ]


def is_meant(each: Resource, words: Sequence[str]) -> bool:
    """Whether ``words`` mean this object, by its kind or as a single board; no words mean everything."""
    return not words or each.kind in words or (each.kind == "dashboards" and each.key in words)


def render(desired: Iterable[Resource], env: str) -> dict[str, list[Content]]:
    """What a push would write, by kind."""
    found: dict[str, list[Content]] = {}
    for each in desired:
        name = {"metric": each.key} if each.kind == "metadata" else {}
        found.setdefault(each.kind, []).append(name | _mark(each, normalize_tag_value("env", env)))
    return found


def compare(desired: Resource, actual: Resource | None, *, force: bool = False) -> Difference:
    """What a push would do with one object. ``force``: edits by hand are overwritten."""
    if actual is None:
        return Difference("create", desired.kind, desired.key, desired)
    keys = keys_of(desired.content)
    wanted, there = select(desired.content, keys), select(actual.content, keys)
    changes = tuple(describe_changes(there, wanted))
    is_pushed = actual.fingerprint == fingerprint(wanted)
    if actual.fingerprint:
        is_edited = is_pushed or actual.fingerprint != fingerprint(there)
    else:  # only a metric is there before we speak of it; its words may be somebody's
        is_edited = "tags" in there or "description" in there.get("metadata", {})
    action: Action = "same" if is_pushed and not changes else "update"
    if is_edited and changes and not force:
        action = "edited"
    return Difference(action, desired.kind, desired.key, desired, actual, changes, actual.id)


class Sync:
    """Finds, writes and removes the objects of one environment. ``notes``: what the operator should know."""

    def __init__(self, api: DatadogApi, env: str) -> None:
        self.notes: list[str] = []
        self._api = api
        self._env = normalize_tag_value("env", env)

    def diff(self, desired: Sequence[Resource], words: Sequence[str] = (), *, force: bool = False) -> list[Difference]:
        """A difference for each that is desired and each of ours that nobody wants any more. Raises HealthError."""
        there = {(each.kind, each.key): each for each in self.find(desired, words)}
        found = [compare(each, there.pop((each.kind, each.key), None), force=force) for each in desired]
        unwanted = [each for each in there.values() if each.fingerprint]
        return found + [Difference("unwanted", each.kind, each.key, None, each, (), each.id) for each in unwanted]

    def find(self, desired: Iterable[Resource], words: Sequence[str] = ()) -> list[Resource]:
        """Our objects that ``words`` mean, one a key; of metrics all that are desired and there. Raises HealthError."""
        found: dict[tuple[Kind, str], Resource] = {}
        metrics = [each for each in desired if each.kind == "metadata"]
        for each in (*self._dashboards(), *self._monitors(), *self._metrics(metrics)):
            # Cloning an object clones its mark: the oldest, which comes first, is ours.
            if is_meant(each, words) and found.setdefault((each.kind, each.key), each) is not each:
                name = each.content.get("title") or each.content.get("name")
                self.notes.append(f"{each.kind} {each.id} ({name}) is a copy of ours and left alone")
        return list(found.values())

    def push(self, differences: Iterable[Difference], *, prune: bool = False) -> Iterator[Difference]:
        """Carries out one after the other. Raises Unauthorized and Unavailable: the next ones would fare alike."""
        for each in differences:
            try:
                if each.action == "unwanted" and each.actual and prune:
                    self.delete(each.actual)
                    each = replace(each, action="removed")
                elif each.desired and each.action in ("create", "update"):
                    id = self._write(each.desired, each.actual)
                    each = replace(each, action="updated" if each.actual else "created", id=id)
            except (Unauthorized, Unavailable):
                raise
            except HealthError as error:
                each = replace(each, action="failed", reason=str(error))
                if isinstance(error, NotFound) and each.kind == "metadata":
                    reason = "Datadog has no point of it so far; push again when it has"
                    each = replace(each, action="waiting", reason=reason)
            yield each

    def delete(self, actual: Resource) -> None:
        """Removes one of ours. Raises HealthError; what is gone already is no error."""
        try:
            if actual.kind != "metadata":
                self._api.delete(actual.kind, actual.id)
                return
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
        self._api.update("dashboards", board.id, _mark(replace(board, share=str(share["token"])), self._env))
        return str(share["public_url"])

    def _write(self, desired: Resource, actual: Resource | None) -> str:
        """Creates or updates the object; its id. Raises HealthError, NotFound for a metric without points."""
        body = _mark(replace(desired, share=actual.share if actual else ""), self._env)
        if desired.kind == "metadata":
            # The mark is in the metadata, so it goes last: a push that breaks off in between is repeated by the next.
            if "tags" in body:
                if not actual:
                    # Of a metric without points this says that it is not there; the next one calls that a bad request.
                    self._api.update_metadata(desired.key, desired.content["metadata"])
                self._api.configure_tags(desired.key, body["tags"], is_new=not (actual and actual.content.get("tags")))
            self._api.update_metadata(desired.key, body["metadata"])
            return desired.key
        if actual is None:
            return str(self._api.create(desired.kind, body)["id"])
        self._api.update(desired.kind, actual.id, overlay(actual.content, body, keys_of(body)))
        return actual.id

    def _dashboards(self) -> Iterator[Resource]:
        for summary in sorted(self._api.dashboards(), key=lambda each: str(each.get("created_at", ""))):
            mark = _MARK.search(summary.get("description") or "")
            if mark and mark["key"] and mark["env"] == self._env:
                raw = self._api.dashboard(str(summary["id"]))
                content = {name: raw[name] for name in _BOARD_KEYS if raw.get(name) is not None}
                content["description"] = _MARK.sub("", raw["description"])
                share = mark["share"] or ""
                yield Resource("dashboards", mark["key"], content, raw["id"], mark["fingerprint"], share)

    def _monitors(self) -> Iterator[Resource]:
        for raw in sorted(self._api.monitors(_MANAGED), key=lambda each: int(each["id"])):
            tags: list[str] = raw["tags"]
            facts = dict(tag.split(":", 1) for tag in tags if ":" in tag)
            key, mark = facts.get("infra_health_key"), facts.get("infra_health_fingerprint", "none")
            if _MANAGED in tags and key and facts.get("env") == self._env:
                content = {name: raw[name] for name in _MONITOR_KEYS if name in raw}
                content["tags"] = [tag for tag in tags if not tag.startswith(_TAGS)]
                yield Resource("monitors", key, content, str(raw["id"]), mark)

    def _metrics(self, desired: Iterable[Resource]) -> Iterator[Resource]:
        for each in desired:
            try:
                facts = self._api.metadata(each.key)
            except NotFound:
                continue
            text = facts.get("description") or ""
            mark = _MARK.search(text)
            own = {"type": facts.get("type"), "unit": facts.get("unit"), "description": _MARK.sub("", text)}
            content: Content = {"metadata": own}
            if "tags" in each.content:
                try:
                    content["tags"] = self._api.tag_configuration(each.key)
                except NotFound:
                    content["tags"] = {}
            yield Resource("metadata", each.key, content, each.key, mark["fingerprint"] if mark else "")


def _mark(each: Resource, env: str) -> Content:
    """The content with the mark by which it is found again. ``env``: as Datadog keeps it."""
    content = each.content
    # Of what Datadog has, the fingerprint stays: what people have edited since it was pushed is none of ours.
    mark = each.fingerprint or fingerprint(select(content, keys_of(content)))
    if each.kind == "monitors":
        return {**content, "tags": [*content["tags"], *map("".join, zip(_TAGS, ("", each.key, mark), strict=True))]}
    if each.kind == "metadata":
        described = f"{content['metadata']['description']} [infra-health {mark}]"
        return {**content, "metadata": {**content["metadata"], "description": described}}
    shared = f" share={each.share}" if each.share else ""
    mark = f"[infra-health board={each.key} env={env} fingerprint={mark}{shared}]"
    note = "Kept as code: the next push does not overwrite edits unless forced."
    return {**content, "description": f"{content['description']}\n\n{note} {mark}"}
