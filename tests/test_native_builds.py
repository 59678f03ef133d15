"""The kernels' own tests, native/tests: under sanitizers, and on emulated processors."""

import platform
import subprocess
from pathlib import Path

import pytest

import tynda
from building import build, program, sanitized
from helpers import write_wav
from tynda.compile import native
from tynda.export import export_model
from tynda.sound import audio

JFK = Path(__file__).parents[1] / "demo" / "jfk.flac"

pytestmark = pytest.mark.slow


def run(*command):
    """Run the program, which must find no errors; return its output."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith(" 0 failed\n")
    return done.stdout


@pytest.mark.parametrize("kind", ["address,undefined,float-cast-overflow", "thread"])
def test_sanitizers_find_nothing(tmp_path, kind):
    run(build(tmp_path / "build", *sanitized(tmp_path, kind)))


def build_for_arm(folder, target):
    """The program, statically linked."""
    return build(
        folder,
        [],
        "-DCMAKE_SYSTEM_NAME=Linux",
        "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        f"-DCMAKE_CXX_COMPILER={program('aarch64-linux-gnu-g++')}",
        "-DCMAKE_EXE_LINKER_FLAGS=-static",
        target=target,
    )


def test_arm(tmp_path):
    emulator, binary = program("qemu-aarch64"), build_for_arm(tmp_path, "tynda_tests")
    assert run(emulator, "-cpu", "max", binary).startswith("i8mm, neon, scalar, ")
    # Processors without i8mm, and without dot products too, whose instructions they must not meet.
    assert run(emulator, "-cpu", "cortex-a76", binary).startswith("neon, scalar, ")
    assert run(emulator, "-cpu", "cortex-a53", binary).startswith("scalar, ")


def test_arm_writes_the_text_that_this_processor_writes(tmp_path):
    emulator, binary = program("qemu-aarch64"), build_for_arm(tmp_path, "tynda_recognise")
    wav = write_wav(tmp_path / "a.wav", audio.load(JFK))
    model = tynda.load("whisper-tiny.en")
    export_model(model.checkpoint, tmp_path / "model")
    done = subprocess.run([emulator, binary, tmp_path / "model", wav], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    plain = {"temperature": (0.0,), "without_timestamps": True, "window": "exact"}
    plain |= {"no_speech_threshold": None, "speech_threshold": 0.0}
    assert done.stdout.decode().strip() == model.transcribe(wav, **plain).text


@pytest.mark.skipif(
    not {"avx2", "avxvnni"} & set(native.instruction_sets()), reason="needs a processor with AVX2"
)
def test_vnni_of_256_bits(tmp_path):
    """Everything but the one instruction that the kernels are for, which is emulated."""
    output = run(build(tmp_path / "build", [], "-DTYNDA_EMULATE_VNNI=ON"))
    assert "avxvnni, avx2, " in output.split(" scalar")[0] + " "


@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs an x86-64 compiler")
def test_x86_without_avx(tmp_path):
    emulator = program("qemu-x86_64")
    binary = build(tmp_path / "build", [])
    assert run(emulator, "-cpu", "Nehalem", binary).startswith("scalar, ")
