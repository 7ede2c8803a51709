"""The device string of a manifest (`CPU`, `GPU.1`, `AUTO:GPU,CPU`, `BATCH:GPU(16)`), parsed and written back."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass


class Mode(enum.StrEnum):
    """How the named devices are used; DIRECT is one device without a virtual one in front."""

    DIRECT = "DIRECT"
    AUTO = "AUTO"
    MULTI = "MULTI"
    HETERO = "HETERO"
    BATCH = "BATCH"


VIRTUAL = frozenset(mode.value for mode in Mode) - {Mode.DIRECT.value}
_DEVICE = re.compile(r"[A-Z][A-Z0-9_]*(?:\.[0-9]+){0,2}")
_BATCH = re.compile(r"(?P<device>[^()]+)(?:\((?P<size>[0-9]{1,5})\))?")


@dataclass(frozen=True, slots=True)
class Target:
    """A parsed device string.

    `devices` are the physical devices in the order named (empty for a bare `AUTO`), `excluded` those written as
    `-NAME` (AUTO only), `batch` the size in `BATCH:GPU(16)`.
    """

    mode: Mode
    devices: tuple[str, ...]
    excluded: tuple[str, ...] = ()
    batch: int | None = None

    def __str__(self) -> str:
        if self.mode is Mode.DIRECT:
            return self.devices[0]
        names = ",".join([*self.devices, *("-" + name for name in self.excluded)])
        size = f"({self.batch})" if self.batch is not None else ""
        return f"{self.mode}:{names}{size}" if names else str(self.mode)


def parse_target(text: str) -> Target:
    """Return the target that `text` names; raise ValueError with what is allowed when it names none."""
    head, colon, rest = text.partition(":")
    if " " in text or "\t" in text:
        raise ValueError(f"must not contain spaces, got {text!r}: write {text.replace(' ', '')!r}")
    if head not in VIRTUAL:
        return Target(Mode.DIRECT, (_device(text),))
    mode = Mode(head)
    if not colon:
        if mode is Mode.AUTO:
            return Target(mode, ())
        raise ValueError(f"{head} needs its devices, such as {head}:GPU,CPU, got {text!r}")
    if mode is Mode.BATCH:
        return _batch_target(rest)
    return _list_target(mode, rest)


def _device(name: str) -> str:
    if _DEVICE.fullmatch(name) is None:
        upper = name.upper()
        likely = f"; did you mean {upper!r}?" if upper != name and _DEVICE.fullmatch(upper) else ""
        raise ValueError(f"is not a device name such as CPU, GPU, GPU.1, NPU: got {name!r}{likely}")
    if name.startswith("CPU."):
        raise ValueError(f"OpenVINO has one CPU device, named CPU, got {name!r}")
    if name in VIRTUAL:
        raise ValueError(f"{name} cannot stand inside another virtual device")
    return name


def _batch_target(rest: str) -> Target:
    match = _BATCH.fullmatch(rest)
    if match is None:
        raise ValueError(f"BATCH takes one device and a size, such as BATCH:GPU(16), got {'BATCH:' + rest!r}")
    size = int(match["size"]) if match["size"] else None
    if size == 0:
        raise ValueError("the batch size of BATCH must be at least 1, got 0")
    return Target(Mode.BATCH, (_device(match["device"]),), batch=size)


def _list_target(mode: Mode, rest: str) -> Target:
    names = rest.split(",")
    excluded = tuple(_device(name[1:]) for name in names if name.startswith("-"))
    devices = tuple(_device(name) for name in names if not name.startswith("-"))
    if excluded and mode is not Mode.AUTO:
        raise ValueError(f"only AUTO can exclude devices, got {mode}:{rest}")
    if len(set(devices + excluded)) != len(names):
        raise ValueError(f"names a device twice: {mode}:{rest}")
    return Target(mode, devices, excluded)
