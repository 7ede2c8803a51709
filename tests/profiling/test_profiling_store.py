"""Profiles in files: kept, found again, merged, bounded, and never believed when broken."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.profiling import store as stores
from orchestrator.profiling.measurement import Arm, ArmProfile, Block, Profile, ReadBack
from orchestrator.profiling.store import Key, ProfileStore


def an_arm_profile(streams: int, completed: int = 10) -> ArmProfile:
    arm = Arm(name=f"{streams} streams", device="CPU", expression="explicit", properties={"NUM_STREAMS": str(streams)})
    actual = ReadBack(properties={}, streams=streams, threads=2, requests=streams, execution_devices=("CPU",))
    block = Block(arm=arm.key, round=0, concurrency=1, seconds=0.5, completed=completed, service_s=(0.05,) * completed)
    return ArmProfile(arm=arm, actual=actual, compile_s=0.1, blocks=(block,))


def a_profile(*arms: ArmProfile, **over: object) -> Profile:
    fields = {"model_sha256": "a" * 64, "fingerprint": "f" * 16, "openvino": "2026.4.1", "cpus": 2}
    return Profile(**{**fields, "arms": arms, **over})


def test_what_was_saved_is_found_again(tmp_path: Path) -> None:
    profile = a_profile(an_arm_profile(1), an_arm_profile(2), resolution=0.03, shapes={"x": (1, "1..8")})
    store = ProfileStore(tmp_path / "profiles")
    store.save(profile)
    found = store.load(Key.of(profile))
    assert found is not None
    assert found == profile


@pytest.mark.parametrize(
    "other", [{"fingerprint": "e" * 16}, {"openvino": "2027.0"}, {"cpus": 1}, {"shapes": {"x": (1, 8)}}]
)
def test_another_machine_engine_size_or_shape_is_another_profile(tmp_path: Path, other: dict[str, object]) -> None:
    store = ProfileStore(tmp_path)
    store.save(a_profile(an_arm_profile(1)))
    assert store.load(Key.of(a_profile(**other))) is None


def test_arms_of_an_earlier_profile_stay_unless_measured_again(tmp_path: Path) -> None:
    store = ProfileStore(tmp_path)
    store.save(a_profile(an_arm_profile(1, 10), an_arm_profile(2, 10)))
    store.save(a_profile(an_arm_profile(2, 99), an_arm_profile(4, 99)))
    found = store.load(Key.of(a_profile()))
    assert found is not None
    counts = {each.arm.name: each.blocks[0].completed for each in found.arms}
    assert counts == {"1 streams": 10, "2 streams": 99, "4 streams": 99}


def test_arms_of_another_time_give_way_to_those_that_they_would_be_compared_with(tmp_path: Path) -> None:
    store, (one, two, four) = ProfileStore(tmp_path), (an_arm_profile(streams) for streams in (1, 2, 4))
    store.save(a_profile(one, two, four))
    store.save(a_profile(an_arm_profile(2, 99)), instead_of={one.arm.compiled_key, two.arm.compiled_key})
    found = store.load(Key.of(a_profile()))
    assert found is not None
    assert {each.arm.name: each.blocks[0].completed for each in found.arms} == {"2 streams": 99, "4 streams": 10}


def test_what_a_proof_taught_stays_until_another_teaches_more(tmp_path: Path) -> None:
    store = ProfileStore(tmp_path)
    for taught, kept in ((None, None), (1.4, 1.4), (None, 1.4), (1.1, 1.1)):
        store.save(a_profile(an_arm_profile(1), stretch=taught))
        found = store.load(Key.of(a_profile()))
        assert found is not None
        assert found.stretch == kept


@pytest.mark.parametrize("text", ["", "{", '{"kind": "Profile"}', "\x00" * 100])
def test_a_broken_file_is_as_if_it_were_not_there_and_is_replaced(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    profile, store = a_profile(an_arm_profile(1)), ProfileStore(tmp_path)
    (tmp_path / Key.of(profile).file_name).write_text(text)
    assert store.load(Key.of(profile)) is None
    assert "is no profile" in caplog.text
    store.save(profile)
    assert store.load(Key.of(profile)) == profile


def test_a_file_under_another_key_is_not_believed(tmp_path: Path) -> None:
    store, profile = ProfileStore(tmp_path), a_profile(an_arm_profile(1))
    store.save(profile)
    other = Key.of(a_profile(cpus=4))
    (tmp_path / Key.of(profile).file_name).rename(tmp_path / other.file_name)
    assert store.load(other) is None


def test_the_least_lately_written_go_when_there_are_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "PROFILES_MAX", 2)
    store, profiles = ProfileStore(tmp_path), [a_profile(an_arm_profile(1), cpus=cpus) for cpus in (1, 2, 3)]
    for age, profile in enumerate(profiles):
        store.save(profile)
        path = tmp_path / Key.of(profile).file_name
        if path.exists():
            os.utime(path, (age, age))
    store.save(profiles[2])
    assert [store.load(Key.of(profile)) is not None for profile in profiles] == [False, True, True]


def test_a_folder_that_cannot_be_written_loses_the_profile_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    ProfileStore(tmp_path / "file" / "profiles").save(a_profile(an_arm_profile(1)))
    assert "could not be kept" in caplog.text


def test_no_staging_files_are_left(tmp_path: Path) -> None:
    ProfileStore(tmp_path).save(a_profile(an_arm_profile(1)))
    assert len(list(tmp_path.iterdir())) == 1
