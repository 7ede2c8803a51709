"""A machine follows its repository: real Git, the real engine, and requests that go on while commits come."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import socket
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, WAIT_S, Caller, Home

from tests.agent.repositories import People

SHOP = """\
apiVersion: orch/v1
kind: Deployment
metadata: {name: shop}
spec:
  endpoint: {http: "127.0.0.1:0", grpc: null}
  planning: {mode: hint}
  models:
    - name: digits
      source: ../models/digits.onnx
      compile: {streams: 1, threads: 1}
"""
MODEL = (ROOT / "deployments/models/digits.onnx").read_bytes()
SAMPLE = (ROOT / "deployments/models/digits-sample.json").read_bytes()


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def tell(address: str, name: str) -> None:
    """Tell the agent of a push, as a Git server does."""
    body = b'{"ref": "refs/heads/main"}'
    signature = "sha256=" + hmac.new(b"hush", body, hashlib.sha256).hexdigest()
    host, _, port = address.partition(":")
    with closing(http.client.HTTPConnection(host, int(port), timeout=WAIT_S)) as connection:
        connection.request("POST", f"/hooks/{name}", body, {"X-Hub-Signature-256": signature})
        assert connection.getresponse().status == 202


def infer(url: str) -> None:
    """Send one request."""
    host, _, port = url.removeprefix("http://").partition(":")
    with closing(http.client.HTTPConnection(host, int(port), timeout=WAIT_S)) as connection:
        connection.request("POST", "/v2/models/digits/infer", SAMPLE, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()


def source(home: Home) -> dict[str, Any]:
    return dict(json.loads(home.orch("source", "describe", "shop", "-o", "json").stdout)["source"])


def attempted(home: Home, commit: str) -> dict[str, Any]:
    """Return the source once the commit was tried."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        item = source(home)
        if (item["attempted"] or {}).get("commit") == commit and item["attempted"]["result"] != "running":
            return item
    pytest.fail(f"never tried: {json.dumps(item, indent=1)}")


def test_pushes_are_served_bad_ones_leave_the_last_good_one_and_no_request_fails(home: Home, tmp_path: Path) -> None:
    people, hook = People(tmp_path), free_address()
    first = people.push({"site/shop.yaml": SHOP, "models/digits.onnx": MODEL}, "Open the shop")
    (home.folder / "secret").write_text("hush")
    place = ("--url", str(people.bare), "--branch", "main", "--path", "site", "--interval", "1h")
    home.orch("source", "add", "shop", *place, "--webhook-secret-file", "secret", "--webhook-listen", hook)
    assert f"commit {first[:8]} by Ada" in home.orch("source", "reconcile", "shop").stdout
    url = home.status("shop")["endpoint"]["http"]
    with Caller(lambda: infer(url)) as caller:
        caller.past(5)
        more = people.push({"site/shop.yaml": SHOP.replace("streams: 1, threads: 1", "streams: 2, threads: 2")})
        tell(hook, "shop")
        assert attempted(home, more)["health"] == "Healthy"
        assert home.status("shop")["models"][0]["plan"]["streams"] == 2
        truncated = people.push({"models/digits.onnx": MODEL[:3000]}, "Train it again")
        tell(hook, "shop")
        item = attempted(home, truncated)
        (fault,) = item["attempted"]["faults"]
        assert (item["health"], item["applied"]["commit"]) == ("Degraded", more)
        assert (fault["file"], fault["line"], fault["author"]) == ("site/shop.yaml", 9, "Ada <ada@example.com>")
        done = home.orch("source", "reconcile", "shop", check=False)
        assert (done.returncode, "error: site/shop.yaml:9:15: " in done.stderr) == (1, True)
        reverted = people.push({"models/digits.onnx": MODEL}, "Revert")
        tell(hook, "shop")
        assert attempted(home, reverted)["health"] == "Healthy"
        caller.past(5)
    assert caller.errors == []
    status = home.status("shop")
    assert status["worker"]["restarts"] == 0
    assert status["revision"]["commit"] == reverted
