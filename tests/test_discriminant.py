"""Linear discriminant analysis, by cases worked out by hand."""

import numpy as np
import pytest

from tynda.speakers.discriminant import discriminant


def test_the_direction_between_people_is_kept_and_the_one_within_is_not():
    # Two people differ along the first axis; each varies along the second.
    vectors = np.array([[1.0, -2], [1, 2], [-1, -2], [-1, 2]])
    weight, bias = discriminant(vectors, np.array([0, 0, 1, 1]), 1)
    assert abs(weight[0, 0]) > 1e3 * abs(weight[0, 1])
    # The covariance within people is diag(0, 4), shrunk to diag(0.02, 3.98).
    assert abs(weight[0, 0]) == pytest.approx(1 / np.sqrt(0.02), rel=1e-5)
    assert bias == pytest.approx([0], abs=1e-6)


def test_outputs_are_centred_and_white_within_people():
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(40), 50)
    mixing = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    means = 3 * rng.standard_normal((40, 6))
    vectors = (means[people] + rng.standard_normal((2000, 6))) @ mixing + 5
    weight, bias = discriminant(vectors, people, 6)
    found = vectors @ weight.T + bias
    assert found.mean(0) == pytest.approx(np.zeros(6), abs=1e-3)
    inside = found - np.array([found[people == p].mean(0) for p in range(40)])[people]
    assert np.diag(np.cov(inside.T, bias=True)) == pytest.approx(np.ones(6), abs=0.35)
    between = found.var(0)
    assert (np.diff(between) <= 1e-6).all()  # the greatest first


def test_one_recording_of_each_person_gives_finite_numbers():
    weight, bias = discriminant(np.eye(4), np.arange(4), 2)
    assert np.isfinite(weight).all()
    assert np.isfinite(bias).all()
