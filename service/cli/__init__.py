"""The command line: it parses and prints, nothing more. Results go to stdout, logs and messages to stderr."""

from service.cli.main import main

__all__ = ["main"]
