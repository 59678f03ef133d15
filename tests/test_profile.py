"""Profiles: what is measured, stored and printed; a broken engine affects its own rows only."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("psutil")

import psutil

import tynda
from helpers import noise, write_manifest, write_wav
from tynda.cli import main
from tynda.errors import TyndaError
from tynda.profiling import energy, environment
from tynda.profiling.case import Case, Row, read_rows
from tynda.profiling.engines import base, engine
from tynda.profiling.engines.base import Clock, parts
from tynda.profiling.engines.tynda import Native
from tynda.profiling.plan import Plan
from tynda.profiling.record import RECORD, ROWS
from tynda.profiling.run import measure
from tynda.profiling.statistics import bootstrap, spread

BROKEN = """
import os, sys, time
from types import SimpleNamespace

class Finder:  # puts four engines among the others, in the workers too
    def find_spec(self, name, path=None, target=None):
        if name != "tynda.profiling.engines.broken":
            return None
        from importlib.machinery import ModuleSpec
        return ModuleSpec(name, self)

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        from tynda.profiling.engines import tynda

        class Crash(tynda.Native):
            name = "crash"
            def open(self, case, path):
                os.abort()

        class Hang(tynda.Native):
            name = "hang"
            def open(self, case, path):
                time.sleep(1000)

        class Missing(tynda.Native):
            name = "missing"
            modules = {"no_such_module": "no-such-package"}

        class Unloadable(tynda.Native):
            name = "unloadable"
            def missing(self, case):
                raise ImportError("libfoo.so: cannot enable executable stack")

        module.Crash, module.Hang, module.Missing = Crash, Hang, Missing
        module.Unloadable = Unloadable

sys.meta_path.append(Finder())
import tynda.profiling.engines as engines
engines.ENGINES |= {x: ("broken", x.title()) for x in ("crash", "hang", "missing", "unloadable")}
"""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """Engines that crash, hang and are not installed."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(BROKEN)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), *sys.path]))
    from tynda.profiling.engines import ENGINES

    kept = dict(ENGINES)
    exec(BROKEN, {})
    yield
    ENGINES.clear()
    ENGINES.update(kept)
    sys.meta_path.pop()


def plan(model, **changes):
    return replace(Plan((str(model),), durations=(0.5,), repeats=3, threads=1), **changes)


def test_spread_by_hand():
    found = spread([3.0, 1.0, 2.0, 4.0, 5.0])
    assert (found.runs, found.mean, found.p50) == (5, 3.0, 3.0)
    assert found.p95 == pytest.approx(4.8)
    assert found.relative == pytest.approx(2 / 3)
    assert 1 <= found.low <= 3 <= found.high <= 5
    assert spread([2.0]).p50 == 2.0
    assert spread([2.0]).low is spread([2.0]).high is None  # not an interval of width zero


def test_bootstrap_covers_the_mean():
    hits = 0
    for seed in range(60):
        values = np.random.default_rng(seed).normal(7, 1, 30)
        low, high = bootstrap(values, lambda drawn: drawn.mean(-1))
        hits += low <= 7 <= high
    assert hits >= 50  # 95 %, and a margin for few values


def test_bootstrap_of_pairs_draws_them_together():
    pairs = np.array([[1.0, 10], [2, 20], [3, 30]])  # errors and words: the rate is always a tenth
    low, high = bootstrap(pairs, lambda drawn: drawn[:, 0].sum(-1) / drawn[:, 1].sum(-1))
    assert low == high == pytest.approx(0.1)


@given(st.binary(max_size=300))
def test_rows_are_read_from_anything(data):
    assert read_rows(data.decode("utf-8", "replace")) == []


@given(st.lists(st.text(max_size=20), max_size=5), st.data())
def test_rows_come_back_though_the_last_was_cut(names, data):
    rows = [Row(Case("speed", name, "tynda", "8"), "ok", "", {"a": 0.1}, "e") for name in names]
    text = "".join(row.to_json() + "\n" for row in rows)
    assert read_rows(text.replace("\n", "\n\n")) == rows
    if rows:
        cut = data.draw(st.integers(1, len(rows[-1].to_json())))
        assert read_rows(text[: -cut - 1]) == rows[:-1]


@given(st.integers(1, 500), st.floats(0.01, 1), st.integers(1, 3))
def test_parts_hold_all_the_sound(count, window, batch):
    samples = np.arange(batch * count, dtype=np.float32).reshape(batch, count)
    found = list(parts(samples, window / 100, 3.0))
    assert np.array_equal(np.concatenate([x for x, _ in found], 1), samples)
    assert all(tokens >= 1 for _, tokens in found)


def test_tokens_follow_the_sound():
    samples = np.zeros((2, 16000 * 70), np.float32)
    assert [tokens for _, tokens in parts(samples, 30.0, 3.0)] == [90, 90, 30]
    assert [tokens for _, tokens in parts(samples, None, 3.0)] == [210]


def test_the_clock_waits_for_the_device():
    waited = []
    clock = Clock(lambda: waited.append(1))
    for _ in range(2):
        with clock.stage("encoder"):
            time.sleep(0.01)
    assert len(waited) == 4
    assert 0.02 <= clock.stages["encoder"] < 0.5


def test_rapl_counts_on_when_full(tmp_path, monkeypatch):
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    for name, kind in (("intel-rapl:0", "package-0"), ("intel-rapl:0:0", "core")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "name").write_text(kind + "\n")
        (tmp_path / name / "max_energy_range_uj").write_text("9999999\n")
        (tmp_path / name / "energy_uj").write_text("9000000\n")
    counter = tmp_path / "intel-rapl:0" / "energy_uj"
    meter = energy.Meter(energy.Source("rapl", idle=0.0))
    meter.start()
    counter.write_text("9900000\n")
    assert meter.stop().joules == pytest.approx(0.9)
    counter.write_text("1000000\n")  # 100000 to the end, and 1000000 from the start
    found = meter.stop()
    assert found.joules == pytest.approx(2.0)
    assert not found.estimate


def test_idle_power_is_subtracted(tmp_path, monkeypatch):
    (tmp_path / "intel-rapl:0").mkdir()
    for name, text in (
        ("name", "package-0"),
        ("max_energy_range_uj", "1" * 12),
        ("energy_uj", "0"),
    ):
        (tmp_path / "intel-rapl:0" / name).write_text(text)
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    meter = energy.Meter(energy.Source("rapl", idle=10.0))
    meter.start()
    time.sleep(0.1)
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("5000000")
    found = meter.stop()
    assert found.joules == pytest.approx(5 - 10 * found.seconds)
    assert found.idle_watts == 10.0


def nvml(counts=True):
    """The driver's library, with a GPU that takes 50 W; without a counter before Volta."""

    def millijoules(handle):
        if not counts:
            raise RuntimeError("Not Supported")
        return int(50e3 * time.perf_counter())

    return SimpleNamespace(
        NVMLError=RuntimeError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetTotalEnergyConsumption=millijoules,
    )


def test_a_gpu_is_counted_by_nvml(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", nvml())
    assert energy.detect(gpu=True).idle_gpu == pytest.approx(50, rel=0.05)
    meter = energy.Meter(energy.Source("estimate", watts=0.0, idle_gpu=20.0), gpu=True)
    meter.start()
    time.sleep(0.2)
    found = meter.stop()
    assert found.joules == pytest.approx((50 - 20) * found.seconds, rel=0.05)
    assert (found.source, found.idle_watts) == ("estimate+nvml", 20.0)


def test_a_gpu_that_counts_nothing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", nvml(counts=False))
    assert energy.detect(gpu=True).idle_gpu == 0.0
    meter = energy.Meter(energy.Source("estimate", watts=1.0, idle_gpu=20.0), gpu=True)
    meter.start()
    found = meter.stop()
    assert (found.source, found.idle_watts) == ("estimate, without the GPU", 0.0)


def test_an_estimate_is_of_this_process_alone():
    meter = energy.Meter(energy.Source("estimate", watts=4.0))
    meter.start()
    time.sleep(0.2)
    idle = meter.stop()
    assert idle.estimate
    assert idle.joules < 0.2
    meter.start()
    began = time.process_time()
    while time.process_time() - began < 0.2:
        pass
    assert meter.stop().joules == pytest.approx(0.8, abs=0.1)


@pytest.mark.parametrize(
    ("tdp", "virtual", "watts", "words"),
    [
        (100.0, False, 50.0, "codecarbon's table"),
        (100.0, True, 4.0, "a part of"),  # the table has the whole processor
        (8.0, False, 4.0, "unknown"),  # codecarbon's value for unknown processors
        (None, False, 4.0, "unknown"),
    ],
)
def test_what_a_processor_is_rated_for(monkeypatch, tdp, virtual, watts, words):
    rated = SimpleNamespace(tdp=tdp, model="Some CPU")
    found = SimpleNamespace(TDP=lambda: rated)
    monkeypatch.setattr(energy, "import_module", lambda name: found)
    monkeypatch.setattr(energy.psutil, "cpu_count", lambda: 2)
    monkeypatch.setattr(energy.environment, "virtual", lambda: virtual)
    source = energy.detect()
    assert (source.name, source.watts) == ("estimate", watts)
    assert words in source.of


def test_noise_is_named():
    assert environment.noise(0.02, 0.05, 10) == ""
    assert "30%" in environment.noise(0.3, 0.05, 10)
    assert "50%" in environment.noise(0.0, 0.5, 10)


def test_others_make_a_machine_busy():
    watch = environment.Watch()
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    time.sleep(1)
    process.kill()
    process.wait()
    assert watch.busy() > 0.5 / (os.cpu_count() or 1) * 0.5


def test_a_row_has_what_its_docstring_says(tiny_file):
    (row,) = measure(plan(tiny_file, durations=(2.0,)))
    values = row.values
    assert row.status == "ok", row.why
    assert set(values["stages"]) == {"whole", "frontend", "encoder", "decoder", "first"}
    whole = values["stages"]["whole"]["p50"]
    others = [values["stages"][x]["p50"] for x in ("frontend", "encoder", "decoder")]
    assert sum(others) == pytest.approx(whole, rel=0.5)
    assert values["cold"] > values["load"] > 0
    assert values["real_time_factor"] == pytest.approx(whole / 2)
    assert values["throughput"] == pytest.approx(2 / whole)
    assert values["energy"]["joules"] > 0
    assert values["memory"]["peak"] > values["memory"]["base"] > 1e6
    assert values["bytes"] == Path(tiny_file).stat().st_size


def test_words_are_those_of_evaluate(tiny_file, tmp_path):
    write_wav(tmp_path / "a.wav", noise(2, seed=1))
    write_wav(tmp_path / "b.wav", noise(2, seed=2))
    manifest = write_manifest(tmp_path / "m.jsonl", [("a.wav", "one two"), ("b.wav", "three")])
    (row,) = measure(plan(tiny_file, durations=(), manifest=str(manifest)))
    scores = tynda.evaluate(str(tiny_file), manifest).overall
    assert (row.case.work, row.case.manifest) == ("words", str(manifest))
    assert row.values["wer"] == scores.wer
    assert row.values["cer"] == scores.cer
    assert row.values["wer_low"] <= scores.wer <= row.values["wer_high"]


def test_words_are_normalised_as_asked(tiny_file, tmp_path, monkeypatch):
    pytest.importorskip("whisper_normalizer")
    write_wav(tmp_path / "a.wav", noise(2, seed=1))
    manifest = write_manifest(tmp_path / "m.jsonl", [("a.wav", "twenty one")])
    asked = plan(tiny_file, durations=(), manifest=str(manifest), normalizer="whisper-english")
    (row,) = measure(asked)
    scores = tynda.evaluate(str(tiny_file), manifest, normalizer="whisper-english").overall
    assert (row.values["wer"], row.values["words"]) == (scores.wer, 1)  # 21
    with pytest.raises(TyndaError, match="no 'other': choose from letters, basic"):
        replace(asked, normalizer="other")
    monkeypatch.setitem(sys.modules, "whisper_normalizer.english", None)
    with pytest.raises(TyndaError, match="need whisper-normalizer"):
        measure(asked)


def test_what_is_there_is_not_measured_again(tiny_file, tmp_path):
    half = measure(plan(tiny_file), tmp_path)
    path = tmp_path / ROWS
    path.write_bytes(path.read_bytes() + b'{"case": {"wor')  # interrupted while writing
    more = plan(tiny_file, batches=(1, 2))
    whole = measure(more, tmp_path)
    assert whole[0] == half[0]
    assert measure(more, tmp_path) == whole == read_rows(path.read_text())
    record = json.loads((tmp_path / RECORD).read_text())
    assert len(record["runs"]) == 3
    assert record["environments"][half[0].environment]["energy"]["name"] in ("rapl", "estimate")
    assert list(record["environments"]) == [half[0].environment]
    assert Plan.from_dict(record["runs"][1]["plan"]) == more


def test_noisy_rows_are_measured_again_when_asked(tiny_file, tmp_path):
    (row,) = measure(plan(tiny_file), tmp_path)
    machine = {"busy": 0.5, "noisy": True, "why_noisy": "others"}
    noisy = replace(row, values=row.values | {"machine": machine})
    (tmp_path / ROWS).write_text(noisy.to_json() + "\n")
    assert measure(plan(tiny_file), tmp_path) == [noisy]
    assert measure(plan(tiny_file), tmp_path, retry=True) != [noisy]


def test_another_model_of_that_name_is_refused(tmp_path):
    from helpers import save_tiny

    model = save_tiny(tmp_path / "m.safetensors")
    measure(plan(model), tmp_path / "report")
    save_tiny(model, bits=8)
    with pytest.raises(TyndaError, match="another model"):
        measure(plan(model), tmp_path / "report")


def test_a_broken_engine_costs_its_own_rows(tiny_file, tmp_path, broken):
    """A crash, an endless loop and a missing library, followed by an engine that works."""
    hung = plan(tiny_file, engines=("hang",), time_limit=2.0)
    others = plan(tiny_file, engines=("crash", "missing", "tynda"))
    rows = [*measure(hung, tmp_path), *measure(others, tmp_path)]
    assert [row.status for row in rows] == ["failed", "failed", "skipped", "ok"]
    assert "2 s" in rows[0].why
    assert "SIGABRT" in rows[1].why
    assert "pip install no-such-package" in rows[2].why
    started = time.monotonic()
    assert measure(hung, tmp_path) == rows[:1]
    assert time.monotonic() - started < 2
    measure(hung, tmp_path, retry=True)
    assert time.monotonic() - started > 2


def test_a_prepared_model_is_made_once(tiny_file, tmp_path):
    (row,) = measure(plan(tiny_file, bits=("4",)), tmp_path)
    assert row.status == "ok", row.why
    (made,) = Path(os.environ["XDG_CACHE_HOME"]).rglob("*.safetensors")
    assert row.values["bytes"] == made.stat().st_size < Path(tiny_file).stat().st_size
    before = made.stat().st_mtime_ns
    measure(plan(tiny_file, bits=("4",), batches=(2,)), tmp_path)
    assert made.stat().st_mtime_ns == before


def test_a_broken_conversion_leaves_nothing_behind(tiny_file, tmp_path):
    (row,) = measure(plan(tiny_file, bits=("4",), time_limit=0.01), tmp_path)
    assert row.status == "failed"
    assert "could not be prepared" in row.why
    assert not [path for path in Path(os.environ["XDG_CACHE_HOME"]).rglob("*") if path.is_file()]
    (row,) = measure(plan(tiny_file, bits=("4",)), tmp_path, retry=True)
    assert row.status == "ok", row.why


def test_another_version_makes_its_forms_anew(monkeypatch):
    before = [engine(name).version for name in ("tynda", "onnxruntime")]
    assert before == [engine(name).version for name in ("tynda", "onnxruntime")]
    monkeypatch.setattr(base, "library_version", lambda name: "99")
    after = [engine(name).version for name in ("tynda", "onnxruntime")]
    assert not set(before) & set(after)


def test_an_engine_that_cannot_be_loaded_is_passed_over(tiny_file, broken):
    rows = measure(plan(tiny_file, engines=("unloadable", "tynda")))
    assert [row.status for row in rows] == ["skipped", "ok"]
    assert "executable stack" in rows[0].why


def test_what_was_skipped_is_looked_at_again(tiny_file, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Native, "missing", lambda self, case: "it is not installed")
        for _ in range(2):
            (row,) = measure(plan(tiny_file), tmp_path)
            assert row.status == "skipped"
    assert len(read_rows((tmp_path / ROWS).read_text())) == 1
    (row,) = measure(plan(tiny_file), tmp_path)
    assert row.status == "ok", row.why


def test_a_damaged_report_is_told_of(tiny_file, tmp_path):
    measure(plan(tiny_file), tmp_path)
    with (tmp_path / ROWS).open("ab") as file:
        file.write("қ".encode()[:1])  # cut within a character
    (row,) = measure(plan(tiny_file), tmp_path)
    assert (tmp_path / ROWS).read_text() == row.to_json() + "\n"
    for text in ("[]", '{"runs": 1}', '{"models": {"m": 3}}'):
        (tmp_path / RECORD).write_text(text)
        with pytest.raises(TyndaError, match=r"damaged|not a record"):
            measure(plan(tiny_file), tmp_path)


def test_another_manifest_of_that_name_is_refused(tiny_file, tmp_path):
    write_wav(tmp_path / "a.wav", noise(1))
    manifest = write_manifest(tmp_path / "m.jsonl", [("a.wav", "one")])
    measure(plan(tiny_file, manifest=str(manifest), durations=()), tmp_path / "report")
    manifest.write_text(manifest.read_text().replace("one", "two"))
    with pytest.raises(TyndaError, match="another manifest"):
        measure(plan(tiny_file, manifest=str(manifest), durations=()), tmp_path / "report")
    failed(run("--again", tmp_path / "report" / RECORD), 1, "not the same manifest")


def test_a_worker_does_not_outlive_its_profile(tiny_file, tmp_path, broken):
    command = [sys.executable, "-m", "tynda", "profile", tiny_file, "--engines", "hang"]
    process = subprocess.Popen([*command, "--report", tmp_path], stderr=subprocess.DEVNULL)
    workers, deadline = [], time.monotonic() + 60
    while not workers and time.monotonic() < deadline:
        time.sleep(0.1)
        workers = psutil.Process(process.pid).children()
    time.sleep(3)  # until it hangs
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert workers
    assert not alive


def test_an_interrupt_keeps_what_was_found(tiny_file, tmp_path):
    command = [sys.executable, "-m", "tynda", "profile", tiny_file, "--repeats", "1"]
    command += ["--durations", "0.5,1,60", "--batches", "1,64", "--report", tmp_path]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # jobs ignore it
    )
    path = tmp_path / ROWS
    deadline = time.monotonic() + 60
    while not (path.exists() and path.read_text().count("\n")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert 1 <= len(read_rows(path.read_text())) < 6


def test_two_do_not_measure_into_one_folder(tiny_file, tmp_path):
    (tmp_path / "logs").mkdir()
    with FileLock(tmp_path / "logs" / "lock"), pytest.raises(TyndaError, match="another profile"):
        measure(plan(tiny_file), tmp_path)
    assert measure(plan(tiny_file), tmp_path)[0].status == "ok"


def run(*args):
    return CliRunner().invoke(main, ["profile", *map(str, args)])


def failed(result, code, words):
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    assert words in result.output


def test_the_command(tiny_file, tmp_path):
    options = ["--durations", "0.5", "--repeats", "2", "--report", tmp_path / "a"]
    result = run(tiny_file, *options)
    assert result.exit_code == 0, result.output
    assert "tiny.safetensors" in result.stdout
    assert "est." in result.stdout or "rapl" in (tmp_path / "a" / ROWS).read_text()
    again = run("--again", tmp_path / "a" / RECORD, "--report", tmp_path / "b")
    assert again.exit_code == 0, again.output
    first, second = (read_rows((tmp_path / x / ROWS).read_text()) for x in "ab")
    assert [row.case for row in first] == [row.case for row in second]


def test_a_failure_is_told_by_the_exit_code(tiny_file, tmp_path, broken):
    options = [tiny_file, "--durations", "0.5", "--no-operations"]
    options += ["--engines", "tynda,missing,crash"]
    result = run(*options, "--report", tmp_path / "a")
    failed(result, 1, "error: 1 of 3 failed")
    assert "logs" in result.output
    assert "tiny.safetensors" in result.stdout  # the table of the other cases
    result = run(*options)
    failed(result, 1, "SIGABRT")
    assert "logs" not in result.output  # the logs have been deleted
    assert run(*options[:-1], "tynda,missing").exit_code == 0


def test_a_page_that_cannot_be_made_is_told_by_the_exit_code(tiny_file, tmp_path):
    (tmp_path / "index.html").mkdir()
    options = ["--durations", "0.5", "--no-operations", "--report", tmp_path]
    failed(run(tiny_file, *options), 1, "no page was written")
    assert len(read_rows((tmp_path / ROWS).read_text())) == 1


def test_speed_is_of_the_decoding_that_words_are_of():
    path = Path(tynda.__file__).parent / "bundled" / "sentences-en.safetensors"
    case = Case("speed", str(path), "tynda", "stored", threads=1)
    session = engine("tynda").open(case, path)
    head = session.model.head
    texts, decode = [], head.decode

    def spy(log_probs, options):
        texts.append(decode(log_probs, options)[0].text)
        return []

    head.decode = spy
    samples = tynda.sound.audio.load(Path(__file__).parents[1] / "demo" / "020070039.opus")
    session.run(samples[None], 3.0, Clock())
    head.decode = decode
    assert texts == [session.transcribe(samples).lower()] != [""]


def test_help_names_all_commands():
    result = run("--help")
    assert result.exit_code == 0
    for words in ("profile report DIR", "profile diff A B", "--engines"):
        assert words in result.output


def test_texts_without_words_have_no_rate(tiny_file, tmp_path):
    write_wav(tmp_path / "a.wav", noise(1))
    manifest = write_manifest(tmp_path / "m.jsonl", [("a.wav", "")])
    result = run(tiny_file, "--words-only", "--manifest", manifest, "--time-limit", 86400)
    assert result.exit_code == 0, result.output
    assert "WER - (the manifest has no words)" in result.output


def test_runs_are_repeated_once_and_as_they_were(tiny_file, tmp_path):
    options = [tiny_file, "--durations", "0.5", "--repeats", "1", "--no-operations"]
    for _ in range(2):
        run(*options, "--report", tmp_path)
    record = tmp_path / RECORD
    assert run("--again", record).output.count("[1/1]") == 1
    assert run("--again", tmp_path).output.count("[1/1]") == 1
    failed(run("--again", record, "--report", tmp_path), 2, "another --report")
    failed(run("--again", record, "--budget", "1"), 2, "leave out --budget")
    changed = json.loads(record.read_text())
    changed["models"][str(tiny_file)]["digest"] = "0"
    record.write_text(json.dumps(changed))
    failed(run("--again", record), 1, "not the same model")


@pytest.mark.parametrize(
    "plan",
    [
        *({"models": 5}, {"models": ["m"], "durations": ["x"]}, {"models": ["m"], "threads": []}),
        *({"models": ["m"], "new": 1}, {"models": ["m"], "tokens": float("nan")}, 3),
        *({"models": ["m"], "durations": "5"}, {"models": ["m"], "batches": ["2"]}),
    ],
)
def test_plans_are_read_from_anything(plan):
    with pytest.raises(TyndaError):
        Plan.from_dict(plan)


def test_bad_input_is_told_in_a_line(tiny_file, tmp_path):
    for option in ("--budget", "--time-limit", "--tokens-per-second"):
        failed(run(tiny_file, option, "nan"), 2, "nan")
    for option in ("--report", "--manifest", "--again"):
        failed(run(tiny_file, option, ""), 2, "is empty")
    failed(run(tiny_file, "--durations", "1e300"), 2, "86,400")
    manifest = write_manifest(tmp_path / "m.jsonl", [("gone.wav", "one")])
    failed(run(tiny_file, "--manifest", manifest), 1, "gone.wav")
    failed(run(), 2, "give models")
    failed(run(tiny_file, "--engines", "nobody"), 2, "nobody")
    failed(run(tiny_file, "--devices", "tpu"), 2, "tpu")
    failed(run(tiny_file, "--durations", ","), 2, "is empty")
    failed(run(tiny_file, "--durations", "x"), 2, "'x'")
    failed(run(tiny_file, "--durations", "inf"), 2, "inf")
    failed(run(tiny_file, "--bits", "7"), 2, "'7'")
    failed(run(tiny_file, "--bits", " bf16 ", "--durations", "1"), 1, "nothing could be measured")
    failed(run("nowhere.safetensors"), 1, "no model")
    failed(run(tiny_file, "--words-only"), 2, "--manifest")
    failed(run(tiny_file, "--manifest", tmp_path / "no.jsonl"), 1, "no.jsonl")
    (tmp_path / "bad.json").write_text("{}")
    failed(run("--again", tmp_path / "bad.json"), 1, "not a record")
    (tmp_path / "file").touch()
    failed(run(tiny_file, "--report", tmp_path / "file"), 2, "file")
    failed(run(tiny_file, "--report", tmp_path / "file" / "sub"), 1, "cannot write to")


@pytest.mark.slow
def test_from_python(tiny_file, tmp_path):
    rows = tynda.profile(tiny_file, tmp_path, bits=(32, 8), durations=(0.5,), repeats=1, threads=1)
    assert [row.case.bits for row in rows] == ["32", "8"]
    assert "tiny" in (tmp_path / "index.html").read_text()


@pytest.mark.slow
def test_python_takes_one_or_several(tiny_file):
    (row,) = tynda.profile(tiny_file, bits=8, engines="tynda", durations=1, repeats=1, threads=1)
    assert (row.status, row.case.bits, row.case.seconds) == ("ok", "8", 1.0)
    assert row.values["stages"]["whole"]["runs"] > 1  # short runs are repeated
    with pytest.raises(TyndaError, match="no speed"):
        tynda.profile(tiny_file, speed=1)
