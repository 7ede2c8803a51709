"""Tie a process's life to its parent's, so that a measurement that is killed leaves nothing behind.

python -m orchestrator.profiling.tied PARENT_PID COMMAND...    runs any command so
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h; kept over exec, not over fork


def die_with_parent(parent: int) -> None:
    """Have the kernel end this process when its parent ends; end it now where that has happened already.

    The parent is the thread that started the process.
    """
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def main(arguments: list[str]) -> None:
    """Become the command."""
    die_with_parent(int(arguments[0]))
    os.execvp(arguments[1], arguments[1:])  # noqa: S606 - to become it is the purpose


if __name__ == "__main__":
    main(sys.argv[1:])
