"""Builds of native/ without Python: its own tests, and the program that runs exported models."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "native"


def program(name):
    """Its path, from PATH or from what is installed beside Python; else the test is skipped."""
    beside = str(Path(sys.executable).parent)
    if found := shutil.which(name) or shutil.which(name, path=beside):
        return found
    pytest.skip(f"needs {name}")


def build(folder, flags, *settings, target="tynda_tests"):
    """The program, built in `folder`."""
    cmake = program("cmake")
    configure = [cmake, "-S", SOURCE, "-B", folder, "-DTYNDA_TESTS=ON", *settings]
    configure.append(f"-DCMAKE_CXX_FLAGS={' '.join(flags)}")
    parallel = ["--parallel", str(os.cpu_count())]
    for command in (configure, [cmake, "--build", folder, "--target", target, *parallel]):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / target


def sanitized(folder, kind):
    """Flags and settings of a build with -fsanitize=`kind`; the test is skipped where none is."""
    compiler = program(os.environ.get("CXX", "c++"))
    flags = ["-O1", "-g", f"-fsanitize={kind}", "-fno-sanitize-recover=all"]
    (folder / "empty.cpp").write_text("int main() {}\n")
    empty = [compiler, *flags, folder / "empty.cpp", "-o", folder / "empty"]
    for command in (empty, [folder / "empty"]):
        tried = subprocess.run(command, capture_output=True, text=True)
        if tried.returncode:
            pytest.skip(f"no -fsanitize={kind} here: {tried.stderr.strip()}")
    # No build type, whose options would come after these.
    return flags, "-DCMAKE_BUILD_TYPE=None", f"-DCMAKE_CXX_COMPILER={compiler}"
