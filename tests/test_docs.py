"""The Python programs in the guides run, and the names that they use exist."""

import ast
import builtins
import importlib
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


def programs(page):
    """Return the Python programs of a page."""
    parts = (ROOT / page).read_text("utf-8").split("```python\n")[1:]
    return [part.split("```")[0] for part in parts]


def run(page, first=None):
    """Run the programs of a page, or the first few, one after the other in one namespace."""
    space = {}
    for program in programs(page)[:first]:
        exec(program, space)
    return space


def test_a_guide_runs_from_first_to_last(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    run("docs/simulate.md")
    rates = [float(x) for line in capsys.readouterr().out.splitlines() for x in line.split()]
    assert len(rates) == 4
    assert all(0.3 < rate < 1 for rate in rates)  # of six recordings of 52 words


def test_the_programs_of_the_readme_run(tmp_path, monkeypatch, capsys):
    shutil.copytree(ROOT / "demo", tmp_path / "demo")
    monkeypatch.chdir(tmp_path)
    run("README.md", first=2)  # The third one needs a model of the hub.
    assert (tmp_path / "jfk.srt").exists()
    assert "what" in capsys.readouterr().out


def test_the_tables_of_models_can_be_computed_again(capsys):
    pytest.importorskip("torch")
    run("docs/models.md")
    run("docs/models/moonshine.md")
    lines = capsys.readouterr().out.splitlines()
    page = (ROOT / "docs" / "models.md").read_text("utf-8")
    for line in lines[:2]:
        recipe, weights, macs = line.split()
        row = next(row for row in page.splitlines() if row.startswith(f"| `{recipe}`"))
        assert row.endswith(f"| {int(weights):,} | {float(macs) / 1e6:.1f} |")
    assert lines[2] in (ROOT / "docs/models/moonshine.md").read_text("utf-8").replace(" ", "")


def test_a_wav2vec2_is_read_by_hand(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    from test_huggingface import write_mms

    write_mms(tmp_path)
    monkeypatch.chdir(tmp_path)
    space = run("docs/models/wav2vec2.md")
    shapes = space["wav2vec2"].FAMILY.shapes(space["config"])
    assert {name: space["weights"][name].shape for name in shapes} == shapes


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_names_in_programs_exist(page):
    """Imports are resolved, and attributes of what is imported from tynda."""
    bound = dict(vars(builtins))
    for program in programs(page):
        tree = ast.parse(program)
        for node in ast.walk(tree):
            match node:
                case ast.Import(names=names):
                    for alias in names:
                        bound[alias.asname or alias.name.split(".")[0]] = tynda_module(alias.name)
                case ast.ImportFrom(module=str(module), names=names):
                    for alias in names:
                        bound[alias.asname or alias.name] = member(module, alias.name)
        for node in ast.walk(tree):
            match node:
                case ast.Attribute(value=ast.Name(id=name), attr=attribute):
                    if bound.get(name) is not None:
                        assert hasattr(bound[name], attribute), f"{name}.{attribute}"


def tynda_module(name):
    """Import a module of tynda; another one, which need not be installed, is None."""
    return importlib.import_module(name) if name.split(".")[0] == "tynda" else None


def member(module, name):
    """Return what ``from module import name`` gives, or None if it is not tynda's."""
    if (found := tynda_module(module)) is None:
        return None
    is_module = not hasattr(found, name) and find_spec(f"{module}.{name}") is not None
    return importlib.import_module(f"{module}.{name}") if is_module else getattr(found, name)
