"""Count the instructions and cycles of the NEON kernels' innermost loops, without a machine of ARM.

    apt-get install g++-aarch64-linux-gnu llvm
    python bench/neon_counts.py [--processors cortex-a55,cortex-a76]

The kernels are compiled to assembly by the options of ``native/CMakeLists.txt``. Of each function
below, the loop without another loop inside that multiplies most is taken; llvm-mca estimates its
cycles from tables of the processors, with all data in the first cache.
"""

from __future__ import annotations

import argparse
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

SOURCES = Path(__file__).parent.parent / "native" / "src"
OPTIONS = ["-std=c++17", "-O3", "-march=armv8.2-a+dotprod", "-S", "-o", "-"]
FUNCTIONS = {
    "8 bits, many rows": r"matmul_many_rows\(",
    "scores and values of attention": r"attend_rows<.*CodeForm, 12>",
    "4 bits, 6 rows": r"matmul_rows<4, 6>",
    "3 bits, 6 rows": r"matmul_rows<3, 6>",
    "2 bits, 6 rows": r"matmul_rows<2, 6>",
    "4 bits, one row": r"matmul_rows<4, 1>",
}
_DOTS = "sdot", "udot"
_MACS = 16  # of one dot product
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


def dots(loop: list[str]) -> int:
    """Return the number of dot products in a loop."""
    return sum(name in _DOTS for name in operations(loop))


def cycles(loop: list[str], processor: str) -> float:
    """Return the cycles of a pass of a loop, as llvm-mca estimates them."""
    text = "\n".join(line for line in loop if not re.match(r"\s+\.", line)) + "\n"
    options = ["-march=aarch64", "-mattr=+dotprod", f"-mcpu={processor}"]
    command = ["llvm-mca", *options, f"-iterations={_ITERATIONS}"]
    found = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    total = re.search(r"Total Cycles:\s+(\d+)", found.stdout)
    assert total, found.stderr
    return int(total[1]) / _ITERATIONS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processors", default="cortex-a55,cortex-a76")
    processors = parser.parse_args().processors.split(",")
    compiler = ["aarch64-linux-gnu-g++", *OPTIONS, SOURCES / "isa_neon.cpp"]
    assembly = subprocess.run(compiler, capture_output=True, text=True, check=True).stdout
    named = list(functions(assembly))
    columns = ["loop", "dot products", "instructions", *(f"MAC/cycle, {p}" for p in processors)]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for title, pattern in FUNCTIONS.items():
        bodies = [lines for name, lines in named if re.search(pattern, name)]
        loop = max((x for lines in bodies for x in inner_loops(lines)), key=dots)
        count = dots(loop)
        rates = [f"{_MACS * count / cycles(loop, p):.1f}" for p in processors]
        print(f"| {' | '.join([title, str(count), str(len(operations(loop))), *rates])} |")


if __name__ == "__main__":
    main()
