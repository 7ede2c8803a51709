"""Load generators, topologies and reports that measure orch; not installed with it."""
