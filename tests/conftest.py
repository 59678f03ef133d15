import pytest

import tynda
from helpers import save_tiny


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory):
    """A model file: a Conformer of one layer with fixed random weights."""
    return save_tiny(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture(scope="session")
def tiny(tiny_file):
    return tynda.load(tiny_file)
