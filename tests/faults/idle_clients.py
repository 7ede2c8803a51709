"""Opens connections to a port and leaves them idle until standard input ends: `idle_clients.py PORT COUNT`."""

from __future__ import annotations

import resource
import socket
import sys


def main(port: int, count: int) -> None:
    """Print how many were opened: fewer where the hard limit of open files does not allow so many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    allowed = count if hard == resource.RLIM_INFINITY else min(count, hard - 64)
    kept = [socket.create_connection(("127.0.0.1", port)) for _ in range(allowed)]
    sys.stdout.write(f"{len(kept)}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
