"""A Git repository of one test: a bare one that the agent follows, and a clone in which people commit."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

PEOPLE = {
    "GIT_AUTHOR_NAME": "Ada",
    "GIT_AUTHOR_EMAIL": "ada@example.com",
    "GIT_COMMITTER_NAME": "Ada",
    "GIT_COMMITTER_EMAIL": "ada@example.com",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
}


class People:
    """Whoever commits and pushes."""

    def __init__(self, folder: Path) -> None:
        self.bare, self.clone = folder / "shop.git", folder / "clone"
        self._git(folder, "init", "-q", "--bare", "-b", "main", str(self.bare))
        self._git(folder, "clone", "-q", str(self.bare), str(self.clone))
        self._git(self.clone, "checkout", "-q", "-B", "main")

    def _git(self, where: Path, *words: str) -> str:
        command = ["git", *words]
        done = subprocess.run(
            command, cwd=where, env=os.environ | PEOPLE, capture_output=True, text=True, check=True, timeout=30
        )
        return done.stdout.strip()

    def git(self, *words: str) -> str:
        """Run git in the clone."""
        return self._git(self.clone, *words)

    def push(self, files: Mapping[str, str | bytes | None], subject: str = "Change") -> str:
        """Commit these files (None removes one), push, and return the commit."""
        for name, content in files.items():
            path = self.clone / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                path.unlink()
            else:
                path.write_bytes(content if isinstance(content, bytes) else content.encode())
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", subject)
        self.git("push", "-q", "--force", "origin", "main")
        return self.git("rev-parse", "HEAD")

    def rename_branch(self, old: str, new: str) -> None:
        """Rename a branch at the remote."""
        self._git(self.bare, "branch", "-m", old, new)
