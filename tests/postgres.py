"""A PostgreSQL of Debian's package on loopback, for the tests of one session. ``from tests.postgres import ...``."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The address of a server; skips where the package is missing, but not in CI."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not found:
        assert os.environ.get("CI") != "true", "no PostgreSQL: apt-get install postgresql"
        pytest.skip("no PostgreSQL on this machine: apt-get install postgresql")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    directory = Path(tempfile.mkdtemp(prefix="postgres-"))
    user = "postgres" if os.geteuid() == 0 else None  # it refuses to run as root
    if user:
        shutil.chown(directory, user)
    tools, data = found[-1], str(directory / "data")

    def run(*command: str) -> None:
        subprocess.run(command, check=True, user=user, cwd=directory, stdout=subprocess.DEVNULL, env={"LC_ALL": "C"})

    options = f"-h 127.0.0.1 -p {port} -k {directory} -c fsync=off -c max_connections=200"
    try:
        run(f"{tools}/initdb", "-D", data, "-U", "test", "-A", "trust", "--no-sync", "-E", "UTF8")
        run(f"{tools}/pg_ctl", "-D", data, "-w", "-l", f"{directory}/log", "-o", options, "start")
        try:
            yield f"postgresql://test@127.0.0.1:{port}"
        finally:
            run(f"{tools}/pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(directory)


@pytest.fixture
def postgres_url(postgres_server: str) -> str:
    """The address of an empty database; the test before is done with it."""
    url = f"{postgres_server}/postgres"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    return url
