"""A worker whose certificate, authority and token are changed while it is under load, as its users see it."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import trustme

from benchmarks.reload_under_load import WorkerProcess, a_plan
from orchestrator.cli.bench_subject import Subject, the_request
from orchestrator.cli.endpoint import Target
from orchestrator.cli.oip_client import client_of
from orchestrator.client import Client, ClientError
from orchestrator.errors import Kind, OrchError
from orchestrator.profiling.children import LoadGenerator
from orchestrator.profiling.trust import Trust
from orchestrator.profiling.wire import LoadOrder, LoadReport
from tests.certificates import Papers, issue
from tests.cli.stand_in import stand_in
from tests.cli.statuses import ITEMS

DEADLINE_S = 20.0
TOKEN, NEXT_TOKEN = "s3cret-one", "s3cret-two"


@dataclass
class Served:
    """A worker, and the files that it follows."""

    worker: WorkerProcess
    papers: Papers
    ca: trustme.CA
    token: Path
    status: dict[str, Any]

    @property
    def url(self) -> str:
        return str(self.status["endpoint"]["http"])

    def until_told(self, *reasons: str) -> None:
        """Wait until each of these events has been noted."""
        pause = threading.Event()
        for _ in range(int(DEADLINE_S / 0.05)):
            told = {event["reason"] for event in self.worker.call("status")["events"]}
            if told >= set(reasons):
                return
            pause.wait(0.05)
        raise AssertionError(f"not told of {reasons}, only of {told}")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("worker")
    ca = trustme.CA()
    papers, token = issue(folder / "tls", ca), folder / "token"
    token.write_text(TOKEN + "\n")
    plan = a_plan("tiny_mlp", folder, {"streams": 1, "threads": 2})
    endpoint = plan.endpoint.model_copy(update={"tls": papers.plan(), "token_file": str(token)})
    with WorkerProcess(folder / "state", plan.model_copy(update={"endpoint": endpoint})) as worker:
        yield Served(worker, papers, ca, token, worker.until_state("Serving"))
        assert "Traceback" not in worker.log.read_text()


@dataclass
class Callers:
    """Threads that ask again and again, some of them each time on a new connection."""

    asks: list[Callable[[], object]]
    answered: list[int] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Callers:
        self.answered = [0] * len(self.asks)
        self.threads = [threading.Thread(target=self._run, args=(index,)) for index in range(len(self.asks))]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join(DEADLINE_S)

    def _run(self, index: int) -> None:
        while not self.stop.is_set():
            try:
                self.asks[index]()
                self.answered[index] += 1
            except Exception as error:  # noqa: BLE001 - whatever it is, it failed
                self.failures.append(repr(error))
            self.stop.wait(0.005)


def test_certificate_and_token_change_under_load_without_a_failed_request(served: Served, tmp_path: Path) -> None:
    ca_file, token, grpc_address = served.papers.ca, served.token, served.status["endpoint"]["grpc"]
    x = {"x": np.ones((1, 64), np.float32)}
    sent = TOKEN

    def infer(client: Client) -> None:
        client._headers["Authorization"] = f"Bearer {sent}"
        client.infer("model", dict.fromkeys(inputs, x["x"]))

    def anew() -> None:
        with Client(served.url, ca_file=ca_file) as client:
            infer(client)

    def over_grpc() -> None:
        port = grpc_address.rpartition(":")[2]
        with tritonclient.grpc.InferenceServerClient(
            f"localhost:{port}",
            ssl=True,
            root_certificates=str(ca_file),
            channel_args=[("grpc.use_local_subchannel_pool", 1)],
        ) as client:
            assert client.is_model_ready("model", headers={"authorization": f"Bearer {sent}"})

    metadata = client_of(target(served), DEADLINE_S).metadata("model")
    inputs = [each["name"] for each in metadata["inputs"]]
    x = {"x": np.ones([max(1, size) for size in metadata["inputs"][0]["shape"]], np.float32)}
    with Client(served.url, ca_file=ca_file) as kept, Callers([lambda: infer(kept), anew, over_grpc]) as callers:
        token.write_text(f"{NEXT_TOKEN}\n{TOKEN}\n")
        served.papers.take(issue(tmp_path, served.ca))
        served.until_told("CertificateRotated", "TokenRotated")
        sent = NEXT_TOKEN
        seen = list(callers.answered)
        pause = threading.Event()
        while any(now < before + 3 for now, before in zip(callers.answered, seen, strict=True)):
            assert not callers.failures
            pause.wait(0.01)
    assert callers.failures == []
    port = int(served.url.rpartition(":")[2])
    assert ssl.get_server_certificate(("127.0.0.1", port)).strip() in served.papers.certificate.read_text()


def target(served: Served, trust: Trust | None = None) -> Target:
    pinned = Trust(pinned=str(served.papers.certificate))
    return Target(served.url, "model", served.token, trust or pinned)


def test_status_and_log_tell_the_certificate_and_nothing_secret(served: Served) -> None:
    status = served.worker.call("status")
    assert status["endpoint"]["http"].startswith("https://127.0.0.1:")
    told = status["endpoint"]["tls"]
    assert (sorted(told), len(told["sha256"])) == (["client_certificates", "expires", "sha256"], 64)
    key = served.papers.key.read_text().splitlines()[1]
    for text in (str(status), served.worker.log.read_text()):
        assert not any(secret in text for secret in (TOKEN, NEXT_TOKEN, key, "PRIVATE KEY"))


def test_a_client_that_pins_the_certificate_takes_it_and_no_other(served: Served, tmp_path: Path) -> None:
    assert client_of(target(served), DEADLINE_S).metadata("model")["name"] == "model"
    other = issue(tmp_path, served.ca)  # of the same authority, with the same names
    with pytest.raises(OrchError, match="the server's certificate is not trusted") as caught:
        client_of(target(served, Trust(pinned=str(other.certificate))), DEADLINE_S).metadata("model")
    assert caught.value.kind is Kind.UNAVAILABLE


def test_infer_trusts_the_certificate_and_sends_the_token_of_a_local_deployments_plan(
    served: Served, tmp_path: Path
) -> None:
    model = ITEMS[0]["models"][0] | {"name": "model"}
    item = ITEMS[0] | {"endpoint": served.status["endpoint"], "models": [model]}
    endpoint = served.status["plan"]["endpoint"]
    answers = {
        "status": {"apiVersion": "orch/v1", "kind": "StatusList", "items": [item]},
        "plans": {"shop-vision": {"endpoint": endpoint}},
    }
    (shape,) = (each["shape"] for each in client_of(target(served), DEADLINE_S).metadata("model")["inputs"])
    np.save(tmp_path / "x.npy", np.ones([max(1, size) for size in shape], np.float32))
    with stand_in(tmp_path / "home", answers) as agent:
        ran = agent.orch("infer", "shop-vision", "-i", f"@{tmp_path / 'x.npy'}", "-o", "json")
        assert (ran.returncode, ran.stderr) == (0, "")
        stranger = issue(tmp_path / "stranger")
        ran = agent.orch("infer", "shop-vision", "-i", f"@{tmp_path / 'x.npy'}", "--ca", str(stranger.ca))
        assert ran.returncode == 1
        assert "the server's certificate is not trusted" in ran.stderr


@pytest.mark.parametrize(
    ("ca_file", "scheme", "says"),
    [
        (None, "https", "the server's certificate is not trusted: .*--ca FILE"),
        (None, "http", "closed without an answer"),
        ("own", "http", "certificates are for https only"),
        ("gone", "https", "cannot be read: No such file"),
    ],
)
def test_what_keeps_a_client_away_is_said_with_what_to_do(
    served: Served, ca_file: str | None, scheme: str, says: str
) -> None:
    url = served.url.replace("https", scheme)
    path = {None: None, "own": served.papers.ca, "gone": served.papers.folder / "gone"}[ca_file]
    with pytest.raises(ClientError, match=says), Client(url, ca_file=path) as client:
        client.infer("model", {"x": np.ones((1, 4), np.float32)}, timeout_s=5)


def test_the_load_of_a_bench_goes_over_tls(served: Served, tmp_path: Path) -> None:
    request = the_request(Subject(target(served)), [], lambda: b"")
    body = tmp_path / "body"
    body.write_bytes(request.body)
    order = LoadOrder(
        host=request.host,
        port=request.port,
        path=request.path,
        headers=dict(request.headers),
        body=str(body),
        arrivals="constant",
        rate_per_s=50,
        seconds=0.2,
        trust=target(served).trust,
    )
    with LoadGenerator() as generator:
        report = next(said for said in generator.load(order) if isinstance(said, LoadReport))
    assert (report.answered, report.failed) == (report.sent, 0)
