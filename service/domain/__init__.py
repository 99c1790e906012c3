"""Values and rules: no I/O and no clock; what depends on the time is told it as ``now``."""
