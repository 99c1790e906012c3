"""A PostgreSQL of Debian's package on loopback, for the tests of one session. ``from tests.postgres import ...``."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest


class Postgres:
    """A server of its own directory and port. ``url``: of its first database, for a user without a password."""

    def __init__(self, tools: Path, directory: Path) -> None:
        self.user = "postgres" if os.geteuid() == 0 else None  # it refuses to run as root
        if self.user:
            shutil.chown(directory, self.user)
        self.port = find_free_port()
        self.url = f"postgresql://test@127.0.0.1:{self.port}/postgres"
        self.directory = directory  # of files that its user may read
        self._tools, self._data = tools, directory / "data"
        self._run("initdb", "-U", "test", "-A", "trust", "--no-sync", "-E", "UTF8")

    def start(self, *, durable: bool = False) -> None:
        fsync = "on" if durable else "off"
        options = f"-h 127.0.0.1 -p {self.port} -k {self.directory} -c max_connections=200 -c fsync={fsync}"
        self._run("pg_ctl", "-w", "-l", f"{self.directory}/log", "-o", options, "start")

    def stop(self) -> None:
        """At once, as a crash would."""
        self._run("pg_ctl", "-w", "-m", "immediate", "stop")

    def send(self, number: signal.Signals) -> None:
        """To all its processes. While they stand still the kernel goes on to acknowledge what they are sent."""
        parent = (self._data / "postmaster.pid").read_text().split()[0]
        subprocess.run(["pkill", f"-{number:d}", "-P", parent], check=True)
        os.kill(int(parent), number)

    def execute(self, *statements: str) -> list[tuple[object, ...]]:
        """The rows of the last one."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            for statement in statements:
                cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def _run(self, tool: str, *arguments: str) -> None:
        command, quiet = [str(self._tools / tool), "-D", str(self._data), *arguments], subprocess.DEVNULL
        subprocess.run(command, check=True, user=self.user, cwd=self.directory, stdout=quiet, env={"LC_ALL": "C"})


def find_free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


@contextmanager
def running_postgres(*, durable: bool = False) -> Iterator[Postgres]:
    """Skips where the package is missing, but not in CI. ``durable``: a commit is on the disk, as in production."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not found:
        assert os.environ.get("CI") != "true", "no PostgreSQL: apt-get install postgresql"
        pytest.skip("no PostgreSQL on this machine: apt-get install postgresql")
    with tempfile.TemporaryDirectory(prefix="postgres-") as directory:
        server = Postgres(found[-1], Path(directory))
        server.start(durable=durable)
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    with running_postgres() as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: Postgres) -> str:
    """The address of an empty database; the test before is done with it."""
    postgres_server.execute("DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
    return postgres_server.url
