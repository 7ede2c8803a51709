"""Tensors from the command line and for people, and the small client that carries them."""

from __future__ import annotations

import http.server
import io
import json
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.cli import tensors
from orchestrator.cli.oip_client import HEADER_LENGTH, Client, Message
from orchestrator.errors import Kind, OrchError

ONE = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}]}
TWO = {
    "inputs": [
        {"name": "ids", "datatype": "INT64", "shape": [-1, -1]},
        {"name": "text", "datatype": "BYTES", "shape": [-1]},
    ]
}


def test_an_input_comes_from_json_a_json_file_or_a_numpy_file(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[[1, 2, 3]]")
    np.save(tmp_path / "x.npy", np.array([[1, 2, 3]], dtype=np.float64))
    for value in ("x=[[1, 2, 3]]", "[[1, 2, 3]]", f"@{tmp_path}/x.json", f"x=@{tmp_path}/x.npy"):
        datatype, array = tensors.read_inputs([value], ONE)["x"]
        assert (datatype, array.dtype, array.tolist()) == ("FP32", np.float32, [[1.0, 2.0, 3.0]])


def test_a_row_without_its_batch_axis_becomes_a_batch_of_one() -> None:
    assert tensors.read_inputs(["[1, 2, 3]"], ONE)["x"][1].shape == (1, 3)


def test_texts_and_bf16_become_what_the_protocol_carries() -> None:
    inputs = tensors.read_inputs(["ids=[[1, 2]]", 'text=["a", "é"]'], TWO)
    message = tensors.encode(inputs)
    assert message.binary == np.array([[1, 2]]).tobytes() + b"\x01\x00\x00\x00a\x02\x00\x00\x00" + "é".encode()
    half = tensors.read_inputs(["[1.5]"], {"inputs": [{"name": "x", "datatype": "BF16", "shape": [-1]}]})["x"]
    assert half[1].tolist() == [0x3FC0]


@pytest.mark.parametrize(
    ("values", "metadata", "words"),
    [
        (["y=[[1,2,3]]"], ONE, "is no input of the model"),
        (["x=[[1,2,3]]", "x=[[1,2,3]]"], ONE, "is given twice"),
        (["ids=[[1]]"], TWO, "no value for text"),
        (["[[1]]"], TWO, "the model has 2 inputs"),
        (["x=[[1,2],[3]]"], ONE, "its rows differ in length"),
        (["x=[[1,"], ONE, "is no JSON"),
        (["x={}"], ONE, "is a JSON object, not a tensor"),
        (["{}"], ONE, "is a JSON object, not a tensor"),
        (["x=@nowhere.npy"], ONE, "cannot be read: No such file"),
        (["ids=[[1.5]]", 'text=["a"]'], TWO, "cannot become a tensor"),
        (['x=["a"]'], ONE, "cannot become a tensor"),
    ],
)
def test_a_wrong_input_is_an_error_that_says_why(values: list[str], metadata: dict[str, Any], words: str) -> None:
    with pytest.raises(OrchError, match=words) as caught:
        tensors.read_inputs(values, metadata)
    assert caught.value.kind is Kind.INVALID


def test_a_file_that_is_no_json_is_named(tmp_path: Path) -> None:
    for content in (b"# Heading", b"\xa0\xff"):
        (tmp_path / "notes.md").write_bytes(content)
        with pytest.raises(OrchError, match=r"notes\.md: is no JSON"):
            tensors.read_inputs([f"@{tmp_path}/notes.md"], ONE)


def test_standard_input_stands_where_a_value_does() -> None:
    def given(text: bytes, *values: str) -> list[str]:
        return tensors.with_standard_input(values, io.BytesIO(text).read)

    assert tensors.read_request(given(b'\n{"inputs": []}', "@-")) == Message({"inputs": []})
    assert tensors.read_request(given(b"[[1, 2, 3]]", "@-")) is None
    for value in ("@-", "x=@-"):
        assert tensors.read_inputs(given(b"[[1, 2, 3]]\n", value), ONE)["x"][1].tolist() == [[1.0, 2.0, 3.0]]
    with pytest.raises(OrchError, match="is no JSON"):
        tensors.read_inputs(given(b"\xff", "@-"), ONE)
    assert tensors.with_standard_input(["[[1]]"], sys.exit) == ["[[1]]"]


def test_a_numpy_file_that_holds_objects_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(OrchError, match="is no NumPy file"):
        tensors.read_inputs([f"@{tmp_path}/x.npy"], ONE)


def test_a_file_with_a_whole_request_is_sent_as_it_is(tmp_path: Path) -> None:
    body = {"id": "7", "inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}]}
    (tmp_path / "request.json").write_text(json.dumps(body))
    assert tensors.read_request([f"@{tmp_path}/request.json"]) == Message(body)
    (tmp_path / "values.json").write_text("[1]")
    assert tensors.read_request([f"@{tmp_path}/values.json"]) is None
    assert tensors.read_request(["x=[1]"]) is None


def test_what_is_encoded_decodes_to_the_same_tensors() -> None:
    inputs = tensors.read_inputs(["ids=[[1, 2]]", 'text=["a", "é"]'], TWO)
    sent = tensors.encode(inputs)
    got = tensors.decode(Message({"outputs": sent.header["inputs"]}, sent.binary))
    assert {name: (kind, array.tolist()) for name, (kind, array) in got.items()} == {
        name: (kind, array.tolist()) for name, (kind, array) in inputs.items()
    }


def test_outputs_are_shown_with_their_shape_first_values_and_the_greatest_of_a_row() -> None:
    outputs = {
        "scores": ("FP32", np.array([[0.25, 0.5, 0.125]], dtype=np.float32)),
        "long": ("INT64", np.arange(20).reshape(4, 5)),
        "half": ("BF16", np.array([0x3FC0], dtype=np.uint16)),
        "empty": ("FP32", np.zeros((0, 4), dtype=np.float32)),
    }
    assert tensors.to_text(outputs) == (
        "scores  FP32 [1,3]\n  0.25, 0.5, 0.125\n  greatest: 0.5 at index 1\n"
        "long  INT64 [4,5]\n  0, 1, 2, 3, 4, 5, 6, 7, ... 20 values\n"
        "half  BF16 [1]\n  1.5\n"
        "empty  FP32 [0,4]\n"
    )


def test_a_numpy_file_holds_the_only_output() -> None:
    array = np.array([[1, 2]], dtype=np.float16)
    assert np.load(io.BytesIO(tensors.to_npy({"y": ("FP16", array)}))).tolist() == [[1.0, 2.0]]
    with pytest.raises(OrchError, match="the model answered 2: a, b"):
        tensors.to_npy({"a": ("FP16", array), "b": ("FP16", array)})


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers what its server was told to."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append((self.path, dict(self.headers), body))  # type: ignore[attr-defined]
        status, headers, answer = self.server.answer  # type: ignore[attr-defined]
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(answer))} | headers).items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(answer)

    def do_GET(self) -> None:
        self.headers["Content-Length"] = "0"
        self.do_POST()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


@contextmanager
def answering(status: int, headers: dict[str, str], body: bytes) -> Iterator[tuple[str, list[Any]]]:
    """Serve one fixed answer; yield the address and what was asked."""
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        server.answer, server.seen = (status, headers, body), []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", server.seen  # type: ignore[attr-defined]
        finally:
            server.shutdown()
            thread.join(10)


def test_a_binary_request_and_answer_carry_the_length_of_their_heads() -> None:
    head = json.dumps(
        {"outputs": [{"name": "y", "datatype": "UINT8", "shape": [2], "parameters": {"binary_data_size": 2}}]}
    ).encode()
    with answering(200, {HEADER_LENGTH: str(len(head))}, head + b"\x01\x02") as (url, seen):
        client = Client(url, token="secret", timeout_s=10)
        answer = client.infer("a model", Message({"inputs": []}, b"\x05"))
    assert tensors.decode(answer)["y"][1].tolist() == [1, 2]
    ((path, headers, body),) = seen
    assert path == "/v2/models/a%20model/infer"
    assert headers["Authorization"] == "Bearer secret"
    assert body[int(headers[HEADER_LENGTH]) :] == b"\x05"


@pytest.mark.parametrize(
    ("status", "headers", "body", "kind", "text"),
    [
        (503, {"Retry-After": "2"}, b'{"error": "full"}', Kind.OVERLOADED, "the server answered 503: full"),
        (400, {}, b'{"error": "wrong shape"}', Kind.FAILED, "the server answered 400: wrong shape"),
        (500, {}, b"<html>", Kind.FAILED, "the server answered 500: <html>"),
    ],
)
def test_a_refusal_is_told_in_the_servers_words(
    status: int, headers: dict[str, str], body: bytes, kind: Kind, text: str
) -> None:
    with answering(status, headers, body) as (url, _), pytest.raises(OrchError, match=text) as caught:
        Client(url, token=None, timeout_s=10).infer("m", Message({"inputs": []}))
    assert caught.value.kind is kind
    assert caught.value.problems[0].hint == ("try again in 2 s" if headers else None)


def test_nobody_at_the_address_is_said_so() -> None:
    with pytest.raises(OrchError, match="Connection refused") as caught:
        Client("http://127.0.0.1:1", token=None, timeout_s=10).metadata("m")
    assert caught.value.kind is Kind.UNAVAILABLE


@pytest.mark.parametrize("url", ["ftp://x", "", "http://", "127.0.0.1:99999", "127.0.0.1:abc", "http://[::1"])
def test_what_is_no_address_is_refused_as_such(url: str) -> None:
    with pytest.raises(OrchError, match="is not an HTTP address") as caught:
        Client(url, token=None, timeout_s=10)
    assert caught.value.kind is Kind.INVALID


@pytest.mark.parametrize(
    ("headers", "body"), [({}, b"<html>"), ({}, b"[1]"), ({}, b'{"a": 1}'), ({HEADER_LENGTH: "x"}, b'{"inputs": []}')]
)
def test_a_server_of_something_else_is_told_from_one_of_models(headers: dict[str, str], body: bytes) -> None:
    with answering(200, headers, body) as (url, _):
        client = Client(url, token=None, timeout_s=10)
        with pytest.raises(OrchError, match="not as a server of models does"):
            client.metadata("m")
        with pytest.raises(OrchError, match="not as a server of models does"):
            client.infer("m", Message({"inputs": []}))


def test_an_answer_that_is_no_http_is_said_without_its_bytes() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_answer_once, args=(listener, b"\x00\x00\x1e\x04\x00\x00\x00\x00\x00\x1b[31m"))
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(OrchError, match="does not speak HTTP") as caught:
            Client(url, token=None, timeout_s=10).metadata("m")
        thread.join(10)
    assert str(caught.value).isprintable()
    assert "gRPC" in str(caught.value.problems[0].hint)


def _answer_once(listener: socket.socket, answer: bytes) -> None:
    peer, _ = listener.accept()
    with peer:
        peer.recv(65536)
        peer.sendall(answer)


def test_a_missing_token_is_told_with_where_to_put_it() -> None:
    with answering(401, {}, b'{"error": "a bearer token is needed"}') as (url, _), pytest.raises(OrchError) as caught:
        Client(url, token=None, timeout_s=10).metadata("m")
    assert caught.value.kind is Kind.UNAUTHORIZED
    assert "--token-file" in str(caught.value.problems[0].hint)
