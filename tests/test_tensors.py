"""Memory-mapped tensors of safetensors files."""

import contextlib
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from tynda.errors import TyndaError
from tynda.weights.tensors import map_tensors, release_memory

KINDS = [torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("kind", KINDS)
def test_all_widths_come_as_float32(tmp_path, kind):
    torch.manual_seed(0)
    tensors = {"a": torch.randn(3, 5), "b.c": torch.randn(7), "none": torch.zeros(0, 2)}
    tensors = {name: value.to(kind) for name, value in tensors.items()}
    save_file(tensors, tmp_path / "m.safetensors")
    found = map_tensors(tmp_path / "m.safetensors")
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], value.float().numpy())


def test_f32_stays_on_disk(tmp_path):
    save_file({"a": torch.randn(100)}, tmp_path / "m.safetensors")
    base = map_tensors(tmp_path / "m.safetensors")["a"]
    while isinstance(base.base, np.ndarray):
        base = base.base
    assert isinstance(base, np.memmap)


def resident():
    """Return the bytes of mapped files that are resident in this process."""
    with open("/proc/self/status") as status:
        return next(int(x.split()[1]) for x in status if x.startswith("RssFile")) * 1024


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_what_is_forgotten_leaves_memory_and_comes_again(tmp_path):
    torch.manual_seed(0)
    tensors = {"a": torch.randn(1000), "b": torch.randn(4 << 20), "c": torch.randn(1000)}
    save_file(tensors, tmp_path / "m.safetensors")
    found = map_tensors(tmp_path / "m.safetensors")
    for value in found.values():
        value.sum()
    before = resident()
    release_memory(found["b"][1000:-1000])
    assert before - resident() > 12 << 20
    for name, value in tensors.items():
        np.testing.assert_array_equal(found[name], value.numpy())


def test_what_is_in_no_file_is_not_forgotten():
    for tensor in (np.ones(5000, np.float32), np.frombuffer(b"abcd" * 5000, np.float32)):
        before = tensor.copy()
        release_memory(tensor)
        np.testing.assert_array_equal(tensor, before)


def test_other_types_are_refused(tmp_path):
    save_file({"a": torch.zeros(3, dtype=torch.int64)}, tmp_path / "m.safetensors")
    with pytest.raises(TyndaError, match="a is I64"):
        map_tensors(tmp_path / "m.safetensors")


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_damage_is_one_clear_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("m") / "m.safetensors"
    whole = save({"a": torch.zeros(9), "b": torch.zeros(2, 3)})
    cut = data.draw(st.integers(0, len(whole) - 1))
    path.write_bytes(whole[:cut] + data.draw(st.binary(max_size=4)))
    with contextlib.suppress(TyndaError):  # any other error is a bug
        tensors = map_tensors(path)
        assert {n: t.shape for n, t in tensors.items()} == {"a": (9,), "b": (2, 3)}


def test_missing_file(tmp_path):
    with pytest.raises(TyndaError, match="missing"):
        map_tensors(tmp_path / "none.safetensors")
