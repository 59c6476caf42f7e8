"""`python -m evkit.freeze.keeper FOLDER`: stops the PostgreSQL of a freeze when nobody looks at it any more.

It is started by private_server.py, in a session of its own, so that no signal to a terminal or process group reaches it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from evkit.freeze.private_server import keep


def main() -> None:
    """Wait, stop, end."""
    keep(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
