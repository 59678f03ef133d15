"""Operations with their times, and the machine's limits."""

import json

import numpy as np
import pytest

from helpers import noise
from tynda.compile import native
from tynda.compile.count import count
from tynda.models import conformer
from tynda.profiling.case import Case
from tynda.profiling.engines import engine
from tynda.profiling.operations import limits, summed
from tynda.profiling.worker import Job, cache, operations, sound
from whisper_peer import write_folder

pytestmark = pytest.mark.skipif(not native.available(), reason="installed without a compiler")
KEYS = {"operation", "flops", "macs", "weight_bytes", "input_bytes", "output_bytes", "bits"}
KEYS |= {"seconds", "calls"}


def session(path, bits="stored", work="operations"):
    case = Case(work, str(path), "tynda", bits, seconds=2.0, threads=2, tokens=2.0)
    return Job(case, str(path), str(path)), engine("tynda").open(case, path)


def test_limits():
    found = limits(2)
    assert set(found) == {"flops_32", "ops_8", "bandwidth"}
    assert all(1e8 < x < 1e15 for x in found.values())


def test_operations_of_a_ctc_model(tiny_file):
    job, opened = session(tiny_file)
    found = operations(job, opened, sound(job.case))
    json.dumps(found, allow_nan=False)
    assert found["parts"]["decoder"] == found["layers"]["decoder"] == []
    items = found["parts"]["encoder"]
    assert all(set(item) == KEYS for item in items)
    assert all(set(item) == KEYS | {"layer"} for item in found["layers"]["encoder"])
    config = conformer.FAMILY.configure(opened.model.header.config)
    counted = count(conformer.FAMILY, config, 200)
    assert sum(item["flops"] for item in items) == counted.total_flops
    assert sum(item["calls"] for item in items) == len(counted.rows)
    by_name = {item["operation"]: item for item in items}
    assert by_name["linear"]["seconds"] > 0
    assert by_name["relu"]["seconds"] is None  # fused into the stem's convolution


def test_operations_and_cache_of_a_decoder(tmp_path):
    write_folder(tmp_path)
    job, opened = session(tmp_path, "32")
    found = operations(job, opened, sound(job.case))
    names = {item["operation"] for item in found["parts"]["decoder"]}
    assert {"linear", "attention", "causal_attention", "embedding", "write"} <= names
    assert {"conv1d"} <= {item["operation"] for item in found["parts"]["encoder"]}
    job, opened = session(tmp_path, "32", work="cache")
    found = cache(job, opened, sound(job.case))
    assert found["positions"] == [1, 2, 4, 8, 16, 32, 64, 128, 224]
    for name in ("with_cache", "without_cache"):
        assert len(found[name]) == len(found["positions"])
        assert all(seconds > 0 for seconds in found[name])


def test_widths_are_told_apart(tiny_file):
    _, opened = session(tiny_file, "8")
    found = opened.operations(noise(2)[None], 0.0)["encoder"]
    items = summed(found)
    assert {(item["operation"], item["bits"]) for item in items} >= {("attention", "8")}
    counted = sum(item["macs"] for item in items)
    assert counted == sum(operation.row.macs for operation in found)
    assert np.isclose(
        sum(item["seconds"] or 0 for item in items), sum(o.seconds or 0 for o in found)
    )
