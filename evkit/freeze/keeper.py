"""`python -m evkit.freeze.keeper FOLDER`: stops the PostgreSQL of a freeze when nobody looks at it any more.

It is started by private_server.py, in a session of its own, so that no signal to a terminal or process group reaches it. It
steps out of that process's children: nobody has to wait for it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main() -> None:
    """Step out, wait, stop, end."""
    if os.fork():
        os._exit(0)
    from evkit.freeze.private_server import keep

    keep(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
