"""The tabular benchmark: raw service times of every arm of every model, stored once, replayed by any planner."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from math import sqrt
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any, Final

from orchestrator.profiling.bench import thinned
from orchestrator.profiling.measurement import Arm, ArmProfile, Block, Host, ReadBack

TABLE: Final = Path(__file__).with_name("table.json.gz")
QUICK: Final = Path(__file__).with_name("table.quick.json.gz")
SAMPLES_OF_A_BLOCK: Final = 240  # kept, evenly spaced
T_95: Final = (12.7, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)  # Student's t by degrees of freedom, 1 to 10


@dataclass(frozen=True)
class Row:
    """A compiled arm and its blocks; `names` are the hints that compiled to the same."""

    arm: Arm
    names: tuple[str, ...]
    actual: ReadBack
    compile_s: float
    memory_bytes: int
    blocks: tuple[Block, ...]

    @property
    def streams(self) -> int:
        """Return the streams as read back."""
        return self.actual.streams or 1

    @property
    def pinned(self) -> bool:
        """Tell whether OpenVINO pinned its threads."""
        return self.arm.properties.get("ENABLE_CPU_PINNING") != "NO"

    @property
    def requests(self) -> tuple[int, ...]:
        """Return the request counts that were measured as a full pool."""
        return (self.streams, self.streams + 1)

    def at(self, concurrency: int, *, paced: bool = False) -> list[Block]:
        """Return the blocks of a closed loop at a concurrency, or of single inferences with pauses, by round."""
        return [block for block in self.blocks if block.concurrency == concurrency and block.paced == paced]

    def services(self, concurrency: int, *, paced: bool = False) -> list[float]:
        """Return the seconds of every inference at a concurrency, tainted blocks left out where any other is there."""
        blocks = self.at(concurrency, paced=paced)
        clean = [block for block in blocks if not block.host.tainted()] or blocks
        return [second for block in clean for second in block.service_s]

    @property
    def rested(self) -> list[float]:
        """Return the seconds of every inference that came after a pause; back to back where none was measured so."""
        return self.services(1, paced=bool(self.at(1, paced=True)))

    @cached_property
    def alone_s(self) -> float:
        """Return the median of an inference that runs alone."""
        return median(median(block.service_s) for block in self.at(1))

    def profile(self, arm: Arm | None = None) -> ArmProfile:
        """Return the row as the planner would have measured it, under the planner's own name for the arm."""
        arm = arm or self.arm
        blocks = tuple(block.model_copy(update={"arm": arm.key}) for block in self.blocks)
        return ArmProfile(
            arm=arm, actual=self.actual, compile_s=self.compile_s, memory_bytes=self.memory_bytes, blocks=blocks
        )


@dataclass(frozen=True)
class Entry:
    """A model of the table."""

    name: str
    batchable: bool
    sha256: str
    rows: tuple[Row, ...]
    anchor: tuple[tuple[float, float], ...]
    """Throughput of the anchor arm at the start and at the end of each round."""

    @property
    def resolution(self) -> float:
        """Return the half-width of the 95 % interval of the anchor's ratio to itself: smaller differences are ties."""
        ratios = [end / start for start, end in self.anchor]
        if len(ratios) < 2:
            return 0.05
        spread = T_95[min(len(ratios) - 1, len(T_95)) - 1] * stdev(ratios) / sqrt(len(ratios))
        return abs(mean(ratios) - 1) + spread

    def named(self, name: str) -> Row:
        """Return the row that a hint compiled to."""
        return next(row for row in self.rows if name in row.names)

    def find(self, streams: int, threads: int, batch: int, *, pinned: bool = False) -> Row | None:
        """Return the row of a layout, one whose threads are pinned, or not, where there are both."""
        layout = (streams, threads, batch)
        found = [row for row in self.rows if (row.streams, row.actual.threads, row.arm.batch) == layout]
        return min(found, key=lambda row: row.pinned != pinned, default=None)

    def only(self, rounds: Iterable[int]) -> Entry:
        """Return the entry with the blocks of some rounds, or all where an arm would be left without."""
        wanted = set(rounds)
        return self._each(lambda blocks: [block for block in blocks if block.round in wanted] or blocks)

    def resampled(self, seed: int) -> Entry:
        """Return the entry with each arm's blocks drawn again with replacement: another measurement of the same."""
        dice = random.Random(seed)

        def draw(blocks: list[Block]) -> list[Block]:
            drawn = dice.choices(blocks, k=len(blocks))
            return [block.model_copy(update={"round": number}) for number, block in enumerate(drawn)]

        return self._each(draw)

    def _each(self, change: Callable[[list[Block]], list[Block]]) -> Entry:
        def changed(row: Row) -> Row:
            levels = sorted({(block.concurrency, block.paced) for block in row.blocks})
            at = [row.at(concurrency, paced=paced) for concurrency, paced in levels]
            return replace(row, blocks=tuple(block for blocks in at for block in change(blocks)))

        return replace(self, rows=tuple(changed(row) for row in self.rows))

    def disturbed(self, seed: int, share: float = 0.25) -> Entry:
        """Return the entry as measured beside a burner of one core that ran in a `share` of the blocks.

        A stream that meets the burner has half a core, so its inference takes up to twice as long; an inference over
        all cores waits for its slowest thread. The burner's time shows as foreign, as the rule reads it.
        """
        dice = random.Random(seed)

        def disturb(row: Row, block: Block) -> Block:
            if dice.random() >= share:
                return block
            burnt = dice.uniform(0.25, 0.5)  # of the block's time
            hit = 1.0 if (row.actual.threads or 1) > row.streams else 0.5 * min(2, block.concurrency)
            service = [second * (2.0 if dice.random() < burnt * hit else 1.0) for second in block.service_s]
            slower = sum(service) / sum(block.service_s)
            host = block.host.model_copy(update={"foreign": round(block.host.foreign + burnt / 2, 4)})
            completed = max(1, round(block.completed / slower))
            return block.model_copy(update={"service_s": tuple(service), "completed": completed, "host": host})

        rows = (replace(row, blocks=tuple(disturb(row, block) for block in row.blocks)) for row in self.rows)
        return replace(self, rows=tuple(rows))


@dataclass(frozen=True)
class Table:
    """All that was measured, and where."""

    machine: dict[str, Any]
    entries: tuple[Entry, ...]

    def entry(self, name: str) -> Entry:
        """Return the model of that name."""
        return next(entry for entry in self.entries if entry.name == name)


def pack_block(block: Block) -> dict[str, Any]:
    """Return a block with its samples in microseconds."""
    return {
        "round": block.round,
        "n": block.concurrency,
        "s": round(block.seconds, 5),
        "done": block.completed,
        "us": [round(second * 1e6, 1) for second in thinned(list(block.service_s), SAMPLES_OF_A_BLOCK)],
        "host": block.host.model_dump(exclude_defaults=True),
        **({"paced": True} if block.paced else {}),
    }


def _unpack_block(packed: dict[str, Any], arm: str) -> Block:
    return Block(
        arm=arm,
        round=packed["round"],
        concurrency=packed["n"],
        seconds=packed["s"],
        completed=packed["done"],
        service_s=tuple(us / 1e6 for us in packed["us"]),
        host=Host.model_validate(packed["host"]),
        paced=packed.get("paced", False),
    )


def pack_entry(entry: Entry) -> dict[str, Any]:
    """Return the entry as plain data."""
    rows = [
        {
            "arm": row.arm.model_dump(),
            "names": list(row.names),
            "actual": row.actual.model_dump(mode="json"),
            "compile_s": round(row.compile_s, 4),
            "memory_bytes": row.memory_bytes,
            "blocks": [pack_block(block) for block in row.blocks],
        }
        for row in entry.rows
    ]
    anchor = [[round(start, 2), round(end, 2)] for start, end in entry.anchor]
    return {
        "name": entry.name,
        "batchable": entry.batchable,
        "sha256": entry.sha256,
        "anchor_per_s": anchor,
        "arms": rows,
    }


def unpack_entry(packed: dict[str, Any]) -> Entry:
    """Return the entry of plain data."""
    rows = []
    for item in packed["arms"]:
        arm = Arm.model_validate(item["arm"])
        rows.append(
            Row(
                arm=arm,
                names=tuple(item["names"]),
                actual=ReadBack.model_validate(item["actual"]),
                compile_s=item["compile_s"],
                memory_bytes=item["memory_bytes"],
                blocks=tuple(_unpack_block(block, arm.key) for block in item["blocks"]),
            )
        )
    anchor = tuple((start, end) for start, end in packed["anchor_per_s"])
    return Entry(packed["name"], packed["batchable"], packed["sha256"], tuple(rows), anchor)


def save(table: Table, path: Path) -> None:
    """Write the table; the same table gives the same bytes."""
    data = {"machine": table.machine, "models": [pack_entry(entry) for entry in table.entries]}
    text = json.dumps(data, separators=(",", ":")).encode()
    path.write_bytes(gzip.compress(text, 9, mtime=0))


def load(path: Path = TABLE) -> Table:
    """Read a table."""
    data = json.loads(gzip.decompress(path.read_bytes()))
    return Table(data["machine"], tuple(unpack_entry(entry) for entry in data["models"]))
