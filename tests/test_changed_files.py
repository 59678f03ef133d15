"""Model files that are cut, overwritten or replaced while a model uses them."""

import os
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from foreign_files import write_small_folder
from helpers import save_tiny
from tynda.compile import native

pytestmark = pytest.mark.skipif(os.name != "posix", reason="Windows keeps a mapped file as it is")

CODE = """
import os, sys
from pathlib import Path
import numpy as np
import tynda

name, file, change, before, options = sys.argv[1], Path(sys.argv[2]), *sys.argv[3:]
samples = np.random.default_rng(0).standard_normal(8000).astype(np.float32) / 10
model = tynda.load(name, **eval(options))
expected = tynda.load(name, **eval(options)).encode(samples)
if before == "used":
    model.encode(samples)
data = file.read_bytes()
if change == "cut":
    os.truncate(file, len(data) // 2)
elif change == "overwritten":
    with file.open("r+b") as out:
        out.seek(len(data) // 2)
        out.write(bytes(len(data) // 2))
    os.utime(file, ns=(1, 1))  # some file systems tell times in whole seconds
elif change == "replaced":
    new = file.with_name("new")
    new.write_bytes(data[:100])
    new.replace(file)
else:
    file.unlink()
try:
    print("same" if (model.encode(samples) == expected).all() else "other")
except tynda.TyndaError as error:
    print(str(error).replace(str(file), "FILE"))
"""
CHANGED = "FILE was changed while the model was in use: load the model again"


def model_file(folder, kind):
    """Write a model; return its name and the file with its weights."""
    if kind == "file":
        path = save_tiny(folder / "tiny.safetensors", bits=8)
        return path, path
    write_small_folder(folder / "model")
    path = folder / "model" / "model.safetensors"
    tensors = load_file(path)
    save_file({name: value.astype(np.float32) for name, value in tensors.items()}, path)
    return path.parent, path


@pytest.mark.skipif(not native.available(), reason="installed without a compiler")
@pytest.mark.parametrize("kind", ["file", "folder", "folder in 8 bits", "folder for NumPy"])
@pytest.mark.parametrize("change", ["cut", "overwritten", "replaced", "deleted"])
@pytest.mark.parametrize("before", ["used", "unused"])
def test_a_model_whose_file_changes_says_so(tmp_path, kind, change, before):
    """A mapped page behind the end of a file would kill the process; zeros would be wrong text."""
    name, file = model_file(tmp_path, kind)
    options = {"folder in 8 bits": {"bits": 8}, "folder for NumPy": {"backend": "numpy"}}
    arguments = [name, file, change, before, repr(options.get(kind, {}))]
    done = subprocess.run(
        [sys.executable, "-c", CODE, *map(str, arguments)], capture_output=True, timeout=60
    )
    assert (done.returncode, done.stderr.decode()) == (0, "")
    is_lost = change in ("cut", "overwritten") and before == "unused" and "NumPy" not in kind
    assert done.stdout.decode().strip() == (CHANGED if is_lost else "same")
