"""Commands that are killed at any moment: no half file, nothing left behind, and they go on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import tynda
from helpers import write_manifest, write_tones
from tynda.files import temporary_folder

DEMO = Path(__file__).parents[1] / "demo"
RECIPE = """
family = "conformer"
model = {channels = 16, layers = 1, heads = 2, hidden = 16, kernel = 5, stem = 4}
frontend = {kind = "log_mel", bins = 8}
[data]
dev = ["m.jsonl"]
train = [{manifest = "m.jsonl"}]
[optimizer]
epochs = 3
warmup_steps = 2
precision = "f32"
"""
pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of this kind are POSIX's")


def start(*arguments, folder, **settings):
    """Start a command whose temporary files are in ``folder``/temporary."""
    (folder / "temporary").mkdir(exist_ok=True)
    settings = {"stdin": subprocess.DEVNULL} | settings
    return subprocess.Popen(
        [sys.executable, "-m", "tynda", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        env=os.environ | {"TMPDIR": str(folder / "temporary"), "OMP_NUM_THREADS": "1"},
        # A shell starts its background jobs with interrupts ignored, and they would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **settings,
    )


def ended(process):
    """Return exit code and standard error; a command that was told to end does so soon."""
    _, stderr = process.communicate(timeout=300)
    return process.returncode, stderr.decode()


HIDING = """
import os, signal, sys, time
from tynda.cli import console, main

def import_module(name):
    try:
        os.kill(os.getpid(), int(sys.argv.pop()))
        time.sleep(10)
    except BaseException:
        raise ImportError("initialization failed") from None

console.import_module = import_module
main(["models", "list"])
"""


@pytest.mark.parametrize(
    ("number", "code", "said"), [(signal.SIGINT, 130, "interrupted\n"), (signal.SIGTERM, 143, "")]
)
def test_a_signal_that_a_library_turns_into_an_error_ends_the_command(number, code, said):
    """Modules in C that are initialised just then answer with an ImportError."""
    process = subprocess.run(
        [sys.executable, "-c", HIDING, str(int(number))],
        capture_output=True,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert (process.returncode, process.stderr) == (code, said)


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [(signal.SIGINT, 130, "interrupted\n"), (signal.SIGTERM, 143, "")],
)
@pytest.mark.parametrize("name", ["jfk.flac", "028920012.opus"])
def test_a_command_that_waits_for_a_pipe_ends_at_once(tmp_path, name, number, code, said):
    import fcntl
    import termios

    data, (reading, writing) = (DEMO / name).read_bytes(), os.pipe()
    process = start("transcribe", "-", folder=tmp_path, stdin=reading)
    os.write(writing, data[: min(len(data) // 2, 60_000)])
    waiting = bytearray(4)
    while fcntl.ioctl(reading, termios.FIONREAD, waiting) == 0 and any(waiting):
        time.sleep(0.01)
    time.sleep(0.5)
    asked = time.monotonic()
    process.send_signal(number)
    try:
        assert ended(process) == (code, said)
        assert time.monotonic() - asked < 5
    finally:
        os.close(reading)
        os.close(writing)


def test_folders_that_a_killed_process_left_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    stale, huge = (tmp_path / f"tynda-{n}-x" for n in (gone.pid, 10**30))
    kept = [tmp_path / name for name in (f"tynda-{os.getpid()}-x", "tynda-x-y", "other-1-x")]
    for path in (stale, huge, *kept):
        path.mkdir()
        (path / "file").write_text("")
    (tmp_path / f"tynda-{gone.pid}-link").symlink_to(kept[2])
    with temporary_folder() as folder:
        assert folder.parent == tmp_path
        assert not stale.exists()
        assert not huge.exists()
        assert all((path / "file").exists() for path in kept)
    assert not folder.exists()


@pytest.mark.parametrize("name", ["mkdtemp", "rmtree"])
def test_a_signal_waits_while_a_temporary_folder_is_made_or_removed(tmp_path, name):
    script = (
        "import os, shutil, signal, sys, tempfile\n"
        "from tynda.files import temporary_folder\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        f"module = tempfile if {name!r} == 'mkdtemp' else shutil\n"
        f"whole = module.{name}\n"
        "def interrupted(*given, **named):\n"
        "    made = whole(*given, **named) if module is tempfile else None\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    list(range(10_000))\n"
        "    return made or whole(*given, **named)\n"
        f"module.{name} = interrupted\n"
        "with temporary_folder() as folder:\n    (folder / 'file').write_text('')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | {"TMPDIR": str(tmp_path)}
    )
    assert done.returncode == 143
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_waits_for_the_import_of_a_module(tmp_path, number, code):
    """A module of nanobind would abort the process, like the one that this one stands for."""
    (tmp_path / "fragile.py").write_text(
        f"import os, signal\ntry:\n    os.kill(os.getpid(), {int(number)})\n"
        "    list(range(10_000))\nexcept BaseException:\n    os.abort()\n"
    )
    script = (
        "import signal, sys\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "from tynda.interrupts import import_whole\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        "signal.signal(signal.SIGINT, lambda *_: sys.exit(130))\n"
        "try:\n    import_whole('fragile')\nfinally:\n    print('cleaned')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (code, "cleaned\n")


NAMES = ["transcribe", "quantize", "train", "profile", "profile_without_report"]


def commands(folder):
    """Return the commands to kill, by name: arguments, and what each writes."""
    write_tones(folder, ["do mi so", "so do", "mi mi do"], pause=0.15)
    (folder / "tones.toml").write_text(RECIPE)
    write_manifest(folder / "speech.jsonl", [(DEMO / "028920012.opus", "")])
    quantize = ("quantize", "digits-en", "-o", "few.safetensors", "--bits", "4")
    profile = ("profile", "digits-en", "--durations", "1,2", "--repeats", "1", "--threads", "1")
    return {
        "transcribe": (
            "transcribe",
            DEMO / "jfk.flac",
            "--format",
            "json",
            "--output-dir",
            "texts",
        ),
        "quantize": (*quantize, "--calibration", "speech.jsonl"),
        "train": ("train", "tones.toml", "--output", "run"),
        "profile": (*profile, "--report", "report"),
        "profile_without_report": profile,
    }


def check_files(folder):
    """Check that each file that is there is whole."""
    for path in folder.rglob("*"):
        if path.suffix == ".safetensors":
            assert len(tynda.load(path).encode(np.zeros(16000, np.float32)))
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.name == "rows.jsonl":
            assert all(json.loads(line) for line in path.read_text().splitlines())


def kill(name, arguments, folder, delay, number):
    """Start a command and kill it after ``delay`` seconds."""
    temporary = folder / "temporary"
    before = set(temporary.iterdir()) if temporary.exists() else set()  # SIGKILL leaves folders
    process = start(*arguments, folder=folder)
    time.sleep(delay)
    process.send_signal(number)
    code, said = ended(process)
    where = f"{name} {signal.Signals(number).name} after {delay:.2f} s: {code} {said}"
    check_files(folder)
    if number == signal.SIGKILL:
        assert code in (0, -number), where
        return
    if "init_import_site" in said:  # Python itself has not started, and says so
        return
    # A signal that comes before or after Python runs ends the process as the system does.
    assert code in (0, 128 + number, -number), where
    assert "Exception ignored" not in said, where
    if code == 128 + number:
        assert "Traceback" not in said, where
    # The cache of torch's compiler stays on purpose; torch creates it even where it is not used.
    new = set(temporary.iterdir()) - before
    left = [path for path in new if not path.name.startswith("torchinductor_")]
    assert left + list(folder.rglob("*.part")) == [], where


def finish(arguments, folder):
    """Run an interrupted command again, to its end."""
    arguments = [*arguments]
    (folder / "few.safetensors").unlink(missing_ok=True)
    if arguments[0] == "train" and (folder / "run" / "log.json").exists():
        arguments.append("--resume")
    code, said = ended(start(*arguments, folder=folder))
    if arguments[0] == "train" and code == 1 and "--resume" in said:
        code, said = ended(start(*arguments, "--resume", folder=folder))
    assert code == 0, said
    check_files(folder)


def killed_at_random(folder, name, count, whole, seed=0):
    """Kill a command ``count`` times in its first ``whole`` seconds."""
    if name == "train":
        pytest.importorskip("torch")
        pytest.importorskip("matplotlib")
    arguments = commands(folder)[name]
    rng, numbers = np.random.default_rng(seed), (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)
    for i in range(count):
        (folder / "few.safetensors").unlink(missing_ok=True)  # it would be refused
        for path in ("texts", "few.safetensors.partial", "run", "report"):
            if rng.random() < 0.5:  # half of them go on with what the one before has left
                subprocess.run(["rm", "-rf", str(folder / path)], check=True)
        if not (folder / "run" / "last.pt").exists():  # There is nothing to resume.
            subprocess.run(["rm", "-rf", str(folder / "run")], check=True)
        resume = ["--resume"] if name == "train" and (folder / "run").exists() else []
        delay = float(rng.uniform(0.1, whole))
        kill(name, (*arguments, *resume), folder, delay, numbers[i % 3])


@pytest.mark.parametrize("name", ["transcribe", "profile"])  # the others go on, below
def test_a_killed_command_leaves_nothing_half(tmp_path, name):
    killed_at_random(tmp_path, name, 2, whole=3)


@pytest.mark.parametrize("name", ["quantize", "train"])
def test_a_killed_command_goes_on(tmp_path, name):
    killed_at_random(tmp_path, name, 1, whole=3)
    finish(commands(tmp_path)[name], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_command_killed_at_many_moments_leaves_nothing_half(tmp_path, name):
    started, arguments = time.monotonic(), commands(tmp_path)[name]
    finish(arguments, tmp_path)
    killed_at_random(tmp_path, name, 25, whole=time.monotonic() - started, seed=1)
    finish(arguments, tmp_path)
