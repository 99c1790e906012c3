"""Any program on a schedule: what it prints on stdout becomes samples."""

from service.collectors.exec.collector import Exec, ExecSettings

__all__ = ["Exec", "ExecSettings"]
