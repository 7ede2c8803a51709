"""A worker that speaks the control protocol and serves its pid, without an engine: what it does stands in its plan."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from orchestrator.errors import Kind, OrchError
from orchestrator.planner.plan import DeploymentPlan
from orchestrator.serving import admin


def behaviour(plan: DeploymentPlan) -> set[str]:
    return {model.properties.get("STAND_IN", "") for model in plan.models}


def has_models(plan: DeploymentPlan) -> bool:
    return all(Path(model.source).is_file() for model in plan.models)


class StandIn:
    """One worker process."""

    def __init__(self, state: Path, plan: DeploymentPlan, generation: int, listener: socket.socket | None) -> None:
        self.state, self.plan, self.generation, self.listener = state, plan, generation, listener
        self.ready = False
        self.stopping = asyncio.Event()

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stopping.set)
        methods = {"status": self.status, "apply": self.apply, "drain": self.drain, "stop": self.stop}
        methods["requests"] = self.requests
        methods["benched"] = self.benched
        methods |= {"seen": self.seen, "trial": self.trial}
        control = await admin.serve(
            self.state / "control.sock", methods, on_bug=lambda error: sys.stderr.write(f"{error!r}\n")
        )
        wanted = behaviour(self.plan)
        while "DEAF" in wanted and not (self.state.parent / "go-on").exists():
            time.sleep(0.01)  # noqa: ASYNC251 - as a loop that computes: nothing is answered
        if "CRASH" in wanted:
            sys.stderr.write("out of luck\n")
            return 7
        if "NEEDS_MODEL" in wanted and not has_models(self.plan):
            sys.stderr.write("the model is gone\n")
            return 7
        if "CANNOT" in wanted:
            failure = OrchError(Kind.UNSUPPORTED, "this plan cannot run", hint="change it")
            (self.state / "failure.json").write_text(json.dumps(admin.error_to_json(failure)))
            return 1
        if "STARTS_LATE" in wanted:
            while not (self.state.parent / "go-on").exists():  # noqa: ASYNC110 - another process makes it
                await asyncio.sleep(0.01)
        servers = []
        if self.listener is not None and "STARTS_FOREVER" not in wanted:
            servers.append(await asyncio.start_server(self.client, sock=self.listener))
            servers.append(await asyncio.start_unix_server(self.hand_out, str(self.state / "fds.sock")))
        self.ready = "STARTS_FOREVER" not in wanted
        await self.stopping.wait()
        for server in (*servers, control):
            server.close()
        return 0

    async def client(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"{os.getpid()}\n".encode())
        writer.close()

    async def hand_out(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert self.listener is not None
        stream = writer.get_extra_info("socket")
        with suppress(OSError), socket.socket(fileno=os.dup(stream.fileno())) as channel:
            socket.send_fds(channel, [b"http"], [self.listener.fileno()])
        writer.close()

    async def status(self, _params: admin.Json, _progress: admin.Progress) -> Any:
        http = None
        if self.listener is not None:
            http = "http://{}:{}".format(*self.listener.getsockname()[:2])
        models = [{"name": model.name, "state": "Serving", "message": None} for model in self.plan.models]
        event = {"seq": 1, "time": "2026-01-01T00:00:00Z", "type": "Normal", "reason": "Born", "object": "x"}
        return {
            "deployment": self.plan.name,
            "generation": self.generation,
            "plan": self.plan.model_dump(mode="json"),
            "plan_digest": self.plan.digest(),
            "pid": os.getpid(),
            "started": "2026-01-01T00:00:00Z",
            "ready": self.ready,
            "state": "Serving" if self.ready else "Starting",
            "message": "",
            "endpoint": {"http": http, "grpc": None},
            "models": models if self.ready else [],
            "events": [{**event, "message": "it began"}],
        }

    async def apply(self, params: admin.Json, progress: admin.Progress) -> Any:
        plan = DeploymentPlan.model_validate(params["plan"])
        await progress({"model": plan.models[0].name, "phase": "compiling", "message": ""})
        if "REFUSE" in behaviour(plan):
            raise OrchError(Kind.FAILED, "the engine refuses")
        if "HANG" in behaviour(plan):  # until the test lets it go on
            while not (self.state.parent / "go-on").exists():  # noqa: ASYNC110 - another process makes it
                await asyncio.sleep(0.01)
        self.plan, self.generation = plan, params["generation"]
        return {"ok": True, "models": []}

    async def drain(self, _params: admin.Json, _progress: admin.Progress) -> Any:
        return {"drained": True}

    async def requests(self, params: admin.Json, _progress: admin.Progress) -> Any:
        return {"on": params["on"], "path": str(self.state / "requests.log")}

    async def benched(self, params: admin.Json, _progress: admin.Progress) -> Any:
        if params["model"] != "digits":
            raise OrchError(Kind.NOT_FOUND, f"no model {params['model']!r}")
        return {"ok": params["capacity_per_s"] == 72.0}

    async def seen(self, _params: admin.Json, _progress: admin.Progress) -> Any:
        return {"m": {"seconds": 10.0, "arrivals": 550, "answered": 550, "in_slo": 550}}

    async def trial(self, params: admin.Json, progress: admin.Progress) -> Any:
        """Judge as the plan says; what the worker before has seen must have come along."""
        wanted = behaviour(self.plan)
        if params["before"] is None:
            unfit = {"model": "m", "good": False, "text": "one inference alone takes too long"}
            return {"unfit": [unfit] if "UNFIT" in wanted else []}
        await progress({"model": "m", "phase": "trying", "message": f"{params['before']['m']['arrivals']} before"})
        while "TRIED" in wanted and not (self.state.parent / "go-on").exists():  # noqa: ASYNC110 - the test is another process
            await asyncio.sleep(0.01)  # until the test lets it go on
        if "MISSES" in wanted:
            raise OrchError(Kind.FAILED, "p99 61 ms over the SLO of 40 ms", where="m")
        return {"ok": True}

    async def stop(self, _params: admin.Json, _progress: admin.Progress) -> Any:
        self.stopping.set()
        return {}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--state", type=Path)
    parser.add_argument("--plan", type=Path)
    parser.add_argument("--generation", type=int)
    parser.add_argument("--listen-fd", type=int)
    parser.add_argument("--cores")
    parser.add_argument("--regions", type=Path)
    options = parser.parse_args()
    listener = None if options.listen_fd is None else socket.socket(fileno=options.listen_fd)
    plan = DeploymentPlan.model_validate_json(options.plan.read_text())
    return asyncio.run(StandIn(options.state, plan, options.generation, listener).run())


if __name__ == "__main__":
    sys.exit(main())
