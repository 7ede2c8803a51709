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
KNOWN = ("CPU", "GPU", "NPU")
DEVICES_MAX = 32
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
    if any(character.isspace() for character in text):
        raise ValueError(f"must not contain spaces, got {text[:60]!r}: write {''.join(text.split())[:60]!r}")
    head, colon, rest = text.partition(":")
    if colon and head not in VIRTUAL:
        raise ValueError(
            f"only {', '.join(sorted(VIRTUAL))} take devices after a colon, got {text[:60]!r}{_near(head)}"
        )
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


def _near(head: str) -> str:
    import difflib  # only a wrong word needs it

    near = difflib.get_close_matches(head[:20].upper(), sorted(VIRTUAL), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def _device(name: str) -> str:
    if _DEVICE.fullmatch(name) is None:
        upper = name.upper()
        likely = f"; did you mean {upper!r}?" if upper.partition(".")[0] in {*KNOWN, *VIRTUAL} else ""
        raise ValueError(f"is not a device name such as CPU, GPU, GPU.1, NPU: got {name[:60]!r}{likely}")
    # OpenVINO plugins may have any name, so only a shuffled well-known one is surely a slip.
    slip = next((known for known in KNOWN if sorted(known) == sorted(name) and known != name), None)
    if slip is not None:
        raise ValueError(f"is not a device: got {name!r}; did you mean {slip!r}?")
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
    if len(names) > DEVICES_MAX:
        raise ValueError(f"names more than {DEVICES_MAX} devices")
    excluded = tuple(_device(name[1:]) for name in names if name.startswith("-"))
    devices = tuple(_device(name) for name in names if not name.startswith("-"))
    if excluded and mode is not Mode.AUTO:
        raise ValueError(f"only AUTO can exclude devices, got {mode}:{rest}")
    if len(set(devices + excluded)) != len(names):
        raise ValueError(f"names a device twice: {mode}:{rest}")
    return Target(mode, devices, excluded)
