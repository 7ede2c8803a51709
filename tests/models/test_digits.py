"""The checked-in digits model is as accurate as it states, and reads its sample as its README says."""

from __future__ import annotations

import json
import re

import numpy as np
import openvino as ov
import pytest

from deployments.models import train_digits

README = (train_digits.FOLDER / "README.md").read_text(encoding="utf-8")
MAX_BYTES = 1_000_000


@pytest.fixture(scope="module")
def model() -> bytes:
    return train_digits.MODEL.read_bytes()


def test_the_model_has_the_accuracy_it_states(model: bytes) -> None:
    _, held_out = train_digits.load_split()
    measured = train_digits.accuracy(model, held_out)
    one_image = 1 / train_digits.HELD_OUT  # another processor may sum in another order and tip one image
    assert measured == pytest.approx(float(train_digits.stated_accuracy(model)), abs=1.01 * one_image)
    assert measured >= 0.97


def test_the_accuracy_is_stated_alike_everywhere(model: bytes) -> None:
    stated = train_digits.stated_accuracy(model)
    assert f"Accuracy: {stated} on" in (train_digits.__doc__ or "")
    assert f"**Accuracy: {stated}**" in README


def test_the_held_out_images_are_not_trained_on() -> None:
    seen, held_out = train_digits.load_split()
    assert (len(seen.labels), len(held_out.labels)) == (1437, 360)
    trained_on = {image.tobytes() for image in seen.images}
    assert not any(image.tobytes() in trained_on for image in held_out.images)


def test_the_sample_is_the_digit_that_the_readme_says(model: bytes) -> None:
    said = re.search(r"The digit on it is \*\*(\d)\*\*", README)
    assert said is not None
    image = np.load(train_digits.SAMPLE.with_suffix(".npy"))
    assert train_digits.classifier(model)(image).argmax() == int(said[1])


def test_the_sample_request_carries_the_sample_image() -> None:
    body = json.loads(train_digits.SAMPLE.with_suffix(".json").read_text(encoding="utf-8"))
    image = np.load(train_digits.SAMPLE.with_suffix(".npy"))
    expected = {"name": "image", "shape": [1, 1, 8, 8], "datatype": "FP32", "data": image.ravel().tolist()}
    assert body == {"inputs": [expected]}
    assert (image.dtype, image.shape) == (np.float32, (1, 1, 8, 8))


def test_the_model_takes_any_batch_and_answers_probabilities(model: bytes) -> None:
    graph = ov.Core().read_model(model)
    assert [str(port.partial_shape) for port in (*graph.inputs, *graph.outputs)] == ["[?,1,8,8]", "[?,10]"]
    answers = train_digits.classifier(model)(np.zeros((3, 1, 8, 8), np.float32))
    np.testing.assert_allclose(answers.sum(1), 1, rtol=1e-5)


def test_the_model_is_small_enough_for_git(model: bytes) -> None:
    assert len(model) < MAX_BYTES


def test_gradients_are_those_of_the_loss() -> None:
    """Compare with central differences; a kernel spread at the wrong offset was seen to fail here."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 17, (4, 1, 8, 8)).astype(np.float32)
    batch = train_digits.Digits(images, np.array([1, 2, 3, 4]))
    parameters = train_digits.initialise(generator)
    computed = train_digits.gradients(parameters, batch)
    for name, values in parameters.items():
        direction = generator.standard_normal(values.shape).astype(np.float32)
        along = [loss({**parameters, name: values + step * direction}, batch) for step in (1e-3, -1e-3)]
        assert (along[0] - along[1]) / 2e-3 == pytest.approx(float((computed[name] * direction).sum()), rel=0.05)


def loss(parameters: train_digits.Parameters, batch: train_digits.Digits) -> float:
    """Return the mean cross-entropy, by the exported graph instead of the code under test."""
    model = train_digits.to_onnx(parameters).SerializeToString()
    answers = train_digits.classifier(model)(batch.images)
    return float(-np.log(answers[np.arange(len(answers)), batch.labels]).mean())
