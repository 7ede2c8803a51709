"""`orch bench` against real workers: one whose device takes a given time, and one that the agent keeps."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import ORCH, ROOT, WAIT_S, Caller, Home

SERVICE_S = 0.02  # one at a time: 50 requests a second and no more
MOST_PER_S = 50.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a worker process over the simulated device."""
    folder = tmp_path_factory.mktemp("worker")
    log = folder / "log"
    command = [sys.executable, str(ROOT / "tests/e2e/simulated_worker.py"), str(folder), str(SERVICE_S)]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        deadline = time.monotonic() + WAIT_S
        while not (found := re.search(r"(http://[0-9.:]+)\n", log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        yield found[1]
    finally:
        process.terminate()
        process.wait(WAIT_S)


def test_the_capacity_of_a_device_with_a_known_service_time_is_bracketed(server: str, home: Home) -> None:
    page = home.folder / "out.html"
    asked = ["--latency", "200ms", "--percentile", "90", "--arrivals", "constant", "--budget", "12s"]
    ran = home.orch("bench", "slow", "--url", server, *asked, "--report", str(page), "-o", "json", check=False)
    found = json.loads(ran.stdout)
    assert ran.returncode == 0, ran.stderr
    # What held is no more than the device can do, and what missed no less: the same on any machine that keeps up.
    assert 0 < found["capacity"]["per_s"] <= 1.2 * MOST_PER_S
    missed = [each["rate_per_s"] for each in found["tries"] if each["held"] is False]
    assert missed
    assert max(missed) >= MOST_PER_S
    assert {each["purpose"] for each in found["tries"]} >= {"floor", "search", "beyond"}
    for each in found["tries"]:
        ends = each["answered"] + each["refused"] + each["expired"] + each["failed"]
        assert each["sent"] == ends, "every request ends in one way"
        assert each["generator"]["cpu"] < 0.9
    assert found["inputs"] == "made up: zeros, x 1x4"
    assert "<title>Bench of slow</title>" in page.read_text(encoding="utf-8")
    assert f"{found['capacity']['per_s']:.3g}/s" in page.read_text(encoding="utf-8")


def test_one_rate_is_tried_and_the_exit_code_says_whether_it_held(server: str, home: Home) -> None:
    fixed = ["bench", "slow", "--url", server, "--latency", "400ms", "--percentile", "90", "--duration", "1s"]
    held = home.orch(*fixed, "--rate", "10/s", check=False)
    assert held.returncode == 0, held.stderr
    assert [line.split("\t")[0] for line in held.stdout.splitlines()] == ["LOAD", "1 caller", "10/s"]
    missed = home.orch(*fixed, "--rate", "400/s", check=False)
    assert missed.returncode == 1
    assert "At 400/s p90 within 400 ms missed" in missed.stderr


def test_ctrl_c_shows_what_was_found_until_then(server: str, home: Home) -> None:
    command = [str(ORCH), "bench", "slow", "--url", server, "--latency", "200ms", "--budget", "10m", "-o", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "1 caller" in line:
                process.send_signal(signal.SIGINT)
                break
        out, talk = process.communicate(timeout=WAIT_S)
    found = json.loads(out)
    assert process.returncode == 130, talk
    assert found["complete"] is False
    assert [each["purpose"] for each in found["tries"]][:1] == ["floor"]
    assert "Interrupted" in found["sentences"][0]


def test_a_deployment_is_benched_by_its_manifest_and_compared_with_its_plan(home: Home) -> None:
    slo = "slo: {latency: 5s, percentile: 90, rate: 5/s}\ntraffic: {arrivals: constant}"
    manifest = home.folder / home.manifest(extra=slo)
    (home.folder / "token").write_text("secret\n")
    manifest.write_text(manifest.read_text().replace("grpc: ", "token_file: token, grpc: "))
    home.orch("apply", manifest.name)
    ran = home.orch("bench", "demo", "--budget", "6s", "-o", "json", check=False)
    found = json.loads(ran.stdout)
    assert ran.returncode == 0, ran.stderr
    assert (found["deployment"], found["model"], found["arrivals"]) == ("demo", "digits", "constant")
    assert (found["slo"], found["declared"]) == ({"latency_ms": 5000.0, "percentile": 90.0}, 5.0)
    assert found["declared_holds"] is True
    assert next(each for each in found["tries"] if each["purpose"] == "search")["rate_per_s"] == 5.0
    assert any("without a measurement" in each for each in found["sentences"])
    known = [each["others_per_s"] for each in found["tries"]]
    assert all(each is not None and each < 2 for each in known), (
        "the worker counted this load and hardly anybody else's"
    )

    ran = home.orch("bench", "demo", "--rate", "5/s", "--duration", "1s", check=False)
    assert "others send" not in ran.stderr, "seen to call its own requests of a moment ago others'"

    url = home.status()["endpoint"]["http"]
    with Caller(lambda: infer(url, home)) as caller:
        caller.past(3)
        ran = home.orch("bench", "demo", "--rate", "5/s", "--duration", "1s", "-o", "json", check=False)
    assert not caller.errors
    assert re.search(r"others send it [0-9.]+/s now", ran.stderr), ran.stderr
    assert any("Other clients sent up to" in each for each in json.loads(ran.stdout)["sentences"]), ran.stdout


def infer(url: str, home: Home) -> None:
    """Send one request, as another client does."""
    body = (home.folder / "digits-sample.json").read_bytes()
    headers = {"Authorization": "Bearer secret", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/v2/models/digits/infer", body, headers)
    with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
        assert answer.status == 200
