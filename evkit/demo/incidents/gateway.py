"""The payment gateway that billing calls: a server on 127.0.0.1 that can be slow, or away."""

from __future__ import annotations

import socket
import threading
import time


class Gateway:
    """Answers each connection with `ok` after `delay` seconds; while `down`, it hangs up without an answer.

    Attributes:
        port   where it listens
        delay  seconds until it answers
        down   hang up instead
    """

    def __init__(self) -> None:
        self.delay = 0.0
        self.down = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(client,), daemon=True).start()

    def _answer(self, client: socket.socket) -> None:
        with client:
            time.sleep(self.delay)
            if not self.down:
                client.sendall(b"ok")


def charge(port: int) -> None:
    """Ask the gateway.

    Raises:
        ConnectionError: it is away, or hung up.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        if connection.recv(2) != b"ok":
            raise ConnectionResetError("the payment gateway has hung up")
