"""Fixtures of all generated cases."""

import pytest

from fuzz_bases import read_model, recordings, write_folders, write_models, write_report
from fuzz_cases import Cases
from fuzz_server import Server
from helpers import noise, write_wav


@pytest.fixture(scope="session")
def server():
    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="session")
def bases(tmp_path_factory):
    """Whole inputs: models as (tensors, header, bytes), folders, recordings."""
    folder = tmp_path_factory.mktemp("bases")
    for name in ("models", "folders", "sounds"):
        (folder / name).mkdir()
    paths = write_models(folder / "models")
    write_wav(folder / "a.wav", noise(0.4))
    write_wav(folder / "b.wav", noise(0.3, 1))
    return {
        "models": {path.stem: (*read_model(path), path.read_bytes()) for path in paths},
        "paths": {path.stem: path for path in paths},
        "folders": write_folders(folder / "folders"),
        "sounds": recordings(folder / "sounds"),
        "a.wav": folder / "a.wav",
        "b.wav": folder / "b.wav",
        "report": write_report(folder / "report", folder / "models" / "tiny.safetensors"),
    }


@pytest.fixture
def cases(server, bases, tmp_path):
    cases = Cases(server, tmp_path)
    cases.bases = bases
    return cases
