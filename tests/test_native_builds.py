"""The kernels' own tests, native/tests: under sanitizers, and on emulated processors."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
SOURCE = Path(__file__).parents[1] / "native"


def program(name):
    """Return a program's path, from PATH or Python's folder, or else skip the test."""
    beside = str(Path(sys.executable).parent)
    if found := shutil.which(name) or shutil.which(name, path=beside):
        return found
    pytest.skip(f"needs {name}")


def build(folder, flags, *settings):
    """Build the program in `folder`; return its path."""
    cmake = program("cmake")
    configure = [cmake, "-S", SOURCE, "-B", folder, "-DTYNDA_TESTS=ON", *settings]
    configure.append(f"-DCMAKE_CXX_FLAGS={' '.join(flags)}")
    compile_all = [cmake, "--build", folder, "--parallel", str(os.cpu_count())]
    for command in (configure, compile_all):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / "tynda_tests"


def run(*command):
    """Run the program, which must find no errors; return its output."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith(" 0 failed\n")
    return done.stdout


@pytest.mark.parametrize("kind", ["address,undefined,float-cast-overflow", "thread"])
def test_sanitizers_find_nothing(tmp_path, kind):
    compiler = program(os.environ.get("CXX", "c++"))
    flags = ["-O1", "-g", f"-fsanitize={kind}", "-fno-sanitize-recover=all"]
    (tmp_path / "empty.cpp").write_text("int main() {}\n")
    empty = [compiler, *flags, tmp_path / "empty.cpp", "-o", tmp_path / "empty"]
    for command in (empty, [tmp_path / "empty"]):
        tried = subprocess.run(command, capture_output=True, text=True)
        if tried.returncode:
            pytest.skip(f"no -fsanitize={kind} here: {tried.stderr.strip()}")
    # There is no build type, since its options would come after these.
    settings = ["-DCMAKE_BUILD_TYPE=None", f"-DCMAKE_CXX_COMPILER={compiler}"]
    run(build(tmp_path / "build", flags, *settings))


def test_arm(tmp_path):
    emulator, compiler = program("qemu-aarch64"), program("aarch64-linux-gnu-g++")
    binary = build(
        tmp_path / "build",
        [],
        "-DCMAKE_SYSTEM_NAME=Linux",
        "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        f"-DCMAKE_CXX_COMPILER={compiler}",
        "-DCMAKE_EXE_LINKER_FLAGS=-static",
    )
    assert run(emulator, binary).startswith("neon, scalar, ")
    # A processor without dot products, where no instruction may come from the NEON build.
    assert run(emulator, "-cpu", "cortex-a53", binary).startswith("scalar, ")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs an x86-64 compiler")
def test_x86_without_avx(tmp_path):
    emulator = program("qemu-x86_64")
    binary = build(tmp_path / "build", [])
    assert run(emulator, "-cpu", "Nehalem", binary).startswith("scalar, ")
