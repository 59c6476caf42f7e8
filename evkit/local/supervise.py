"""Takes a stack down when its owner dies: the owner holds the other end of our standard input, and death closes it.

`python -m evkit.local.supervise HOME` is started by `Stack(home, owned=True)`, in a session of its own, so that no signal
to the owner's terminal or process group reaches it. Also a kill -9 of the owner closes the pipe.
"""

from __future__ import annotations

import sys

from evkit.local.stack import Stack


def main() -> None:
    """Wait for the end of standard input, then stop the stack's servers."""
    stack = Stack(sys.argv[1])
    while sys.stdin.buffer.read(1024):
        pass
    stack.down()


if __name__ == "__main__":
    main()
