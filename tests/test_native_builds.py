"""The kernels' own tests, native/tests: under sanitizers, and on processors that are emulated."""

import platform
import subprocess

import pytest

from building import build, program, sanitized

pytestmark = pytest.mark.slow


def run(*command):
    """What the program prints; it must find nothing wrong."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith(" 0 failed\n")
    return done.stdout


@pytest.mark.parametrize("kind", ["address,undefined,float-cast-overflow", "thread"])
def test_sanitizers_find_nothing(tmp_path, kind):
    run(build(tmp_path / "build", *sanitized(tmp_path, kind)))


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
    # One without dot products, where no instruction may come from the NEON build.
    assert run(emulator, "-cpu", "cortex-a53", binary).startswith("scalar, ")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs an x86-64 compiler")
def test_x86_without_avx(tmp_path):
    emulator = program("qemu-x86_64")
    binary = build(tmp_path / "build", [])
    assert run(emulator, "-cpu", "Nehalem", binary).startswith("scalar, ")
