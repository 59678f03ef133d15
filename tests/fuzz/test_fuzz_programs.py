"""Damaged grammars of commands, and damaged reports of profiles; see ``test_fuzz``."""

import json
import os
import shutil

import pytest
from hypothesis import strategies as st

from fuzz_cases import both, of
from fuzz_values import changed, changes, edited, edits, picks, spots, texts
from tynda.profiling.record import RECORD, ROWS

if not hasattr(os, "fork") or not hasattr(os, "pidfd_open"):
    pytest.skip("needs fork and pidfd_open", allow_module_level=True)

LIST = """
# A list of rooms, and sentences with it.
{room} = kitchen | [the] (living|sitting) room
turn (on|off) [the] light[s] [in {room}]
set {room:place} to {0..30:level}[%| percent]
now;stop
"""
INTENTS = {
    "language": "en",
    "intents": {
        "HassTurnOn": {
            "data": [
                {"sentences": ["<turn> on {name}", "lights on [in <where>]"], "slots": {"a": "b"}},
                {"sentences": ["<turn> {name} on"]},
            ]
        },
        "HassSet": {"data": [{"sentences": ["set {brightness:value} in {name}"]}]},
    },
    "lists": {
        "name": {"values": [{"in": "[the] kitchen light[s]", "out": "light.kitchen"}, "heater"]},
        "brightness": {"range": {"from": 0, "to": 100, "step": 5}},
    },
    "expansion_rules": {"turn": "(turn|switch)", "where": "[the] (kitchen|bath)"},
}
# What an editor may leave in a template, and what asks for much.
parts = st.sampled_from(
    [
        *("(", ")", "[", "]", "{", "}", "<", ">", "|", ";", ":", "{room}", "{name}", "<turn>"),
        *("{0..99999999}", "{5..1}", "{0..9:x}", "{a} = {a}", "[" * 40, "(a|" * 30, "&a [*a]"),
        *("(a|b|c)" * 12, "[a]" * 20, "{0..9999} " * 4, "1e400", "0x", "12:61", "$", "\u0000"),
    ]
)
insertions = st.lists(st.tuples(spots, parts | texts), max_size=4)


def inserted(text, steps):
    """Return a text with others in between."""
    for spot, what in steps:
        at = int(spot * len(text))
        text = text[:at] + what + text[at:]
    return text


COMMANDS = (
    ["a.wav"],
    ["a.wav", "--format", "jsonl", "--threshold", "0"],
    ["--check"],
    ["--calibrate", "m.jsonl"],
    ["a.wav", "--language", "en", "--backend", "numpy"],
)


@both(st.tuples(st.booleans(), changes | st.just([]), insertions, edits | st.just([]), picks))
def grammars_of_commands(cases, drawn):
    is_yaml, of_json, of_text, of_bytes, how = drawn
    here = cases.fresh()
    os.link(cases.bases["a.wav"], here / "a.wav")
    (here / "m.jsonl").write_text('{"audio_filepath": "a.wav", "text": ""}\n')
    text = json.dumps(changed(INTENTS, of_json), indent=1) if is_yaml else LIST
    name = "g.yaml" if is_yaml else "g.txt"
    data = inserted(text, of_text).encode(errors="surrogatepass")
    (here / name).write_bytes(edited(data, of_bytes))
    model = cases.bases["paths"][of(["tiny", "tiny", "lm", "whisper8"], how // 8)]
    cases.run(["commands", name, "--model", model, *of(COMMANDS, how)])


@both(st.tuples(picks, changes, edits | st.just([]), st.booleans(), picks))
def reports_of_profiles(cases, drawn):
    which, of_json, of_bytes, again, how = drawn
    here = cases.fresh()
    shutil.copytree(cases.bases["report"], here / "report")
    path = here / "report" / of([ROWS, RECORD], which)
    lines = path.read_text().splitlines() if path.name == ROWS else [path.read_text()]
    at = how % len(lines)
    lines[at] = json.dumps(changed(json.loads(lines[at]), of_json))
    data = "".join(f"{line}\n" for line in lines).encode(errors="surrogatepass")
    path.write_bytes(edited(data, of_bytes))
    whole = cases.bases["report"]
    diffs = (
        ["diff", "report", whole],
        ["diff", whole, "report", "--format", "json", "--fail-above", "1.5"],
        ["diff", "report", "report"],
    )
    command = of(diffs, how // 64)
    if how // 64 % 24 == 0:  # To draw a page takes a second.
        command = ["report", "report", *of(([], ["--memory", "512"]), how // 1024)]
    if again and path.name == RECORD:
        # Nothing is to be measured: no model has this name.
        model = str(cases.bases["paths"]["tiny"])
        path.write_bytes(path.read_bytes().replace(model.encode(), b"absent.safetensors"))
        command = ["--again", "report/record.json"]
    cases.run(["profile", *command])
