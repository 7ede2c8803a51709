"""Device strings are parsed, written back, and refused with what is allowed."""

from __future__ import annotations

import re

import pytest

from orchestrator.manifest.target import Mode, Target, parse_target


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("CPU", Target(Mode.DIRECT, ("CPU",))),
        ("GPU.1", Target(Mode.DIRECT, ("GPU.1",))),
        ("GPU.0.1", Target(Mode.DIRECT, ("GPU.0.1",))),
        ("XPU2", Target(Mode.DIRECT, ("XPU2",))),
        ("AUTO", Target(Mode.AUTO, ())),
        ("AUTO:GPU,CPU", Target(Mode.AUTO, ("GPU", "CPU"))),
        ("AUTO:GPU,-CPU", Target(Mode.AUTO, ("GPU",), ("CPU",))),
        ("MULTI:GPU.1,GPU.0", Target(Mode.MULTI, ("GPU.1", "GPU.0"))),
        ("HETERO:GPU,CPU", Target(Mode.HETERO, ("GPU", "CPU"))),
        ("BATCH:GPU", Target(Mode.BATCH, ("GPU",))),
        ("BATCH:GPU(16)", Target(Mode.BATCH, ("GPU",), batch=16)),
    ],
)
def test_a_device_string_is_parsed_and_written_back(text: str, target: Target) -> None:
    assert parse_target(text) == target
    assert str(target) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is not a device name"),
        ("cpu", "did you mean 'CPU'"),
        ("gpu.1", "did you mean 'GPU.1'"),
        ("GUP", "did you mean 'GPU'"),
        ("AUTO:GUP,CPU", "did you mean 'GPU'"),
        ("MULIT:GPU,CPU", "did you mean 'MULTI'"),
        ("auto:GPU", "did you mean 'AUTO'"),
        ("CPU:GPU", "only AUTO, BATCH, HETERO, MULTI take devices after a colon"),
        ("AUTO:GPU, CPU", "must not contain spaces, got 'AUTO:GPU, CPU': write 'AUTO:GPU,CPU'"),
        ("CPU.0", "OpenVINO has one CPU device"),
        ("MULTI", "MULTI needs its devices"),
        ("AUTO:", "is not a device name"),
        ("AUTO:GPU,", "is not a device name"),
        ("AUTO:CPU,CPU", "names a device twice"),
        ("AUTO:CPU,-CPU", "names a device twice"),
        ("MULTI:-CPU", "only AUTO can exclude devices"),
        ("MULTI:AUTO,CPU", "AUTO cannot stand inside another virtual device"),
        ("BATCH:GPU,CPU", "is not a device name"),
        ("BATCH:GPU(0)", "must be at least 1"),
        ("BATCH:GPU(x)", "BATCH takes one device and a size"),
        ("AUTO:" + ",".join(f"GPU.{i}" for i in range(33)), "names more than 32 devices"),
    ],
)
def test_what_is_no_device_is_refused_with_what_is_allowed(text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=re.escape(expected)):
        parse_target(text)
