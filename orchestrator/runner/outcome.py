"""How a request ends, and how the end of a batch becomes the ends of its requests."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Sequence

from orchestrator.backend.base import Array
from orchestrator.errors import Kind, OrchError
from orchestrator.scheduling.scheduler import Batch, Ticket

log = logging.getLogger("orch.pool")


class Outcome:
    """How one request ended: outputs (in the model's order) or an error, and where the time went, in seconds.

    `abandoned`: the inference was given up and may still read its input arrays; their memory must not be used again.
    """

    __slots__ = ("abandoned", "batch", "error", "outputs", "queue_s", "service_s")

    def __init__(
        self,
        outputs: tuple[Array, ...] = (),
        error: OrchError | None = None,
        queue_s: float = 0.0,
        service_s: float = 0.0,
        abandoned: bool = False,
        batch: Batch | None = None,
    ) -> None:
        self.outputs = outputs
        self.error = error
        self.queue_s = queue_s
        self.service_s = service_s
        self.abandoned = abandoned
        self.batch = batch
        """With whom it was inferred, for who follows requests."""


Done = Callable[[Outcome], None]


def split(outputs: tuple[Array, ...], batch: Batch, rows: int) -> list[tuple[Array, ...]]:
    """Divide the outputs of `rows` rows among the batch's requests; raise FAILED where they do not carry the rows."""
    if any(output.ndim == 0 or output.shape[0] != rows for output in outputs):
        shapes = ", ".join(str(list(output.shape)) for output in outputs)
        raise OrchError(Kind.FAILED, f"the outputs do not carry the {rows} rows of the batch: {shapes}")
    parts, row = [], 0
    for ticket in batch.tickets:
        parts.append(tuple(output[row : row + ticket.rows] for output in outputs))
        row += ticket.rows
    return parts


def outcomes_of(batch: Batch, parts: Sequence[tuple[Array, ...]], now: float) -> list[tuple[Ticket, Outcome]]:
    """Return each request's outcome of an inference that ended well at `now`."""
    service = now - batch.started
    return [
        (ticket, Outcome(part, None, ticket.started - ticket.arrived, service, False, batch))
        for ticket, part in zip(batch.tickets, parts, strict=False)  # no parts: nobody waits any more
    ]


def fresh(error: OrchError) -> OrchError:
    """Return the error without what it drags along: frames that keep arrays and the engine's callback alive."""
    return OrchError(error.kind, error.problems)


def failed(batch: Batch, error: OrchError, *, abandoned: bool = False) -> list[tuple[Ticket, Outcome]]:
    """Return an outcome for each request, with an error of its own: many threads will raise them."""
    return [(ticket, Outcome(error=fresh(error), abandoned=abandoned)) for ticket in batch.tickets]


def tell(done: Done, outcome: Outcome) -> None:
    """Call back; what a caller's code raises must not reach the engine, nor keep others from being told (trap 18)."""
    try:
        done(outcome)
    except Exception:  # noqa: BLE001 - whatever a caller's code raises
        # As text: a record that kept the traceback would keep the engine's callback alive (see fresh).
        log.error("a callback raised; our bug, or the caller's:\n%s", traceback.format_exc())
