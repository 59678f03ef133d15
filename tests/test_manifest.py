import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tynda.errors import TyndaError
from tynda.manifest import Utterance, read

SPEECH = Path(__file__).parents[2] / "shared" / "data"


def test_a_full_line(tmp_path: Path) -> None:
    manifest = tmp_path / "dev.jsonl"
    line = {
        "audio_filepath": "audio/a.flac",
        "text": "Қазақша",
        "duration": 2,
        "speaker": "s1",
        "language": "kk",
        "source": "here",
        "take": 3,
        "offset": 0.0,
    }
    manifest.write_text(json.dumps(line) + "\n\n", encoding="utf-8")
    audio = tmp_path / "audio" / "a.flac"
    assert read(manifest) == [Utterance(audio, "Қазақша", 2.0, "s1", "kk", "here")]


def test_defaults_and_absolute_paths(tmp_path: Path) -> None:
    manifest = tmp_path / "dev.jsonl"
    manifest.write_bytes(b'\xef\xbb\xbf{"audio_filepath": "/x/a.wav", "text": ""}\r\n')
    assert read(str(manifest)) == [Utterance(Path("/x/a.wav"), "", None, None, None, "dev")]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"audio_filepath": "a.wav"', "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("\udcff", "not JSON"),
        ("3", "not a JSON object"),
        ('{"text": "a"}', 'no "audio_filepath"'),
        ('{"audio_filepath": "a.wav"}', 'no "text"'),
        ('{"audio_filepath": "", "text": "a"}', '"audio_filepath" is not a file name'),
        ('{"audio_filepath": 3, "text": "a"}', '"audio_filepath" is not a string'),
        ('{"audio_filepath": "a.wav", "text": ["a"]}', '"text" is not a string'),
        ('{"audio_filepath": "a.wav", "text": "a", "speaker": 7}', '"speaker" is not a string'),
        *(
            (f'{{"audio_filepath": "a.wav", "text": "a", "offset": {value}}}', '"offset"')
            for value in ("1.5", '"0"', "-1")
        ),
        ('{"audio_filepath": "a.wav", "text": "\\ud800"}', '"text" has an incomplete'),
        (
            '{"audio_filepath": "a.wav", "text": "", "source": "\\udfff"}',
            '"source" has an',
        ),
        *(
            (f'{{"audio_filepath": "a.wav", "text": "a", "duration": {value}}}', '"duration"')
            for value in ('"2.5"', "true", "-1", "NaN", "1e999", "1" + "0" * 400, "[]")
        ),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, complaint: str) -> None:
    manifest = tmp_path / "bad.jsonl"
    content = f'{{"audio_filepath": "a.wav", "text": "a"}}\n{line}\n'
    manifest.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(TyndaError) as raised:
        read(manifest)
    message = str(raised.value)
    assert message.startswith(f"{manifest}:2: ")
    assert complaint in message
    assert "\n" not in message


def test_no_manifest_to_read(tmp_path: Path) -> None:
    with pytest.raises(TyndaError, match="name of the manifest is empty"):
        read("")
    with pytest.raises(TyndaError, match="No such file"):
        read(tmp_path / "none.jsonl")
    with pytest.raises(TyndaError, match="cannot read"):
        read(tmp_path)
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n \n")
    with pytest.raises(TyndaError, match="empty manifest"):
        read(empty)


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
keys = st.sampled_from(["audio_filepath", "text", "duration", "speaker", "language", "source"])
garbage = st.binary(max_size=40) | st.dictionaries(keys, json_values).map(
    lambda entry: json.dumps(entry).encode()
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(garbage, max_size=3))
def test_garbage_is_read_or_refused(tmp_path: Path, lines: list[bytes]) -> None:
    manifest = tmp_path / "garbage.jsonl"
    manifest.write_bytes(b"\n".join(lines))
    with suppress(TyndaError):
        assert all(isinstance(utterance.text, str) for utterance in read(manifest))


@pytest.mark.skipif(not SPEECH.is_dir(), reason="needs the recordings in ../shared/data")
def test_real_manifests() -> None:
    utterances = read(SPEECH / "dev.jsonl")
    assert len(utterances) > 1000
    assert all(utterance.audio.is_file() for utterance in utterances[:20])
    assert {utterance.source for utterance in utterances} == {"speechocean762", "kathleen"}


def test_a_line_without_end(tmp_path: Path) -> None:
    manifest = tmp_path / "zeros.jsonl"
    with manifest.open("wb") as file:
        file.truncate(1 << 40)  # a sparse file, which is read no further than a line may reach
    with pytest.raises(TyndaError, match=r"zeros\.jsonl:1: the line has more than 4,000,000 bytes"):
        read(manifest)
