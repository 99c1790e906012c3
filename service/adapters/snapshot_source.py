"""What all places that hold snapshots have in common."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Self

from service.config_values import shown
from service.domain.errors import Rejected, TooLarge

LONGEST = 64 * 1024 * 1024  # bytes
FORMS = (
    "a path, a directory (its newest file), file:///PATH, s3://BUCKET/KEY, s3://BUCKET/PREFIX/ (its newest object), "
    "http://... or https://..."
)


@dataclass(frozen=True, slots=True)
class Content:
    """What a source holds.

    ``name``: for messages, without secrets. ``version``: changes when the content is published anew.
    ``published``: when that was, where the source says. ``validator``: tells the source what is known already, empty
    where it can't be asked.
    """

    name: str
    body: bytes
    version: str
    published: datetime | None = None
    validator: str = ""

    def with_body(self, body: bytes) -> Self:
        return replace(self, body=body)


def nothing_there(source: str, what: str = "nothing is there", reason: str = "") -> Rejected:
    """The error of a source that holds no snapshot: it says what to publish where."""
    name = shown(source)
    return Rejected(
        f"{name}: {what}{f' ({reason})' if reason else ''}; publish a snapshot to this place"
        f" (infra-health publish FILE --to {name}), or change the source"
    )


def too_large(name: str, longest: int) -> TooLarge:
    return TooLarge(f"{name} holds more than {longest:,} bytes; publish less, or in several snapshots")
