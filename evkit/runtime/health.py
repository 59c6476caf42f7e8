"""relay → monitoring: answer over HTTP whether it works (/health) and what it has counted (/metrics).

`Health` is one answer, judged from what the relay knows about itself, in memory: it comes at once, also while PostgreSQL is
away. `serve` puts it and the metrics on a port, for `evkit relay run --http-port` and for services.
"""

from __future__ import annotations

import json
import logging
import threading
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
    """Whether a relay does its work, and if not, why.

    Red (`ok` is False) is what keeps *every* event from moving, or will:

    - the loop is dead, or was silent for longer than its lease: nobody works here, and a standby has taken the lead
    - it was stopped by a fatal error: it will not go on before somebody has done something
    - it is held: PostgreSQL or the broker has not answered for longer than the lease. A new process would wait as well, yet
      events wait meanwhile, and this is the page that a load balancer, an alert or a person looks at

    Only a reason, with `ok` True, is what does not keep the others from moving: a shorter wait, which every restart of a
    broker brings, and unpublishable events that hold their keys. A relay that is replaced or drained for these would stop
    all keys for the sake of some, and find the same ones again; they are a finding of `evkit check` and a metric instead.

    A standby is well: it leads nothing, and nothing is asked of it but to ask for the lead.

    Attributes:
        ok                 whether it does its work
        reasons            what is wrong or worth knowing, as sentences; the worst first
        leading            it holds the outbox's lock
        last_loop_seconds  since its loop was last heard of; None when it has not run yet
        lease_seconds      for how long it may be silent
        waits_for          what it waits for, in the words of the error; None when for nothing
        waits_seconds      for how long
        held_keys          keys that unpublishable events hold
    """

    ok: bool
    reasons: list[str] = field(default_factory=list)
    leading: bool = False
    last_loop_seconds: float | None = None
    lease_seconds: float | None = None
    waits_for: str | None = None
    waits_seconds: float | None = None
    held_keys: int = 0

    @classmethod
    def of(
        cls,
        *,
        alive: bool,
        leading: bool,
        last_loop_seconds: float | None,
        lease_seconds: float,
        fatal: str | None = None,
        waits_for: str | None = None,
        waits_seconds: float | None = None,
        held_keys: int = 0,
    ) -> Health:
        """Judge what a relay knows about itself; see the class.

        Args:
            alive              `run` has been called and has not returned
            last_loop_seconds  since a loop that works or waits was last heard of
            fatal              the error that ended it
            waits_for          the error that it waits out
            waits_seconds      since when
            others: as the attributes
        """
        red: list[str] = []
        notes: list[str] = []
        if fatal is not None:
            red.append(f"stopped: {fatal}")
        elif not alive:
            red.append("the relay is not running")
        elif last_loop_seconds is None or last_loop_seconds > lease_seconds:
            since = "has not begun" if last_loop_seconds is None else f"was silent for {last_loop_seconds:.1f} s"
            red.append(f"the relay's loop {since}; its lease is {lease_seconds:g} s")
        if waits_for is not None:
            waits = waits_seconds or 0.0
            (red if waits > lease_seconds else notes).append(f"waits for {waits:.1f} s: {waits_for}")
        if held_keys:
            keys = "1 key is" if held_keys == 1 else f"{held_keys:,} keys are"
            notes.append(
                f"{keys} held by unpublishable events: `evkit outbox status`, then `evkit outbox retry` or `skip`"
            )
        return cls(not red, red + notes, leading, last_loop_seconds, lease_seconds, waits_for, waits_seconds, held_keys)

    @property
    def status(self) -> str:
        """ "ok", "degraded" (ok, with reasons) or "red"."""
        if not self.ok:
            return "red"
        return "degraded" if self.reasons else "ok"

    def document(self) -> dict[str, Any]:
        """As JSON: status first, then the attributes."""
        return {"status": self.status} | asdict(self)


class Served(metrics.Measured, Protocol):
    """What is asked of a relay."""

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


def serve(relay: Served, host: str = "127.0.0.1", port: int = 0) -> Server:
    """Answer /health and /metrics on a port, in threads of their own, until `close()`.

    /health   200 while the relay is ok, 503 while it is red; JSON: status, reasons and the other fields of `Health`
    /metrics  Prometheus' text format, or OpenMetrics when the client asks for it

    Nobody is asked for a password, so it listens on this machine alone by default; give host "0.0.0.0" inside a container.

    Raises:
        UsageError: the port is taken, or the host is no address of this machine.
    """
    from prometheus_client import CollectorRegistry

    registry = CollectorRegistry()
    registry.register(cast("Any", metrics.Collector(relay)))

    class Handler(_Handler):
        pages = _Pages(relay, registry)

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

    def __init__(self, relay: Served, registry: Any) -> None:
        self._relay = relay
        self._registry = registry

    def answer(self, path: str, accept: str) -> tuple[int, str, bytes]:
        page = urlsplit(path).path.rstrip("/")
        if page == "/health":
            return self._health()
        if page == "/metrics":
            return self._metrics(accept)
        return 404, "text/plain; charset=utf-8", b"an evkit relay: /health and /metrics are here\n"

    def _health(self) -> tuple[int, str, bytes]:
        try:
            health = self._relay.health()
        except Exception as error:  # whoever cannot say that he is well, is not
            log.exception("the relay could not be asked for its health")
            health = Health(False, [f"the relay could not be asked: {type(error).__name__}"])
        body = json.dumps(health.document(), ensure_ascii=False, indent=2, default=str) + "\n"
        return (200 if health.ok else 503), "application/json", body.encode()

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
