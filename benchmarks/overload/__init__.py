"""What becomes of orch and of other servers when more is asked of them than they can do."""
