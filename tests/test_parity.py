"""Golden manifests: families in the shapes of published checkpoints against their references.

A manifest names the checkpoint whose shape it has, the reference implementation and its version,
the tolerances with their reasons, and numbers that the reference gave on random weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import transformers

from parity_reference import FOLDER, build, features, outputs, read, sample, tokens
from tynda.compile import native
from tynda.compile.engine import open_engine
from tynda.heads.seq2seq import programs
from tynda.models import FAMILIES, moonshine, moonshine_streaming, parakeet, wav2vec2, whisper
from tynda.models import family as family_of
from tynda.models.base import Family

NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
SETTINGS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "whisper": whisper.settings,
    "wav2vec2": wav2vec2.settings,
    "parakeet": parakeet.settings,
    "moonshine": moonshine.settings,
    "moonshine_streaming": moonshine_streaming.settings,
}
BLANK_FIRST = [1024, *range(1024)]
TENSORS: dict[str, Callable[[Any, Any], Any]] = {
    "wav2vec2": lambda tensors, config: wav2vec2.convert_tensors(tensors),
    "parakeet": lambda tensors, config: parakeet.convert_tensors(tensors, config, BLANK_FIRST),
    "moonshine_streaming": lambda tensors, config: moonshine_streaming.convert_tensors(
        config.bins, tensors
    ),
}
INPUTS: dict[str, Callable[[Any], Any]] = {
    "moonshine_streaming": lambda x: moonshine_streaming.Frames()(x[0, :, 0])[None],
}


@pytest.fixture(scope="module", params=NAMES)
def case(request):
    """A manifest, what the reference gives, and the model as tynda has it."""
    manifest = read(request.param)
    model = build(manifest)
    family = family_of(manifest["family"])
    config = family.configure(SETTINGS[family.name](model.config.to_dict()))
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    weights = TENSORS.get(family.name, lambda tensors, _: tensors)(weights, config)
    weights = {name: weights[name] for name in family.specs(config)}
    return manifest, outputs(manifest, model), (family, config, weights)


def ours(model: tuple[Family, Any, Any], manifest: Mapping[str, Any], backend: Any) -> Any:
    family, config, weights = model
    engine = open_engine(weights, family.trainable(config), backend, bits=32, threads=1)
    x = INPUTS.get(family.name, lambda x: x)(features(manifest))
    encoded = engine.run(family.programs["encode"], config, x, np.array([x.shape[1]]))
    if family.head == "ctc":
        return {"log_probs": engine.array(encoded[0])}
    ids, starts = tokens(manifest, config.vocab), np.zeros(1, np.int64)
    settings = (family, config)
    logits = engine.run(programs.forced_logits, settings, *encoded, ids, starts)
    return {"states": engine.array(encoded[0]), "logits": engine.array(logits)}


@pytest.mark.parametrize(
    "backend",
    [
        "numpy",
        pytest.param(
            "native",
            marks=pytest.mark.skipif(not native.available(), reason="no kernels are compiled"),
        ),
    ],
)
def test_a_family_is_its_reference(case, backend):
    manifest, expected, model = case
    found = ours(model, manifest, backend)
    assert found.keys() == expected.keys()
    for name, output in found.items():
        tolerance = manifest["tolerances"][name]["of_max"] * np.abs(expected[name]).max()
        np.testing.assert_allclose(output, expected[name], rtol=0, atol=tolerance)
        golden = manifest["golden"][name]
        atol = manifest["tolerances"][name]["of_max"] * golden["max"]
        np.testing.assert_allclose(sample(output), golden["values"], rtol=0, atol=atol)


def test_the_reference_is_as_it_was(case):
    manifest, expected, _ = case
    if manifest["reference"]["version"] != transformers.__version__:
        pytest.skip(f"the manifest is of transformers {manifest['reference']['version']}")
    for name, output in expected.items():
        golden = manifest["golden"][name]
        np.testing.assert_allclose(sample(output), golden["values"], atol=2e-5 * golden["max"])


@pytest.mark.parametrize("name", NAMES)
def test_a_manifest_says_what_it_is_of_and_why_it_tolerates(name):
    manifest = read(name)
    assert manifest["family"] in FAMILIES
    assert manifest["checkpoint"]
    assert {"package", "version", "class", "config"} <= manifest["reference"].keys()
    for output in manifest["golden"]:
        tolerance = manifest["tolerances"][output]
        assert 0 < tolerance["of_max"] <= 1e-3
        assert len(tolerance["reason"]) > 20
