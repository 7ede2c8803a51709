"""The Python API: planned pools in the caller's own process, for threads and for coroutines."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import orchestrator
from benchmarks import topologies
from orchestrator.errors import Kind, OrchError

DEPLOYMENTS = Path(__file__).parents[1] / "deployments"
SAMPLE = np.load(DEPLOYMENTS / "models/digits-sample.npy")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[orchestrator.Deployment]:
    """Open the digits without an SLO, whose queue would be short on a busy machine."""
    path = tmp_path_factory.mktemp("digits") / "digits.yaml"
    queue = "{limit: 500, timeout: 30s}"
    path.write_text(
        "apiVersion: orch/v1\nkind: Deployment\nmetadata: {name: digits}\nspec:\n"
        "  endpoint: {http: 127.0.0.1:8000, grpc: 127.0.0.1:8001}\n  models:\n"
        f"    - {{name: digits, source: {DEPLOYMENTS}/models/digits.onnx, device: CPU, queue: {queue}}}\n"
    )
    with orchestrator.open(path) as deployment:
        yield deployment


def image(number: int) -> np.ndarray:
    return np.random.default_rng(number).uniform(0, 16, (1, 1, 8, 8)).astype(np.float32)


def failure(model: orchestrator.Model, inputs: dict[str, object], **options: float) -> OrchError:
    with pytest.raises(OrchError) as caught:
        model.infer(inputs, **options)  # type: ignore[arg-type]
    return caught.value


def written(folder: Path, *models: str, name: str = "test") -> Path:
    """Write a manifest of these topologies, each served under its own name."""
    for model in models:
        topologies.save(model, folder)
    entries = "".join(
        f"    - {{name: {model.replace('_', '-')}, source: {model}.xml, device: CPU}}\n" for model in models
    )
    path = folder / f"{name}.yaml"
    path.write_text(
        f"apiVersion: orch/v1\nkind: Deployment\nmetadata: {{name: {name}}}\nspec:\n"
        f"  endpoint: {{http: 127.0.0.1:8000, grpc: 127.0.0.1:8001}}\n  models:\n{entries}"
    )
    return path


def identity(datatype: str, folder: Path) -> Path:
    """Write a manifest of the model that returns its matrix of this datatype."""
    return written(folder, f"identity_{datatype}")


def test_the_quickstart_recognises_a_digit() -> None:
    with orchestrator.open(DEPLOYMENTS / "quickstart.yaml") as deployment:
        model = deployment["digits"]
        outputs = model.infer({"image": SAMPLE.astype(np.float32).reshape(-1, 1, 8, 8)[:1]})
    assert set(outputs) == {tensor.name for tensor in model.signature.outputs}


def test_eight_threads_get_each_their_own_answers(digits: orchestrator.Deployment) -> None:
    model = digits["digits"]
    expected = [model.infer({"image": image(number)}) for number in range(20)]

    def caller(place: int) -> None:
        for turn in range(100):
            number = (place + turn) % 20
            outputs = model.infer({"image": image(number)})
            for name, output in outputs.items():
                np.testing.assert_allclose(output, expected[number][name], rtol=1e-4, atol=1e-5)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(caller, range(8)))


def test_a_hundred_coroutines_get_each_their_own_answers(digits: orchestrator.Deployment) -> None:
    model = digits["digits"]
    expected = [model.infer({"image": image(number)}) for number in range(100)]

    async def main() -> list[dict[str, np.ndarray]]:
        return await asyncio.gather(*(model.ainfer({"image": image(number)}) for number in range(100)))

    for _ in range(3):  # three loops, one after the other
        for outputs, wanted in zip(asyncio.run(main()), expected, strict=True):
            for name, output in outputs.items():
                np.testing.assert_allclose(output, wanted[name], rtol=1e-4, atol=1e-5)
    assert len(model._bridges._by_loop) == 1


def requests(deployment: orchestrator.Deployment) -> int:
    """Return how many requests the digits' pool has answered."""
    return sum(model._pool.snapshot().totals.completed for model in deployment.models.values())


def test_coroutines_of_one_turn_share_inferences(digits: orchestrator.Deployment) -> None:
    model = digits["digits"]
    assert model._line is not None, "the digits take microseconds"

    async def main() -> None:
        await asyncio.gather(*(model.ainfer({"image": image(number)}) for number in range(64)))

    before = requests(digits)
    asyncio.run(main())
    assert requests(digits) - before == 1


def test_futures_of_one_thread_share_inferences_and_get_each_their_own_answers(digits: orchestrator.Deployment) -> None:
    model = digits["digits"]
    expected = [model.infer({"image": image(number)}) for number in range(128)]
    before = requests(digits)
    answers = [model.submit({"image": image(number)}) for number in range(128)]
    for answer, wanted in zip(answers, expected, strict=True):
        for name, output in answer.result().items():
            np.testing.assert_allclose(output, wanted[name], rtol=1e-4, atol=1e-5)
    assert requests(digits) - before < 64  # 2, but for what the line's own thread took first


def test_futures_of_a_model_that_waits_for_a_device_are_answered(tmp_path: Path) -> None:
    with orchestrator.open(written(tmp_path, "identity_bytes")) as deployment:
        model = deployment["identity-bytes"]
        answers = [model.submit({"data": [[str(number).encode(), b"x"]]}) for number in range(20)]
        outputs = [next(iter(answer.result(20).values())).tolist() for answer in answers]
        assert outputs == [[[str(number).encode(), b"x"]] for number in range(20)]
        late = model.submit({"data": [[b"a", b"b"]]}, timeout_s=0.0)
        assert isinstance(late.exception(20), OrchError)


def test_inputs_that_do_not_fit_are_refused_where_they_are_submitted(digits: orchestrator.Deployment) -> None:
    with pytest.raises(OrchError, match="picture"):
        digits["digits"].submit({"picture": image(1)})


def test_two_loops_at_once_get_their_own_answers(digits: orchestrator.Deployment) -> None:
    model = digits["digits"]

    async def main() -> None:
        for number in range(50):
            await model.ainfer({"image": image(number)})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: asyncio.run(main()), range(4)))


def test_a_cancelled_coroutine_cancels_its_work(digits: orchestrator.Deployment) -> None:
    model = digits["digits"]

    async def main() -> None:
        tasks = [asyncio.create_task(model.ainfer({"image": image(number)})) for number in range(20)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, dict) for result in results[1::2])
        assert all(isinstance(result, asyncio.CancelledError) for result in results[::2])

    asyncio.run(main())


@pytest.mark.parametrize(
    ("inputs", "complaint"),
    [
        ({"picture": np.zeros((1, 1, 8, 8), np.float32)}, "picture"),
        ({}, "is missing"),
        ({"image": np.zeros((1, 1, 8, 9), np.float32)}, "shape"),
        ({"image": np.zeros((1, 8, 8), np.float32)}, "shape"),
        ({"image": np.zeros((1, 1, 8, 8), np.float64)}, "is float64, the model takes FP32 as float32"),
        ({"image": np.zeros((1, 1, 8, 8), np.dtype(">f4"))}, "is >f4"),
        ({"image": "text"}, "the model takes FP32"),
        ({"image": 1.0}, "shape"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_with_what_fits(
    digits: orchestrator.Deployment, inputs: dict[str, object], complaint: str
) -> None:
    error = failure(digits["digits"], inputs)
    assert error.kind is Kind.INVALID
    assert complaint in str(error)


def test_lists_and_strided_arrays_are_taken(digits: orchestrator.Deployment) -> None:
    model, array = digits["digits"], np.round(image(1))
    wanted = model.infer({"image": array})
    strided = np.repeat(array, 2, axis=3)[..., ::2]
    for same in (array.tolist(), array.astype(int).tolist(), strided):
        outputs = model.infer({"image": same})
        assert all(np.allclose(outputs[name], wanted[name], rtol=1e-4, atol=1e-5) for name in wanted)


@pytest.mark.parametrize("timeout_s", [0.0, -1.0])
def test_a_timeout_that_is_past_is_refused(digits: orchestrator.Deployment, timeout_s: float) -> None:
    assert failure(digits["digits"], {"image": image(1)}, timeout_s=timeout_s).kind is Kind.DEADLINE


def test_an_unknown_model_is_not_found(digits: orchestrator.Deployment) -> None:
    with pytest.raises(OrchError, match="no model 'letters': the deployment has digits") as caught:
        digits["letters"]
    assert caught.value.kind is Kind.NOT_FOUND


def test_the_status_is_the_one_of_the_command_line(digits: orchestrator.Deployment) -> None:
    (status,) = digits.status()
    assert (status["name"], status["state"]) == ("digits", "Serving")


@pytest.mark.parametrize("name", ["explicit", "hint"])
def test_the_example_deployments_infer(name: str) -> None:
    with orchestrator.open(DEPLOYMENTS / f"{name}.yaml") as deployment:
        model = deployment["digits"]
        rows = np.concatenate([image(1), image(2), image(3)])
        if model.signature.max_rows > 1:
            together = model.infer({"image": rows})
            assert all(len(output) == 3 for output in together.values())
        assert model.infer({"image": image(1)})


def test_a_closed_deployment_refuses_and_may_be_closed_again(tmp_path: Path) -> None:
    deployment = orchestrator.open(written(tmp_path, "tiny_mlp"))
    model, inputs = deployment["tiny-mlp"], {"features": np.zeros((1, 16), np.float32)}
    model.infer(inputs)
    before = threading.active_count()
    closers = [threading.Thread(target=deployment.close) for _ in range(3)]
    for closer in closers:
        closer.start()
    for closer in closers:
        closer.join()
    deployment.close()
    refused = failure(model, inputs)
    assert (refused.kind, str(refused)) == (Kind.UNAVAILABLE, "tiny-mlp: the pool was closed")
    with pytest.raises(OrchError, match="the pool was closed"):
        model.submit(inputs).result(20)
    assert threading.active_count() < before
    assert deployment.status() == []


def test_one_of_several_documents_is_opened_by_its_name(tmp_path: Path) -> None:
    first, second = written(tmp_path, "tiny_mlp", name="one"), written(tmp_path, "tiny_mlp", name="two")
    both = tmp_path / "both.yaml"
    both.write_text(first.read_text() + "---\n" + second.read_text().replace(":800", ":801"))
    for name in (None, "three"):
        with pytest.raises(OrchError, match="one, two"):
            orchestrator.open(both, name=name)
    with orchestrator.open(both, name="two") as deployment:
        assert deployment.plan.name == "two"


def test_a_model_file_that_is_not_there_is_said_with_its_place(tmp_path: Path) -> None:
    path = written(tmp_path, "tiny_mlp")
    (tmp_path / "tiny_mlp.xml").unlink()
    with pytest.raises(OrchError, match="tiny_mlp"):
        orchestrator.open(path)


def test_free_shapes_and_several_inputs_and_outputs(tmp_path: Path) -> None:
    with orchestrator.open(written(tmp_path, "two_in_two_out")) as deployment:
        model = deployment["two-in-two-out"]
        for rows in (1, 2, 5):
            inputs = {
                tensor.name: np.zeros([dim if dim > 0 else rows for dim in tensor.wire_shape], _dtype(tensor.datatype))
                for tensor in reversed(model.signature.inputs)
            }
            outputs = model.infer(inputs)
            assert {len(output) for output in outputs.values()} == {rows}


def _dtype(datatype: str) -> np.dtype[object]:
    from orchestrator.backend.base import DTYPES

    return DTYPES[datatype]


@pytest.mark.parametrize(
    ("datatype", "value"),
    [
        ("bytes", np.array([[b"one", "zw\u00f6lf".encode()]], np.object_)),
        ("bytes", np.array([[b"one", b"two"]])),
        ("bytes", [[b"one", b""]]),
        ("bf16", np.array([[0x3F80, 0xC000]], np.uint16)),
        ("uint8", [[0, 255]]),
        ("int64", [[-1, 2**31 - 1]]),
        ("bool", [[True, False]]),
        ("fp16", [[1.5, -2.0]]),
    ],
)
def test_every_kind_of_value_comes_back_as_it_went(datatype: str, value: object, tmp_path: Path) -> None:
    with orchestrator.open(identity(datatype, tmp_path)) as deployment:
        outputs = deployment[f"identity-{datatype}"].infer({"data": value})  # type: ignore[dict-item]
        (output,) = outputs.values()
        assert output.tolist() == np.asarray(value).tolist()


@pytest.mark.parametrize(
    ("datatype", "value"), [("uint8", [[256, 0]]), ("uint8", [[-1, 0]]), ("int64", [[1.5, 2.0]]), ("bytes", [["text"]])]
)
def test_values_that_would_change_are_refused(datatype: str, value: object, tmp_path: Path) -> None:
    with orchestrator.open(identity(datatype, tmp_path)) as deployment:
        assert failure(deployment[f"identity-{datatype}"], {"data": value}).kind is Kind.INVALID
