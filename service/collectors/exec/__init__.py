"""Any program on a schedule: what it prints on stdout becomes samples."""

from service.collectors.exec.collector import Exec
from service.collectors.exec.settings import ExecSettings

__all__ = ["Exec", "ExecSettings"]
