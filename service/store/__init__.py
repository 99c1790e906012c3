"""The store: runs, outbox, checks and state, in one SQLite file or in a PostgreSQL that replicas share."""

from service.store.engine import Refused, find_lock_holder
from service.store.history import Cell, CheckHistory, Cycle, Hour
from service.store.outbox import SeenSeries
from service.store.replicas import Beat, Replica, Replicas
from service.store.runs import Busy, Claim
from service.store.store import Store

__all__ = [
    "Beat",
    "Busy",
    "Cell",
    "CheckHistory",
    "Claim",
    "Cycle",
    "Hour",
    "Refused",
    "Replica",
    "Replicas",
    "SeenSeries",
    "Store",
    "find_lock_holder",
]
