"""A reverse proxy as small as they come: it shows a server below a path, and passes streams on as they come."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}
_PIECE = 65_536


@contextmanager
def behind_proxy(url: str, prefix: str) -> Iterator[str]:
    """Yield the address of ``url`` as a proxy shows it below ``prefix``; other paths do not exist there."""
    target = urlsplit(url)

    class Handler(BaseHTTPRequestHandler):
        def _forward(self) -> None:
            if not self.path.startswith(prefix):
                self.send_error(404)
                return
            length = int(self.headers.get("Content-Length") or 0)
            headers = {k: v for k, v in self.headers.items() if k.lower() not in {"host", "connection"}}
            headers |= {
                "Host": self.headers["Host"],
                "X-Forwarded-Proto": "http",
                "X-Forwarded-Host": self.headers["Host"],
            }
            inner = http.client.HTTPConnection(target.hostname or "", target.port, timeout=120)
            try:
                inner.request(self.command, self.path.removeprefix(prefix) or "/", self.rfile.read(length), headers)
                answer = inner.getresponse()
                self.send_response_only(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in _HOP_BY_HOP:
                        self.send_header(name, value)
                self.send_header("Connection", "close")
                self.end_headers()
                while piece := answer.read1(_PIECE):
                    self.wfile.write(piece)
                    self.wfile.flush()
            except (BrokenPipeError, ConnectionResetError):
                pass  # the browser went away
            finally:
                inner.close()

        do_GET = do_POST = do_HEAD = do_DELETE = _forward

        def log_message(self, format: str, *args: object) -> None:
            pass

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    proxy.daemon_threads = True
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{proxy.server_port}{prefix}"
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()
