"""Brings Datadog to what is wanted, one object at a time: finds ours by their marks, writes only what differs."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from service.adapters.datadog_admin import DatadogAdmin
from service.adapters.datadog_client import NotThere
from service.boards import marks
from service.boards.marks import Content, Mark
from service.boards.plan import Found, Kind, Step, Wanted
from service.domain.errors import HealthError, Rejected

_BOARD_KEYS = ("title", "description", "layout_type", "reflow_type", "template_variables", "widgets")
# What people set on a board beside its content; a push that left it out would take it away.
_THEIR_KEYS = ("notify_list", "restricted_roles", "tags", "template_variable_presets")
_MONITOR_KEYS = ("name", "type", "query", "message", "tags", "priority", "options")
_FACTS = ("type", "unit", "description")
_TAG_FACTS = ("metric_type", "include_percentiles", "tags")


class Pusher:
    """Finds, writes and removes the objects of one environment. ``tell`` hears what the operator should know."""

    def __init__(self, admin: DatadogAdmin, env: str, tell: Callable[[str], None]) -> None:
        self._admin = admin
        self._env = marks.env_of(env)
        self._tell = tell
        self._filled: set[Kind] = set()  # where Datadog was seen to fill in defaults

    def find(self, wishes: Iterable[Wanted], kinds: Iterable[Kind]) -> list[Found]:
        """Our objects of ``kinds``, one a key; of metrics all that are wished for and there. Raises HealthError."""
        asked = set(kinds)
        found: list[Found] = []
        if Kind.DASHBOARD in asked:
            found += self._boards()
        if Kind.MONITOR in asked:
            found += self._monitors()
        if Kind.METRIC in asked:
            found += filter(None, map(self._metric, (each for each in wishes if each.kind is Kind.METRIC)))
        return found

    def write(self, step: Step) -> str:
        """Creates or updates the step's object; its id. Raises HealthError, NotThere for a metric without points."""
        wish = step.wanted
        if wish is None:
            raise ValueError(f"nothing is wanted of {step.key}")
        env = "" if wish.kind is Kind.METRIC else self._env
        wanted = marks.digest(wish.content)
        put = {Kind.DASHBOARD: self._put_board, Kind.MONITOR: self._put_monitor, Kind.METRIC: self._put_metric}[
            wish.kind
        ]
        before = step.found.mark if step.found else None
        if before and before.kept != before.wanted:
            self._filled.add(wish.kind)
        # Should we die between the two writes that it takes there, the next push has to know that it was us.
        at_first = marks.PENDING if wish.kind in self._filled else wanted
        mark = Mark(wish.key, env, wanted, at_first, before.share if before else "")
        found, content = put(wish, step.found.id if step.found else "", step.found, mark)
        kept = marks.digest(content)
        if kept != wanted:
            # Datadog filled in defaults: the mark has to know, or they would look like somebody's edits.
            self._filled.add(wish.kind)
        if kept != at_first:
            found, _ = put(wish, found, step.found, replace(mark, kept=kept))
        return found

    def remove(self, found: Found) -> None:
        """Removes one of ours. Raises HealthError; what is gone already is no error."""
        try:
            if found.kind is Kind.DASHBOARD:
                self._admin.delete_dashboard(found.id)
            elif found.kind is Kind.MONITOR:
                self._admin.delete_monitor(int(found.id))
            else:
                # A metric lives as long as its points do; ours are the words and the configuration.
                if found.content.get("tags"):
                    self._admin.forget_tags(found.id)
                facts = {name: value for name, value in found.content["metadata"].items() if value is not None}
                facts["description"] = ""
                self._admin.update_metric(found.id, facts)
        except NotThere:
            return

    def share(self, key: str, dashboard_type: str) -> str:
        """The address under which our board ``key`` is public; made where there is none. Raises HealthError."""
        board = next((each for each in self._boards() if each.key == key), None)
        if board is None or board.mark is None:
            raise Rejected(f"there is no board {key} of ours to share")
        if board.mark.share and (known := self._admin.public_address(board.mark.share)):
            return known
        token, address = self._admin.share(board.id, dashboard_type)
        body = _only(board.raw, (*_BOARD_KEYS, *_THEIR_KEYS))
        marked = marks.mark_board(marks.unmark_board(body), replace(board.mark, share=token))
        try:
            self._admin.update_dashboard(board.id, {name: value for name, value in marked.items() if value is not None})
        except HealthError as error:
            self._tell(f"board {key} could not be given its address, so the next --share makes another one: {error}")
        return address

    # Finding

    def _boards(self) -> list[Found]:
        ours: dict[str, tuple[str, str]] = {}
        for summary in sorted(self._admin.dashboards(), key=lambda each: str(each.get("created_at", ""))):
            mark = marks.read_board(summary.get("description"))
            if mark is None or mark.env != self._env:
                continue
            if mark.key in ours:
                # Cloning a board clones its mark: the oldest is ours.
                self._tell(f"dashboard {summary.get('id')} ({summary.get('title')}) is a copy of ours and left alone")
                continue
            ours[mark.key] = (summary["id"], mark.key)
        found = []
        for dashboard_id, key in ours.values():
            raw = self._admin.dashboard(dashboard_id)
            content = marks.unmark_board(_only(raw, _BOARD_KEYS))
            mark = marks.read_board(raw.get("description"))
            found.append(Found(Kind.DASHBOARD, key, dashboard_id, content, mark, raw))
        return found

    def _monitors(self) -> list[Found]:
        found: dict[str, Found] = {}
        for raw in sorted(self._admin.monitors(marks.MANAGED), key=lambda each: int(each["id"])):
            mark = marks.read_monitor(raw)
            if mark is None or mark.env != self._env:
                continue
            if mark.key in found:
                self._tell(f"monitor {raw['id']} ({raw.get('name')}) is a copy of ours and left alone")
                continue
            content = marks.unmark_monitor(_monitor(raw))
            found[mark.key] = Found(Kind.MONITOR, mark.key, str(raw["id"]), content, mark, raw)
        return list(found.values())

    def _metric(self, wish: Wanted) -> Found | None:
        raw = self._admin.metric(wish.key, with_tags="tags" in wish.content)
        if raw is None:
            return None
        content = marks.unmark_metric(_metric(raw))
        return Found(Kind.METRIC, wish.key, wish.key, content, marks.read_metric(wish.key, raw), raw)

    # Writing: each gives the object's id and what Datadog made of it

    def _put_board(self, wish: Wanted, known: str, found: Found | None, mark: Mark) -> tuple[str, Content]:
        theirs = {key: found.raw[key] for key in _THEIR_KEYS if found.raw.get(key)} if found else {}
        body = {**theirs, **marks.mark_board(wish.content, mark)}
        raw = self._admin.update_dashboard(known, body) if known else self._admin.create_dashboard(body)
        return str(raw.get("id") or known), marks.unmark_board(_only(raw, _BOARD_KEYS))

    def _put_monitor(self, wish: Wanted, known: str, found: Found | None, mark: Mark) -> tuple[str, Content]:
        body = marks.mark_monitor(wish.content, mark)
        raw = self._admin.update_monitor(int(known), body) if known else self._admin.create_monitor(body)
        return str(raw.get("id") or known), marks.unmark_monitor(_monitor(raw))

    def _put_metric(self, wish: Wanted, known: str, found: Found | None, mark: Mark) -> tuple[str, Content]:
        body = marks.mark_metric(wish.content, mark)
        made: Content = {}
        # The mark is in the metadata, so it goes last: a push that breaks off in between is repeated by the next.
        if "tags" in body:
            if found is None:
                # Of a metric without points this says that it is not there; the next one calls that a bad request.
                self._admin.update_metric(wish.key, wish.content["metadata"])
            made["tags"] = self._admin.configure_tags(wish.key, body["tags"])
        made["metadata"] = self._admin.update_metric(wish.key, body["metadata"])
        return wish.key, marks.unmark_metric(_metric(made))


def _only(raw: Mapping[str, Any], keys: Iterable[str]) -> Content:
    return {key: raw[key] for key in keys if key in raw}


def _monitor(raw: Mapping[str, Any]) -> Content:
    content = _only(raw, _MONITOR_KEYS)
    # Muting by hand is no edit of ours.
    content["options"] = {name: value for name, value in (content.get("options") or {}).items() if name != "silenced"}
    return content


def _metric(raw: Mapping[str, Any]) -> Content:
    content: Content = {"metadata": _only(raw.get("metadata") or {}, _FACTS)}
    if raw.get("tags"):
        content["tags"] = _only(raw["tags"], _TAG_FACTS)
    return content
