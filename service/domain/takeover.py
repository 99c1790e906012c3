"""From which slot on a daemon is in charge: how it takes over from CronJobs, and gives back to them. Pure.

In shadow mode the CronJobs run every slot as well, so a slot that was run in shadow counts as run. At the change to
live mode that alone would lose a slot that came after the CronJobs were suspended but before the shadow ended: it was
run in shadow only. ``starts_after`` (the last slot that the CronJob ran) tells them apart.
"""

from datetime import datetime


def last_slot(
    live: datetime | None, shadow: datetime | None, starts_after: datetime | None, *, is_shadow: bool
) -> datetime | None:
    """The slot after which the job's next one is due; None: none was ever run.

    ``live``, ``shadow``: the last slots run in each mode. A ``starts_after`` from before the last live slot is one of
    an earlier change, which says nothing of this one.
    """
    if starts_after and not is_shadow and (live is None or live <= starts_after):
        return starts_after
    if live and shadow:
        return max(live, shadow)
    return live or shadow
