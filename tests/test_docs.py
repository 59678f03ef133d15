"""The programs in the guides run."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("page", ["simulate.md"])
def test_a_guide_runs_from_first_to_last(page, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    space = {}
    for part in (ROOT / "docs" / page).read_text("utf-8").split("```python\n")[1:]:
        exec(part.split("```")[0], space)
    rates = [float(x) for line in capsys.readouterr().out.splitlines() for x in line.split()]
    assert len(rates) == 4
    assert all(0.3 < rate < 1 for rate in rates)  # of six recordings of 52 words
