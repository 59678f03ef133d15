"""Feeds one parser with bytes that coverage guides: python guided.py PARSER FOLDER [-runs=1000].

FOLDER has whole inputs to begin with, and takes those that reach new code. The other arguments are
libFuzzer's. An exception other than `TyndaError`, a hang or too much memory ends the run with an
exit code other than 0; the input is then left in the working directory.
"""

import sys
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import atheris

with atheris.instrument_imports(include=["tynda", "hassil"]):
    from tynda import manifest
    from tynda.commands import read as grammar
    from tynda.errors import TyndaError
    from tynda.heads.ctc import arpa
    from tynda.sound.damage import inspector
    from tynda.store import checkpoint, ctranslate2, ggml
    from tynda.text.whisper import WhisperTokenizer


def containers(path):
    """Read a container's structure, in pieces of two sizes."""
    data = path.read_bytes()
    for size in (7, 4096):
        found = inspector(data)
        if found is None:
            return
        for at in range(0, len(data), size):
            found.feed(data[at : at + size])
        found.damaged()


def ngrams(path):
    """Read an n-gram."""
    with path.open("rb") as file:
        arpa.read(file, "n-gram")


def tokenizers(path):
    """Read the tokenizer of a folder of the hub."""
    path.rename(path.with_name("tokenizer.json"))
    WhisperTokenizer.from_folder(path.parent, multilingual=True)


def whole_ctranslate2(path):
    """Read a file of CTranslate2, in whose folder nothing else is."""
    path.rename(path.with_name("model.bin"))
    ctranslate2.load(path.parent)


PARSERS = {
    "ngrams": ngrams,
    "manifests": lambda path: manifest.read(path, parts=True),
    "lists": grammar.read,
    "intents": lambda path: grammar.read(path.rename(path.with_suffix(".yaml"))),
    "models": checkpoint.load,
    "ggml": ggml.load,
    "ctranslate2": whole_ctranslate2,
    "containers": containers,
    "tokenizers": tokenizers,
}


def main():
    """Run libFuzzer on a parser."""
    parse = PARSERS[sys.argv.pop(1)]
    warnings.simplefilter("ignore")

    def run(data):
        with TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
            path = Path(folder) / "input"
            path.write_bytes(data)
            try:
                parse(path)
            except TyndaError as error:
                if len(str(error).splitlines()) != 1:
                    raise

    atheris.Setup([sys.argv[0], "-timeout=5", "-rss_limit_mb=500", *sys.argv[1:]], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
