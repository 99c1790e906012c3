"""An intake in a process of its own that takes everything at once, so that only the sender's cost is measured."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def sink() -> Iterator[str]:
    """Its base address."""
    with subprocess.Popen([sys.executable, "-m", "bench.sink"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


class _Intake(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections stay open

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.wfile.write(b'HTTP/1.1 202 X\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n{"errors":[]}')


if __name__ == "__main__":
    with ThreadingHTTPServer(("127.0.0.1", 0), _Intake) as server:
        print(server.server_port, flush=True)
        server.serve_forever()
