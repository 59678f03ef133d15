"""Bytes that reach new code of the parsers (atheris); see ``guided``."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fuzz_bases import ARPA
from fuzz_cases import LONG
from test_fuzz_programs import INTENTS, LIST

pytest.importorskip("atheris", reason="needs atheris: pip install atheris")
pytestmark = pytest.mark.slow
LINE = '{"audio_filepath": "a.wav", "text": "a", "duration": 1.5, "offset": 1, "language": "en"}\n'
KINDS = {
    "ngrams": [ARPA],
    "manifests": [LINE],
    "lists": [LIST],
    "intents": [str(INTENTS)],  # Braces are YAML as well.
    "models": ("models", "*.safetensors"),
    "ggml": ("folders", "*/ggml.bin"),
    "ctranslate2": ("folders", "ct2-*/model.bin"),
    "containers": ("sounds", "*"),
    "tokenizers": ("folders", "whisper/tokenizer.json"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_that_coverage_guides(kind, bases, tmp_path):
    (corpus := tmp_path / "corpus").mkdir()
    if isinstance(KINDS[kind], list):
        (corpus / "0").write_text(*KINDS[kind])
    else:
        folder, pattern = KINDS[kind]
        found = sorted((bases["a.wav"].parent / folder).glob(pattern))
        small = [path for path in found if path.stat().st_size < 300_000]
        assert small
        for number, path in enumerate(small):
            shutil.copy(path, corpus / str(number))
    command = [sys.executable, Path(__file__).with_name("guided.py"), kind, corpus, f"-runs={LONG}"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert f"Done {LONG} runs" in done.stderr
