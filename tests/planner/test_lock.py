"""Locks: the same bytes, read back as written, merged by machine, and every drift told by name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import Kind, OrchError
from orchestrator.inventory.device import Inventory
from orchestrator.inventory.fingerprint import fingerprint
from orchestrator.manifest.spec import Deployment
from orchestrator.planner.decision import Decision
from orchestrator.planner.lock import AGAIN, Lock, drift, locked, settled
from orchestrator.planner.lock_text import HINT, from_yaml, lock_name, to_yaml
from tests.builders import a_deployment, a_model, a_model_info, an_inventory, model_infos
from tests.builders_decision import a_capacity, a_decision, a_proof, a_rejected, an_arm

GOLDEN = Path(__file__).parent.parent / "golden" / "locks" / "resnet50.lock.yaml"
SLO = {"latency": "200ms", "rate": "25/s"}
SHA = a_model_info().sha256


def wanted(name: str = "resnet50", **over: Any) -> Deployment:
    return a_deployment(a_model(name, **{"slo": SLO, **over}))


def decided(**over: Any) -> Decision:
    """Return a decision whose every figure stands here, because the recorded lock shows it."""
    figures: dict[str, Any] = {
        "model_sha256": SHA,
        "sentences": ("Two streams carry 41.5/s.", "Would change: SLO."),
        "capacity": a_capacity(41.5, formula=40.2),
        "service_s": 0.0395,
        "service_p99_s": 0.0432,
        "alone_s": 0.0389,
        "per_s": 50.1,
        "proof": a_proof(
            rate_per_s=31.25,
            sent=299,
            answered=299,
            latency_s=tuple(0.05 + 0.0001 * i for i in range(299)),
            reason="ok",
        ),
        "floor_s": 0.0253,
        "rejected": (a_rejected(an_arm(1, 2), 33.0, reason="carries less", service_s=0.0217, per_s=46.0),),
        "resolution": 0.024,
        "seconds": 38.2,
        "compiled": 5,
    }
    return a_decision(**figures | over)


def a_lock(deployment: Deployment | None = None, inventory: Inventory | None = None, cpus: int = 2) -> Lock:
    return locked(None, deployment or wanted(), inventory or an_inventory(), cpus, {"resnet50": decided()})


def drifts(lock: Lock, deployment: Deployment, inventory: Inventory | None = None, cpus: int = 2) -> list[str]:
    found = drift(lock, deployment, model_infos(deployment), inventory or an_inventory(), cpus)
    return [f"{each.kind} {each.model}: {each.what}" for each in found]


def test_a_lock_reads_as_recorded(update_golden: bool) -> None:
    text = to_yaml(a_lock())
    if update_golden:
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8")


def test_a_lock_is_read_back_as_it_was_written_and_written_again_with_the_same_bytes() -> None:
    lock = a_lock()
    text = to_yaml(lock)
    assert from_yaml(text, "x.lock.yaml") == lock
    assert to_yaml(from_yaml(text, "x.lock.yaml")) == text


def test_decisions_come_back_settled_whatever_was_given() -> None:
    decision = decided(service_s=0.123456789)
    lock = locked(None, wanted(), an_inventory(), 2, {"resnet50": decision})
    back = lock.decisions(fingerprint(an_inventory()), "shop")["resnet50"]
    assert back == settled(decision) == settled(settled(decision))
    assert back.service_s == 0.1235
    assert back.proof is not None
    assert back.proof.latency_s == ()


def test_a_machine_is_added_beside_others_and_replaces_only_itself() -> None:
    other = an_inventory(cpus=4)
    both = locked(a_lock(), wanted(), other, 4, {"resnet50": decided(per_s=99.0)})
    again = locked(both, wanted(), an_inventory(), 2, {"resnet50": decided(per_s=51.0)})
    assert {machine.fingerprint for machine in again.machines} == {fingerprint(an_inventory()), fingerprint(other)}
    assert again.decisions(fingerprint(other), "shop")["resnet50"].per_s == 99.0
    assert again.decisions(fingerprint(an_inventory()), "shop")["resnet50"].per_s == 51.0


def test_deployments_of_one_file_stand_side_by_side() -> None:
    second = a_deployment(a_model("resnet50", slo=SLO), name="other")
    lock = locked(a_lock(), second, an_inventory(), 2, {"resnet50": decided()})
    assert drifts(lock, wanted()) == drifts(lock, second) == []


def test_what_fits_has_no_drift() -> None:
    assert drifts(a_lock(), wanted()) == []


def test_what_does_not_decide_a_plan_is_no_drift() -> None:
    assert drifts(a_lock(), wanted(queue={"limit": 5}, version="7")) == []


# Seen to fail when `asked` was not compared, and when only the fingerprint was.
@pytest.mark.parametrize(
    ("over", "told"),
    [
        (
            {"slo": {"latency": "100ms", "rate": "25/s"}},
            "slo resnet50: slo was latency 200ms, percentile 99.0, rate 25/s "
            "and is latency 100ms, percentile 99.0, rate 25/s",
        ),
        ({"device": "AUTO:CPU"}, "manifest resnet50: device was CPU and is AUTO:CPU"),
        (
            {"traffic": {"arrivals": "constant"}},
            "manifest resnet50: traffic was arrivals poisson and is arrivals constant",
        ),
        (
            {"properties": {"INFERENCE_PRECISION_HINT": "f32"}},
            "manifest resnet50: properties was not stated and is INFERENCE_PRECISION_HINT f32",
        ),
        ({"shapes": {"image": [1, 3, 8, 8]}}, "manifest resnet50: shapes was not stated and is image 1, 3, 8, 8"),
    ],
)
def test_drift_of_the_manifest_is_named_with_both_values(over: dict[str, Any], told: str) -> None:
    assert drifts(a_lock(), wanted(**over)) == [told]


def test_drift_of_the_model_file_is_named() -> None:
    lock = locked(None, wanted(), an_inventory(), 2, {"resnet50": a_decision(model_sha256="b" * 64)})
    assert drifts(lock, wanted()) == ["model resnet50: the model file was bbbbbbbbbbbb... and is aaaaaaaaaaaa..."]


def test_drift_of_the_weights_beside_an_ir_is_named() -> None:
    """Seen to fit while only the digest of the .xml was locked: other weights were served as verified."""
    lock = locked(None, IR, an_inventory(), 2, {"resnet50": decided()}, {"resnet50": "b" * 64})
    assert weights_drift(lock, "b" * 64) == []
    assert weights_drift(lock, "c" * 64) == [
        "model resnet50: the weights rn.bin were bbbbbbbbbbbb... and are cccccccccccc..."
    ]
    assert from_yaml(to_yaml(lock), "x.lock.yaml") == lock


def test_a_lock_that_does_not_know_the_weights_fits_whatever_they_are() -> None:
    assert weights_drift(a_lock(IR), "c" * 64) == []


IR = wanted(source="models/rn.xml")


def weights_drift(lock: Lock, weights: str) -> list[str]:
    infos = {"resnet50": a_model_info(weights_sha256=weights)}
    return [f"{each.kind} {each.model}: {each.what}" for each in drift(lock, IR, infos, an_inventory(), 2)]


def test_drift_of_openvino_is_told_from_drift_of_the_machine() -> None:
    newer = an_inventory().model_copy(update={"openvino": "2027.0.0"})
    assert drifts(a_lock(), wanted(), newer) == [
        "openvino None: the lock is for OpenVINO 2026.4.1, and this is 2027.0.0"
    ]
    (told,) = drifts(a_lock(), wanted(), an_inventory(cpus=4))
    assert told.startswith("machine None: the lock does not know this machine (")
    assert told.endswith("differs in effective_cpus 2 there, 4 here")


def test_the_machine_most_like_this_one_is_compared_with() -> None:
    lock = locked(a_lock(), wanted(), an_inventory(cpus=8, cpu="AMD EPYC"), 8, {"resnet50": decided()})
    (told,) = drifts(lock, wanted(), an_inventory(cpus=4))
    assert "effective_cpus 2 there, 4 here" in told


def test_fewer_cores_than_planned_are_a_drift() -> None:
    assert drifts(a_lock(), wanted(), cpus=1) == ["cores None: the lock is for 2 cores, and 1 is to be had now"]


@pytest.mark.parametrize(
    ("stated", "now", "hint"),
    [
        (None, 1, "stop other deployments, state `resources.cpus: 2`, or plan anew"),
        (None, 4, "state `resources.cpus: 2` or plan anew"),
        (1, 1, "state `resources.cpus: 2` or plan anew"),
        (2, 1, "stop other deployments or plan anew"),
    ],
)
def test_what_gives_back_the_cores_is_what_is_advised(stated: int | None, now: int, hint: str) -> None:
    """Seen to advise stating resources.cpus to who had just stated it."""
    deployment = a_deployment(a_model("resnet50", slo=SLO), resources={"cpus": stated} if stated else {})
    (found,) = drift(a_lock(), deployment, model_infos(deployment), an_inventory(), now)
    assert found.hint == f"{hint}: orch plan --write-lock FILE"
    assert ("the manifest states 1" in found.what) == (stated == now)


def test_models_that_came_and_went_are_named() -> None:
    both = a_deployment(a_model("resnet50", slo=SLO), a_model("second", slo=SLO))
    assert drifts(a_lock(), both) == ["manifest second: the lock does not have this model"]
    only = a_deployment(a_model("second", slo=SLO))
    assert "manifest resnet50: the manifest no longer has this model" in drifts(a_lock(), only)


def test_models_beside_which_others_were_decided_together_are_compared_too() -> None:
    """Seen to fit when a model with `compile`, or without a rate, was added to a set that was planned together."""
    two = (a_model("one", slo=SLO), a_model("two", slo=SLO))
    decisions = {name: decided(model=name) for name in ("one", "two")}
    free, fixed = a_model("free"), a_model("fixed", slo=SLO, compile={"hint": "LATENCY"})
    plain = locked(None, a_deployment(*two), an_inventory(), 2, decisions)
    assert drifts(plain, a_deployment(*two)) == []
    for name, added in (("free", free), ("fixed", fixed)):
        what = "the lock's models were planned together without this one"
        assert drifts(plain, a_deployment(*two, added)) == [f"manifest {name}: {what}"]
    assert drifts(plain, a_deployment(*two, a_model("gpu", device="GPU"))) == [], "it takes none of these cores"
    beside = locked(None, a_deployment(*two, free, fixed), an_inventory(), 2, decisions)
    assert drifts(beside, a_deployment(*two, free, fixed)) == []
    assert drifts(beside, a_deployment(*two, fixed)) == [
        "manifest free: the manifest no longer has this model on the CPU"
    ]
    faster = a_model("fixed", slo=SLO, compile={"hint": "THROUGHPUT"})
    assert drifts(beside, a_deployment(*two, free, faster)) == [
        "manifest fixed: compile was hint LATENCY and is hint THROUGHPUT"
    ]
    assert from_yaml(to_yaml(beside), "x.lock.yaml") == beside
    assert from_yaml(to_yaml(plain), "x.lock.yaml") == plain


def test_a_model_that_was_decided_by_itself_and_an_older_lock_do_not_ask_who_else_there_is() -> None:
    assert drifts(a_lock(), a_deployment(a_model("resnet50", slo=SLO), a_model("free"))) == []
    assert "beside" not in to_yaml(a_lock())


def test_a_deployment_that_is_not_in_the_lock_is_missing() -> None:
    other = a_deployment(a_model("resnet50", slo=SLO), name="other")
    assert drifts(a_lock(), other) == ["missing None: the lock has no deployment 'other' for this machine"]
    assert drifts(Lock(), other) == ["missing None: the lock is empty"]
    assert AGAIN.endswith("orch plan --write-lock FILE")


def test_an_unknown_key_is_refused_at_its_line() -> None:
    text = to_yaml(a_lock()).replace("openvino: 2026.4.1", "openvno: 2026.4.1", 1)
    with pytest.raises(OrchError, match=r"x\.lock\.yaml:\d+:\d+: machines\[0\]") as caught:
        from_yaml(text, "x.lock.yaml")
    assert caught.value.kind is Kind.INVALID


def test_what_was_asked_changed_by_hand_is_refused_at_its_line() -> None:
    text = to_yaml(a_lock()).replace("200ms", "300ms", 1)
    with pytest.raises(OrchError, match=r"x\.lock\.yaml:\d+:\d+: .*changed by hand"):
        from_yaml(text, "x.lock.yaml")


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("INFERENCE_NUM_THREADS: '2'", "INFERENCE_NUM_THREADS: '64'", "models.resnet50.digest: is not the digest of"),
        ("per_s: 41.5, low", "per_s: 99.5, low", "models.resnet50.digest: is not the digest of"),
        ("effective_cpus: 2", "effective_cpus: 4", r"machines\[0\].fingerprint: is not that of the machine's facts"),
        ("fingerprint: 1", "fingerprint: a", r"machines\[0\].fingerprint: is not that of the machine's facts"),
        ("  openvino: 2026.4.1\n  f", "  openvino: 2027.0.0\n  f", r"machines\[0\].openvino: is not that of the"),
    ],
)
def test_a_machine_or_decision_changed_by_hand_is_refused_at_its_line(before: str, after: str, told: str) -> None:
    """Seen to fit, and to be called unlike this machine in nothing."""
    text = to_yaml(a_lock())
    assert before in text
    with pytest.raises(OrchError, match=rf"x\.lock\.yaml:\d+:\d+: .*{told}.*: it was changed by hand"):
        from_yaml(text.replace(before, after, 1), "x.lock.yaml")


def test_a_lock_of_a_version_without_digests_is_read_as_it_was() -> None:
    text = re.sub("\n +digest: .*", "", to_yaml(a_lock()))
    assert "digest" not in text
    assert drifts(from_yaml(text, "x.lock.yaml"), wanted()) == []


def test_one_machine_twice_is_refused_with_both_places() -> None:
    """Seen to take the first entry in silence: a union merge leaves two."""
    lock = a_lock()
    twice = lock.model_copy(update={"machines": lock.machines * 2})
    with pytest.raises(OrchError, match=r"machines\[1\]\.fingerprint: is the machine of machines\[0\] too") as caught:
        from_yaml(to_yaml(twice), "x.lock.yaml")
    (problem,) = caught.value.problems
    assert problem.hint == "keep one of the two entries, or " + HINT


def test_a_merge_conflict_is_called_one_and_told_how_to_end() -> None:
    """Seen to be a YAML error that did not mention the conflict."""
    text = to_yaml(a_lock())
    at = text.index("  deployments:")
    torn = f"{text[:at]}<<<<<<< HEAD\n{text[at:]}=======\n{text[at:]}>>>>>>> theirs\n"
    line = text[:at].count("\n") + 1
    with pytest.raises(OrchError, match=rf"x.lock.yaml:{line}:1: has merge-conflict markers at line {line}$") as caught:
        from_yaml(torn, "x.lock.yaml")
    (problem,) = caught.value.problems
    assert problem.hint.startswith("resolve the conflict, or delete the file, and write it anew with: orch plan")


def test_the_lock_stands_beside_its_manifest() -> None:
    assert (lock_name("shop.yaml"), lock_name("shop.yml")) == ("shop.lock.yaml", "shop.lock.yaml")
