"""Actions: what somebody asked the daemon to do, kept for whoever asks later who it was."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Action:
    """One trigger, pause, resume, reload or push.

    ``target``: the collector, empty where the action means all of them.
    ``source``: where it came from (an address, "signal"); ``actor`` and ``reason`` as the caller gave them.
    ``run``: the id of the run that it started, empty when it started none.
    """

    time: datetime
    what: str
    target: str = ""
    source: str = ""
    actor: str = ""
    reason: str = ""
    run: str = ""
