"""Scores of voices, by cases worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tynda.speakers.scoring import (
    as_norm,
    cohort_moments,
    equal_error_rate,
    fit_logistic,
    probability,
    threshold_for,
)


def unit(*vectors):
    x = np.array(vectors, float)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_as_norm_by_hand():
    # Enrolled (1, 0), voice (0.6, 0.8): the cosine is 0.6.
    enrolled, voice = unit((1, 0)), unit((0.6, 0.8))
    # The cosines with the cohort: enrolled 1, 0, 0.8; voice 0.6, 0.8, 0.96.
    cohort = unit((1, 0), (0, 1), (0.8, 0.6))
    # The two greatest: enrolled 1, 0.8 (mean 0.9, deviation 0.1); voice 0.8, 0.96 (0.88, 0.08).
    expected = ((0.6 - 0.9) / 0.1 + (0.6 - 0.88) / 0.08) / 2
    assert as_norm(enrolled, voice, cohort, top=2)[0, 0] == pytest.approx(expected)
    mean, deviation = cohort_moments(voice, cohort, top=2)
    assert mean == pytest.approx([0.88])
    assert deviation == pytest.approx([0.08])


def test_a_cohort_of_one_has_no_deviation_but_a_finite_score():
    scores = as_norm(unit((1, 0)), unit((1, 1)), unit((0, 1)))
    assert np.isfinite(scores).all()


def test_as_norm_is_symmetric():
    rng = np.random.default_rng(0)
    a, b, cohort = (unit(*rng.standard_normal((n, 8))) for n in (3, 4, 30))
    assert as_norm(a, b, cohort, 10) == pytest.approx(as_norm(b, a, cohort, 10).T)


@pytest.mark.parametrize(
    ("same", "different", "rate"),
    [
        ([3, 4], [1, 2], 0.0),  # a threshold between 2 and 3 errs nowhere
        ([1, 2], [3, 4], 1.0),  # all the wrong way round
        ([1, 3, 5, 7], [0, 2, 4, 6], 0.5),  # a threshold of 4 refuses 1, 3 and accepts 4, 6
        ([2, 3, 4, 5], [0, 1, 1.5, 3.5], 0.25),  # refuses 2 or accepts 3.5, by turns
        ([1, 1], [1, 1], 0.5),  # equal scores say nothing
    ],
)
def test_equal_error_rate_by_hand(same, different, rate):
    found = equal_error_rate(np.array(same, float), np.array(different, float))
    assert found == pytest.approx(rate)


def test_equal_error_rate_of_two_normal_distributions():
    rng = np.random.default_rng(1)
    same, different = rng.normal(2, 1, 20_000), rng.normal(0, 1, 20_000)
    # Halfway between the means, each errs with the probability of one deviation.
    expected = 0.5 * math.erfc(1 / math.sqrt(2))
    assert equal_error_rate(same, different) == pytest.approx(expected, abs=0.005)


def test_equal_error_rate_needs_both_kinds_of_pairs():
    with pytest.raises(ValueError, match="pairs"):
        equal_error_rate(np.zeros(0), np.ones(2))


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.floats(-5, 5), min_size=1, max_size=30),
    st.floats(0, 1),
)
def test_threshold_lets_no_more_pass_than_allowed(scores, rate):
    different = np.array(scores)
    threshold = threshold_for(different, rate)
    assert (different >= threshold).mean() <= rate or rate >= 1


def test_threshold_by_hand():
    different = np.array([1.0, 2.0, 3.0, 4.0])
    assert 3.0 < threshold_for(different, 0.25) < 3.0001  # 4 alone may pass
    assert threshold_for(different, 0.0) > 4.0


def test_logistic_calibration_finds_the_odds():
    # Two normal distributions with means 2 and 0, deviation 1: the odds are exp(2 x - 2).
    rng = np.random.default_rng(2)
    slope, offset = fit_logistic(rng.normal(2, 1, 50_000), rng.normal(0, 1, 20_000))
    assert slope == pytest.approx(2, abs=0.05)
    assert offset == pytest.approx(-2, abs=0.05)
    assert probability(1.0, slope, offset) == pytest.approx(0.5, abs=0.02)


def test_logistic_calibration_stays_finite_without_errors():
    slope, offset = fit_logistic(np.array([9.0, 10.0]), np.array([0.0, 1.0]))
    assert 0 < slope < 100
    assert math.isfinite(offset)
    assert probability(10, slope, offset) > 0.9 > 0.1 > probability(0, slope, offset)
    assert probability(1e9, slope, offset) == 1
