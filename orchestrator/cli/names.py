"""Prints names for a shell to complete, as fast as Python starts: `python -P -m orchestrator.cli.names deployments`.

Without an agent that answers at once it prints nothing: a TAB starts no agent, and shows no error.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from orchestrator.agent.paths import Layout, state_dir
from orchestrator.errors import OrchError
from orchestrator.serving import admin

ANSWER_S = 0.5  # somebody has pressed a key and waits
KINDS = ("deployments", "models", "sources")


def main(arguments: Sequence[str]) -> int:
    """Print the names of one kind, one a line."""
    if len(arguments) != 1 or arguments[0] not in KINDS:
        return 2
    try:
        answer = admin.call(Layout(state_dir(os.environ)).socket, "names", timeout_s=ANSWER_S)
    except OrchError:
        return 1
    sys.stdout.write("".join(f"{name}\n" for name in answer.get(arguments[0], ())))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
