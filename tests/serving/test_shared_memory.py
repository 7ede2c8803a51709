"""Regions of shared memory: what may be opened, what happens to it under way, what the next worker knows of it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import Kind, OrchError
from orchestrator.planner.plan import EndpointPlan
from orchestrator.serving import http_regions, shared_regions
from orchestrator.serving.kept_regions import KeptRegions
from orchestrator.serving.oip import InferHead, InputHead, OutputHead, Place, Signature, plan_inputs
from orchestrator.serving.process import refusal_of_shared_memory
from orchestrator.serving.shared_memory import Region, Registration, open_region
from orchestrator.serving.shared_regions import Regions
from orchestrator.serving.shared_tensors import PIECE_BYTES, SharedTensors
from orchestrator.serving.tensors import TensorPool
from tests.builders import a_tensor

PATTERN = bytes(range(256)) * 64
REST: tuple[Any, ...] = (None, False, None, None)  # outputs, binary_default, timeout_s, priority


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that stands for /dev/shm, with one object `frames` of 16 KiB in it."""
    folder = tmp_path / "shm"
    folder.mkdir()
    (folder / "frames").write_bytes(PATTERN)
    return folder


def refused(kind: Kind, work: Callable[[], object]) -> str:
    with pytest.raises(OrchError) as caught:
        work()
    assert caught.value.kind is kind, caught.value
    return str(caught.value)


def read(region: Region, offset: int, size: int) -> bytes:
    memory = bytearray(size)
    region.read(offset, memoryview(memory))
    return bytes(memory)


# What may be opened


@pytest.mark.parametrize("key", ["frames", "/frames", "//frames"])
def test_a_region_is_the_stated_bytes_of_the_object(folder: Path, key: str) -> None:
    region = open_region(Registration("r", key, 256, 512), folder)
    assert read(region, 0, 512) == PATTERN[256:768]
    region.write(2, b"pixels")
    assert (folder / "frames").read_bytes() == PATTERN[:258] + b"pixels" + PATTERN[264:]


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/",
        ".",
        "..",
        "/..",
        "../frames",
        "./frames",
        "a/b",
        "/a/../frames",
        "fra\0mes",
        "n" * 256,
        "é" * 128,
        "\ud800",
    ],
)
def test_a_key_that_is_no_plain_name_is_refused(folder: Path, key: str) -> None:
    (folder.parent / "frames").write_bytes(PATTERN)
    assert "no name of a shared memory object" in refused(
        Kind.INVALID, lambda: open_region(Registration("r", key, 0, 1), folder)
    )


def test_links_folders_and_pipes_are_refused_without_waiting(folder: Path) -> None:
    secret = folder.parent / "secret"
    secret.write_bytes(PATTERN)
    (folder / "link").symlink_to(secret)
    (folder / "near").symlink_to("frames")
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    for key in ("link", "near", "folder", "pipe"):
        refused(Kind.INVALID, lambda key=key: open_region(Registration("r", key, 0, 1), folder))  # type: ignore[misc]


def test_devices_are_refused() -> None:
    text = refused(Kind.INVALID, lambda: open_region(Registration("r", "null", 0, 1), Path("/dev")))
    assert "is no shared memory object" in text


@given(key=st.text(max_size=40))
def test_whatever_the_key_nothing_is_created(tmp_path_factory: pytest.TempPathFactory, key: str) -> None:
    folder = tmp_path_factory.mktemp("shm")
    refused(Kind.INVALID, lambda: open_region(Registration("r", key, 0, 1), folder))
    assert list(folder.iterdir()) == []


def test_a_region_must_lie_within_its_object(folder: Path) -> None:
    text = refused(Kind.INVALID, lambda: open_region(Registration("r", "frames", 16000, 1000), folder))
    assert "holds 16384 bytes, the region would end at byte 17000" in text


anything = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=8) | st.just("frames")


@given(
    body=st.binary(max_size=60)
    | st.fixed_dictionaries({"key": anything}, optional={"offset": anything, "byte_size": anything})
)
def test_whatever_a_client_sends_is_registered_or_refused_as_its_mistake(
    tmp_path_factory: pytest.TempPathFactory, body: bytes | dict[str, object]
) -> None:
    folder = tmp_path_factory.mktemp("shm")
    (folder / "frames").write_bytes(PATTERN)
    regions = Regions(None, folder=folder)
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    kind = None
    try:
        http_regions.perform("systemsharedmemory", http_regions.Asked("register", "r"), text, regions)
    except OrchError as error:
        kind = error.kind
    assert kind in {None, Kind.INVALID, Kind.TOO_LARGE}
    assert len(regions.status()) == (kind is None)
    assert all(0 <= found.offset < found.end <= len(PATTERN) for found in regions.status())


# What happens to the object afterwards


def test_an_object_that_shrinks_gives_an_error_and_is_not_made_larger(folder: Path) -> None:
    region = open_region(Registration("r", "frames", 0, 16384), folder)
    os.truncate(folder / "frames", 8192)
    assert "smaller than the 16384 bytes" in refused(Kind.CONFLICT, lambda: read(region, 0, 16384))
    refused(Kind.CONFLICT, lambda: region.write(9000, b"late"))
    assert (folder / "frames").stat().st_size == 8192
    os.truncate(folder / "frames", 16384)
    assert read(region, 0, 8192) == PATTERN[:8192]


def test_reading_beyond_the_end_is_an_error_even_when_the_size_was_right_a_moment_before(folder: Path) -> None:
    region = open_region(Registration("r", "frames", 0, 16384), folder)
    # The size is looked at for the region; a place behind it stands for an object cut between look and copy.
    assert "smaller" in refused(Kind.CONFLICT, lambda: read(region, 16000, 1000))


def test_an_object_may_be_unlinked_early_but_not_be_made_anew_unnoticed(folder: Path) -> None:
    region = open_region(Registration("r", "frames", 0, 4), folder)
    (folder / "frames").unlink()
    assert read(region, 0, 4) == PATTERN[:4]
    (folder / "frames").write_bytes(b"new!")
    assert "names another object now" in refused(Kind.CONFLICT, lambda: read(region, 0, 4))
    refused(Kind.CONFLICT, lambda: region.write(0, b"lost"))


# Registering


def a_table(folder: Path, *names: str) -> Regions:
    """Return regions of 1 KiB each, one behind the other in the object `frames`."""
    regions = Regions(None, folder=folder)
    for number, name in enumerate(names):
        regions.register(Registration(name, "frames", number * 1024, 1024))
    return regions


def test_what_is_registered_is_listed_by_name_until_it_is_forgotten(folder: Path) -> None:
    regions = a_table(folder, "b", "a")
    assert regions.status() == [Registration("a", "frames", 1024, 1024), Registration("b", "frames", 0, 1024)]
    assert regions.status("b") == [Registration("b", "frames", 0, 1024)]
    regions.unregister("b")
    assert "is not registered" in refused(Kind.NOT_FOUND, lambda: regions.status("b"))
    regions.unregister("b")  # as in Triton: forgotten is forgotten
    regions.unregister("")
    assert regions.status() == []


@pytest.mark.parametrize(
    ("wanted", "kind", "text"),
    [
        (Registration("a", "frames", 8192, 1), Kind.CONFLICT, "is registered already"),
        (Registration("c", "frames", 1023, 2), Kind.CONFLICT, "shares bytes of the key 'frames' with the region 'a'"),
        (Registration("c", "frames", 4096, 0), Kind.INVALID, "a byte_size of at least 1"),
        (Registration("c", "frames", -1, 8), Kind.INVALID, "no negative offset"),
        (Registration("", "frames", 4096, 1), Kind.INVALID, "1 to 256 characters"),
        (Registration("n" * 257, "frames", 4096, 1), Kind.INVALID, "1 to 256 characters"),
        (Registration("c", "frames", 4096, 2**40), Kind.TOO_LARGE, "bytes in all"),
        (Registration("c", "gone", 0, 1), Kind.INVALID, "there is no such shared memory object"),
    ],
)
def test_a_registration_that_cannot_be_is_refused(folder: Path, wanted: Registration, kind: Kind, text: str) -> None:
    regions = a_table(folder, "a")
    assert text in refused(kind, lambda: regions.register(wanted))
    assert [found.name for found in regions.status()] == ["a"]


def test_a_hard_link_to_registered_bytes_is_the_same_object(folder: Path) -> None:
    regions = a_table(folder, "a")
    os.link(folder / "frames", folder / "same")
    assert "shares bytes" in refused(Kind.CONFLICT, lambda: regions.register(Registration("c", "same", 0, 1)))


def test_the_number_of_regions_is_bounded(folder: Path) -> None:
    regions = Regions(None, folder=folder)
    for number in range(shared_regions.REGIONS_MAX):
        regions.register(Registration(f"r{number}", "frames", number, 1))
    refused(Kind.TOO_LARGE, lambda: regions.register(Registration("more", "frames", 1000, 1)))


def test_a_tensor_must_lie_within_a_registered_region(folder: Path) -> None:
    regions = a_table(folder, "a", "b")
    assert regions.find(Place("a", 24, 1000), "input 'x'").registration.name == "a"
    assert "'x' is not registered" in refused(Kind.INVALID, lambda: regions.find(Place("x", 0, 1), "input 'x'"))
    text = refused(Kind.INVALID, lambda: regions.find(Place("a", 25, 1000), "input 'x'"))
    assert "input 'x': ends at byte 1025 of the shared memory region 'a', which has 1024" in text


def test_outputs_need_an_object_that_may_be_written(folder: Path) -> None:
    registration = Registration("a", "frames", 0, 16)
    path = folder / "frames"
    region = Region(registration, path, os.open(path, os.O_RDONLY), writable=False)
    assert "cannot be written" in refused(Kind.FAILED, lambda: region.write(0, b"x"))
    regions = Regions(None, folder=folder)
    regions._regions["a"] = region  # root opens everything for writing, so the kernel cannot say no in every test run
    assert regions.find(Place("a", 0, 1), "input 'x'") is region
    assert "may only read" in refused(Kind.INVALID, lambda: regions.find(Place("a", 0, 1), "output 'y'", writing=True))


def open_files(path: Path) -> int:
    links = [Path("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]  # noqa: PTH208
    return sum(str(path) == os.readlink(link) for link in links if link.is_symlink())  # noqa: PTH115


def test_a_request_under_way_keeps_its_region_and_the_last_user_closes_it(folder: Path) -> None:
    regions = a_table(folder, "a")
    outputs = (OutputHead("y", None, 0, Place("a", 8, 16)),)
    shared = SharedTensors(InferHead(None, {}, (), outputs, False, None, None), regions, TensorPool())
    regions.unregister("")
    assert open_files(folder / "frames") == 1
    shared.store(Place("a", 8, 16), np.array([1.5, 2.5], np.float64).view(np.uint8).data)
    assert np.frombuffer((folder / "frames").read_bytes()[8:24]).tolist() == [1.5, 2.5]
    del shared
    assert open_files(folder / "frames") == 0


def test_a_large_input_is_fetched_in_pieces_and_kept_for_the_request(folder: Path) -> None:
    size = 2 * PIECE_BYTES + 8
    with (folder / "large").open("wb") as file:
        file.truncate(size)
        file.seek(size - 8)
        file.write(PATTERN[1:9])
    regions = Regions(None, folder=folder)
    regions.register(Registration("large", "large", 0, size))
    head = InferHead(None, {}, (InputHead("x", "UINT8", (size,), None, None, Place("large", 0, size)),), *REST)
    layout = plan_inputs(head, Signature("m", "1", (a_tensor("x", size, datatype="UINT8"),), (), 1))
    pool = TensorPool()
    shared = SharedTensors(head, regions, pool)
    assert sum(1 for _ in shared.fetch(layout)) == 3
    (folder / "large").write_bytes(b"")
    array = shared.read(layout.slots[0], Place("large", 0, size))
    assert array[-9:].tobytes() == b"\0" + PATTERN[1:9]
    shared.recycle()
    assert pool.take(array.dtype, array.shape) is array


# Whether it is offered


@pytest.mark.parametrize(
    ("endpoint", "refusal"),
    [
        (EndpointPlan(http="127.0.0.1:8000", grpc="[::1]:8001"), None),
        (EndpointPlan(http=None, grpc="localhost:8001"), None),
        (EndpointPlan(http="0.0.0.0:8000", grpc=None), shared_regions.LOOPBACK_ONLY),
        (EndpointPlan(http="127.0.0.1:8000", grpc="192.168.1.5:8001"), shared_regions.LOOPBACK_ONLY),
        (EndpointPlan(http="0.0.0.0:8000", grpc=None, shared_memory=True), None),
        (EndpointPlan(http="127.0.0.1:8000", grpc=None, shared_memory=False), shared_regions.NOT_OFFERED),
    ],
)
def test_shared_memory_is_offered_on_loopback_unless_the_manifest_says_otherwise(
    endpoint: EndpointPlan, refusal: str | None
) -> None:
    assert refusal_of_shared_memory(endpoint) == refusal


def test_where_it_is_not_offered_every_use_says_so(folder: Path) -> None:
    regions = Regions(shared_regions.LOOPBACK_ONLY, folder=folder)
    assert not regions.offered
    for use in (
        lambda: regions.register(Registration("a", "frames", 0, 1)),
        lambda: regions.unregister(""),
        regions.status,
        lambda: regions.find(Place("a", 0, 1), "input 'x'"),
    ):
        assert "not offered here, at an endpoint that other machines can reach" in refused(Kind.UNSUPPORTED, use)


# The next worker


def kept(path: Path) -> KeptRegions:
    return KeptRegions(path, lambda work: work())


def test_the_next_worker_knows_what_was_registered(folder: Path, tmp_path: Path) -> None:
    first = Regions(None, folder=folder, kept=kept(tmp_path / "regions.json"))
    first.register(Registration("a", "/frames", 0, 1024))
    first.register(Registration("b", "/frames", 1024, 1024))
    first.unregister("b")
    second = Regions(None, folder=folder, kept=kept(tmp_path / "regions.json"))
    second.take_up()
    assert second.status() == [Registration("a", "/frames", 0, 1024)]
    assert read(second.find(Place("a", 0, 4), "input 'x'"), 0, 4) == PATTERN[:4]


def test_while_a_worker_is_replaced_each_knows_what_the_other_was_told(folder: Path, tmp_path: Path) -> None:
    old, new = (Regions(None, folder=folder, kept=kept(tmp_path / "regions.json")) for _ in range(2))
    new.take_up()
    old.register(Registration("a", "frames", 0, 1024))
    assert new.find(Place("a", 0, 1), "input 'x'").registration.name == "a"
    new.register(Registration("b", "frames", 1024, 1024))
    old.register(Registration("c", "frames", 2048, 1024))
    third = Regions(None, folder=folder, kept=kept(tmp_path / "regions.json"))
    assert [found.name for found in third.status()] == ["a", "b", "c"]


def test_an_object_that_is_not_the_one_that_was_registered_is_left_out(folder: Path, tmp_path: Path) -> None:
    first = Regions(None, folder=folder, kept=kept(tmp_path / "regions.json"))
    first.register(Registration("a", "frames", 0, 1024))
    (folder / "other").write_bytes(PATTERN)
    (folder / "other").replace(folder / "frames")
    assert Regions(None, folder=folder, kept=kept(tmp_path / "regions.json")).status() == []
    (folder / "frames").unlink()
    assert Regions(None, folder=folder, kept=kept(tmp_path / "regions.json")).status() == []


@pytest.mark.parametrize("text", ["", "{", "[1]", '[{"name": 1}]', '{"name": "a"}', "[]" * 3])
def test_a_damaged_file_loses_the_registrations_and_nothing_else(folder: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "regions.json").write_text(text)
    regions = Regions(None, folder=folder, kept=kept(tmp_path / "regions.json"))
    regions.register(Registration("a", "frames", 0, 1024))
    assert [found.name for found in regions.status()] == ["a"]


def test_what_changes_while_the_file_is_written_is_written_after_it(folder: Path, tmp_path: Path) -> None:
    waiting: list[Callable[[], None]] = []
    regions = Regions(None, folder=folder, kept=KeptRegions(tmp_path / "regions.json", waiting.append))
    for number in range(3):
        regions.register(Registration(f"r{number}", "frames", number, 1))
    (work,) = waiting
    work()
    assert len(Regions(None, folder=folder, kept=kept(tmp_path / "regions.json")).status()) == 3


def test_a_file_that_cannot_be_written_stops_nobody(folder: Path, tmp_path: Path) -> None:
    regions = Regions(None, folder=folder, kept=kept(tmp_path / "nowhere" / "regions.json"))
    regions.register(Registration("a", "frames", 0, 1024))
    assert len(regions.status()) == 1
