"""Count the instructions and cycles of the NEON kernels' innermost loops, without a machine of ARM.

    apt-get install g++-aarch64-linux-gnu llvm
    python bench/neon_counts.py [--processors cortex-a55,cortex-a76]
    python bench/neon_counts.py --set i8mm --processors neoverse-n2,neoverse-v1 --mca llvm-mca-19

The kernels are compiled to assembly by the options of ``native/CMakeLists.txt``. Of each function
below, the loop without another loop inside that multiplies most is taken; llvm-mca estimates its
cycles from tables of the processors, with all data in the first cache. LLVM 14 has no table of a
processor with i8mm: it answers with that of an older one, and does not say so.
"""

from __future__ import annotations

import argparse
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

SOURCES = Path(__file__).parent.parent / "native" / "src"
OPTIONS = ["-std=c++17", "-O3", "-ffp-contract=off", "-fno-math-errno", "-S", "-o", "-"]
EXTENSIONS = {"neon": "+dotprod", "i8mm": "+dotprod+i8mm"}
FUNCTIONS = {
    "many rows": r"matmul_many_rows\(",
    "scores and values of attention": r"attend_rows<.*CodeForm, 12>",
    "4 bits, 6 rows": r"matmul_rows<4, 6>",
    "3 bits, 6 rows": r"matmul_rows<3, 6>",
    "2 bits, 6 rows": r"matmul_rows<2, 6>",
    "4 bits, one row": r"matmul_rows<4, 1>",
}
_MACS = {"sdot": 16, "udot": 16, "smmla": 32, "ummla": 32}  # multiply-adds of an instruction
_ITERATIONS = 200


def functions(assembly: str) -> Iterator[tuple[str, list[str]]]:
    """Yield name and lines of each function."""
    parts = re.split(r"^(_Z\w+):", assembly, flags=re.M)
    plain = subprocess.run(
        ["c++filt"], input="\n".join(parts[1::2]), capture_output=True, text=True, check=True
    )
    for name, body in zip(plain.stdout.splitlines(), parts[2::2], strict=True):
        yield name, body.splitlines()


def inner_loops(lines: list[str]) -> Iterator[list[str]]:
    """Yield the loops that have no other loop inside: from a label to a branch back to it."""
    labels = {m[1]: i for i, line in enumerate(lines) if (m := re.match(r"(\.L\w+):", line))}
    found = []
    for i, line in enumerate(lines):
        branch = re.match(r"\s+(?:b\w{0,3}|b\.\w+|cbn?z|tbn?z)\s+(?:\S+,\s*)*(\.L\w+)\s*$", line)
        if branch and labels.get(branch[1], i) < i:
            found.append((labels[branch[1]], i))
    for first, last in found:
        if not any((a, b) != (first, last) and first <= a and b <= last for a, b in found):
            yield lines[first : last + 1]


def operations(loop: list[str]) -> list[str]:
    """Return the names of a loop's instructions."""
    return [line.split()[0] for line in loop if re.match(r"\s+[a-z]", line)]


def macs(loop: list[str]) -> int:
    """Return the number of multiply-adds of products in a pass of a loop."""
    return sum(_MACS.get(name, 0) for name in operations(loop))


def products(loop: list[str]) -> int:
    """Return the number of instructions that multiply in a loop."""
    return sum(name in _MACS for name in operations(loop))


def cycles(loop: list[str], processor: str, mca: str) -> float:
    """Return the cycles of a pass of a loop, as llvm-mca estimates them."""
    text = "\n".join(line for line in loop if not re.match(r"\s+\.", line)) + "\n"
    options = ["-march=aarch64", "-mattr=+dotprod,+i8mm", f"-mcpu={processor}"]
    command = [mca, *options, f"-iterations={_ITERATIONS}"]
    found = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    total = re.search(r"Total Cycles:\s+(\d+)", found.stdout)
    assert total, found.stderr
    return int(total[1]) / _ITERATIONS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--set", choices=EXTENSIONS, default="neon", help="the instruction set")
    parser.add_argument("--processors", default="cortex-a55,cortex-a76")
    parser.add_argument("--mca", default="llvm-mca", help="the command of llvm-mca")
    arguments = parser.parse_args()
    processors = arguments.processors.split(",")
    architecture = f"-march=armv8.2-a{EXTENSIONS[arguments.set]}"
    source = SOURCES / f"isa_{arguments.set}.cpp"
    compiler = ["aarch64-linux-gnu-g++", *OPTIONS, architecture, source]
    assembly = subprocess.run(compiler, capture_output=True, text=True, check=True).stdout
    named = list(functions(assembly))
    columns = ["loop", "products", "instructions", *(f"MAC/cycle, {p}" for p in processors)]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for title, pattern in FUNCTIONS.items():
        bodies = [lines for name, lines in named if re.search(pattern, name)]
        loop = max((x for lines in bodies for x in inner_loops(lines)), key=macs)
        count = products(loop)
        rates = [f"{macs(loop) / cycles(loop, p, arguments.mca):.1f}" for p in processors]
        print(f"| {' | '.join([title, str(count), str(len(operations(loop))), *rates])} |")


if __name__ == "__main__":
    main()
