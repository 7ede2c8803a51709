"""The HTTP routes of the shared memory extensions, as JSON values: regions registered, listed, forgotten."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import orjson

from orchestrator.errors import Kind, OrchError
from orchestrator.serving.shared_memory import Registration
from orchestrator.serving.shared_regions import Regions, cuda_refused, cuda_status


@dataclass(frozen=True, slots=True)
class Asked:
    """What a path asks for; an empty name means all regions."""

    action: Literal["status", "register", "unregister"]
    name: str


def asked_of(rest: list[str]) -> Asked | None:
    """Return what the segments after `systemsharedmemory` or `cudasharedmemory` ask for; None where it is nothing."""
    match rest:
        case ["region", name, ("status" | "register" | "unregister") as action] if name:
            return Asked(action, name)
        case [("status" | "unregister") as action]:
            return Asked(action, "")
        case _:
            return None


def perform(folder: str, asked: Asked, body: bytes | bytearray, regions: Regions) -> list[Any] | None:
    """Do what is asked and return what is listed, None where nothing is; raise OrchError."""
    if folder == "cudasharedmemory":
        return _perform_cuda(asked)
    match asked.action:
        case "status":
            return [asdict(registration) for registration in regions.status(asked.name)]
        case "register":
            regions.register(_registration(asked.name, body))
        case "unregister":
            regions.unregister(asked.name)
    return None


def _perform_cuda(asked: Asked) -> list[Any] | None:
    if asked.action == "register":
        raise cuda_refused()
    return cuda_status(asked.name) if asked.action == "status" else None


def _registration(name: str, body: bytes | bytearray) -> Registration:
    try:
        given = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise OrchError(Kind.INVALID, f"the request is not JSON: {error}") from None
    if not isinstance(given, dict):
        raise OrchError(Kind.INVALID, "the request must be an object with key, offset and byte_size")
    key, offset, size = given.get("key"), given.get("offset", 0), given.get("byte_size")
    if not isinstance(key, str):
        raise OrchError(Kind.INVALID, "must be the name of a shared memory object", where="key")
    return Registration(name, key, _bytes("offset", offset), _bytes("byte_size", size))


def _bytes(where: str, value: object) -> int:
    if type(value) is not int:
        raise OrchError(Kind.INVALID, "must be a number of bytes", where=where)
    return value
