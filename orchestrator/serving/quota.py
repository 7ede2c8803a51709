"""What one client may ask for: a token bucket for each, in a bounded table, told the time; no I/O."""

from __future__ import annotations

from orchestrator.errors import Kind, OrchError

CLIENTS_MAX = 10_000
"""Clients remembered; a forgotten one, the longest unheard of, begins with a full bucket."""


class Quotas:
    """Lets each client have `rate_per_s` requests on average and `burst` at once.

    A bucket is one number, the time at which it will be full again (the generic cell rate algorithm).
    """

    def __init__(self, rate_per_s: float, burst: int, clients: int = CLIENTS_MAX) -> None:
        self._interval_s = 1 / rate_per_s
        self._ahead_s = (burst - 1) * self._interval_s
        self._clients = clients
        self._full_at: dict[str, float] = {}
        self._rate = f"{rate_per_s:g}/s"

    def take(self, client: str, now: float) -> None:
        """Take one request from the client's bucket; raise QUOTA, with the time to come back, when it is empty."""
        full_at = max(self._full_at.pop(client, now), now)  # and put back last: who is heard of is not forgotten
        wait_s = full_at - now - self._ahead_s
        taken = wait_s <= 0
        self._full_at[client] = full_at + self._interval_s if taken else full_at
        if len(self._full_at) > self._clients:
            del self._full_at[next(iter(self._full_at))]
        if not taken:
            what = f"more than {self._rate} from this client"
            raise OrchError(Kind.QUOTA, what, hint="send less, or come back later", retry_after_s=wait_s)

    def __len__(self) -> int:
        return len(self._full_at)


def grpc_client(peer: str) -> str:
    """Return the address in gRPC's name of a peer, without its port: `ipv4:10.0.0.1:5` and `ipv6:%5B::1%5D:5`."""
    kind, _, rest = peer.partition(":")
    if kind not in {"ipv4", "ipv6"}:
        return peer
    return client(rest.rpartition(":")[0].replace("%5B", "").replace("%5D", "").strip("[]"))


def client(host: str) -> str:
    """Return the address under which a client is counted, the same for both protocols."""
    return host.removeprefix("::ffff:").partition("%")[0]
