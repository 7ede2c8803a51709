"""Mutates HTTP and gRPC requests to a worker: each must get a right answer or a proper refusal; no traceback, no hang.

    python -m benchmarks.fuzz_wire --count 10000

The models return what they are given, so that a right answer is known: requests and answers are read here by other code
than the server's (json, numpy, tritonclient's protobuf messages).
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import copy
import itertools
import json
import random
import re
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
from tritonclient.grpc import service_pb2

HANG_S = 10.0
INCOMPLETE_S = 0.3  # a request that is still unanswered then was cut short: the client hangs up
CONCURRENT = 16
START_S = 60.0
TYPES = {"FP32": np.float32, "INT32": np.int32, "UINT8": np.uint8, "BF16": np.uint16, "BYTES": None}
PROPER_HTTP = {200, 400, 401, 404, 405, 408, 411, 413, 414, 415, 417, 426, 429, 431, 501, 503, 504, 505}
PROPER_GRPC = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}
TOKENS: list[Any] = [
    None, True, False, 0, 1, -1, 2, 7, 2**31, 2**63, -(2**63), 1e308, 0.5, "", "data", "same", "FP32", "BYTES", "é",
    "\0", [], {}, [[]], [1, 2], [[1, 2], [3]], {"data": 1}, "x" * 300, [0] * 40, [2, 3], [0, 3], [3, 2], [6], "NaN",
]  # fmt: skip
RAW = [
    b"\r\n", b"\r\n\r\n", b"\0", b"\xff", b": ", b" ", b"HTTP/1.1", b"-1", b"9" * 20, b"{", b"}", b"[" * 60,
    b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n", b"Connection: close\r\n",
    b"Inference-Header-Content-Length: 1\r\n", b'"', b"/v2/../", b"%00", b"%ff", b"\x80" * 11, b"\x3a\x00",
]  # fmt: skip

Outcome = str


@dataclass(frozen=True)
class Mutant:
    """Bytes to send over HTTP. Where the framing is still right, `text` and `binary` are the body's two parts."""

    data: bytes
    text: bytes | None = None
    binary: bytes = b""


class Wrong(Exception):  # noqa: N818 - it names the finding
    """An answer that is not right, or a refusal that is not proper."""


# Requests that are right, and what the model must answer.


def tensor(datatype: str, rng: random.Random) -> tuple[tuple[int, int], list[Any], bytes]:
    """Return a shape, values as JSON has them, and the same as bytes."""
    rows, columns = rng.randint(1, 4), rng.randint(1, 5)
    if datatype == "BYTES":
        texts = ["t" * rng.randint(0, 9) + "é" for _ in range(rows * columns)]
        return (rows, columns), texts, b"".join(struct.pack("<I", len(t.encode())) + t.encode() for t in texts)
    array = np.array([rng.randint(0, 255) for _ in range(rows * columns)], dtype=TYPES[datatype])
    return (rows, columns), array.tolist(), array.tobytes()


def http_body(rng: random.Random) -> tuple[str, dict[str, Any], bytes]:
    """Return the model's name, the JSON and the binary part of a right request."""
    datatype = rng.choice(list(TYPES))
    shape, values, wire = tensor(datatype, rng)
    item: dict[str, Any] = {"name": "data", "datatype": datatype, "shape": list(shape)}
    body: dict[str, Any] = {"inputs": [item], "id": "f-1"}
    if datatype == "BF16" or rng.random() < 0.5:
        item["parameters"] = {"binary_data_size": len(wire)}
        body["parameters"] = {"binary_data_output": datatype == "BF16" or rng.random() < 0.5}
        if rng.random() < 0.3:
            body["outputs"] = [{"name": "same", "parameters": {"binary_data": True}}]
        return f"identity_{datatype.lower()}", body, wire
    item["data"] = values
    return f"identity_{datatype.lower()}", body, b""


def http_request(path: str, text: bytes, binary: bytes, rng: random.Random) -> bytes:
    """Return the bytes of a POST whose lengths are right, now and then in chunks."""
    head = [f"POST {path} HTTP/1.1", "Host: fuzz", "Connection: close"]
    if binary:
        head.append(f"Inference-Header-Content-Length: {len(text)}")
    body = text + binary
    if rng.random() < 0.2:
        head.append("Transfer-Encoding: chunked")
        cuts = sorted(rng.randint(0, len(body)) for _ in range(3))
        pieces = [body[i:j] for i, j in itertools.pairwise([0, *cuts, len(body)]) if i < j]
        body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in [*pieces, b""])
    else:
        head.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*head, "", ""]).encode() + body


def grpc_request(rng: random.Random) -> Any:
    """Return a right ModelInferRequest."""
    datatype = rng.choice(list(TYPES))
    shape, values, wire = tensor(datatype, rng)
    message = service_pb2.ModelInferRequest(model_name=f"identity_{datatype.lower()}", id="f-2")
    item = message.inputs.add(name="data", datatype=datatype, shape=shape)
    if datatype == "BF16" or rng.random() < 0.6:
        message.raw_input_contents.append(wire)
    elif datatype == "BYTES":
        item.contents.bytes_contents.extend(text.encode() for text in values)
    else:
        fields = {"FP32": "fp32_contents", "INT32": "int_contents", "UINT8": "uint_contents"}
        getattr(item.contents, fields[datatype]).extend(values)
    return message


# Mutations.


def edit_bytes(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """Return the bytes after one edit: a flip, a cut, an insertion, a repetition or a piece of another request."""
    at, to = sorted((rng.randint(0, len(data)), rng.randint(0, len(data))))
    match rng.randrange(6):
        case 0:
            return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
        case 1:
            return data[:at]
        case 2:
            return data[:at] + rng.choice(RAW) + data[at:]
        case 3:
            return data[:at] + data[at:to] * rng.choice((2, 3)) + data[to:]
        case 4:
            return data[:at] + data[min(to, at + 8) :]
        case _:
            return data[:at] + other[at:to] + data[to:]


def edit_value(value: Any, rng: random.Random) -> Any:
    """Return the JSON value with one place in it replaced, dropped or renamed."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        match rng.randrange(8):
            case 0:
                return {name: item for name, item in value.items() if name != key}
            case 1:
                return {**value, str(rng.choice(TOKENS))[:40]: rng.choice(TOKENS)}
            case _:
                return {**value, key: edit_value(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        match rng.randrange(6):
            case 0:
                return value[:at] + value[at + 1 :]
            case 1:
                return [*value[: at + 1], *value[at:]]
            case _:
                return [*value[:at], edit_value(value[at], rng), *value[at + 1 :]]
    return copy.deepcopy(rng.choice(TOKENS))


def http_mutant(rng: random.Random) -> Mutant:
    """Return a request whose JSON, whose text or whose every byte was mutated."""
    name, body, binary = http_body(rng)
    path, way = f"/v2/models/{name}/infer", rng.random()
    if way < 0.5:
        for _ in range(rng.randint(0, 2)):
            body = edit_value(body, rng)
    text = json.dumps(body).encode()
    if 0.5 <= way < 0.7:
        for _ in range(rng.randint(1, 4)):
            text = edit_bytes(text, text[::-1], rng)
    if way < 0.7:
        if rng.random() < 0.15:
            binary = edit_bytes(binary, b"\0" * 64, rng)
        return Mutant(http_request(path, text, binary, rng), text, binary)
    if way < 0.75:
        path = rng.choice(("/v2", "/v2/health/ready", "/v2/models/" + name, "/metrics", "/v2/repository/index"))
    data = http_request(path, text, binary, rng)
    _, other, more = http_body(rng)
    for _ in range(rng.randint(1, 4)):
        data = edit_bytes(data, http_request("/v2", json.dumps(other).encode(), more, rng), rng)
    return Mutant(data)


def grpc_mutant(rng: random.Random) -> bytes:
    """Return the bytes of a mutated ModelInferRequest."""
    message = grpc_request(rng)
    item = message.inputs[0]
    edits: list[Callable[[], Any]] = [
        lambda: setattr(item, "name", rng.choice(("", "dat", "data", "x" * 300))),
        lambda: setattr(item, "datatype", rng.choice((*TYPES, "FP16", "bool", ""))),
        lambda: item.shape.append(rng.choice((0, 1, 2, -1, 2**62))),
        item.shape.pop,
        lambda: item.shape.__setitem__(0, rng.choice((0, 1, 5, -5, 2**40))),
        lambda: message.raw_input_contents.append(b"\0" * rng.randint(0, 30)),
        lambda: item.contents.fp32_contents.append(1.5),
        lambda: item.contents.int_contents.append(rng.choice((-1, 300, 2**31 - 1))),
        lambda: message.outputs.add(name=rng.choice(("same", "some", ""))),
        lambda: message.inputs.append(item),
        lambda: setattr(message, "model_version", rng.choice(("", "1", "2"))),
        lambda: setattr(message.parameters["timeout"], "int64_param", rng.choice((-1, 0, 1, 10**7, 2**62))),
        lambda: setattr(message.parameters["timeout"], "string_param", "soon"),
    ]
    for _ in range(rng.randint(0, 2)):
        rng.choice(edits)() if item.shape else message.inputs.add()
    data: bytes = message.SerializeToString()
    if rng.random() < 0.6:
        other = grpc_request(rng).SerializeToString()
        for _ in range(rng.randint(1, 4)):
            data = edit_bytes(data, other, rng)
    return data


# What came back.


def check_http(sent: Mutant, received: bytes) -> Outcome:
    """Return the outcome of the first answer; raise Wrong."""
    if not received:
        if sent.text is not None:
            raise Wrong("a whole request got no answer")
        return "http cut short"
    match = re.match(rb"HTTP/1\.1 (\d{3}) [^\r\n]*\r\n((?:[^\r\n]+\r\n)*)\r\n", received)
    if match is None:
        raise Wrong(f"not an HTTP answer: {received[:200]!r}")
    status, headers, body = int(match[1]), match[2].lower(), received[match.end() :]
    if status == 100:
        return check_http(Mutant(sent.data), body)
    if status not in PROPER_HTTP or b"Traceback" in received:
        raise Wrong(f"status {status}: {received[:400]!r}")
    if sent.text is not None and status == 200:
        check_identity(json.loads(sent.text), sent.binary, headers, body)
    elif sent.text is not None and "error" not in json.loads(body):
        raise Wrong(f"a refusal without words: {received[:400]!r}")
    return "http answered" if status == 200 else "http refused"


def check_identity(request: Any, given_binary: bytes, headers: bytes, body: bytes) -> None:
    """Raise Wrong unless the answer holds the tensor that was sent."""
    found = re.search(rb"inference-header-content-length: (\d+)", headers)
    length = int(found[1]) if found else len(body)
    answer, answer_binary = json.loads(body[:length]), body[length:]
    item, output = request["inputs"][0], answer["outputs"][0]
    if "classification" in json.dumps(request.get("outputs")):
        return
    if (output["name"], output["datatype"], output["shape"]) != ("same", item["datatype"], item["shape"]):
        raise Wrong(f"another tensor than was sent: {answer}")
    given = wire_of(item, given_binary)
    if output["datatype"] == "FP32" and "data" in output:
        floats = np.frombuffer(given, np.float32)
        if [value is None for value in output["data"]] != (~np.isfinite(floats)).tolist():
            raise Wrong(f"JSON has null for what is not finite, and for nothing else: {answer}")
        output["data"] = [0.0 if value is None else value for value in output["data"]]
        given = np.where(np.isfinite(floats), floats, np.float32(0)).tobytes()
    if wire_of(output, answer_binary) != given:
        raise Wrong(f"other values than were sent: {answer}")
    if request.get("id") != answer.get("id"):
        raise Wrong(f"another id than was sent: {answer.get('id')!r}")


def wire_of(item: dict[str, Any], binary: bytes) -> bytes:
    """Return a tensor's bytes, whichever form it came in."""
    if item.get("data") is None:
        return binary
    flat = np.array(item["data"], dtype=object).ravel().tolist()
    if item["datatype"] == "BYTES":
        return b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in flat)
    return np.array(flat, dtype=TYPES[item["datatype"]]).tobytes()


def check_grpc(sent: bytes, received: bytes) -> None:
    """Raise Wrong unless the answer holds the tensor that was sent."""
    request, answer = (
        service_pb2.ModelInferRequest.FromString(sent),
        service_pb2.ModelInferResponse.FromString(received),
    )
    item, output = request.inputs[0], answer.outputs[0]
    if request.outputs and "classification" in request.outputs[0].parameters:
        return
    if (output.name, output.datatype, list(output.shape), answer.id) != (
        "same",
        item.datatype,
        list(item.shape),
        request.id,
    ):
        raise Wrong(f"another tensor than was sent: {answer}")
    values = [value for _, field in item.contents.ListFields() for value in field]
    if request.raw_input_contents:
        given = request.raw_input_contents[0]
    elif item.datatype == "BYTES":
        given = b"".join(struct.pack("<I", len(value)) + value for value in values)
    else:
        given = np.array(values, dtype=TYPES[item.datatype]).tobytes()
    if answer.raw_output_contents[0] != given:
        raise Wrong(f"other values than were sent: {answer}")


# Sending.


async def send_http(host: str, port: int, mutant: Mutant, pieces: int) -> Outcome:
    """Send the bytes, read until the server closes, and check what came; hang up when nothing comes."""
    framed = mutant.text is not None
    reader, writer = await asyncio.open_connection(host, port)
    received = b""
    try:
        size = len(mutant.data) // pieces + 1
        for start in range(0, len(mutant.data), size):
            writer.write(mutant.data[start : start + size])
            await asyncio.sleep(0)  # so that the pieces leave one by one
        try:
            received = await asyncio.wait_for(reader.read(2**20), HANG_S if framed else INCOMPLETE_S)
        except TimeoutError:
            if framed:
                raise
        if writer.can_write_eof() and not framed:
            writer.write_eof()
        while more := await asyncio.wait_for(reader.read(2**20), HANG_S):
            received += more
    except ConnectionError:
        pass  # the server may reset a connection whose bytes it did not read; what came before it counts
    finally:
        writer.close()
    return check_http(mutant, received)


async def send_grpc(call: Any, data: bytes) -> Outcome:
    """Send the message and check what came."""
    try:
        received = await call(data, timeout=HANG_S)
    except grpc.aio.AioRpcError as error:
        details = error.details() or ""
        if error.code() not in PROPER_GRPC or "Deadline Exceeded" in details or not details or "Traceback" in details:
            raise Wrong(f"{error.code()}: {details!r}") from None
        return "grpc refused"
    check_grpc(data, received)
    return "grpc answered"


async def fuzz(http: str, grpc_address: str, count: int, seed: int) -> collections.Counter[str]:
    """Send `count` mutants of each kind, several at a time; return how they ended."""
    rng = random.Random(seed)
    host, _, port = http.rpartition(":")
    counts: collections.Counter[str] = collections.Counter()
    gate = asyncio.Semaphore(CONCURRENT)

    async def attempt(number: int, mutant: Any, work: Awaitable[Outcome]) -> None:
        try:
            async with asyncio.timeout(3 * HANG_S):
                counts[await work] += 1
        except Exception as error:  # noqa: BLE001 - finding any of them is what this is for
            counts["hang" if isinstance(error, TimeoutError) else "wrong"] += 1
            sys.stderr.write(f"mutant {number} of seed {seed}: {mutant!r}\n  {type(error).__name__}: {error}\n")
        finally:
            gate.release()

    async with grpc.aio.insecure_channel(grpc_address) as channel, asyncio.TaskGroup() as group:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        for number in range(2 * count):
            await gate.acquire()
            if number % 2:
                mutant: Any = http_mutant(rng)
                group.create_task(attempt(number, mutant, send_http(host, int(port), mutant, rng.choice((1, 1, 2, 7)))))
            else:
                mutant = grpc_mutant(rng)
                group.create_task(attempt(number, mutant, send_grpc(call, mutant)))
    return counts


# The worker.


@contextmanager
def spawned(folder: Path) -> Iterator[tuple[str, str, subprocess.Popen[bytes]]]:
    """Serve the identity models in a worker of our own; give its addresses."""
    from benchmarks import topologies  # brings openvino, which a run against another worker does without

    names = [f"identity_{datatype.lower()}" for datatype in TYPES]
    models = "".join(
        f"    - {{name: {name}, source: {topologies.save(name, folder)}, queue: {{limit: 1000}}}}\n" for name in names
    )
    manifest = folder / "fuzz.yaml"
    manifest.write_text(
        "apiVersion: orch/v1\nkind: Deployment\nmetadata: {name: fuzz}\nspec:\n"
        f"  endpoint: {{http: '127.0.0.1:0', grpc: '127.0.0.1:0'}}\n  models:\n{models}"
    )
    log = folder / "worker.log"
    with log.open("wb") as stderr:
        command = [sys.executable, "-c", "from orchestrator.cli.main import run; run()", "run", str(manifest)]
        worker = subprocess.Popen(command, stderr=stderr)
        try:
            yield *_addresses(log, worker), worker
        finally:
            worker.send_signal(signal.SIGTERM)
            worker.wait(HANG_S * 4)
    if "Traceback" in (text := log.read_text(errors="replace")):
        sys.stderr.write(text)
        raise Wrong("the worker's log holds a traceback")


def _addresses(log: Path, worker: subprocess.Popen[bytes]) -> tuple[str, str]:
    until = time.monotonic() + START_S
    while worker.poll() is None and time.monotonic() < until:
        match = re.search(r"http http://(\S+), grpc (\S+)", log.read_text(errors="replace"))
        if match:
            return match[1], match[2]
        time.sleep(0.1)
    raise SystemExit(f"the worker does not serve:\n{log.read_text(errors='replace')}")


def report(options: argparse.Namespace, http: str, grpc_address: str) -> bool:
    """Run, print the counts, and tell whether every mutant got what it should."""
    begun = time.perf_counter()
    counts = asyncio.run(fuzz(http, grpc_address, options.count, options.seed))
    print(f"{options.count} HTTP and {options.count} gRPC requests in {time.perf_counter() - begun:.1f} s")
    print(", ".join(f"{name} {counts[name]}" for name in sorted({*counts, "hang", "wrong"})))
    return not counts["hang"] and not counts["wrong"]


def main() -> int:
    """Return 1 if any mutant got no proper answer, or the worker died or wrote a traceback."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="mutants of each transport")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--http", metavar="HOST:PORT", help="a running worker; without it one is started")
    parser.add_argument("--grpc", metavar="HOST:PORT", help="its gRPC address")
    options = parser.parse_args()
    if options.http:
        return 0 if report(options, options.http, options.grpc) else 1
    with tempfile.TemporaryDirectory() as folder, spawned(Path(folder)) as (http, grpc_address, worker):
        good = report(options, http, grpc_address)
        alive = worker.poll() is None
        print("the worker lives" if alive else f"the worker died: {worker.returncode}")
    return 0 if good and alive else 1


if __name__ == "__main__":
    raise SystemExit(main())
