"""What a source says of one scheduled command, before it is known whether that is a collector."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Workload:
    """``origin``: where it was found. ``kind``: helmfile release, CronJob or crontab line.

    ``schedule`` and the policies are the text of the source, None where it says nothing.
    ``environment``: entries as in a pod, ``{"name", "value" | "valueFrom"}``.
    ``pod``: parts of the pod that the patch can carry as they are. ``unused``: what else is said, by its path.
    ``notes``: what the reading itself had to leave out. ``chart``: a release's. ``is_whole``: not so when a file of its
    values was not read. ``refused``: why its schedule can't be had here.
    """

    name: str
    kind: str
    origin: str
    command: Sequence[str] = ()
    schedule: str | None = None
    time_zone: str | None = None
    suspend: str | None = None
    concurrency_policy: str | None = None
    starting_deadline: str | None = None
    active_deadline: str | None = None
    backoff_limit: str | None = None
    successful_history: str | None = None
    failed_history: str | None = None
    environment: Sequence[Mapping[str, Any]] = ()
    environment_from: Sequence[Any] = ()
    service_account: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    pod: Mapping[str, Any] = field(default_factory=dict)
    mounts: Sequence[Any] = ()
    unused: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    chart: str | None = None
    is_whole: bool = True
    refused: str = ""
