"""What a push would do, decided without asking anybody: the wanted objects beside the ones that were found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from service.boards import collectors, health, marks, tv
from service.boards.marks import Content, Mark
from service.boards.metadata import metadata
from service.boards.monitors import monitors
from service.boards.subjects import Catalogue


class Kind(StrEnum):
    """What there is, by the words of the command line."""

    DASHBOARD = "dashboards"
    MONITOR = "monitors"
    METRIC = "metadata"


class Act(StrEnum):
    """What comes of one object."""

    CREATE = "create"
    UPDATE = "update"
    SAME = "same"
    EDITED = "edited"  # by hand, or somebody else's words: left alone unless forced
    UNWANTED = "unwanted"  # ours, but of something that is not configured any more


@dataclass(frozen=True, slots=True)
class Wanted:
    """An object as it should be, without its mark."""

    kind: Kind
    key: str
    content: Content


@dataclass(frozen=True, slots=True)
class Found:
    """An object as Datadog has it, without its mark. ``mark`` is None where it is not ours (metrics only)."""

    kind: Kind
    key: str
    id: str
    content: Content
    mark: Mark | None
    raw: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Step:
    """One object's part of a push. ``changes``: a line for each value that differs, from what is there to the new."""

    act: Act
    kind: Kind
    key: str
    wanted: Wanted | None = None
    found: Found | None = None
    changes: tuple[str, ...] = ()


BOARDS = {"health": health.board, "tv": tv.board, "collectors": collectors.board}


def wanted(catalogue: Catalogue) -> list[Wanted]:
    """Everything that one installation wants to have in Datadog."""
    boards = [Wanted(Kind.DASHBOARD, key, build(catalogue)) for key, build in BOARDS.items()]
    alerts = [Wanted(Kind.MONITOR, each.key, each.content) for each in monitors(catalogue)]
    facts = [Wanted(Kind.METRIC, name, content) for name, content in metadata(catalogue).items()]
    return [*boards, *alerts, *facts]


def steps(wishes: Sequence[Wanted], there: Sequence[Found], *, force: bool = False) -> list[Step]:
    """A step for each wish and for each of our objects that nobody wants any more. ``there``: one a kind and key."""
    known = {(each.kind, each.key): each for each in there}
    planned = [_step(wish, known.pop((wish.kind, wish.key), None), force) for wish in wishes]
    return planned + [Step(Act.UNWANTED, each.kind, each.key, found=each) for each in known.values() if each.mark]


def _step(wish: Wanted, found: Found | None, force: bool) -> Step:
    if found is None:
        return Step(Act.CREATE, wish.kind, wish.key, wish)
    changes = tuple(marks.differences(found.content, wish.content))
    if found.mark is None:
        # Only a metric is there before we speak of it; its words may be somebody's.
        act = Act.EDITED if _is_described(found.content) and changes and not force else Act.UPDATE
    elif found.mark.kept == marks.PENDING:
        act = Act.UPDATE
    elif marks.digest(found.content) != found.mark.kept and changes and not force:
        act = Act.EDITED
    elif found.mark.wanted == marks.digest(wish.content) and (not changes or _is_as_kept(found)):
        act = Act.SAME
    else:
        act = Act.UPDATE
    return Step(act, wish.kind, wish.key, wish, found, changes if act is not Act.SAME else ())


def _is_as_kept(found: Found) -> bool:
    return found.mark is not None and marks.digest(found.content) == found.mark.kept


def _is_described(content: Mapping[str, Any]) -> bool:
    return bool(content.get("tags") or (content.get("metadata") or {}).get("description"))
