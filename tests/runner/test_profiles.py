"""Profiles travel as files, and decide on a machine that is not there as they would on their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import OrchError
from orchestrator.inventory.fingerprint import fingerprint
from orchestrator.planner.arms import candidates
from orchestrator.planner.decision import Decision
from orchestrator.profiling.measurement import Arm, ArmProfile, Block, Profile
from orchestrator.profiling.store import ProfileStore
from orchestrator.runner.decide import Ask, never, silent
from orchestrator.runner.measuring import measuring, stored_profiles
from orchestrator.runner.profiles import from_profiles, lacking, read_profiles, write_profiles
from tests.builders import a_deployment, a_model, an_inventory, model_infos
from tests.builders_decision import a_read_back, latencies

ROUNDS = 4
DEPLOYMENT = a_deployment(a_model(slo={"latency": "200ms", "rate": "25/s"}, traffic={"arrivals": "poisson"}))
INFOS = model_infos(DEPLOYMENT)
INVENTORY = an_inventory()


def an_arm_profile(arm: Arm, median_s: float) -> ArmProfile:
    actual = a_read_back(arm)
    blocks = tuple(
        Block(
            arm=arm.key,
            round=number,
            concurrency=concurrency,
            seconds=1.0,
            completed=int(concurrency / median_s),
            service_s=latencies(60, median_s, 0.05, seed=number),
        )
        for number in range(ROUNDS)
        for concurrency in sorted({1, actual.requests})
    )
    return ArmProfile(arm=arm, actual=actual, compile_s=0.5, blocks=blocks)


def a_profile(**over: object) -> Profile:
    """Return a profile of all arms: thin streams take 40 ms, fat ones 30 ms."""
    arms = [each.arm for each in candidates(DEPLOYMENT.spec.models[0], INFOS["detector"], INVENTORY, cpus=2)]
    fields = {
        "model_sha256": INFOS["detector"].sha256,
        "fingerprint": fingerprint(INVENTORY),
        "openvino": INVENTORY.openvino,
        "cpus": 2,
        "arms": tuple(an_arm_profile(arm, 0.03 if a_read_back(arm).streams == 1 else 0.04) for arm in arms),
    }
    return Profile(**{**fields, **over})  # type: ignore[arg-type]


def an_ask(mode: str = "predict") -> Ask:
    return Ask(DEPLOYMENT, INFOS, INVENTORY, 2, None, {"detector": mode}, 60.0)  # type: ignore[dict-item]


def decided(*profiles: Profile) -> dict[str, Decision]:
    return dict(from_profiles(profiles)(an_ask(), silent, never))


def test_a_profile_decides_without_the_machine_and_proves_nothing() -> None:
    decision = decided(a_profile())["detector"]
    assert decision.verdict == "unverified"
    assert decision.capacity is not None
    assert decision.capacity.per_s > 25
    assert decision.arm.properties["NUM_STREAMS"] == "2"
    assert decided(a_profile()) == {"detector": decision}, "same profile, same decision"


def test_a_profile_brings_along_how_long_answers_took_when_served() -> None:
    """Seen to predict 915/s elsewhere of an arm that was known to carry 710/s here."""
    plain, taught = decided(a_profile())["detector"], decided(a_profile(stretch=2.5))["detector"]
    assert (plain.stretch, taught.stretch) == (1.0, 2.5)
    assert plain.capacity is not None
    assert taught.capacity is not None
    assert taught.capacity.per_s < 0.8 * plain.capacity.per_s


@pytest.mark.parametrize(
    "over",
    [
        {"fingerprint": "0" * 16},
        {"model_sha256": "b" * 64},
        {"cpus": 1},
        {"shapes": {"image": (1, 3, 8, 8)}},
        {"arms": ()},
    ],
)
def test_a_profile_of_something_else_decides_nothing(over: dict[str, object]) -> None:
    assert decided(a_profile(**over)) == {}


@pytest.mark.parametrize(
    ("over", "words"),
    [
        (
            {"fingerprint": "0" * 16, "cpus": 4},
            f"its profile is of another machine, {'0' * 16} with 4 cores and OpenVINO {INVENTORY.openvino}, and this "
            f"plan is for {fingerprint(INVENTORY)} with 2 cores and OpenVINO {INVENTORY.openvino}; measure it where",
        ),
        ({"model_sha256": "b" * 64}, "no profile named is of this model file (aaaaaaaaaaaa...); measure it where"),
        ({"cpus": 1}, "its profile is of 1 of this machine's cores, and 2 are planned for; state `resources.cpus`"),
        ({"arms": ()}, "its profile has other input shapes, or is not complete enough; measure it where"),
    ],
)
def test_a_profile_that_decides_nothing_is_told_with_what_differs(over: dict[str, object], words: str) -> None:
    """Seen to advise naming the profile that was named, and measuring a machine that is not here."""
    assert lacking([a_profile(**over)])(an_ask(), "detector").startswith(f"detector is planned by rule: {words}")
    assert "no profile is named" in lacking([])(an_ask(), "detector")


def test_profiles_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "digits.profiles"
    write_profiles(path, [a_profile(cpus=2), a_profile(cpus=1)])
    assert read_profiles(path) == (a_profile(cpus=1), a_profile(cpus=2))


def test_a_file_that_holds_no_profiles_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "x.profiles"
    with pytest.raises(OrchError, match="cannot be read: No such file"):
        read_profiles(path)
    path.write_text('{"kind": "ProfileList", "items": [{"cpus": 2}]}')
    with pytest.raises(OrchError, match=r"items\[0\]\.model_sha256") as caught:
        read_profiles(path)
    assert "--write-profile" in str(caught.value.problems[0].hint)
    with pytest.raises(OrchError, match="cannot be written"):
        write_profiles(tmp_path / "nowhere" / "x", [])


def test_predicting_here_uses_what_is_stored_and_measures_nothing(tmp_path: Path) -> None:
    predict = measuring(tmp_path)
    assert predict(an_ask(), silent, never) == {}
    ProfileStore(tmp_path / "profiles").save(a_profile())
    assert predict(an_ask(), silent, never) == decided(a_profile())


def test_what_is_stored_of_a_model_can_be_listed_for_export(tmp_path: Path) -> None:
    store = ProfileStore(tmp_path / "profiles")
    store.save(a_profile())
    store.save(a_profile(cpus=1))
    store.save(a_profile(fingerprint="0" * 16))
    (tmp_path / "profiles" / f"{INFOS['detector'].sha256[:12]}-broken.json").write_text("{")
    found = stored_profiles(tmp_path, INFOS["detector"].sha256, fingerprint(INVENTORY))
    assert sorted(profile.cpus for profile in found) == [1, 2]
    assert stored_profiles(tmp_path, "b" * 64, fingerprint(INVENTORY)) == ()
