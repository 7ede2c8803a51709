"""The same service on granian's RSGI interface, without a framework."""

from __future__ import annotations

from typing import Any

from async_infer import Inferences, from_environment


class App:
    """What granian calls for each request."""

    def __init__(self) -> None:
        self._inferences: Inferences

    def __rsgi_init__(self, loop: Any) -> None:
        """Compile on the loop that will serve."""

        async def begin() -> None:
            self._inferences = from_environment()

        loop.run_until_complete(begin())

    async def __rsgi__(self, scope: Any, protocol: Any) -> None:
        """Infer, or refuse before the body is read."""
        inferences = self._inferences
        if scope.path != "/infer":
            protocol.response_empty(404, [])
        elif inferences.full:
            protocol.response_empty(503, [("retry-after", "1")])
        else:
            inferences.in_flight += 1
            try:
                answer = await inferences.infer(await protocol())
            finally:
                inferences.in_flight -= 1
            protocol.response_bytes(200, [("content-type", "application/octet-stream")], answer)


app = App()
