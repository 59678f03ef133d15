import os

import pytest

# Arrays in tests are small, and threads that spin while they wait for each other cost more time
# than they save. The libraries read these variables when they are imported, which happens below.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np  # noqa: E402

import tynda  # noqa: E402
from helpers import save_tiny  # noqa: E402
from tynda.heads.seq2seq import activity  # noqa: E402


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory):
    """A model file: a Conformer of one layer with fixed random weights."""
    return save_tiny(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture(scope="session")
def tiny(tiny_file):
    return tynda.load(tiny_file)


class Everywhere:
    """A detector of speech that finds it everywhere."""

    def add(self, samples):
        return np.ones(-(-len(samples) // 512), np.float32)


@pytest.fixture
def all_is_speech(monkeypatch):
    """Tones and noise count as speech, where something else than its detection is tested."""
    monkeypatch.setattr(activity, "Detector", Everywhere)
