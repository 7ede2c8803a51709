"""The worker process: control socket, pools, HTTP and gRPC endpoints of one deployment, from start to clean end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any, TypeVar

import uvloop
from pydantic import ValidationError

from orchestrator.backend.base import Backend
from orchestrator.errors import Kind, OrchError
from orchestrator.errors import render as render_error
from orchestrator.manifest.spec import is_loopback
from orchestrator.planner.plan import DeploymentPlan, EndpointPlan
from orchestrator.runner.trial import TRIAL, TrialLimits
from orchestrator.runner.worker import Progress, ServedModel, Worker
from orchestrator.serving import admin, tracing, trials
from orchestrator.serving.credentials import Credentials
from orchestrator.serving.dataplane import DataPlane, Served
from orchestrator.serving.error_count import ErrorCount
from orchestrator.serving.grpc_server import GrpcServer
from orchestrator.serving.http_gate import HttpLimits
from orchestrator.serving.http_server import HttpServer, listen
from orchestrator.serving.kept_regions import KeptRegions
from orchestrator.serving.log_file import rotate_own
from orchestrator.serving.monitor import STEP_S, Monitor
from orchestrator.serving.oip import Signature
from orchestrator.serving.quota import Quotas
from orchestrator.serving.request_log import RequestLog
from orchestrator.serving.shared_regions import LOOPBACK_ONLY, NOT_OFFERED, REGIONS_MAX, Regions
from orchestrator.telemetry import logs
from orchestrator.telemetry.events import EventType
from orchestrator.telemetry.prometheus import make_registry, render
from orchestrator.telemetry.report import WorkerReport

DRAIN_TIMEOUT_S = 30.0
# Long enough that ordinary objects never wait for it, short enough that a slow leak of cycles is found.
GC_THRESHOLDS = (50_000, 20, 50)

# How long the event loop waits for Python's lock while another thread computes: metrics, a look at the host, a change.
SWITCH_INTERVAL_S = 0.0005
FILES_KEPT = 200 + REGIONS_MAX  # model files, engine, gRPC, control socket; shared memory
REPAIRS: dict[str, tuple[EventType, str]] = {
    "rebuilding": ("Warning", "Rebuilding"),
    "rebuilt": ("Normal", "Rebuilt"),
    "rebuild-failed": ("Warning", "RebuildFailed"),
}
PROGRESS_TIMEOUT_S = 5.0  # for a caller to take a line of progress; then it is told no more
log = logging.getLogger("orch.worker")


@dataclass(frozen=True, slots=True)
class Start:
    """What a worker is started with."""

    plan: DeploymentPlan
    state: Path
    generation: int
    listener: socket.socket | None = None
    """The HTTP listening socket, where the agent holds it."""
    regions: Path | None = None
    """Where registered shared memory is kept for the next worker; by default in `state`."""
    trial: TrialLimits = TRIAL
    """How long changes are tried."""


def run(start: Start, backend: Backend) -> int:
    """Serve until asked to stop; return the exit code: 0, or 1 when the plan cannot be run (see failure.json)."""
    gc.set_threshold(*GC_THRESHOLDS)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    allow_many_files()
    process = WorkerProcess(start, backend)
    code = _run(process, start.state)
    if process.compiling:
        # Nothing interrupts a compilation, and what Python does at its end would wait for it or pull its memory away.
        logging.shutdown()
        os._exit(code)
    return code


def _run(process: WorkerProcess, state: Path) -> int:
    try:
        uvloop.run(process.main())
    except OrchError as error:
        note_failure(state, error)
        # As every command ends: `orch run` is one, and a worker's log tells the same.
        sys.stderr.write(render_error(error) + "\n")
        return 1
    except Exception:
        log.exception("our bug, please report it")
        return 3
    return 0


def allow_many_files() -> None:
    """Raise the soft limit of open files to the hard one: each connection is one, and most shells allow 1024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def connections_allowed() -> int:
    """Return how many HTTP connections the open files are enough for, leaving some for everything else."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    default = HttpLimits().connections
    return default if files == resource.RLIM_INFINITY else max(1, min(default, files - FILES_KEPT))


def refusal_of_shared_memory(endpoint: EndpointPlan) -> str | None:
    """Return why clients may not name shared memory, None where they may.

    Whoever can send a request could else have the worker read and write shared memory of other programs of its user.
    """
    if endpoint.shared_memory is not None:
        return None if endpoint.shared_memory else NOT_OFFERED
    addresses = [address for address in (endpoint.http, endpoint.grpc) if address is not None]
    return None if all(map(is_loopback, addresses)) else LOOPBACK_ONLY


def note_failure(state: Path, error: OrchError) -> None:
    with contextlib.suppress(OSError):
        (state / "failure.json").write_text(json.dumps(admin.error_to_json(error)))


class WorkerProcess:
    """Everything that one worker process runs."""

    def __init__(self, start: Start, backend: Backend) -> None:
        self._start = start
        self._backend = backend
        self._generation = start.generation
        self._state = "Starting"
        self._message = ""
        self._stopping = asyncio.Event()
        self._started = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self._worker = Worker(backend, on_change=self._swap, on_repair=self._repaired, limits=start.trial)
        self._monitor = Monitor(start.plan.name, lambda: self._worker.served, self._worker.repairs)
        self._plane: DataPlane
        self._http: HttpServer | None = None
        self._listener = start.listener
        self._http_socket_name: tuple[str, int] | None = None
        self._grpc: GrpcServer | None = None
        self._grpc_address: str | None = None
        self._credentials: Credentials | None = None
        self._fds: asyncio.Server | None = None
        self._requests = RequestLog(start.state / "requests.log")
        self._errors = ErrorCount()
        self._traces: tracing.Traces | None = None
        self._changing = asyncio.Lock()
        self._applying: threading.Thread | None = None
        self._versions = (installed_version("orch-openvino"), _openvino_version())
        self._registry = make_registry(self._report)

    @property
    def compiling(self) -> bool:
        """Tell whether a change of the models still runs."""
        applying = self._applying is not None and self._applying.is_alive()
        return applying or self._worker.repairs.under_way

    async def main(self) -> None:
        """Start, serve until stopped, and end cleanly; raise OrchError when the plan cannot be run."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        self._plane = DataPlane(loop)
        (self._start.state / "failure.json").unlink(missing_ok=True)
        control = await admin.serve(self._start.state / "control.sock", self._methods(), on_bug=self._bug)
        try:
            if await self._begin():
                await self._stopping.wait()
            await self._end()
        finally:
            control.close()
            if self._fds is not None:
                self._fds.close()
            if self._traces is not None:
                await asyncio.to_thread(self._traces.stop)
            await asyncio.to_thread(self._requests.switch, False)
            await asyncio.to_thread(self._worker.close)

    async def _begin(self) -> bool:
        """Compile and listen; False when a stop was asked for meanwhile."""
        compiling = asyncio.create_task(self._apply(self._start.plan, _quiet))
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({compiling, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not compiling.done():
            return False  # the compilation cannot be interrupted; the process ends without it
        stopping.cancel()
        await compiling
        self._worker.start()
        self._traces = await asyncio.to_thread(self._trace)
        await self._listen()
        gc.collect()
        gc.freeze()
        self._watching = asyncio.create_task(self._watch())
        assert self._credentials is not None
        self._following = asyncio.create_task(self._credentials.follow(self._rotated, self._bug))
        self._state = "Serving"
        places = {"http": self._http_address(), "grpc": self._grpc_address}
        at = ", ".join(f"{name} {address}" for name, address in places.items() if address)
        log.info("serving %s: %s", self._start.plan.name, at)
        return True

    async def _listen(self) -> None:
        endpoint = self._start.plan.endpoint
        self._plane.regions = self._regions(endpoint)
        shown = self._credentials = Credentials(endpoint)
        quota = endpoint.quota
        quotas = Quotas(quota.rate_per_s, quota.burst) if quota else None
        if endpoint.http is not None:
            self._listener = self._listener or listen(endpoint.http)
            self._http = HttpServer(
                self._plane,
                lambda accept: render(self._registry, accept),
                version=self._versions[0],
                on_bug=self._bug,
                limits=HttpLimits(connections=connections_allowed()),
                token=shown.tokens,
                tls=shown.context if shown.encrypted else None,
                saturation=self._monitor.saturation_value,
                quotas=quotas,
                requests=self._requests,
                errors=self._errors,
            )
            self._http_socket_name = self._listener.getsockname()[:2]  # the server closes the socket when it stops
            await self._http.start(self._listener)
            self._fds = await _offer_listener(self._start.state / "fds.sock", self._listener)
        if endpoint.grpc is not None:
            self._grpc = GrpcServer(
                self._plane,
                endpoint.grpc,
                token=shown.tokens,
                tls=shown.identity if shown.encrypted else None,
                version=self._versions[0],
                quotas=quotas,
                requests=self._requests,
                errors=self._errors,
            )
            host = endpoint.grpc.rpartition(":")[0]
            self._grpc_address = f"{host}:{await self._grpc.start()}"

    def _regions(self, endpoint: EndpointPlan) -> Regions:
        """Return the shared memory that clients may use, and take up what they registered with the worker before."""
        refusal = refusal_of_shared_memory(endpoint)
        loop = asyncio.get_running_loop()
        path = self._start.regions or self._start.state / "regions.json"
        regions = Regions(refusal, kept=KeptRegions(path, lambda work: loop.run_in_executor(None, work)))
        regions.take_up()
        return regions

    def _trace(self) -> tracing.Traces | None:
        """Begin to make spans where the environment asks for it; what is wrong there must not keep us from serving."""
        try:
            scheme = "http" if self._start.plan.endpoint.tls is None else "https"
            traces = tracing.begin(os.environ, self._start.plan.name, self._versions[0], scheme=scheme)
        except OrchError as error:
            log.warning("no traces: %s", error)
            self._monitor.event("Warning", "TracesOff", None, str(error))
            return None
        if traces is not None:
            self._requests.follow(traces.note)
            log.info("traces are on")
        return traces

    def _report(self) -> WorkerReport:
        """Return what Prometheus is told."""
        return replace(
            self._monitor.report(self._worker.plan, self._versions),
            generation=self._generation,
            ready=self._ready(),
            connections=None if self._http is None else self._http.connections,
            errors=self._errors.counts(),
            traces_dropped=None if self._traces is None else self._traces.dropped,
            certificate_ends_epoch_s=None if self._credentials is None else self._credentials.expires_epoch_s,
        )

    def _ready(self) -> bool:
        return self._state in ("Serving", "Changing") and self._plane.ready()

    def _http_address(self) -> str | None:
        if self._http_socket_name is None:
            return None
        host, port = self._http_socket_name
        scheme = "http" if self._start.plan.endpoint.tls is None else "https"
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    def _endpoint(self) -> dict[str, Any]:
        told: dict[str, Any] = {"http": self._http_address(), "grpc": self._grpc_address}
        tls = None if self._credentials is None else self._credentials.status()
        return told if tls is None else told | {"tls": tls}

    def _rotated(self, kind: EventType, reason: str, message: str) -> None:
        log.info("%s: %s", reason, message)
        self._monitor.event(kind, reason, None, message)

    def _swap(self, served: Mapping[str, ServedModel]) -> None:
        self._plane.served = {name: Served(signature(model), model.pool) for name, model in served.items()}

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(STEP_S)
            try:
                await asyncio.to_thread(self._monitor.read_host)  # files of the kernel, off the loop
                self._monitor.step()
                rotate_own(self._start.state / "worker.log")
            except Exception as error:  # noqa: BLE001 - the next look may go well, and status must not grow stale
                self._bug(error)

    async def _end(self) -> None:
        await self._drain(DRAIN_TIMEOUT_S)
        log.info("stopped")

    async def _drain(self, timeout_s: float) -> bool:
        """Accept no more, and tell whether all that is in flight ended within `timeout_s`."""
        self._state = "Draining"
        self._plane.draining = True
        deadline = time.monotonic() + timeout_s
        stops = [server.stop(timeout_s) for server in (self._http, self._grpc) if server is not None]
        await asyncio.gather(*stops)
        return await asyncio.to_thread(self._worker.drain, max(0.0, deadline - time.monotonic()))

    # The control socket

    def _methods(self) -> dict[str, admin.Method]:
        return {
            "status": self._on_status,
            "apply": self._on_apply,
            "drain": self._on_drain,
            "stop": self._on_stop,
            "requests": self._on_requests,
            "benched": self._on_benched,
            "seen": self._on_seen,
            "trial": self._on_trial,
        }

    async def _on_status(self, params: admin.Json, progress: admin.Progress) -> Any:
        del params, progress
        plan = self._worker.plan
        served = sorted(self._worker.served.items())
        return {
            "deployment": self._start.plan.name,
            "generation": self._generation,
            "plan": plan.model_dump(mode="json") if plan else None,
            "plan_digest": plan.digest() if plan else None,
            "pid": os.getpid(),
            "started": self._started,
            "ready": self._ready(),
            "state": self._state,
            "message": self._message,
            "endpoint": self._endpoint(),
            "models": [self._monitor.model_status(model) for _, model in served],
            "events": [asdict(event) for event in self._monitor.events()[-200:]],
        }

    async def _on_apply(self, params: admin.Json, progress: admin.Progress) -> Any:
        plan, generation = _plan(params), int(_number(params, "generation"))
        running = self._worker.plan
        if running is None or self._stopping.is_set():
            raise OrchError(Kind.UNAVAILABLE, "the worker is not serving yet, or not any more")
        if (plan.endpoint, plan.cores) != (running.endpoint, running.cores):
            raise OrchError(Kind.CONFLICT, "endpoint and cores belong to the process: start a new worker")
        async with self._changing:
            self._state = "Changing"
            try:
                changes = await self._apply(plan, progress, trial=params.get("trial") is not False)
                self._generation = generation
            finally:
                self._state = "Draining" if self._plane.draining else "Serving"
        models = [{"model": change.model, "action": change.action, "cause": change.cause} for change in changes]
        return {"ok": True, "models": models}

    async def _apply(self, plan: DeploymentPlan, progress: admin.Progress, *, trial: bool = True) -> Any:
        return await self._told(lambda tell: self._worker.apply(plan, tell, trial=trial), progress)

    async def _told(self, work: Callable[[Progress], Result], progress: admin.Progress) -> Result:
        """Run work that blocks, and tell the caller, the log and the events how far it is."""
        loop = asyncio.get_running_loop()
        told: asyncio.Queue[admin.Json | None] = asyncio.Queue()

        def tell(model: str, phase: str, message: str) -> None:
            loop.call_soon_threadsafe(told.put_nowait, {"model": model, "phase": phase, "message": message})

        async def forward() -> None:
            while (item := await told.get()) is not None:
                self._note(item)
                # A caller that went away, or reads nothing, does not stop what it asked for.
                with contextlib.suppress(ConnectionError, TimeoutError):
                    await asyncio.wait_for(progress(item), PROGRESS_TIMEOUT_S)

        forwarding = asyncio.create_task(forward())
        try:
            future, self._applying = _in_daemon(lambda: work(tell))
            return await future
        finally:
            await told.put(None)
            await forwarding

    def _note(self, item: admin.Json) -> None:
        log.info("%s: %s (%s)", item["model"], item["phase"], item["message"])
        if item["phase"] == "failed":
            self._monitor.event("Warning", "ChangeFailed", item["model"], item["message"])
        elif item["phase"] in ("tried", "created", "replaced", "updated", "deleted"):
            self._monitor.event("Normal", item["phase"].capitalize(), item["model"], item["message"])

    def _repaired(self, model: str, phase: str, message: str) -> None:
        log.info("%s: %s (%s)", model, phase, message)
        if phase in REPAIRS:
            kind, reason = REPAIRS[phase]
            self._monitor.event(kind, reason, model, message)

    async def _on_drain(self, params: admin.Json, progress: admin.Progress) -> Any:
        del progress
        return {"drained": await self._drain(_number(params, "timeout_s"))}

    async def _on_benched(self, params: admin.Json, progress: admin.Progress) -> Any:
        del progress
        self._monitor.benched(str(params.get("model")), _number(params, "capacity_per_s"))
        return {"ok": True}

    async def _on_seen(self, params: admin.Json, progress: admin.Progress) -> Any:
        del params, progress
        return trials.seen(self._worker)

    async def _on_trial(self, params: admin.Json, progress: admin.Progress) -> Any:
        work = trials.trial(self._worker, params)
        async with self._changing:
            return await self._told(work, progress)

    async def _on_requests(self, params: admin.Json, progress: admin.Progress) -> Any:
        """Switch the log of requests, and tell where it is."""
        del progress
        on = params.get("on")
        if not isinstance(on, bool):
            raise OrchError(Kind.INVALID, f"on must be true or false, got {on!r}")
        await asyncio.to_thread(self._requests.switch, on)
        return {"on": self._requests.writing, "path": str(self._requests.path)}

    async def _on_stop(self, params: admin.Json, progress: admin.Progress) -> Any:
        del params, progress
        self._stopping.set()
        return {"stopping": True}

    def _bug(self, error: BaseException) -> None:
        log.error("our bug, please report it", exc_info=error, extra=logs.marks(error))


async def _quiet(_item: admin.Json) -> None:
    """Nobody is told of the first compilation but the log and the events."""


async def _offer_listener(path: Path, listener: socket.socket) -> asyncio.Server:
    """Hand the listening socket to whoever connects to `path` (0600): a new agent takes it from its old worker."""

    async def connected(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stream = writer.get_extra_info("socket")
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(stream.fileno())) as channel:
            socket.send_fds(channel, [b"http"], [listener.fileno()])
        writer.close()

    return await asyncio.start_unix_server(connected, sock=admin.bind(path))


def _plan(params: admin.Json) -> DeploymentPlan:
    try:
        return DeploymentPlan.model_validate(params.get("plan"))
    except ValidationError as error:
        raise OrchError(Kind.INVALID, f"not a plan: {error}") from None


def _number(params: admin.Json, name: str) -> float:
    value = params.get(name)
    if isinstance(value, (int, float)) and value >= 0:
        return value
    raise OrchError(Kind.INVALID, f"{name} must be a number of at least 0, got {value!r}")


Result = TypeVar("Result")


def _in_daemon(work: Callable[[], Result]) -> tuple[asyncio.Future[Result], threading.Thread]:
    """Run `work` in a thread that the end of the process need not wait for."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()

    def settle(set_it: Callable[[Any], None], value: object) -> None:
        if not future.done():
            set_it(value)

    def run() -> None:
        try:
            settled: tuple[Any, object] = (future.set_result, work())
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits
            settled = (future.set_exception, error)
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, *settled)

    thread = threading.Thread(target=run, name="orch-apply", daemon=True)
    thread.start()
    return future, thread


def signature(served: ServedModel) -> Signature:
    """Return what callers of the model may send and get."""
    compiled = served.pool.compiled
    return Signature(served.plan.name, served.plan.version, compiled.inputs, compiled.outputs, served.plan.batch)


def _openvino_version() -> str:
    return installed_version("openvino")
