"""Values and rules without I/O and without a clock: everything here takes ``now`` as an argument."""
