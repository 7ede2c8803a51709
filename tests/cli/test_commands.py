"""Commands from outside: what they write where, their exit codes, and what they ask of the agent."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from stand_in import ROOT, VERSION, as_json, orch, stand_in
from statuses import ITEMS

from orchestrator.errors import Kind, OrchError, Problem

STATUS_LIST = {"apiVersion": "orch/v1", "kind": "StatusList", "items": ITEMS}
QUICKSTART = "deployments/quickstart.yaml"
NOBODY = 2**30  # beyond the last process id
BAD = """\
apiVersion: orch/v1
kind: Deployment
metadata: {name: shop}
spec:
  models:
    - {name: a, source: missing.onnx, slo: {latency: 40}}
    - {name: b, sorce: missing.onnx}
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def test_valid_manifests_are_counted_by_file(home: Path) -> None:
    ran = orch(home, "validate", "deployments/two-models.yaml", QUICKSTART)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout == (
        "deployments/two-models.yaml: ok (1 deployment, 2 models)\n"
        "deployments/quickstart.yaml: ok (1 deployment, 1 model)\n"
    )


def test_every_error_of_a_manifest_is_named_at_once_with_its_place(home: Path) -> None:
    ran = orch(home, "validate", "-", stdin=BAD)
    assert (ran.returncode, ran.stdout) == (1, "")
    places = [line.split(" ")[1] for line in ran.stderr.splitlines() if line.startswith("error: ")]
    assert all(place.startswith("<stdin>:") for place in places)
    assert {place.split(":")[1] for place in places} == {"6", "7"}
    assert "Traceback" not in ran.stderr


def test_a_manifest_on_standard_input_is_checked_relative_to_the_folder(home: Path) -> None:
    text = (ROOT / QUICKSTART).read_text()
    ran = orch(home, "validate", "-", stdin=text)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "there is no file" in ran.stderr
    ran = orch(home, "validate", "--no-sources", "-", stdin=text)
    assert (ran.returncode, ran.stdout) == (0, "-: ok (1 deployment, 1 model)\n")


def test_the_version_can_be_asked_as_an_option(home: Path) -> None:
    asked, full = orch(home, "--version"), orch(home, "version")
    assert (asked.returncode, asked.stdout.splitlines()) == (0, full.stdout.splitlines()[:1])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sttus"], "Did you mean 'status'?"),
        (["validate"], "Missing argument 'FILE'"),
        (["status", "--nonsense"], "No such option"),
        (["status", "-o", "toml"], "'toml' is none of table, wide, json, yaml"),
        (["apply", QUICKSTART, "--timeout", "5"], "--timeout must be a duration with its unit"),
        (["apply", QUICKSTART, "--timeout", "0s"], "--timeout must be greater than zero, got '0s'"),
        (["apply", QUICKSTART, "--dry-run", "--prune"], "leave one of them out"),
    ],
)
def test_wrong_usage_is_2_on_standard_error(home: Path, arguments: list[str], words: str) -> None:
    ran = orch(home, *arguments)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert words in ran.stderr


@pytest.mark.parametrize(
    "arguments",
    [["status"], ["describe", "x"], ["events"], ["logs", "x"], ["delete", "x"], ["infer", "x", "-i", "[1]"]],
)
def test_without_an_agent_the_error_says_how_to_start_one(home: Path, arguments: list[str]) -> None:
    ran = orch(home, *arguments)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == f"error: {home}: no agent runs\nhint: orch apply starts it, and so does orch agent start\n"


def test_the_status_as_json_is_what_the_agent_says(home: Path) -> None:
    with stand_in(home, {"status": STATUS_LIST}) as agent:
        ran = agent.orch("status", "-o", "json")
        assert as_json(ran.stdout) == STATUS_LIST
        assert (ran.returncode, ran.stderr) == (0, "")
        assert agent.asked("status") == [{"names": None}]


def test_the_status_of_one_model_leaves_out_the_others(home: Path) -> None:
    with stand_in(home, {"status": STATUS_LIST | {"items": ITEMS[:1]}}) as agent:
        ran = agent.orch("status", "shop-vision/embedder")
        assert [line.split("\t")[0] for line in ran.stdout.splitlines()] == ["NAME", "shop-vision/embedder"]
        assert agent.asked("status") == [{"names": ["shop-vision"]}]
        ran = agent.orch("status", "shop-vision/embeder")
        assert ran.returncode == 1
        assert ran.stderr.startswith("error: shop-vision has no model embeder\nhint: its models are detector, embedder")


def test_the_status_of_nothing_is_words_on_standard_error_and_an_empty_list_as_json(home: Path) -> None:
    with stand_in(home, {"status": STATUS_LIST | {"items": []}}) as agent:
        ran = agent.orch("status")
        assert (ran.returncode, ran.stdout) == (0, "")
        assert "orch apply FILE" in ran.stderr
        assert as_json(agent.orch("status", "-o", "json").stdout)["items"] == []


def test_watching_ends_with_130_on_ctrl_c(home: Path) -> None:
    with stand_in(home, {"status": STATUS_LIST}):
        command = [sys.executable, "-m", "orchestrator.cli", "status", "-w", "-o", "json"]
        environ = {"ORCH_HOME": str(home), "PATH": "/usr/bin:/bin"}
        watching = subprocess.Popen(
            command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        with watching:
            assert watching.stdout is not None
            assert as_json(watching.stdout.readline()) == STATUS_LIST
            watching.send_signal(signal.SIGINT)
            _, told = watching.communicate(timeout=20)
    assert (watching.returncode, told) == (130, "interrupted\n")


def test_a_reader_who_goes_away_ends_the_command_quietly(home: Path) -> None:
    command = [sys.executable, "-m", "orchestrator.cli", "schema"]
    reader, writer = socket.socketpair()
    reader.close()
    with writer:
        ran = subprocess.run(
            command, cwd=ROOT, stdout=writer.fileno(), stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )
    assert (ran.returncode, ran.stderr) == (141, "")


def test_a_full_disk_is_no_bug() -> None:
    command = [sys.executable, "-m", "orchestrator.cli", "schema"]
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stderr) == (1, "error: the output cannot be written: No space left on device\n")


def test_infer_says_of_a_deployment_with_grpc_alone_that_it_speaks_http(home: Path) -> None:
    item = {"metadata": {"name": "shop"}, "models": [{"name": "a"}], "endpoint": {"http": None, "grpc": "127.0.0.1:1"}}
    with stand_in(home, {"status": {"items": [item]}}) as agent:
        ran = agent.orch("infer", "shop", "-i", "[1]")
    assert ran.returncode == 1
    assert ran.stderr == (
        "error: shop listens for gRPC only, and orch infer speaks HTTP\n"
        "hint: ask it with a gRPC client at 127.0.0.1:1, or give it spec.endpoint.http\n"
    )


def change(model: str, action: str, cause: str, deployment: str = "quickstart") -> dict[str, str]:
    return {"deployment": deployment, "model": model, "action": action, "symbol": "+", "cause": cause}


def phase(name: str, message: str = "", model: str | None = None, deployment: str = "quickstart") -> dict[str, object]:
    return {"deployment": deployment, "model": model, "phase": name, "message": message}


def test_apply_shows_progress_on_standard_error_and_one_line_for_each_model(home: Path) -> None:
    created = change("digits", "create", "no pool is running")
    script = [
        phase("planning", "asking OpenVINO") | {"deployment": None},
        {"change": created},
        phase("compiling", "for CPU", "digits"),
        phase("serving", model="digits"),
        {"deployments": [{"name": "quickstart", "changes": [created], "ok": True}], "pruned": ["old"]},
    ]
    with stand_in(home, {"apply": script}) as agent:
        ran = agent.orch("apply", QUICKSTART, "--timeout", "90s")
        assert ran.returncode == 0
        assert ran.stdout == "quickstart/digits created (no pool is running)\nold deleted (no file names it)\n"
        assert ran.stderr.splitlines() == [
            "planning (asking OpenVINO)",
            "quickstart/digits: compiling (for CPU)",
            "quickstart/digits: serving",
        ]
        (params,) = agent.asked("apply")
        (document,) = params.pop("documents")
        assert params == {"prune": False, "timeout_s": 90.0, "plan": None}
        assert document["base"] == str(ROOT / "deployments")
        assert document["name"] == str(ROOT / QUICKSTART)
        assert "name: quickstart" in document["text"]


def test_an_apply_through_an_agent_of_another_version_warns(home: Path) -> None:
    script = {"version": VERSION | {"version": "0.0.9"}, "apply": {"deployments": [], "pruned": []}}
    with stand_in(home, script) as agent:
        ran = agent.orch("apply", QUICKSTART)
    assert ran.returncode == 0
    assert ran.stderr.startswith("warning: the agent is of version 0.0.9, this command of ")


def test_an_apply_that_fails_in_part_says_what_was_done_and_exits_1(home: Path) -> None:
    failed = OrchError(Kind.FAILED, [Problem("does not compile", "two/door", "orch logs two")])
    script = [
        {"change": change("digits", "unchanged", "as planned")},
        {"change": change("door", "replace", "batch 1 -> 2", "two")},
        phase("failed", "does not compile", deployment="two"),
        failed,
    ]
    with stand_in(home, {"apply": script}) as agent:
        ran = agent.orch("apply", QUICKSTART)
    assert ran.returncode == 1
    assert ran.stdout == "quickstart/digits unchanged (as planned)\n"
    assert ran.stderr.endswith("error: two/door: does not compile\nhint: orch logs two\n")


def test_ctrl_c_in_an_apply_says_that_the_agent_goes_on(home: Path) -> None:
    with stand_in(home, {"apply": [phase("starting", "starting the worker"), ...]}):
        command = [sys.executable, "-m", "orchestrator.cli", "apply", QUICKSTART]
        environ = {**os.environ, "ORCH_HOME": str(home)}
        with subprocess.Popen(command, cwd=ROOT, env=environ, stderr=subprocess.PIPE, text=True) as applying:
            assert applying.stderr is not None
            assert applying.stderr.readline() == "quickstart: starting (starting the worker)\n"
            applying.send_signal(signal.SIGINT)
            _, told = applying.communicate(timeout=20)
    assert applying.returncode == 130
    assert told == "the agent goes on with it; orch status shows how far it is\ninterrupted\n"


def test_an_agent_that_ends_amid_an_apply_leaves_it_to_the_next_and_says_so(home: Path) -> None:
    change = {"change": {"deployment": "quickstart", "model": "digits", "action": "create"}}
    script = [change, phase("starting", "starting the worker"), ConnectionResetError()]
    with stand_in(home, {"apply": script}) as agent:
        ran = agent.orch("apply", QUICKSTART)
    assert ran.returncode == 1
    error, hint = ran.stderr.splitlines()[-2:]
    assert error.endswith("agent.sock: the process ended during apply")
    assert hint.startswith("hint: the next agent brings about what was begun, as orch status shows")


def test_an_agent_that_ends_while_it_measures_has_begun_nothing_and_that_is_said(home: Path) -> None:
    """Seen to promise that the next agent brings it about."""
    with stand_in(home, {"apply": [phase("measuring", "2 streams"), ConnectionResetError()]}) as agent:
        ran = agent.orch("apply", QUICKSTART)
    assert ran.returncode == 1
    assert ran.stderr.endswith("hint: it was still planning, and nothing was begun: repeat the command\n")


def test_a_wrong_manifest_never_reaches_the_agent(home: Path) -> None:
    with stand_in(home, {"apply": {}}) as agent:
        assert agent.orch("apply", "-", stdin=BAD).returncode == 1
        assert agent.asked("apply") == []


def test_a_bug_in_the_agent_is_3(home: Path) -> None:
    with stand_in(home, {"status": OrchError(Kind.INTERNAL, "KeyError: 'x'")}) as agent:
        ran = agent.orch("status")
    assert (ran.returncode, ran.stderr) == (3, "error: KeyError: 'x'\n")


def test_delete_tells_what_is_gone(home: Path) -> None:
    script = [phase("draining", "finishing what it has"), {"deleted": ["quickstart"]}]
    with stand_in(home, {"delete": script}) as agent:
        ran = agent.orch("delete", "quickstart")
        assert (ran.returncode, ran.stdout) == (0, "quickstart deleted\n")
        assert ran.stderr == "quickstart: draining (finishing what it has)\n"
        assert agent.asked("delete") == [{"names": ["quickstart"]}]


def test_one_wrong_name_deletes_nothing_and_that_is_said(home: Path) -> None:
    wrong = OrchError(Kind.NOT_FOUND, "there is no deployment 'shpo'", hint="orch status lists those that run")
    with stand_in(home, {"delete": wrong}) as agent:
        said = "error: there is no deployment 'shpo'\nhint: orch status lists those that run\n"
        assert agent.orch("delete", "shpo").stderr == said
        assert agent.orch("delete", "shop", "shpo").stderr == "nothing was deleted\n" + said


def event(seq: int, message: str) -> dict[str, object]:
    return {
        "seq": seq,
        "time": "2026-03-01T09:00:00Z",
        "type": "Normal",
        "reason": "Applied",
        "object": "shop-vision",
        "message": message,
        "count": seq,
    }


def test_events_in_a_pipe_are_rows_with_times(home: Path) -> None:
    with stand_in(home, {"events": {"events": [event(1, "revision 1"), event(2, "revision 2")], "last": 2}}) as agent:
        ran = agent.orch("events", "shop-vision", "-n", "5")
        assert ran.stdout.splitlines() == [
            "TIME\tTYPE\tREASON\tOBJECT\tMESSAGE",
            "2026-03-01T09:00:00Z\tNormal\tApplied\tshop-vision\trevision 1",
            "2026-03-01T09:00:00Z\tNormal\tApplied\tshop-vision\trevision 2 (2 times)",
        ]
        assert agent.asked("events") == [{"name": "shop-vision", "after": 0, "limit": 5}]


def description(log: Path) -> dict[str, object]:
    detector = ITEMS[0]["models"][0]
    inline = detector | {"plan": detector["plan"] | {"inline": True, "rows_together": 8}}
    return {
        "status": ITEMS[0] | {"models": [inline, *ITEMS[0]["models"][1:]]},
        "plan": {
            "models": [
                {
                    "name": "detector",
                    "source": "/m/detector.onnx",
                    "properties": {"NUM_STREAMS": "2"},
                    "reasons": [{"subject": "streams", "text": "2 cores", "rule": 1}],
                    "warnings": ["a warning"],
                }
            ]
        },
        "manifest": "",
        "path": "/m/shop.yaml",
        "events": [event(1, "revision 4")],
        "log": str(log),
        "revisions": [
            {"number": 4, "time": "2026-03-01T09:00:00Z", "result": "applied", "reason": None, "digest": "0123456789ab"}
        ],
    }


def test_describe_tells_plan_reasons_and_load(home: Path, tmp_path: Path) -> None:
    with stand_in(home, {"describe": description(tmp_path / "worker.log")}) as agent:
        text = agent.orch("describe", "shop-vision").stdout
    for line in (
        "    verdict:     verified: an open-loop run held the SLO",
        "    capacity:    95/s planned (90/s to 100/s), headroom 36.8/s",
        "Revision:    4 (generation 4, file)",
        "  detector: Serving on CPU",
        "    why:         streams: 2 cores (rule 1)",
        "    warning:     a warning",
        "    SLO:         99% within 40ms at 60/s; now p99 21.3ms at 58.2/s",
        "    runs:        inferred where requests arrive, up to 8 rows together (the model takes less than a",
        "    requests:    2 in flight, 0 queued; 9000 accepted, 8990 completed, 0 rejected, 0",
        "    saturation:  61% OK: offered load",
        "    NUM_STREAMS  2        -",
        "       4",
    ):
        assert any(written.startswith(line) for written in text.splitlines()), line


def test_logs_writes_the_end_of_the_file_that_describe_names(home: Path, tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    log.write_text("one\ntwo\nthree\n")
    with stand_in(home, {"describe": description(log)}) as agent:
        assert agent.orch("logs", "shop-vision", "-n", "2").stdout == "two\nthree\n"


def test_logs_switches_the_log_of_requests_and_shows_it(home: Path, tmp_path: Path) -> None:
    log = tmp_path / "requests.log"
    log.write_text('{"status":"200"}\n')
    script = {
        "describe": {**description(tmp_path / "worker.log"), "requests": str(log)},
        "requests": {"on": True, "path": str(log)},
    }
    with stand_in(home, script) as agent:
        switched = agent.orch("logs", "shop-vision", "--requests", "on")
        assert (switched.stdout, switched.stderr) == ("", f"requests are logged: {log}\n")
        assert agent.asked("requests") == [{"name": "shop-vision", "on": True}]
        assert agent.orch("logs", "shop-vision", "--requests", "show").stdout == '{"status":"200"}\n'


def test_the_agent_can_be_asked_how_it_is_and_stopped(home: Path) -> None:
    with stand_in(home, {"stop": {"pid": NOBODY}}) as agent:
        assert agent.orch("agent", "status").stdout.splitlines()[:2] == [f"agent {VERSION['version']}", "process 1"]
        assert agent.orch("agent", "stop").stdout == "agent stopped; deployments go on serving\n"
        assert agent.asked("stop") == [{"workers": False}]


@pytest.mark.parametrize("mode", ["plan", "diff"])
def test_planning_for_a_machine_whose_file_is_wrong_is_trouble(home: Path, tmp_path: Path, mode: str) -> None:
    inventory = tmp_path / "inventory.yaml"
    inventory.write_text("kind: Nonsense\n")
    ran = orch(home, mode, QUICKSTART, "--inventory", str(inventory))
    assert (ran.returncode, ran.stdout) == ({"plan": 1, "diff": 2}[mode], "")
    assert "inventory.yaml:1:" in ran.stderr


def test_plan_and_diff_agree_and_the_same_input_gives_the_same_bytes(home: Path) -> None:
    with stand_in(home, {"plans": {}}) as agent:
        plan = agent.orch("plan", QUICKSTART, "-o", "json")
        assert plan.returncode == 0, plan.stderr
        (item,) = as_json(plan.stdout)["items"]
        assert agent.orch("plan", QUICKSTART, "-o", "json").stdout == plan.stdout
        first = agent.orch("diff", QUICKSTART)
        assert first.returncode == 1
        assert f"--plan {item['digest']}" in first.stdout
        assert first.stdout.startswith("+  quickstart/digits  create")
    with stand_in(home, {"plans": {"quickstart": item["plan"]}}) as agent:
        same = agent.orch("diff", QUICKSTART)
        assert (same.returncode, same.stdout, same.stderr) == (0, "", "")
        assert agent.orch("apply", QUICKSTART, "--dry-run").stdout == "nothing changes\n"
        assert agent.asked("apply") == []


def test_a_difference_from_workers_that_no_agent_keeps_is_said_to_be_a_guess(home: Path) -> None:
    worker = home / "workers" / "quickstart"
    worker.mkdir(parents=True)
    note = "no agent runs, so what serves now is not compared: orch agent start"
    assert note not in orch(home, "diff", QUICKSTART).stderr
    with socket.socket(socket.AF_UNIX) as control:
        control.bind(str(worker / "control.sock"))
        control.listen()
        assert note in orch(home, "diff", QUICKSTART).stderr


def test_a_plan_of_several_deployments_ends_with_what_names_them_all(home: Path, tmp_path: Path) -> None:
    files = [str(tmp_path / name) for name in ("one file.yaml", "two.yaml")]
    for index, file in enumerate(files):
        text = (
            (ROOT / QUICKSTART).read_text().replace("models/digits.onnx", str(ROOT / "deployments/models/digits.onnx"))
        )
        text = text.replace("name: quickstart", f"name: d{index}").replace("800", f"81{index}")
        Path(file).write_text(text)
    with stand_in(home, {"plans": {}}) as agent:
        digest = as_json(agent.orch("plan", *files, "-o", "json").stdout)["digest"]
        apply = f"Apply with: orch apply {shlex.join(files)} --plan {digest}"
        assert agent.orch("plan", *files).stdout.splitlines()[-1] == f"Plan {digest}: 2 create. {apply}"
        assert agent.orch("diff", *files).stdout.splitlines()[-1] == f"Plan {digest}: 2 create. {apply}"


def test_a_plan_for_another_machine_reads_the_models_here(home: Path) -> None:
    inventory = "tests/fixtures/inventories/xeon-dual-socket.yaml"
    ran = orch(home, "plan", QUICKSTART, "--inventory", inventory)
    assert ran.returncode == 0, ran.stderr
    assert "quickstart: 1 model on" in ran.stdout


def test_a_device_that_is_not_there_is_refused_before_anything_is_compiled(home: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "gpu.yaml"
    model = ROOT / "deployments" / "models" / "digits.onnx"
    manifest.write_text(
        "apiVersion: orch/v1\nkind: Deployment\nmetadata: {name: gpu}\n"
        f"spec:\n  models:\n  - {{name: a, source: {model}, device: GPU.7}}\n"
        f"  - {{name: b, source: {model}, device: GPU.8}}\n"
    )
    ran = orch(home, "plan", str(manifest))
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "gpu/a" in ran.stderr
    assert "gpu/b" in ran.stderr


def test_a_status_loads_neither_pydantic_nor_anything_heavier(home: Path) -> None:
    code = (
        "import sys; sys.argv = ['orch', 'status']\n"
        "from orchestrator.cli.main import run\n"
        "try:\n    run()\n"
        "finally:\n"
        "    heavy = {'pydantic.main', 'numpy', 'openvino', 'rich', 'sqlite3', 'yaml', 'asyncio'} & set(sys.modules)\n"
        "    sys.stderr.write(f'heavy: {sorted(heavy)}')\n"
    )
    with stand_in(home, {"status": STATUS_LIST}):
        environ = {"ORCH_HOME": str(home), "PATH": "/usr/bin:/bin"}
        ran = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("NAME\t")
    assert ran.stderr == "heavy: []"
