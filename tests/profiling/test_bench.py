"""A bench as a process: what it measures of a real model, and what becomes of one that crashes, hangs or loses us."""

from __future__ import annotations

import os
import select
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import topologies
from orchestrator.errors import Kind, OrchError
from orchestrator.profiling.bench import PAUSE_MAX_S, PAUSE_MIN_S, pauses
from orchestrator.profiling.children import BenchChild, environment
from orchestrator.profiling.measurement import Arm, ArmProfile
from orchestrator.profiling.wire import ToRun

TIMEOUT_S = 60.0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return topologies.save("tiny_mlp", tmp_path_factory.mktemp("models"))


def an_arm(streams: int = 2, **over: object) -> Arm:
    properties = {"NUM_STREAMS": str(streams), "INFERENCE_NUM_THREADS": "2", "ENABLE_CPU_PINNING": "NO"}
    return Arm(**{"name": "an arm", "device": "CPU", "expression": "explicit", "properties": properties, **over})


@pytest.fixture
def bench() -> Iterator[BenchChild]:
    with BenchChild() as child:
        yield child


def compiled(bench: BenchChild, path: Path, arm: Arm) -> ArmProfile:
    return bench.compile(arm, str(path), {}, "tiny", TIMEOUT_S)


def test_a_compiled_arm_is_read_back_and_its_blocks_hold_what_ran(bench: BenchChild, model: Path) -> None:
    arm = an_arm(streams=2)
    profile = compiled(bench, model, arm)
    assert (profile.arm, profile.actual.streams, profile.actual.requests) == (arm, 2, 2)
    assert profile.compile_s > 0
    assert profile.memory_bytes
    for number, concurrency in enumerate((1, 2)):
        block = bench.block(ToRun(concurrency=concurrency, seconds=0.1, round=number), TIMEOUT_S)
        assert (block.arm, block.round, block.concurrency) == (arm.key, number, concurrency)
        assert block.completed >= len(block.service_s) > 0
        assert min(block.service_s) > 0
        assert 0 <= block.host.foreign <= 1


def test_a_paced_block_says_so_and_runs_one_at_a_time(bench: BenchChild, model: Path) -> None:
    compiled(bench, model, an_arm())
    block = bench.block(ToRun(concurrency=1, seconds=0.1, paced=True), TIMEOUT_S)
    assert (block.paced, block.concurrency) == (True, 1)
    assert block.completed >= len(block.service_s) > 0
    assert sum(block.service_s) < 0.7 * block.seconds, "the pauses are the rest"
    with pytest.raises(OrchError, match="one inference is under way at a time"):
        bench.block(ToRun(concurrency=2, seconds=0.1, paced=True), TIMEOUT_S)


def test_pauses_are_twice_an_inference_in_the_mean_within_bounds() -> None:
    for took_s, mean_s in ((0.001, 0.002), (0.000001, PAUSE_MIN_S)):
        pause_s = pauses(1)
        assert statistics.fmean(pause_s(took_s) for _ in range(5000)) == pytest.approx(mean_s, rel=0.1)
    assert max(pauses(2)(1.0) for _ in range(20)) == PAUSE_MAX_S


def test_an_open_block_has_latencies_from_its_schedule(bench: BenchChild, model: Path) -> None:
    compiled(bench, model, an_arm())
    block = bench.block(ToRun(concurrency=2, seconds=0.3, rate_per_s=100.0, seed=5), TIMEOUT_S)
    assert block.rate_per_s == 100.0
    assert len(block.latency_s) == block.completed > 5


def test_a_batched_arm_infers_full_batches(bench: BenchChild, model: Path) -> None:
    profile = compiled(bench, model, an_arm(streams=1, batch=4))
    assert profile.arm.batch == 4
    assert bench.block(ToRun(concurrency=1, seconds=0.05), TIMEOUT_S).completed > 0


def test_what_openvino_refuses_is_said_and_the_bench_lives_on(bench: BenchChild, model: Path) -> None:
    with pytest.raises(OrchError):
        compiled(bench, model, an_arm(properties={"NO_SUCH_PROPERTY": "1"}))
    with pytest.raises(OrchError) as raised:
        bench.block(ToRun(concurrency=1, seconds=0.1), TIMEOUT_S)
    assert raised.value.kind is Kind.INVALID
    assert compiled(bench, model, an_arm()).actual.streams == 2


def test_a_line_that_is_no_order_is_answered_by_an_error(bench: BenchChild) -> None:
    bench.tell(b"what?")
    assert b'"error"' in bench.hear(TIMEOUT_S)


def test_several_benches_stand_compiled_while_one_runs(bench: BenchChild, model: Path) -> None:
    compiled(bench, model, an_arm(1))
    with BenchChild(cores=sorted(os.sched_getaffinity(0))[:1]) as other:
        assert compiled(other, model, an_arm(2)).actual.threads == 1, "its mask has one core"
        before = _cpu_ticks(bench.pid)
        other.block(ToRun(concurrency=1, seconds=0.5), TIMEOUT_S)
        assert _cpu_ticks(bench.pid) - before <= 5, "who waits does not spin"
        assert bench.block(ToRun(concurrency=1, seconds=0.05), TIMEOUT_S).completed > 0


def _cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_a_bench_that_crashes_is_a_failure_that_names_the_signal(bench: BenchChild, model: Path) -> None:
    compiled(bench, model, an_arm())
    os.kill(bench.pid, signal.SIGSEGV)
    with pytest.raises(OrchError, match="signal 11") as raised:
        bench.block(ToRun(concurrency=1, seconds=0.1), TIMEOUT_S)
    assert raised.value.kind is Kind.FAILED


def test_a_bench_that_hangs_is_left_and_ended(model: Path) -> None:
    with BenchChild() as bench:
        compiled(bench, model, an_arm())
        os.kill(bench.pid, signal.SIGSTOP)
        with pytest.raises(OrchError) as raised:
            bench.block(ToRun(concurrency=1, seconds=0.1), 0.5)
        assert raised.value.kind is Kind.DEADLINE
        pid = bench.pid
    assert not Path(f"/proc/{pid}").exists()


def test_a_bench_dies_with_its_parent() -> None:
    code = f"""
import os, sys
from orchestrator.profiling.children import BenchChild
bench = BenchChild().__enter__()
bench.tell(b"hello")
bench.hear({TIMEOUT_S})
print(bench.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env=environment(), timeout=TIMEOUT_S, check=False
    )
    pid = int(ran.stdout)
    assert _ended(pid)


def _ended(pid: int) -> bool:
    """Wait for the end of a process that is not our child, by its descriptor; a zombie that nobody reaps has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], 10.0)[0])
    finally:
        os.close(descriptor)
