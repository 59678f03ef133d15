"""Plans as data: golden plans of the models that are here, and plans that are no plans."""

import difflib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tynda.cli import main
from tynda.compile import native
from tynda.compile.native import machine
from tynda.plans import plans
from tynda.store import library

DATA = Path(__file__).parent / "data"
GOLDEN = DATA / "plans"

pytestmark = pytest.mark.skipif(not native.available(), reason="the kernels are not compiled")


def printed(model: str, *options: str) -> list[str]:
    result = CliRunner().invoke(main, ["models", "plan", model, *options])
    assert result.exit_code == 0, result.output
    return result.output.splitlines()


@pytest.mark.parametrize("name", ["digits-en", "sentences-en", "witness-whisper"])
def test_plans_are_unchanged(name: str) -> None:
    """A change of lowering shows here; where it is meant, the file is written anew:

    tynda models plan NAME --seconds 5 | grep -v '^#' > tests/data/plans/NAME.txt
    """
    file = DATA / f"{name}.safetensors"
    model = str(file) if file.exists() else name
    lines = [line for line in printed(model, "--seconds", "5") if not line.startswith("#")]
    golden = (GOLDEN / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    changes = "\n".join(list(difflib.unified_diff(golden, lines, lineterm="", n=0))[:20])
    assert lines == golden, changes


def test_each_program_of_a_decoder_has_a_plan_with_its_memory() -> None:
    lines = printed(str(DATA / "witness-whisper.safetensors"), "--seconds", "2", "--threads", "3")
    headings = [line for line in lines if line.startswith("#")]
    names = [heading.split(":")[0] for heading in headings]
    assert names == ["# encode", "# cross_kv", "# step", "# step", "# step"]
    assert all("3 threads" in heading for heading in headings)
    assert lines.count("tynda-plan 2") == len(headings)


def test_matmul_precision_is_in_the_plan() -> None:
    model = library.load("digits-en")
    operations = {
        bits: {o.name for o in plans(model, 1, bits=bits)[0].lowered.plan.operations}
        for bits in (8, 32)
    }
    assert "matmul_8" in operations[8]
    assert "matmul_8" not in operations[32]


@pytest.mark.parametrize("arguments", [("--seconds", "0"), ("--seconds", "nan"), ("--bits", "7")])
def test_settings_out_of_range_are_wrong_usage(arguments: tuple[str, ...]) -> None:
    result = CliRunner().invoke(main, ["models", "plan", "digits-en", *arguments])
    assert result.exit_code == 2


LINES = (GOLDEN / "digits-en.txt").read_text(encoding="utf-8").splitlines()
WORDS = st.sampled_from(["0", "-1", "1", "2", "4097", "1e9", str(1 << 62), "nan", "-", "x", "="])


@settings(suppress_health_check=[HealthCheck.too_slow])  # on a busy machine
@given(st.data())
def test_a_damaged_plan_is_refused_or_laid_out(data: st.DataObject) -> None:
    """Text that anybody may have written never leaves the memory of the plan that it describes."""
    lines = list(LINES)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(lines) - 1))
        words = lines[place].split(" ")
        match data.draw(st.sampled_from(["word", "value", "drop", "double", "swap"])):
            case "word":
                words[data.draw(st.integers(0, len(words) - 1))] = data.draw(WORDS)
                lines[place] = " ".join(words)
            case "value":
                word = data.draw(st.integers(0, len(words) - 1))
                words[word] = f"{words[word].partition('=')[0]}={data.draw(WORDS)}"
                lines[place] = " ".join(words)
            case "drop":
                lines.pop(place)
            case "double":
                lines.insert(place, lines[place])
            case "swap":
                other = data.draw(st.integers(0, len(lines) - 1))
                lines[place], lines[other] = lines[other], lines[place]
    here = machine(1)
    with suppress(ValueError):
        layout = native._native.Layout("\n".join(lines), here.kernels, 1)
        assert layout.bytes >= 0


def test_a_program_refuses_weights_that_are_not_the_plans() -> None:
    planned = plans(library.load("digits-en"), 1)[0]
    layout = planned.lowered.layout
    with pytest.raises(ValueError, match="constants"):
        native._native.Program(layout, [np.zeros(3, np.float32)], [])
