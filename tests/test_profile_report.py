"""Reports: rows made by hand become tables, choices, figures, a page and a comparison."""

import csv
import json
import re
from dataclasses import asdict, replace
from html.parser import HTMLParser

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("matplotlib")
pd = pytest.importorskip("pandas")
pytest.importorskip("pyarrow")

from tynda.cli import main  # noqa: E402
from tynda.errors import TyndaError  # noqa: E402
from tynda.extras import install  # noqa: E402
from tynda.profiling import report as reports  # noqa: E402
from tynda.profiling.case import Case, Row  # noqa: E402
from tynda.profiling.report import choose, network, tables  # noqa: E402
from tynda.profiling.report.diff import compare, ratio  # noqa: E402
from tynda.profiling.report.drawing import _apart  # noqa: E402
from tynda.profiling.report.read import read, short_names  # noqa: E402
from tynda.profiling.report.sections import commands  # noqa: E402
from tynda.profiling.statistics import spread  # noqa: E402

MACHINE = {
    "processor": "Some Processor",
    "processors": 2,
    "memory": 8e9,
    "libraries": {"tynda": "0.1.0"},
    "energy": {"name": "estimate", "watts": 4.0, "of": "a processor in no table", "idle": 0.0},
}


def speed(model="m", engine="tynda", bits="32", *, time=1.0, peak=200e6, **more):
    """Return a row of 30 s × 1 that took ``time`` seconds; ``more`` are fields or values."""
    known = {"seconds": 30.0, "batch": 1, "device": "cpu", "threads": 2, "tokens": 3.0}
    case = Case("speed", model, engine, bits, **{k: more.pop(k, v) for k, v in known.items()})
    sound, joules = case.seconds * case.batch, more.pop("joules", 8 * time / case.batch)
    noisy, estimate = more.pop("noisy", ""), more.pop("estimate", True)
    runs = [time * x for x in more.pop("runs", (0.99, 1.0, 1.01))]
    memory = {"peak": peak, "base": 5e7} | more.pop("memory", {})
    values = {
        "kind": "f32",
        "batched": True,
        "load": 0.5,
        "cold": 1.5,
        "tokens": 90,
        "token": 0.01,
        "real_time_factor": time / sound,
        "throughput": sound / time,
        "bytes": 100e6,
        "stages": {
            "whole": asdict(spread(runs)),
            "encoder": asdict(spread([t * 0.6 for t in runs])),
            "decoder": asdict(spread([t * 0.3 for t in runs])),
            "first": asdict(spread([t * 0.7 for t in runs])),
        },
        "energy": {
            "joules": joules,
            "joules_per_second": joules / case.seconds,
            "source": "estimate" if estimate else "rapl",
            "estimate": estimate,
            "idle_watts": 0.0 if estimate else 21.5,
            "watts": 8.0,
        },
        "memory": memory,
        "machine": {"busy": 0.0, "noisy": bool(noisy), "why_noisy": noisy},
    }
    return Row(case, "ok", "", values | more, "env")


def words(model="m", engine="tynda", bits="32", *, wer=0.1, half=0.02, device="cpu", **more):
    manifest = more.pop("manifest", "dev.jsonl")
    case = Case("words", model, engine, bits, device, threads=2, manifest=manifest)
    values = {
        **{"wer": wer, "wer_low": wer - half, "wer_high": wer + half},
        **{"cer": wer / 2, "cer_low": wer / 2 - 0.01, "cer_high": wer / 2 + 0.01},
        **{"utterances": 30, "words": 400, "bytes": 100e6, "real_time_factor": 0.1},
    }
    return Row(case, "ok", "", values | more, "env")


def lost(status="failed", why="it broke", **more):
    return replace(speed(**more), status=status, why=why, values={})


def operations(model="m", bits="8"):
    item = {
        **{"operation": "linear", "flops": 4e9, "macs": 2e9, "weight_bytes": 1e7},
        **{"input_bytes": 1e6, "output_bytes": 1e6, "bits": bits, "seconds": 0.1, "calls": 12},
    }
    other = item | {"operation": "log_mel", "bits": "32", "seconds": None}
    values = {
        "limits": {"flops_32": 1e11, "ops_8": 4e11, "bandwidth": 2e10},
        "parts": {"encoder": [item, other], "decoder": [item | {"operation": "attention"}]},
        "layers": [item | {"layer": "encoder.0"}],
    }
    return Row(Case("operations", model, "tynda", bits, seconds=30.0), "ok", "", values, "env")


def cache(model="m"):
    values = {"positions": [1, 8, 64], "with_cache": [0.01] * 3, "without_cache": [0.01, 0.02, 0.1]}
    return Row(Case("cache", model, "tynda", "32"), "ok", "", values, "env")


def put(folder, rows, *, environment=None, digest="d"):
    """A report's folder."""
    folder.mkdir(exist_ok=True)
    models = list(dict.fromkeys(row.case.model for row in rows))
    plan = {"models": models, "engines": ["tynda"], "durations": [30.0], "batches": [1]}
    record = {
        "runs": [{"plan": plan, "started": "2025-01-02", "environment": "env", "load": [0.5]}],
        "environments": {"env": environment or MACHINE},
        "models": {m: {"family": "whisper", "bytes": 1e8, "digest": digest} for m in models},
    }
    (folder / "record.json").write_text(json.dumps(record))
    (folder / "rows.jsonl").write_text("".join(row.to_json() + "\n" for row in rows))
    return folder


def page(folder, rows, **more):
    return reports.write(put(folder, rows, **more)).read_text()


class Checker(HTMLParser):
    """Check that elements are closed in order, nothing is fetched, and identifiers are unique."""

    EMPTY = ("meta", "br", "link", "img", "input")

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.text = [], [], []

    def handle_starttag(self, tag, attributes):
        if tag not in self.EMPTY:
            self.open.append(tag)
        values = dict(attributes)
        self.ids += [values["id"]] if "id" in values else []
        for name in ("src", "href", "xlink:href"):
            assert (values.get(name) or "#").startswith("#"), values
        assert tag not in ("img", "link", "iframe")

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.EMPTY:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.text.append(data)


def checked(text):
    checker = Checker()
    checker.feed(text)
    checker.close()
    assert not checker.open
    assert len(set(checker.ids)) == len(checker.ids)
    for target in re.findall(r'(?:href="#|url\(#)([^")]+)', text):
        assert target in checker.ids
    return " ".join(checker.text)


# Tables


def test_tables_have_every_case_and_come_back(tmp_path):
    rows = [
        speed(),
        speed(seconds=5.0, batch=4),
        lost(bits="8"),
        words(),
        lost("skipped", bits="4"),
    ]
    put(tmp_path, rows)
    tables.write(read(tmp_path))
    with (tmp_path / "profile.csv").open() as file:
        plain = list(csv.DictReader(file))
    assert [row["status"] for row in plain] == ["ok", "ok", "failed", "skipped"]
    assert float(plain[1]["sound_s"]) == 5
    assert float(plain[0]["whole_p50_s"]) == 1
    assert plain[0]["energy_is_estimate"] == "True"
    assert plain[2]["why"] == "it broke"
    assert plain[2]["memory_peak_bytes"] == ""
    parquet = pd.read_parquet(tmp_path / "profile.parquet")
    assert list(parquet.columns) == list(tables.SPEED)
    assert parquet["memory_peak_bytes"].tolist()[:2] == [200e6, 200e6]
    assert parquet["memory_peak_bytes"].isna().tolist() == [False, False, True, True]
    assert parquet["batch"].tolist() == [1, 4, 1, 1]
    table = pd.read_parquet(tmp_path / "words.parquet")
    assert list(table.columns) == list(tables.WORDS)
    assert table["wer_high"].tolist() == pytest.approx([0.12])


def test_a_case_measured_twice_counts_once_the_last(tmp_path):
    put(tmp_path, [lost(), speed(time=2.0)])
    rows = read(tmp_path).rows
    assert [row.status for row in rows] == ["ok"]


def test_names_are_as_short_as_tells_them_apart():
    names = short_names(["/a/x/base", "/a/y/base", "tiny.safetensors", "hub/small"])
    assert list(names.values()) == ["x/base", "y/base", "tiny.safetensors", "small"]


# Choosing


def test_pareto_by_hand():
    #          beaten by (1, 4): (2, 5); (3, 3) is on the front, and so are two equal points
    points = [(1, 4), (2, 5), (3, 3), (4, 1), (4, 1), (4, 2)]
    assert choose.pareto(points) == [0, 2, 3, 4]
    assert choose.pareto([]) == []


def test_throughput_is_of_the_best_case():
    rows = [
        speed(bits="32", time=2.0),  # 15
        speed(bits="8", time=1.0),  # 30
        speed(bits="8", time=2.0, batch=4),  # 60
        lost(engine="broken"),
    ]
    choice = choose.choose(choose.candidates(rows), "throughput")
    assert choice.winner.throughput == pytest.approx(60)
    assert choice.winner.batch == 4
    assert choice.second.setup.bits == "32"  # not the winner's other case
    assert choice.tied == ()


def test_a_noisy_winner_says_so_and_ties_are_told():
    rows = [speed(time=1.0, noisy="others took 40%"), speed(bits="8", time=1.005)]
    choice = choose.choose(choose.candidates(rows), "throughput")
    assert choice.winner.noisy == "others took 40%"
    assert [c.setup.bits for c in choice.tied] == ["8"]


def test_words_of_other_speech_do_not_compare():
    """Digits are easy: a model that was scored on digits only must not win by it."""
    easy = words("digits", wer=0.01, manifest="digits.jsonl")
    rows = [speed(m) for m in ("digits", "one", "two")]
    rows += [easy, words("one", wer=0.3), words("two", wer=0.4)]
    assert choose.speech(rows) == "dev.jsonl"
    found = choose.candidates(rows)
    assert [c.wer for c in found] == [None, 0.3, 0.4]
    assert choose.choose(found, "quality").winner.setup.model == "one"


def test_quality_is_the_lowest_wer_and_names_what_overlaps():
    rows = [
        *(speed("big", time=4.0), words("big", wer=0.10)),
        *(speed("mid", time=1.0), words("mid", wer=0.11)),  # 0.09 to 0.13 touches 0.08 to 0.12
        *(speed("low", time=0.1), words("low", wer=0.30)),
        speed("deaf", time=0.01),  # no WER
    ]
    choice = choose.choose(choose.candidates(rows), "quality")
    assert choice.winner.setup.model == "big"
    assert [c.setup.model for c in choice.tied] == ["mid"]


def test_equal_words_are_the_fastest_ones():
    rows = [speed(time=4.0), words(), speed(engine="b", time=1.0), words(engine="b")]
    assert choose.choose(choose.candidates(rows), "quality").winner.setup.engine == "b"


def test_balance_by_hand():
    rows = [
        *(speed("big", time=9.0, bytes=900e6), words("big", wer=0.10)),
        *(speed("mid", time=3.0, bytes=300e6), words("mid", wer=0.15)),
        *(speed("low", time=1.0, bytes=100e6), words("low", wer=0.20)),
        *(speed("bad", time=0.1, bytes=10e6), words("bad", wer=0.90)),  # over twice the lowest
    ]
    # Worst ratios: big 9 (time), mid 3 (time), low 2 (words).
    ranked = choose.balance(choose.candidates(rows))
    assert [(c.setup.model, round(worst, 6)) for worst, c in ranked] == [
        ("low", 2.0),
        ("mid", 3.0),
        ("big", 9.0),
    ]
    assert choose.choose(choose.candidates(rows), "balance").winner.setup.model == "low"


def test_balance_of_perfect_words():
    rows = [speed(), words(wer=0.0), speed(bits="8", time=0.5), words(bits="8", wer=0.0)]
    assert choose.choose(choose.candidates(rows), "balance").winner.setup.bits == "8"


def test_edge_takes_what_fits():
    rows = [
        *(speed("big", peak=900e6), words("big", wer=0.10)),
        *(speed("low", peak=100e6), words("low", wer=0.20)),
    ]
    found = choose.candidates(rows)
    assert choose.choose(found, "edge", 500e6).winner.setup.model == "low"
    assert choose.choose(found, "edge", 1e9).winner.setup.model == "big"
    assert choose.choose(found, "edge", 50e6).winner is None
    assert [(c.limit, c.winner.setup.model) for c in choose.edges(found)] == [
        (128e6, "low"),
        (1e9, "big"),
    ]


def test_edge_without_words_is_the_fastest():
    found = choose.candidates([speed(time=2.0), speed(bits="8", time=1.0)])
    assert choose.choose(found, "edge", 1e9).winner.setup.bits == "8"


def test_energy_counts_a_second_of_sound():
    # The energy is 16 J for 30 s against 4 J for 5 s.
    rows = [speed(joules=16.0), speed(bits="8", seconds=5.0, joules=4.0)]
    choice = choose.choose(choose.candidates(rows), "energy")
    assert choice.winner.setup.bits == "32"
    assert choice.winner.estimate


def test_unusable_setups_are_not_recommended():
    """The fastest setup is of no use to anybody where it understands too little."""
    rows = [
        *(speed("good", time=4.0), words("good", wer=0.10)),
        *(speed("deaf", time=0.1), words("deaf", wer=0.80)),
        speed("random", time=0.01),  # no WER
    ]
    found = choose.candidates(rows)
    good = choose.usable(found)
    assert [c.setup.model for c in good] == ["good"]
    assert choose.choose(good, "throughput").winner.setup.model == "good"
    # Without error rates, speed is all there is to compare.
    fast = choose.candidates([speed("random", time=0.01)])
    assert choose.usable(fast) == fast


def test_the_page_says_that_nothing_is_usable(tmp_path):
    text = page(tmp_path, [speed("deaf"), words("deaf", wer=0.8)])
    assert "No setup can be recommended: the lowest WER is 0.800" in text


def test_nothing_to_choose_from():
    rows = [lost(), words()]
    found = choose.candidates(rows)
    assert found == []
    assert choose.reference(found) is None
    assert choose.choose(found, "throughput").winner is None
    assert choose.edges(found) == []


def test_the_reference_is_the_most_frequent_case():
    rows = [speed(seconds=5.0), speed(seconds=60.0), speed(bits="8", seconds=60.0)]
    assert choose.reference(choose.candidates(rows)) == (60.0, 1)


# Figures and page


def test_labels_are_moved_apart_and_stay_in_order():
    assert _apart([0.0, 1.0], 0.1) == [0.0, 1.0]
    assert _apart([0.5, 0.5, 0.5], 0.1) == pytest.approx([0.4, 0.5, 0.6])
    assert _apart([0.0, 0.1, 0.1, 1.0], 0.2) == pytest.approx([0.0, 0.2, 0.4, 1.0])
    assert _apart([0.9, 1.0], 0.2) == pytest.approx([0.8, 1.0])


def test_items_of_parts_and_of_layers():
    found = network.items(operations())
    assert [(i.part, i.operation) for i in found] == [
        ("encoder", "linear"),
        ("encoder", "log_mel"),
        ("decoder", "attention"),
    ]
    assert found[0].bytes == 1.2e7
    assert found[0].intensity == pytest.approx(4e9 / 1.2e7)
    assert [i.layer for i in network.items(operations(), layers=True)] == ["encoder.0"]


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    rows = [
        *(speed("hub/one", seconds=s, time=s / 30, memory={"predicted": 2e8}) for s in (5.0, 30.0)),
        speed("hub/one", batch=4, time=3.0),
        speed("hub/one", device="cuda", time=0.1),
        speed("hub/one", "tynda-numpy", time=9.0, noisy="others used 40% of the processors"),
        speed("hub/two", "halves", "8"),
        *(words("hub/one"), words("hub/one", "tynda-numpy", wer=0.11)),
        *(operations("hub/one"), cache("hub/one")),
        lost("skipped", "it is not installed", model="hub/two", engine="absent"),
        lost(model="hub/two", bits="4"),
    ]
    return folder, page(folder, rows)


def test_the_page_has_all_that_was_asked_for(full):
    folder, text = full
    shown = checked(text)
    for name in ("one", "two", "tynda", "tynda-numpy", "halves", "absent"):
        assert name in shown
    assert "it is not installed" in shown
    assert "it broke" in shown
    assert "noisy: others used 40% of the processors" in shown
    assert "the interval of WER overlaps with 1 other" in shown
    assert "Highest throughput" in shown
    assert "idle power subtracted: 0 W" in shown
    assert "tynda profile hub/one hub/two --engines tynda --durations 30" in shown
    figures = [path.name for path in (folder / "figures").iterdir()]
    for kind in ("scaling", "devices", "front", "words", "stages", "memory", "roofline"):
        assert any(name.startswith(kind) for name in figures)
    for kind in ("operations", "cache"):
        assert any(name.startswith(kind) for name in figures)
    assert all((folder / "figures" / n).read_bytes()[:4] == b"\x89PNG" for n in figures)


def test_each_model_names_the_next_engine(tmp_path):
    rows = [
        *(speed("hub/one", time=1.0), speed("hub/one", bits="8", time=0.4)),
        *(speed("hub/one", "halves", time=1.0), speed("hub/one", "thirds", time=3.0)),
        speed("hub/two"),  # on one engine
    ]
    shown = checked(page(tmp_path, rows))
    assert "halves 32 bit: 2.5 times tynda 8 bit" in shown
    assert shown.count(" times tynda") == 1


def test_estimated_energy_is_called_one_wherever_it_is_shown(full):
    _, text = full
    shown = checked(text)
    assert "Energy is an estimate" in shown
    assert "Lowest energy (estimate)" in shown
    assert "energy (estimate), J per recording" in shown
    assert "energy (estimate), J" in shown
    assert not re.search(r"\benergy(?! \(estimate\)| in the case| name estimate)", shown)


def test_measured_energy_is_not_an_estimate(tmp_path):
    machine = MACHINE | {"energy": {"name": "rapl", "idle": 21.5}}
    rows = [speed(estimate=False), speed(bits="8", estimate=False)]
    shown = checked(page(tmp_path, rows, environment=machine))
    assert "estimate" not in shown
    assert "idle power subtracted: 21.5 W" in shown


def test_the_page_is_the_same_again(full, tmp_path):
    folder, text = full
    assert reports.write(folder).read_text() == text


def test_a_page_without_words_and_without_gpu(tmp_path):
    shown = checked(page(tmp_path, [speed(), speed(bits="8")]))
    assert "No error rates were measured" in shown
    assert "No GPU was measured" in shown


def test_a_page_of_words_alone(tmp_path):
    shown = checked(page(tmp_path, [words(), words(bits="8", wer=0.2)]))
    assert "There is nothing to choose from" in shown
    assert "0.2000" in shown


def test_a_page_of_failures_alone(tmp_path):
    shown = checked(page(tmp_path, [lost(), lost("skipped", "not there", bits="8")]))
    assert "There is nothing to choose from" in shown
    assert "not there" in shown


def test_names_and_reasons_are_escaped(tmp_path):
    bad = '<script>alert("1")</script>&$x_1$'
    rows = [speed(bad), speed(bad, seconds=5.0), lost(model=bad, bits="8", why=bad), words(bad)]
    rows += [operations(bad), speed(noisy=bad, engine=bad)]
    text = page(tmp_path, rows)
    assert "<script>alert" not in text
    assert 'alert("1")' in checked(text)


def test_values_that_are_missing_or_of_other_kinds_do_no_harm(tmp_path):
    odd = [
        replace(speed(bits="32"), values={}),
        replace(speed(bits="8"), values={"stages": 3, "energy": [], "memory": {"peak": "much"}}),
        replace(words(), values={"wer": None}),
        replace(operations(), values={"limits": 1, "parts": {"encoder": [1, {}]}}),
        replace(cache(), values={"positions": "x", "with_cache": None}),
    ]
    checked(page(tmp_path, odd))


def test_the_runs_commands_can_be_typed(tmp_path):
    put(tmp_path, [speed("my models/one")])
    (command,) = commands(read(tmp_path))
    assert command.startswith("tynda profile 'my models/one' --engines tynda --durations 30")


# Comparing


def test_the_ratio_of_medians_and_its_interval():
    found, low, high = ratio([1.0, 1.0, 1.0], [2.0, 2.0, 2.0])
    assert (found, low, high) == (2.0, 2.0, 2.0)
    found, low, high = ratio([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    assert low < found == 1.0 < high


def test_diff_says_what_changed_and_what_is_noise(tmp_path):
    one = [
        *(speed(bits="32"), speed(bits="8"), speed(bits="4"), speed(bits="2"), words()),
        *(speed(bits="6"), speed(bits="5")),
    ]
    two = [
        *(speed(bits="32", time=2.0, peak=300e6), speed(bits="8", time=1.001)),
        *(speed(bits="4", time=9.0, noisy="others"), words(wer=0.2), speed(bits="3")),
        *(lost(bits="6"), speed(bits="5")),
    ]
    a, b = (read(put(tmp_path / n, rows)) for n, rows in (("a", one), ("b", two)))
    found = compare(a, b)
    by = {(c.case.work, c.case.bits): c for c in found.changes}
    assert by["speed", "32"].time == pytest.approx(2)
    assert by["speed", "32"].memory == pytest.approx(1.5)
    assert by["speed", "32"].energy == pytest.approx(2)
    assert by["speed", "32"].certain
    assert not by["speed", "8"].certain
    assert not by["speed", "4"].certain
    assert by["speed", "4"].worst() == 1
    assert by["words", "32"].wer == pytest.approx(0.1)
    assert by["words", "32"].certain
    assert "failed (it broke)" in by["speed", "6"].broken
    assert [c.bits for c in found.first] == ["2"]
    assert [c.bits for c in found.second] == ["3"]
    assert found.warnings == []
    assert [c.case.bits for c in found.changes[:2]] == ["6", "4"]
    same = compare(a, a)
    assert all(not c.certain and c.size == 0 for c in same.changes)


def test_diff_warns_where_reports_cannot_be_compared(tmp_path):
    a = read(put(tmp_path / "a", [speed()]))
    other = MACHINE | {"processor": "Another", "libraries": {"tynda": "0.2.0"}}
    b = read(put(tmp_path / "b", [speed(), speed(threads=4)], environment=other, digest="e"))
    found = " / ".join(compare(a, b).warnings)
    assert "processor" in found
    assert "libraries" in found
    assert "threads differ: 2 and 2, 4" in found
    assert "m is not the same model" in found


# Command line


def run(*args):
    result = CliRunner().invoke(main, ["profile", *map(str, args)], catch_exceptions=False)
    return result.exit_code, result.output, result.stderr


def test_report_makes_the_page_anew(tmp_path):
    put(tmp_path, [speed(), words()])
    code, said, _ = run("report", tmp_path, "--memory", "100")
    assert code == 0
    assert "index.html" in said
    assert "Within 100 MB" in (tmp_path / "index.html").read_text()


def test_diff_fails_where_it_is_asked_to(tmp_path):
    a, b = put(tmp_path / "a", [speed()]), put(tmp_path / "b", [speed(time=1.5)])
    code, said, _ = run("diff", a, b)
    assert code == 0
    assert "1.500" in said
    assert run("diff", a, b, "--fail-above", "2")[0] == 0
    assert run("diff", a, b, "--fail-above", "1.1")[0] == 1
    assert run("diff", b, a, "--fail-above", "1.1")[0] == 0
    code, said, _ = run("diff", a, b, "--format", "json")
    assert json.loads(said.splitlines()[0])["time"] == 1.5


@pytest.mark.parametrize("command", ["report", "diff"])
def test_what_is_no_report_is_one_line(tmp_path, command):
    good = put(tmp_path / "good", [speed()])
    damaged, bare, odd = (tmp_path / name for name in ("damaged", "bare", "odd"))
    for folder in (damaged, bare, odd):
        put(folder, [speed()])
    (damaged / "record.json").write_text('{"runs": [')
    (bare / "record.json").unlink()
    (odd / "record.json").write_text('{"runs": {}}')
    (tmp_path / "empty").mkdir()
    put(tmp_path / "none", [])
    for name in ("absent", "empty", "none", "damaged", "bare", "odd"):
        bad = [tmp_path / name] + [good] * (command == "diff")
        code, _, said = run(command, *bad)
        assert code == 1
        assert len(said.strip().splitlines()) == 1
        assert said.startswith("error: ")


def test_what_is_missing_has_a_name_in_pip(tmp_path, monkeypatch):
    monkeypatch.setattr(reports, "find_spec", lambda name: None if name == "pandas" else name)
    with pytest.raises(TyndaError, match=re.escape(f"needs pandas: {install('profile')}")):
        reports.write(put(tmp_path, [speed()]))


def test_what_was_interrupted_in_a_line_is_passed_over(tmp_path):
    put(tmp_path, [speed()])
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write('{"case": {"work": "spe')
    assert len(read(tmp_path).rows) == 1
    assert np.isfinite(read(tmp_path).rows[0].values["throughput"])


@pytest.mark.parametrize(
    "change",
    [
        {"manifest": ["a"]},
        {"model": {}},
        {"seconds": "1"},
        {"batch": None},
        {"threads": float("nan")},
        {"tokens": 10**400},
    ],
)
def test_rows_of_other_types_are_damaged(tmp_path, change):
    folder = put(tmp_path, [speed("a")])
    path = folder / "rows.jsonl"
    row = json.loads(path.read_text())
    row["case"] |= change
    path.write_text(path.read_text() + json.dumps(row) + "\n")
    with pytest.warns(UserWarning, match="1 damaged row"):
        assert len(read(folder).rows) == 1


def test_damaged_rows_are_told_of(tmp_path):
    folder = put(tmp_path, [speed("a"), speed("b")])
    path = folder / "rows.jsonl"
    path.write_text("[1, 2]\n" + path.read_text() + '{"case": {"wor')
    with pytest.warns(UserWarning, match="1 damaged row"):
        assert len(read(folder).rows) == 2


@pytest.mark.parametrize(("field", "value"), [("model", ["a"]), ("engine", {}), ("seconds", 1e999)])
def test_rows_with_values_of_another_kind_are_damaged(tmp_path, field, value):
    folder = put(tmp_path, [speed("a"), speed("b")])
    path = folder / "rows.jsonl"
    lines = path.read_text().splitlines()
    row = json.loads(lines[0])
    row["case"][field] = value
    path.write_text("\n".join([json.dumps(row), *lines[1:]]) + "\n")
    with pytest.warns(UserWarning, match="1 damaged row"):
        assert [row.case.model for row in read(folder).rows] == ["b"]
