"""A kernel of our own: this interpreter, started on a private socket, without what a user's profile would add.

Kernelspecs of this machine are not asked: one of the same name may belong to another environment. The sockets are files in
a folder of this run (no port that others on the machine could reach, and no warning about it on every run), and IPython's
history and start-up files stay out, so that a report is the same for everybody.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

# A kernel that needs longer to start has been caught by something that will not end.
START_SECONDS_MAX = 60

# What every notebook imports, while this process is still importing papermill.
_WARM_UP = "import evkit.reporting.report, evkit.figures"


@contextmanager
def running(environment: Mapping[str, str], log: Path) -> Iterator[Any]:
    """A kernel manager of a started kernel for nbclient; the kernel ends with the block, whatever it was doing.

    Args:
        environment  added to this process's own
        log          file for what the kernel writes past its cells
    """
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager
    from jupyter_core.utils import run_sync

    class OwnKernelManager(AsyncKernelManager):
        """A manager whose kernel is this interpreter."""

        @property
        def kernel_spec(self) -> KernelSpec:
            argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
            return KernelSpec(argv=argv, display_name="Python 3", language="python")

        def client(self, **more: Any) -> Any:
            clients.append(super().client(**more))
            return clients[-1]

    clients: list[Any] = []

    # A path of a socket may have about 100 characters: a folder of reports can be too deep for it.
    folder = Path(tempfile.mkdtemp(prefix="evkit-kernel-"))
    manager = OwnKernelManager(transport="ipc", connection_file=str(folder / "kernel.json"))
    arguments = ["--HistoryManager.enabled=False", f"--IPKernelApp.exec_lines=[{_WARM_UP!r}]"]
    mine = {"IPYTHONDIR": str(folder / "ipython"), "PYDEVD_DISABLE_FILE_VALIDATION": "1", "TQDM_DISABLE": "1"}
    try:
        with log.open("wb") as stream:
            run_sync(manager.start_kernel)(
                env={**os.environ, **mine, **environment}, extra_arguments=arguments, stdout=stream, stderr=stream
            )
        yield manager
    finally:
        _end_tasks()
        for client in clients:
            client.stop_channels()  # nbclient leaves open what talks to a kernel that it did not start
        with suppress(RuntimeError):  # it never started, or has died already
            run_sync(manager.shutdown_kernel)(now=True)
        manager.context.destroy(linger=0)
        shutil.rmtree(folder, ignore_errors=True)


def _end_tasks() -> None:
    """End what an interrupted run leaves waiting for its kernel; it would complain of the kernel's end much later."""
    import asyncio

    from jupyter_core.utils import ensure_event_loop

    loop = ensure_event_loop()
    tasks = asyncio.all_tasks(loop) if not loop.is_running() else set()
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
