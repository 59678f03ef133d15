"""Encryption at rest: what was changed or moved is refused, and where master keys come from."""

import base64
import dataclasses
import os
import shlex
import subprocess
import sys

import pytest

pytest.importorskip("fastapi")

from hypothesis import given
from hypothesis import strategies as st

from tynda.errors import TyndaError
from tynda.serve.master import MasterKeys, find_masters
from tynda.serve.settings import ServeSettings
from tynda.serve.vault import Vault, VaultError, Wrapped


def text_of(*numbers):
    """Return master keys that are easily told apart, as text."""
    return "\n".join(base64.b64encode(bytes([n]) * 32).decode() for n in numbers)


def vault(*numbers):
    return Vault(MasterKeys(text_of(*numbers), origin="tests"))


@given(data=st.binary(max_size=300))
def test_sealed_parts_are_opened_and_look_random(data):
    key, wrapped = vault(1).create("ann", "a")
    sealed = [key.seal("audio", data) for _ in range(2)]
    assert sealed[0] != sealed[1]
    assert len(sealed[0]) == len(data) + 29
    assert len(data) < 4 or data not in sealed[0]
    assert vault(1).unwrap("ann", "a", wrapped).open("audio", sealed[0]) == data


@given(at=st.integers(0, 10**6), bit=st.integers(0, 7), cut=st.booleans())
def test_an_edited_ciphertext_is_refused(at, bit, cut):
    key, wrapped = vault(1).create("ann", "a")
    sealed = bytearray(key.seal("audio", b"some bytes of a recording"))
    at %= len(sealed)
    edited = bytes(sealed[:at]) if cut else None
    sealed[at] ^= 1 << bit
    with pytest.raises(VaultError, match="the audio of the recording a was changed") as caught:
        key.open("audio", bytes(sealed) if edited is None else edited)
    assert "\n" not in str(caught.value)
    broken = bytearray(wrapped.data)
    broken[at % len(broken)] ^= 1 << bit
    with pytest.raises(VaultError):
        vault(1).unwrap("ann", "a", Wrapped(wrapped.master, bytes(broken)))


def test_a_ciphertext_in_another_place_is_refused():
    own = vault(1)
    (a, of_a), (b, of_b) = own.create("ann", "a"), own.create("ann", "b")
    sealed = a.seal("result", b"text")
    for attempt in (
        lambda: a.open("correction", sealed),
        lambda: b.open("result", sealed),
        lambda: own.unwrap("bob", "a", of_a),
        lambda: own.unwrap("ann", "a", of_b),
        lambda: vault(2).unwrap("ann", "a", of_a),
        lambda: own.unwrap("ann", "a", dataclasses.replace(of_a, master="0" * 16)),
    ):
        with pytest.raises(VaultError):
            attempt()


def test_a_key_is_wrapped_again_by_a_new_master_key():
    key, old = vault(1).create("ann", "a")
    sealed = key.seal("result", b"text")
    new = vault(2, 1).rewrap("ann", "a", old)
    assert new.master != old.master
    assert vault(2).unwrap("ann", "a", new).open("result", sealed) == b"text"


def masters(environment=(), may_create=True, **given):
    return find_masters(ServeSettings(**given), dict(environment), may_create=may_create)


def test_a_file_of_the_master_key_is_made_once(tmp_path):
    file = tmp_path / "folder" / "master.key"
    with pytest.raises(TyndaError, match=r"no master key at .*: restore it"):
        masters(may_create=False, master_key_file=str(file))
    first = masters(master_key_file=str(file)).current()
    assert file.stat().st_mode & 0o077 == 0
    assert masters(master_key_file=str(file)).current() == first
    assert [each.name for each in file.parent.iterdir()] == ["master.key"]


def test_a_changed_file_is_read_again(tmp_path):
    file = tmp_path / "master.key"
    keys = masters(master_key_file=str(file))
    old = keys.current()
    other = MasterKeys(file=file, origin="file")
    other.rotate()
    assert keys.current() == other.current() != old
    assert keys.find(old.id) == old
    other.retain(1)
    assert keys.find(old.id) is None
    file.unlink()
    with pytest.raises(TyndaError, match="no master key"):
        keys.current()


def test_the_environment_or_a_command_gives_the_master_keys():
    of_environment = masters({"TYNDA_SERVE_MASTER_KEY": text_of(2, 1)})
    command = shlex.join([sys.executable, "-c", f"print({text_of(2, 1)!r})"])
    of_command = masters(master_key_command=command)
    assert of_environment.current() == of_command.current() == MasterKeys(text_of(2)).current()
    assert of_command.find(MasterKeys(text_of(1)).current().id)
    for keys in (of_environment, of_command):
        with pytest.raises(TyndaError, match="change them there"):
            keys.rotate()


@pytest.mark.parametrize(
    ("environment", "given", "message"),
    [
        ({"TYNDA_SERVE_MASTER_KEY": "short"}, {}, "has no valid master key: it needs 32 random"),
        ({"TYNDA_SERVE_MASTER_KEY": " "}, {}, "has no valid master key"),
        ({"TYNDA_SERVE_MASTER_KEY": "x"}, {"master_key_file": "y"}, "give one of"),
        ({}, {"master_key_command": "false"}, "gave no key (exit code 1)"),
        ({}, {"master_key_command": "no-such-program-here"}, "gave no key (No such file"),
        ({}, {"master_key_command": "'"}, "gave no key (it is not a command"),
        ({}, {"master_key_command": "echo nothing"}, "master_key_command has no valid master key"),
    ],
)
def test_wrong_master_keys_are_one_line(environment, given, message):
    with pytest.raises(TyndaError) as caught:
        masters(environment, **given)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_openssl_makes_a_master_key(tmp_path):
    try:
        done = subprocess.run(["openssl", "rand", "-base64", "32"], capture_output=True, check=True)
    except OSError:
        pytest.skip("openssl is not installed")
    file = tmp_path / "master.key"
    file.write_bytes(done.stdout)
    os.chmod(file, 0o600)
    assert len(masters(master_key_file=str(file)).current().secret) == 32
