"""The commands that install extras: they name what is there, and no index."""

import json
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from tynda import extras

ROOT = Path(__file__).parents[1]
REQUIRES = [
    "numpy>=2.0",
    'scipy>=1.11; extra == "quantize"',
    'psutil>=5.9; extra == "profile"',
    'tynda[profile]; extra == "peers"',
    'onnx>=1.16; extra == "peers"',
]


@pytest.fixture
def installed(monkeypatch):
    """Pretend that tynda was installed from an origin: the text of pip's ``direct_url.json``."""

    def install(origin):
        text = origin if origin is None or isinstance(origin, str) else json.dumps(origin)
        fake = SimpleNamespace(read_text=lambda name: text, requires=REQUIRES)
        monkeypatch.setattr(metadata, "distribution", lambda name: fake)

    return install


def test_a_clone_is_named_with_its_folder(installed, tmp_path):
    folder = tmp_path / "my clone"
    folder.mkdir()
    installed({"url": folder.as_uri(), "dir_info": {"editable": True}})
    assert extras.install("train") == f"pip install -e '{folder}[train]'"
    installed({"url": folder.as_uri(), "dir_info": {}})
    assert extras.install("train") == f"pip install '{folder}[train]'"


def test_a_wheel_is_named_as_long_as_it_is_there(installed, tmp_path):
    wheel = tmp_path / "tynda-0.1.0-py3-none-any.whl"
    wheel.touch()
    installed({"url": wheel.as_uri(), "archive_info": {}})
    assert extras.install("quantize") == f"pip install '{wheel}[quantize]'"
    wheel.unlink()
    assert extras.install("quantize") == "pip install 'scipy>=1.11'"


@pytest.mark.parametrize(
    "origin", [None, "", "junk", [], {"url": 3}, {"url": "https://a.b/tynda.whl"}, {"dir_info": 1}]
)
def test_without_an_origin_here_the_packages_are_named(installed, origin):
    installed(origin)
    assert extras.install("peers") == "pip install 'psutil>=5.9' 'onnx>=1.16'"


def test_without_an_installation_the_extra_is_named(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    assert extras.install("train") == "install the packages of [train] in its pyproject.toml"


def test_no_message_names_an_index_that_lacks_tynda():
    source = (ROOT / "src").rglob("*.py")
    assert not [path for path in source if "pip install 'tynda[" in path.read_text("utf-8")]
    assert not [path for path in source if 'pip install "tynda[' in path.read_text("utf-8")]
