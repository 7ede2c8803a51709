"""Gathers what a bench must know before it begins: the model, its promise and plan, a request that it answers."""

from __future__ import annotations

import statistics
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator.cli import control, endpoint, oip_client, tensors
from orchestrator.errors import Kind, OrchError

ANSWER_S = 60.0  # of the first request: a large model with open shapes generates code
SERVING = frozenset({"Serving"})
PERCENTILE = 99.0


@dataclass(frozen=True, slots=True)
class Subject:
    """A model that serves, as its manifest, its plan and its worker describe it."""

    target: endpoint.Target
    deployment: str | None = None
    status: Mapping[str, Any] = field(default_factory=dict)
    """Of the deployment, as `orch status -o json` has it."""
    model: Mapping[str, Any] = field(default_factory=dict)
    """The model's part of it."""
    plan: Mapping[str, Any] = field(default_factory=dict)
    """Of the deployment."""
    traffic: Mapping[str, Any] = field(default_factory=dict)
    """As the manifest has it."""

    @property
    def called(self) -> str:
        """Return the name for people."""
        return f"{self.deployment}/{self.target.model}" if self.deployment else self.target.model

    @property
    def pid(self) -> int | None:
        """Return the worker's process."""
        return (self.status.get("worker") or {}).get("pid")

    @property
    def model_plan(self) -> Mapping[str, Any]:
        """Return the model's plan."""
        return next((each for each in self.plan.get("models", ()) if each["name"] == self.target.model), {})

    @property
    def neighbours(self) -> tuple[str, ...]:
        """Return the other models of the deployment."""
        return tuple(each["name"] for each in self.plan.get("models", ()) if each["name"] != self.target.model)


def deployed(name: str, papers: endpoint.Papers) -> Subject:
    """Ask the agent about NAME[/MODEL]; raise OrchError where it is unknown, ambiguous or not serving."""
    target = endpoint.named(name, papers, "orch bench")
    deployment = name.partition("/")[0]
    answer = control.ask("describe", {"name": deployment})
    model = next(each for each in answer["status"]["models"] if each["name"] == target.model)
    if model["state"] not in SERVING:
        what = f"{deployment}/{target.model} is {model['state']}, and only what serves can be loaded"
        raise OrchError(Kind.UNAVAILABLE, what, hint=f"look at it with: orch describe {deployment}")
    traffic = _traffic(answer["manifest"], target.model)
    return Subject(target, deployment, answer["status"], model, answer["plan"], traffic)


def by_address(url: str, model: str, papers: endpoint.Papers) -> Subject:
    """Return a model of any server of the protocol; NAME/MODEL is taken for MODEL."""
    return Subject(endpoint.at(url, model, papers))


def _traffic(manifest: str, model: str) -> Mapping[str, Any]:
    """Return the model's `traffic` of a manifest that was accepted before."""
    import yaml  # only here

    for document in yaml.safe_load_all(manifest):
        for each in document["spec"]["models"]:
            if each["name"] == model:
                return each.get("traffic") or {}
    return {}


def arriving_per_s(arrived: Callable[[], int | None], wait: Callable[[], float]) -> float | None:
    """Return what arrives a second by two looks at a counter; `wait` returns the seconds that it let pass between.

    The worker's own windows hold the last ten seconds, and so what a bench before this one sent.
    """
    before = arrived()
    seconds = wait()
    after = arrived()
    return None if before is None or after is None or after < before else (after - before) / seconds


class Watch:
    """Looks at the worker's counters while it is loaded, and remembers what it saw."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._service_s: list[float] = []
        self.remarks: list[str] = []

    def arrived(self) -> int | None:
        """Return how many requests the model has counted, None where that cannot be known."""
        if self._subject.deployment is None:
            return None
        try:
            (item,) = control.status_items([self._subject.called])
        except OrchError as error:
            self._remark(f"The agent could not be asked meanwhile: {error}.")
            return None
        if (item.get("worker") or {}).get("pid") != self._subject.pid:
            self._remark("The worker was replaced meanwhile: figures before and after are of different processes.")
            return None
        observed = item["models"][0].get("observed") or {}
        if (median_ms := (observed.get("service_ms") or {}).get("p50")) is not None:
            self._service_s.append(median_ms / 1e3)
        return int(observed["accepted_total"] + observed["rejected_total"]) if observed else None

    @property
    def service_s(self) -> float | None:
        """Return the median of the medians of an inference that the worker told."""
        return statistics.median(self._service_s) if self._service_s else None

    def _remark(self, text: str) -> None:
        if text not in self.remarks:
            self.remarks.append(text)


# The request.


@dataclass(frozen=True, slots=True)
class Request:
    """The request that is sent again and again, and where."""

    host: str
    port: int
    path: str
    headers: Mapping[str, str]
    body: bytes
    inputs: str
    """What it holds, for people."""


def the_request(subject: Subject, values: list[str], read_stdin: Callable[[], bytes]) -> Request:
    """Return a request that the model has just answered; raise OrchError with the server's words where it does not."""
    parts = urllib.parse.urlsplit(subject.target.url if "://" in subject.target.url else f"http://{subject.target.url}")
    token = endpoint.token(subject.target.token_file)
    client = oip_client.client_of(subject.target, ANSWER_S)
    message, inputs = _message(client, subject.target.model, values, read_stdin)
    body, headers = oip_client.encoded(message)
    if token is not None:
        headers = headers | {"Authorization": f"Bearer {token}"}
    path = f"{parts.path.rstrip('/')}/v2/models/{urllib.parse.quote(subject.target.model, safe='')}/infer"
    headers = {"Host": parts.netloc.rpartition("@")[2]} | headers
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return Request(parts.hostname or "", port, path, headers, body, inputs)


def _message(
    client: oip_client.Client, model: str, values: list[str], read_stdin: Callable[[], bytes]
) -> tuple[oip_client.Message, str]:
    if not values:
        metadata = client.metadata(model)
        return _made_up(client, model, metadata)
    values = tensors.with_standard_input(values, read_stdin)
    message = tensors.read_request(values)
    if message is None:
        message = tensors.encode(tensors.read_inputs(values, client.metadata(model)))
    client.infer(model, message)
    return message, "as given"


def _made_up(client: oip_client.Client, model: str, metadata: Mapping[str, Any]) -> tuple[oip_client.Message, str]:
    """Return zeros that the model takes: of the smallest shapes that it answers, where it leaves them open."""
    from orchestrator.backend.made_up import candidates
    from orchestrator.inventory.model import Dim, TensorInfo

    def dims(shape: list[int]) -> tuple[Dim, ...]:
        return tuple(Dim(low=max(0, size), high=None if size < 0 else size) for size in shape)

    infos = [
        TensorInfo(name=each["name"], datatype=each["datatype"], shape=dims(each["shape"]))
        for each in metadata["inputs"]
    ]
    refused: OrchError | None = None
    for arrays in candidates(infos):
        named = {info.name: (info.datatype, array) for info, array in zip(infos, arrays, strict=True)}
        message = tensors.encode(named)
        try:
            client.infer(model, message)
        except OrchError as error:
            if error.kind not in (Kind.FAILED, Kind.INVALID):
                raise
            refused = error
        else:
            shapes = ", ".join(f"{name} {'x'.join(map(str, array.shape))}" for name, (_, array) in named.items())
            return message, f"made up: zeros, {shapes}"
    assert refused is not None, "there is always a candidate"
    problem = replace(refused.problems[0], hint="give inputs that it takes: --input NAME=@file.npy")
    raise OrchError(refused.kind, [problem])
