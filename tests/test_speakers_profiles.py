"""The encrypted file of enrolled people."""

import json
import os
import stat

import numpy as np
import pytest

from tynda.errors import TyndaError
from tynda.speakers.profiles import Profile, ProfileStore


@pytest.fixture
def store(tmp_path):
    return ProfileStore(tmp_path / "data" / "speakers.bin", tmp_path / "config" / "speakers.key")


def profile(name, *total):
    return Profile(name, np.array(total, np.float32), 2, 7.25)


def test_profiles_come_back(store):
    assert store.read("m") == {}
    assert not store.key_file.exists()  # reading creates nothing
    store.write("m", {"Әлия": profile("Әлия", 3, 4)})
    found = store.read("m")["Әлия"]
    assert (found.name, found.recordings, found.seconds) == ("Әлия", 2, 7.25)
    assert found.voice == pytest.approx([0.6, 0.8])


def test_files_are_private_and_encrypted(store):
    store.write("m", {"Aliya": profile("Aliya", 1, 2)})
    for path in (store.path, store.key_file):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b"Aliya" not in store.path.read_bytes()
    assert sorted(p.name for p in store.path.parent.iterdir()) == ["speakers.bin"]
    first = store.path.read_bytes()
    store.write("m", {"Aliya": profile("Aliya", 1, 2)})
    assert store.path.read_bytes() != first  # each writing has a nonce of its own


def test_every_changed_byte_is_refused(store):
    store.write("m", {"Aliya": profile("Aliya", 1, 2)})
    sealed = store.path.read_bytes()
    for i in {0, 1, 12, 13, len(sealed) // 2, len(sealed) - 1}:
        store.path.write_bytes(sealed[:i] + bytes([sealed[i] ^ 1]) + sealed[i + 1 :])
        with pytest.raises(TyndaError, match="was changed"):
            store.read("m")
    for cut in (0, 1, 5, 20, len(sealed) - 1):
        store.path.write_bytes(sealed[:cut])
        with pytest.raises(TyndaError, match="was changed"):
            store.read("m")


def test_another_or_a_lost_key_is_one_line(store):
    store.write("m", {"Aliya": profile("Aliya", 1, 2)})
    key = store.key_file.read_bytes()
    store.key_file.write_bytes(b"A" * 43 + b"=\n")
    with pytest.raises(TyndaError, match="another key"):
        store.read("m")
    for bad in (b"", b"short\n", b"\xff" * 44):
        store.key_file.write_bytes(bad)
        with pytest.raises(TyndaError, match="key") as caught:
            store.read("m")
        assert "\n" not in str(caught.value)
    store.key_file.unlink()
    with pytest.raises(TyndaError, match="no key at"):
        store.read("m")
    store.key_file.write_bytes(key)
    assert list(store.read("m")) == ["Aliya"]


def test_another_model_is_refused_unless_nobody_is_enrolled(store):
    store.write("m", {"Aliya": profile("Aliya", 1, 2)})
    with pytest.raises(TyndaError, match="another model"):
        store.read("n")
    store.write("m", {})
    assert store.read("n") == {}


@pytest.mark.parametrize(
    "content",
    [
        [],
        {},
        {"model": "m", "people": []},
        {"model": "m", "people": {"a": 1}},
        {"model": "m", "people": {"a": {"total": ["x"], "recordings": 1, "seconds": 1}}},
        {"model": "m", "people": {"a": {"total": [[1]], "recordings": 1, "seconds": 1}}},
        {"model": "m", "people": {"a": {"total": [1e99], "recordings": 1, "seconds": 1}}},
    ],
)
def test_damaged_content_is_refused(store, content, monkeypatch):
    store.write("m", {})
    monkeypatch.setattr(ProfileStore, "_open", lambda self, sealed: json.dumps(content).encode())
    with np.errstate(over="ignore"), pytest.raises(TyndaError, match="damaged"):
        store.read("m")


def test_a_place_that_cannot_be_written_leaves_the_old_file(store, monkeypatch):
    store.write("m", {"Aliya": profile("Aliya", 1, 2)})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(TyndaError, match="No space left"):
        store.write("m", {})
    monkeypatch.undo()
    assert list(store.read("m")) == ["Aliya"]
    assert sorted(p.name for p in store.path.parent.iterdir()) == ["speakers.bin"]
