"""Training and evaluation health from snapshots: whatever a pipeline measured, as one JSON record per check."""

from service.collectors.snapshot.collector import SNAPSHOT_AGE, Snapshot, SnapshotSettings

__all__ = ["SNAPSHOT_AGE", "Snapshot", "SnapshotSettings"]
