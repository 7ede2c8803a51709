"""Files, folders and standard input become checked deployments, or all their errors at once."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

import pytest

from orchestrator.errors import Kind, OrchError
from orchestrator.manifest.load import Document, check_sources, load, load_text, resolve_source


def manifest(name: str = "shop", *, http: str = "127.0.0.1:0", grpc: str = "null", source: str = "m.onnx") -> str:
    return (
        f"apiVersion: orch/v1\nkind: Deployment\nmetadata: {{name: {name}}}\n"
        f"spec:\n  endpoint: {{http: {http}, grpc: {grpc}}}\n  models:\n    - name: m\n      source: {source}\n"
    )


def names(*paths: Path | str) -> list[str]:
    return [document.deployment.metadata.name for document in load([str(path) for path in paths]).documents]


def errors(*paths: Path | str) -> list[str]:
    with pytest.raises(OrchError) as caught:
        load([str(path) for path in paths])
    assert caught.value.kind is Kind.INVALID
    return [str(problem) for problem in caught.value.problems]


def only(text: str, base: Path) -> Document:
    (document,) = load_text(text, name="f.yaml", base=base)
    return document


def test_a_folder_is_its_manifests_in_order_without_locks_hidden_files_and_folders(tmp_path: Path) -> None:
    for file in ("b.yaml", "a.yml", "c.lock.yaml", ".d.yaml", "e.txt"):
        (tmp_path / file).write_text(manifest(file[0]))
    (tmp_path / "sub.yaml").mkdir()
    assert names(tmp_path) == ["a", "b"]


def test_a_file_may_hold_several_documents_and_empty_ones_between_them(tmp_path: Path) -> None:
    file = tmp_path / "all.yaml"
    file.write_text("---\n".join([manifest("a"), "# nothing\n", manifest("b"), ""]))
    first, second = load([str(file)]).documents
    assert (first.line, second.line) == (1, 11)
    assert second.source.startswith("---\napiVersion")
    assert (second.path, second.base) == (file, tmp_path)


def test_a_document_can_be_loaded_again_from_its_own_text(tmp_path: Path) -> None:
    first, second = load_text(manifest("a") + "---\n" + manifest("b"), name="f", base=tmp_path)
    assert only(second.source, tmp_path).deployment == second.deployment
    assert only(first.source, tmp_path).deployment == first.deployment


@pytest.mark.parametrize("stream", [io.BytesIO(manifest().encode()), io.StringIO(manifest())])
def test_a_dash_is_standard_input_with_paths_from_the_given_base(stream: io.BytesIO, tmp_path: Path) -> None:
    (document,) = load(["-"], stdin=stream, base=tmp_path).documents
    assert (document.path, document.base) == (None, tmp_path)
    assert resolve_source(document, document.deployment.spec.models[0]) == tmp_path / "m.onnx"


def test_standard_input_is_read_through_the_buffer_of_a_text_stream(tmp_path: Path) -> None:
    stream = io.TextIOWrapper(io.BytesIO(b"\xff"), encoding="utf-8")
    with pytest.raises(OrchError, match="<stdin>:1:1: is not UTF-8 text"):
        load(["-"], stdin=stream, base=tmp_path)


def test_a_file_named_twice_is_read_once(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(manifest("a"))
    assert names(file, tmp_path, f"{tmp_path}/./a.yaml") == ["a"]


def test_the_errors_of_all_files_come_together(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(manifest("A"))
    (tmp_path / "b.yaml").write_text("a: [")
    (tmp_path / "c.yaml").write_text(manifest("c", source="{}"))
    found = errors(tmp_path, tmp_path / "d.yaml")
    assert [line.removeprefix(f"{tmp_path}/").partition(": ")[0] for line in found] == [
        "d.yaml",
        "a.yaml:3:18",
        "b.yaml:1:5",
        "c.yaml:8:15",
    ]


def test_two_deployments_of_one_name_are_refused_with_both_places(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(manifest("x"))
    (tmp_path / "b.yaml").write_text(manifest("x"))
    assert errors(tmp_path) == [
        f"{tmp_path}/b.yaml:3:18: metadata.name: the deployment name 'x' is taken, first at {tmp_path}/a.yaml:3:18"
    ]


@pytest.mark.parametrize(
    ("first", "second", "clash"),
    [
        ("127.0.0.1:80", "127.0.0.1:80", True),
        ("127.0.0.1:80", "localhost:80", True),
        ("0.0.0.0:80", "127.0.0.1:80", True),
        ("10.0.0.1:80", '"[::]:80"', True),
        ("127.0.0.1:80", "127.0.0.1:81", False),
        ("127.0.0.1:80", "127.0.0.2:80", False),
        ("127.0.0.1:0", "127.0.0.1:0", False),
    ],
)
def test_two_deployments_at_one_address_are_refused_with_both_places(first: str, second: str, clash: bool) -> None:
    text = "---\n".join(
        [
            manifest("a", http=f"{first}, insecure: true"),
            manifest("b", http="127.0.0.1:0", grpc=f"{second}, insecure: true"),
        ]
    )
    if not clash:
        assert len(load_text(text, name="f", base=Path())) == 2
        return
    with pytest.raises(OrchError) as caught:
        load_text(text, name="f", base=Path())
    address = second.strip('"')
    assert str(caught.value) == f"f:14:39: spec.endpoint.grpc: the address {address} is taken, first at f:5:20"


def test_default_addresses_clash_too() -> None:
    plain = (
        "apiVersion: orch/v1\nkind: Deployment\nmetadata: {{name: {}}}\nspec: {{models: [{{name: m, source: s}}]}}\n"
    )
    with pytest.raises(OrchError) as caught:
        load_text(plain.format("a") + "---\n" + plain.format("b"), name="f", base=Path())
    assert [problem.where for problem in caught.value.problems] == ["f:9:7", "f:9:7"]


def test_only_the_first_fifty_errors_are_shown_and_the_rest_counted() -> None:
    text = manifest() + "".join(f"      k{i}: 1\n" for i in range(70))
    with pytest.raises(OrchError) as caught:
        load_text(text, name="f", base=Path())
    shown = [str(problem) for problem in caught.value.problems]
    assert shown[0] == "f:9:7: spec.models[0]: unknown key 'k0'"
    assert shown[50:] == ["and 20 more"]


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "text",
    [
        manifest() + "".join(f"      k{i}: 1\n" for i in range(14_000)),
        manifest() + "      properties: {" + ",".join(f"k{i}: []" for i in range(14_000)) + "}\n",
        manifest() + "      shapes: {" + ",".join(f"k{i}: [0]" for i in range(9_000)) + "}\n",
        "---\n".join(manifest(f"d{i}", http=f"127.0.{i // 250}.{i % 250}:80") for i in range(1500)),
        "--- {}\n" * 14_000,
    ],
    ids=["unknown keys", "properties", "shapes", "documents", "empty mappings"],
)
def test_tens_of_thousands_of_errors_are_an_answer_within_the_time_limit(text: str) -> None:
    with pytest.raises(OrchError):
        load_text(text, name="f", base=Path())


def test_a_manifest_of_256_models_with_every_key_set_is_within_the_limits() -> None:
    model = """\
    - name: {name}
      source: models/a.onnx
      version: "3"
      sha256: {digest}
      device: AUTO:GPU,CPU
      fallback: [CPU, GPU.1]
      slo: {{latency: 40ms, percentile: 99.9, rate: 60/s}}
      traffic: {{arrivals: closed, concurrency: 16}}
      priority: critical
      compile: {{streams: AUTO, threads: 2, batch: 4, requests: 2}}
      properties: {{A: 1, B: 2, C: 3, D: 4, E: 5, F: 6, G: 7, H: 8}}
      shapes: {{ids: [1, 1..512], mask: [1, 1..512], image: [1, 3, 224, 224]}}
      queue: {{limit: 3, timeout: 1.5s, memory: 64MiB}}
"""
    models = "".join(model.format(name=f"m{index}", digest="a" * 64) for index in range(256))
    head = "apiVersion: orch/v1\nkind: Deployment\nmetadata: {name: a}\nspec:\n  models:\n"
    assert len(only(head + models, Path()).deployment.spec.models) == 256


# Files that are no manifests.


def test_a_file_over_the_limit_is_refused_by_its_size_alone(tmp_path: Path) -> None:
    file = tmp_path / "big.yaml"
    with file.open("wb") as big:
        big.truncate(100 * 2**20)
    assert errors(file) == [f"{file}:1:1: a manifest may have 1048576 bytes (1 MiB), this has 104857600 bytes"]


@pytest.mark.timeout(10)
def test_files_that_never_end_or_never_begin_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.yaml")
    assert errors("/dev/zero", tmp_path) == [
        "/dev/zero: is not a regular file",
        f"{tmp_path}/fifo.yaml: is not a regular file",
    ]


@pytest.mark.timeout(10)
def test_standard_input_without_end_is_refused_at_the_limit() -> None:
    with Path("/dev/zero").open("rb") as zeros, pytest.raises(OrchError, match="this is longer"):
        load(["-"], stdin=zeros)


def test_paths_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    (tmp_path / "gone.yaml").symlink_to("nowhere")
    (tmp_path / "empty").mkdir()
    assert errors(tmp_path, tmp_path / "empty", tmp_path / "no.yaml", "", "a\0b", "-") == [
        f"{tmp_path}/gone.yaml: there is no such file",
        f"{tmp_path}/loop.yaml: cannot be read: Too many levels of symbolic links",
        f"{tmp_path}/empty: the folder holds no manifest",
        f"{tmp_path}/no.yaml: there is no such file",
        "argument: is not a file name: ''",
        "argument: is not a file name: 'a\\x00b'",
        "<stdin>: there is no standard input to read",
    ]


def test_naming_nothing_is_an_error() -> None:
    assert errors() == ["no manifest is named"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "f:1:1: holds no manifest: it is empty"),
        (" \n\n", "f:1:1: holds no manifest: it is empty"),
        ("# a\n# b\n", "f:1:1: holds no manifest: only comments"),
        ("---\n---\n", "f:1:1: holds no manifest: it is empty"),
        ("null", "f:1:1: a manifest is a mapping that begins with apiVersion: orch/v1, got null"),
        ("- a", "f:1:1: a manifest is a mapping that begins with apiVersion: orch/v1, got a list"),
        ("hello", "f:1:1: a manifest is a mapping that begins with apiVersion: orch/v1, got 'hello'"),
        ("apiVersion: v1\nkind: Pod\nx: 1", "f:1:13: apiVersion: must be 'orch/v1', got 'v1'"),
        ("apiVersion: orch/v1\nkind: Lock\nx: 1", "f:2:7: kind: must be 'Deployment', got 'Lock'"),
    ],
)
def test_text_that_is_no_deployment_is_one_error(text: str, expected: str) -> None:
    with pytest.raises(OrchError) as caught:
        load_text(text, name="f", base=Path())
    assert str(caught.value) == expected


def test_a_lock_named_as_a_manifest_is_told_from_it(tmp_path: Path) -> None:
    for name, hinted in (("shop.lock.yaml", "name shop.yaml"), ("f", "name the manifest that it belongs to")):
        with pytest.raises(OrchError) as caught:
            load_text("api_version: orch/v1\nkind: Lock\nmachines: []", name=name, base=tmp_path)
        (problem,) = caught.value.problems
        assert problem.hint == f"this is a lock, which is read together with its manifest; {hinted}"


@pytest.mark.parametrize("port", ["65536", "99999", "123456789"])
def test_a_port_beyond_the_last_is_told_the_range(port: str, tmp_path: Path) -> None:
    with pytest.raises(OrchError, match=f"the port must be 0 to 65535, got {port}"):
        load_text(manifest(http=f"127.0.0.1:{port}"), name="f", base=tmp_path)


# Model files.


def test_paths_from_standard_input_are_relative_to_where_one_is(tmp_path: Path) -> None:
    (piped,) = load(["-"], stdin=io.StringIO(manifest()), base=tmp_path).documents
    (named,) = load_text(manifest(), name="f.yaml", base=tmp_path)
    assert [str(problem.hint) for each in (piped, named) for problem in check_sources(each)] == [
        "paths are relative to the current folder",
        "paths are relative to the manifest's folder",
    ]


def source_problems(tmp_path: Path, source: str, extra: str = "") -> list[str]:
    return [str(problem) for problem in check_sources(only(manifest(source=source) + extra, tmp_path))]


def test_a_model_file_that_is_there_is_no_problem(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"x")
    digest = hashlib.sha256(b"x").hexdigest()
    assert source_problems(tmp_path, "m.onnx", f"      sha256: '{digest}'\n") == []
    (tmp_path / "below").mkdir()
    assert source_problems(tmp_path / "below", "../m.onnx") == []


def test_what_is_wrong_with_a_model_file_is_said_at_its_place(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"x")
    (tmp_path / "m.xml").write_bytes(b"x")
    os.mkfifo(tmp_path / "fifo")
    at = "f.yaml:8:15: spec.models[0].source:"
    assert source_problems(tmp_path, "n.onnx") == [f"{at} there is no file {tmp_path}/n.onnx"]
    assert source_problems(tmp_path, "~/n.onnx") == [f"{at} there is no file {tmp_path}/~/n.onnx"]
    assert source_problems(tmp_path, ".") == [f"{at} {tmp_path} is a folder"]
    assert source_problems(tmp_path, "fifo") == [f"{at} {tmp_path}/fifo is not a regular file"]
    assert source_problems(tmp_path, "m.xml") == [f"{at} the weights {tmp_path}/m.bin are missing beside m.xml"]
    wanted, digest = "0" * 63 + "a", hashlib.sha256(b"x").hexdigest()
    assert source_problems(tmp_path, "m.onnx", f"      sha256: {wanted}\n") == [
        f"f.yaml:9:15: spec.models[0].sha256: {tmp_path}/m.onnx has the digest {digest}, the manifest pins {wanted}"
    ]
    token = manifest(http="127.0.0.1:0, token_file: gone", source="m.onnx")
    assert [str(problem) for problem in check_sources(only(token, tmp_path))] == [
        f"f.yaml:5:45: spec.endpoint.token_file: there is no file {tmp_path}/gone"
    ]
    folder = manifest(http="127.0.0.1:0, token_file: .", source="m.onnx")
    assert [problem.hint for problem in check_sources(only(folder, tmp_path))] == ["name the file that holds the token"]
    assert source_problems(tmp_path, "m.onnx/x")[0].endswith("cannot be reached: Not a directory")
    assert source_problems(tmp_path, "x" * 300)[0].endswith("cannot be reached: File name too long")
