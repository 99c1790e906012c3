"""What can go wrong at an edge, told apart by who can mend it.

    HealthError
    ├── Unavailable          time may mend it: try again, after ``retry_after`` where the other side said so
    ├── Rejected             time can't mend it: the other side refused this very request or content
    │   ├── Unauthorized     ... because of the credentials: stop asking until they change
    │   ├── Unfinished       ... because the content breaks off or is no JSON: perhaps it is just being written
    │   └── TooLarge         ... because of its size: split it and ask again
    ├── ConfigError          the operator must change the configuration
    └── Unexpected           a collector raised something else: a fault of its code

Clients raise these and nothing else; each is raised once, at the edge, chained to the foreign error.
"""

import difflib
from collections.abc import Iterable


class HealthError(Exception):
    """The edge could not do what it was asked to."""


class Unavailable(HealthError):
    """The other side can't answer now.

    ``retry_after``: seconds it asked to wait, None where it said nothing.
    ``ambiguous``: the request may have been taken all the same (sent, but no answer came).
    ``answered``: the other side itself failed at the request (5xx), for a reason that may lie in its content.
    """

    def __init__(
        self, message: str, *, retry_after: float | None = None, ambiguous: bool = False, answered: bool = False
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.ambiguous = ambiguous
        self.answered = answered


class Rejected(HealthError):
    """The other side refused the request for good."""


class Unauthorized(Rejected):
    """The other side refused the credentials."""


class Unfinished(Rejected):
    """The content is not whole; it may be half-written, so it is worth one more look."""


class TooLarge(Rejected):
    """The content is beyond a size limit."""


class ConfigError(HealthError):
    """The configuration must change. The message names the place and the remedy."""


class Unexpected(HealthError):
    """A collector raised an exception that is none of the above; chained to it."""


# What the scheduler answers to callers: each is raised to whoever asked, none ends up in a run.


class UnknownCollector(Exception):
    """No collector has this ``name``. ``known``: the names that there are."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        self.name, self.known = name, tuple(known)
        near = difflib.get_close_matches(name, self.known, n=1)
        super().__init__(f"there is no collector {name!r}" + (f"; did you mean {near[0]}?" if near else ""))


class TooManyRuns(Exception):
    """So many runs of one collector are active that callers may start no other."""


class NotReady(Exception):
    """The collector can't run yet; the message says what it waits for."""


class Draining(Exception):
    """The daemon is ending: nothing new starts."""


class UnknownRun(Exception):
    """There is no run of this id."""


class RunEnded(Exception):
    """The run has ended already."""
