"""Training and evaluation health from snapshots: whatever a pipeline measured, as one JSON record per check."""
