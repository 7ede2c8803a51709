"""What Git, or a folder, says this machine shall run: fetched, checked, and kept as read-only folders."""

from __future__ import annotations

from orchestrator.gitops.gathering import Limits
from orchestrator.gitops.remote import Checkout, Commit, GitRemote, Repository

__all__ = ["Checkout", "Commit", "GitRemote", "Limits", "Repository"]
