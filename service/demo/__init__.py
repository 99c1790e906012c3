"""What ``--demo`` stands on: recorded GitHub answers and a strict intake, served on loopback by the stage."""
