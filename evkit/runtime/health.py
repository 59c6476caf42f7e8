"""relay, consumer → monitoring: answer over HTTP whether they work (/health) and what they have counted (/metrics).

`Health` is one answer, judged from what a part knows about itself, in memory: it comes at once, also while PostgreSQL is
away. `serve` puts it and the metrics on a port, for `evkit relay run` and `evkit consume` with `--http-port`, and for
services.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET, AF_INET6
from socketserver import TCPServer
from typing import Any, Protocol, cast
from urllib.parse import urlsplit

from evkit.errors import UsageError
from evkit.runtime import metrics

log = logging.getLogger(__name__)

# A client that says nothing for so long is let go.
_CLIENT_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Health:
    """Whether a part of a process does its work, and if not, why; each kind of part has its own kind, with more fields.

    Red (`ok` is False) is what keeps *every* event from moving, or will. What keeps back some and lets the others flow is
    only a reason: a process that is replaced for it would stop all for the sake of some, and find the same ones again.

    Attributes:
        ok       whether it does its work
        reasons  what is wrong or worth knowing, as sentences; the worst first
    """

    ok: bool
    reasons: list[str] = field(default_factory=list)

    @property
    def part(self) -> str:
        """What it is the health of, among other parts."""
        return "part"

    @property
    def status(self) -> str:
        """ "ok", "degraded" (ok, with reasons) or "red"."""
        if not self.ok:
            return "red"
        return "degraded" if self.reasons else "ok"

    def document(self) -> dict[str, Any]:
        """As JSON: status first, then the attributes."""
        return {"status": self.status} | asdict(self)


@dataclass(frozen=True, slots=True)
class Together(Health):
    """The health of several parts of one process: red as soon as one of them is.

    Attributes:
        parts  the document of each, `part` first: what it is the health of
    """

    parts: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, healths: Sequence[Health]) -> Together:
        """The reasons of all parts, those of red ones first, each after the name of its part."""
        red_first = sorted(healths, key=lambda health: health.ok)
        return cls(
            all(health.ok for health in healths),
            [f"{health.part}: {reason}" for health in red_first for reason in health.reasons],
            [{"part": health.part} | health.document() for health in healths],
        )


class Served(Protocol):
    """What is asked of a part."""

    def health(self) -> Health: ...


class Server:
    """A running endpoint.

    Attributes:
        host, port  where it listens; the port that was taken when 0 was asked for
    """

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self._server = server
        self.host, self.port = str(server.server_address[0]), int(server.server_address[1])
        # How long `close` may have to wait for the loop to look up.
        self._thread = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="evkit http", daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        """Its address, without a path."""
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"

    def close(self) -> None:
        """Stop listening; may be called twice."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def serve(*parts: Served, host: str = "127.0.0.1", port: int = 0, collector: Any = None) -> Server:
    """Answer /health and /metrics of a process on a port, in threads of their own, until `close()`.

    /health   200 while every part is ok, 503 while one is red; JSON: status, reasons and the other fields of its `Health`,
              or with several parts those of `Together`
    /metrics  Prometheus' text format, or OpenMetrics when the client asks for it

    Nobody is asked for a password, so it listens on this machine alone by default; give host "0.0.0.0" inside a container.

    Args:
        parts      relays and consumers of this process
        port       0: any that is free
        collector  of the metrics; default: of the parts'

    Raises:
        UsageError: the port is taken, or the host is no address of this machine.
    """
    from prometheus_client import CollectorRegistry

    registry = CollectorRegistry()
    registry.register(collector or cast("Any", metrics.Collector(*cast("tuple[metrics.Measured, ...]", parts))))

    class Handler(_Handler):
        pages = _Pages(parts, registry)

    class HTTPServer(_HTTPServer):
        address_family = AF_INET6 if ":" in host else AF_INET

    try:
        return Server(HTTPServer((host, port), Handler))
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(
            f"cannot answer on {host}:{port} ({reason}): give another --http-port, or an address of this machine as "
            "--http-host"
        ) from None


class _HTTPServer(ThreadingHTTPServer):
    daemon_threads = True

    def server_bind(self) -> None:
        """Without the look-up of a host name that http.server makes here, which hangs where there is no DNS."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """A client that went away in the middle is nothing to print a traceback for."""
        log.debug("a request of %s broke off", client_address, exc_info=True)


class _Pages:
    """What is answered: status, content type, body."""

    def __init__(self, parts: Sequence[Served], registry: Any) -> None:
        self._parts = parts
        self._registry = registry

    def answer(self, path: str, accept: str) -> tuple[int, str, bytes]:
        page = urlsplit(path).path.rstrip("/")
        if page == "/health":
            return self._health()
        if page == "/metrics":
            return self._metrics(accept)
        return 404, "text/plain; charset=utf-8", b"evkit: /health and /metrics are here\n"

    def _health(self) -> tuple[int, str, bytes]:
        healths = [self._asked(part) for part in self._parts]
        health = healths[0] if len(healths) == 1 else Together.of(healths)
        body = json.dumps(health.document(), ensure_ascii=False, indent=2, default=str) + "\n"
        return (200 if health.ok else 503), "application/json", body.encode()

    @staticmethod
    def _asked(part: Served) -> Health:
        try:
            return part.health()
        except Exception as error:  # whoever cannot say that he is well, is not
            name = type(part).__name__.lower()
            log.exception("the %s could not be asked for its health", name)
            return Health(False, [f"the {name} could not be asked: {type(error).__name__}"])

    def _metrics(self, accept: str) -> tuple[int, str, bytes]:
        from prometheus_client.exposition import choose_encoder

        encode, content_type = choose_encoder(accept)
        return 200, content_type, encode(self._registry)


class _Handler(BaseHTTPRequestHandler):
    pages: _Pages
    timeout = _CLIENT_SECONDS
    server_version, sys_version = "evkit", ""

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        status, content_type, body = self.pages.answer(self.path, self.headers.get("Accept") or "")
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Every scrape would be a line; who wants them turns debug on."""
        log.debug(format, *args)
