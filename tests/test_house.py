"""The rules of this code base, checked on its source (see CONTRIBUTING.md).

Each rule lists the places that break it. ``BOUNDS`` states how many are allowed; a rule without a
bound holds everywhere. A bound may be lowered, never raised.
"""

import ast
import io
import re
import subprocess
import sys
import tokenize
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "tynda"
LINES = 450

BOUNDS = {}

# Strings that equal a family's name, but have another meaning: a value in model files.
VALUES = {
    ("sound/frontend.py", "whisper"): "the normalisation of log-mel features",
    ("text/whisper.py", "whisper"): "the kind of tokenizer",
}
# Private names of other libraries: documented in spite of the underscore, or the only access.
FOREIGN = {
    "_exit": "os._exit, documented",
    "_foreach_lerp_": "torch, one kernel call for many tensors",
    "_ctx": "pywhispercpp, the handle of whisper.cpp's own functions",
}


@cache
def families():
    """Return every family's name: the modules in models/ that define ``specs``."""
    return {
        path.stem
        for path, tree in modules().items()
        if path.parent == SOURCE / "models"
        and any(isinstance(node, ast.FunctionDef) and node.name == "specs" for node in tree.body)
    }


def inside(path, *packages):
    return path.relative_to(SOURCE).parts[0] in packages


def is_peer(path):
    """Return whether a file is an engine of another library, which uses that library's names."""
    return path.parent == SOURCE / "profiling" / "engines" and path.stem != "tynda"


@cache
def modules():
    return {p: ast.parse(p.read_text("utf-8")) for p in sorted(SOURCE.rglob("*.py"))}


def place(path, node, what):
    line = node if isinstance(node, int) else node.lineno
    return f"{path.relative_to(ROOT)}:{line}: {what}"


def docstrings(tree):
    """Yield every string that is a statement: a docstring or the description of a field."""
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant(value=str())):
                yield node.value


def imports(tree):
    """Yield module and name of every import from tynda; the name of ``import tynda.x`` is None."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "tynda":
            yield from ((node, node.module, alias.name) for alias in node.names)
        if isinstance(node, ast.Import):
            names = (alias.name for alias in node.names)
            yield from ((node, name, None) for name in names if name.startswith("tynda."))


def family_imports():
    for path, tree in modules().items():
        if inside(path, "models", "heads"):
            continue
        for node, module, name in imports(tree):
            parts = [*module.split("."), name]
            if parts[1] == "models" and families() & set(parts[2:]):
                yield place(path, node, f"imports {module}.{name}")


def family_strings():
    """An engine of another library may name in ``families`` the ones that the library runs."""
    for path, tree in modules().items():
        if inside(path, "models", "heads"):
            continue
        declared = {
            constant
            for node in ast.walk(tree)
            if is_peer(path)
            and isinstance(node, ast.Assign)
            and [t.id for t in node.targets if isinstance(t, ast.Name)] == ["families"]
            for constant in ast.walk(node)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and node.value in families() | {"hubert"}:
                value = str(path.relative_to(SOURCE)), node.value
                if node not in declared and value not in VALUES:
                    yield place(path, node, f"names {node.value!r}")


def family_questions():
    """Find uses of lists of some families, and of classes of one family or head."""
    named = re.compile(r"(CTC|Whisper|Seq2Seq)Recognizer|CTC_FAMILIES|is_(ctc|whisper)")
    for path, tree in modules().items():
        if inside(path, "models", "heads"):
            continue
        for node in ast.walk(tree):
            match node:
                case ast.Name(id=name) | ast.Attribute(attr=name) if named.fullmatch(name):
                    yield place(path, node, f"asks by {name}")
                case ast.Call(func=ast.Name(id="isinstance"), args=[_, kind]):
                    text = ast.unparse(kind)
                    if "Recognizer" not in text and re.search("Whisper|Wav2Vec|Conformer", text):
                        yield place(path, node, f"asks by isinstance of {text}")


def weight_questions():
    for path, tree in modules().items():
        if inside(path, "weights"):
            continue
        kinds = {name for _, module, name in imports(tree) if module.startswith("tynda.weights")}
        for node in ast.walk(tree):
            match node:
                case ast.Call(func=ast.Name(id="isinstance" | "issubclass"), args=[_, kind]):
                    named = {n.id for n in ast.walk(kind) if isinstance(n, ast.Name)}
                    if asked := named & kinds:
                        yield place(path, node, f"asks for {', '.join(sorted(asked))}")


def private_names():
    """A class may read the private fields of another object of its own module."""
    for path, tree in modules().items():
        for node, module, name in imports(tree):
            private = [p for p in f"{module}.{name}".split(".") if re.match("_[a-z]", p)]
            if private and private != ["_native"]:
                yield place(path, node, f"imports {module}.{name}")
        own = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)}
        own |= {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
        own |= {
            n.attr
            for n in ast.walk(tree)
            if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)
        }
        for node in ast.walk(tree):
            match node:
                case ast.Attribute(value=ast.Name(id="self" | "cls")):
                    continue
                case ast.Attribute(attr=name) if re.match("_[a-z]", name):
                    if name not in own and name not in FOREIGN:
                        yield place(path, node, f"reads {ast.unparse(node)}")


def native():
    """Return the source files of the kernels and their tests."""
    kinds = {".cpp", ".h", ".inl"}
    return sorted(p for p in (ROOT / "native").rglob("*.*") if p.suffix in kinds)


def long_files():
    for path in [*modules(), *native()]:
        lines = path.read_text("utf-8").count("\n")
        if lines > LINES:
            yield place(path, lines, f"{lines} lines")


HALF = re.compile(r"(Of|What|Those|As) ")
"""First words that show half a sentence."""


def comments(path):
    """Return line number and text of the first line of each comment in a file."""
    text = path.read_text("utf-8")
    if path.suffix == ".py":
        found = {
            token.start[0]: token.string.lstrip("# ")
            for token in tokenize.generate_tokens(io.StringIO(text).readline)
            if token.type == tokenize.COMMENT
        }
    else:
        lines = enumerate(text.splitlines(), 1)
        found = {i: line.split("//", 1)[1].lstrip("/ ") for i, line in lines if "//" in line}
    return [(number, line) for number, line in found.items() if number - 1 not in found]


def half_comments():
    for path in [*modules(), *native()]:
        for number, line in comments(path):
            if HALF.match(line):
                yield place(path, number, line)


def half_docstrings():
    for path, tree in modules().items():
        for node in docstrings(tree):
            first = node.value.strip().split("\n")[0]
            if HALF.match(first):
                yield place(path, node, first)


RULES = {
    "family modules are imported by models and heads alone": family_imports,
    "family names are told by models and heads alone": family_strings,
    "nobody outside models and heads asks which family a model is of": family_questions,
    "kinds of weights are told apart in weights alone": weight_questions,
    "private names stay in their module": private_names,
    "files are short": long_files,
    "comments are whole sentences": half_comments,
    "docstrings are whole thoughts": half_docstrings,
}


@pytest.mark.parametrize("rule", RULES)
def test_the_rule_holds(rule):
    found = sorted(RULES[rule]())
    bound = BOUNDS.get(rule, 0)
    assert len(found) <= bound, f"{rule}: {len(found)} places, {bound} allowed\n" + "\n".join(found)


def test_bounds_are_those_of_rules():
    assert BOUNDS.keys() <= RULES.keys()


BROKEN = """
from tynda.models import ear
from tynda.weights.weight import Coded
from tynda.other import _private

# Of what comes next.
def ask(model, weight):
    \"\"\"What it is.\"\"\"
    if model.family == "ear" or isinstance(model, CTCRecognizer) or model._hidden:
        return isinstance(weight, Coded)
"""


def test_every_rule_sees_what_breaks_it(tmp_path, monkeypatch):
    source = tmp_path / "src" / "tynda"
    (source / "models").mkdir(parents=True)
    (source / "models" / "ear.py").write_text("def specs(config): ...\n")
    (source / "broken.py").write_text(BROKEN + "\n" * LINES)
    here = sys.modules[__name__]
    monkeypatch.setattr(here, "ROOT", tmp_path)
    monkeypatch.setattr(here, "SOURCE", source)
    modules.cache_clear()
    families.cache_clear()
    try:
        counts = {rule: len(list(find())) for rule, find in RULES.items()}
    finally:
        modules.cache_clear()
        families.cache_clear()
    assert counts == dict.fromkeys(RULES, 1) | {"private names stay in their module": 2}


def test_importing_tynda_imports_next_to_nothing():
    """A name of the package is imported when it is used, so that a command starts fast."""
    code = (
        "import sys; before = set(sys.modules); import tynda;"
        "print(*{n.split('.')[0] for n in set(sys.modules) - before} - sys.stdlib_module_names)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["tynda"]
