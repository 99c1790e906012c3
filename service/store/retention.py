"""What leaves the store, and when: each function is one short transaction, between which others write."""

from collections.abc import Mapping
from datetime import datetime, timedelta

import sqlalchemy as sa

from service.domain.delivery import DeliveryStatus
from service.store import tables
from service.store.tables import outbox, runs, to_micros

_DUE = (DeliveryStatus.PENDING, DeliveryStatus.SENDING)
_MAX_AUDIT = 10_000
_COUNTS_KEPT = timedelta(hours=2)
_STEP = 500  # rows a transaction

HistoryLimits = Mapping[str, tuple[int | None, int | None]]  # of a collector: failed runs, successful runs


def delete_runs(connection: sa.Connection, keep_failed: int, keep_ended: int, own: HistoryLimits) -> int:
    """Deletes ended runs beyond the newest that are kept, with chunks and logs; how many.

    The newest of each kind stays in any case, so does a run with samples that wait.
    """
    is_good = sa.case((tables.SUCCEEDED, 1), else_=0).label("is_good")
    newest = (runs.c.started.desc(), runs.c.id.desc())
    place = sa.func.row_number().over(partition_by=(runs.c.collector, is_good), order_by=newest).label("place")
    ranked = sa.select(runs.c.id, runs.c.collector, is_good, place).where(runs.c.outcome.is_not(None)).subquery()
    least = min([keep_failed, keep_ended, *(limit for pair in own.values() for limit in pair if limit is not None)])
    waits = sa.exists().where(outbox.c.run == ranked.c.id, outbox.c.status.in_(_DUE))
    found = connection.execute(sa.select(ranked).where(ranked.c.place > max(1, least), ~waits)).all()
    gone = []
    for row in found:
        failed, successful = own.get(row.collector, (None, None))
        limit, default = (successful, keep_ended) if row.is_good else (failed, keep_failed)
        if row.place > max(1, default if limit is None else limit):
            gone.append(row.id)
    gone = gone[:_STEP]
    for table, column in ((outbox, outbox.c.run), (tables.run_logs, tables.run_logs.c.run), (runs, runs.c.id)):
        connection.execute(table.delete().where(column.in_(gone)))
    return len(gone)


def empty_chunks(connection: sa.Connection, before: datetime) -> int:
    """Empties chunks that were settled before then; of a run they stay as the count of what became of them."""
    is_old = (outbox.c.settled_at < before) & outbox.c.status.not_in(_DUE)
    connection.execute(outbox.delete().where(is_old, outbox.c.run == ""))
    old = sa.select(outbox.c.id).where(is_old, sa.func.length(outbox.c.body) > 0).limit(_STEP)
    return connection.execute(outbox.update().where(outbox.c.id.in_(old)).values(body=b"")).rowcount


def delete_old_rows(connection: sa.Connection, now: datetime, before: datetime) -> None:
    """The audit log, the history of checks, and the seconds of counts."""
    kept = sa.select(sa.func.max(tables.audit.c.id) - _MAX_AUDIT).scalar_subquery()
    for table, is_old in (
        (tables.audit, tables.audit.c.id <= kept),
        (tables.hours, tables.hours.c.hour < to_micros(before) // 3_600_000_000),
        (tables.cells, tables.cells.c.cycle < to_micros(before)),  # its number is the instant of its end
        (tables.cycles, tables.cycles.c.number < to_micros(before)),
        (tables.count_seconds, tables.count_seconds.c.second < int((now - _COUNTS_KEPT).timestamp())),
    ):
        connection.execute(table.delete().where(is_old))
