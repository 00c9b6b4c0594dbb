"""Rates from commit to commit."""

import pytest

from benchmarks.live_scaling import rate_of


def test_rates_are_from_commit_to_commit_while_all_are_busy() -> None:
    one = [(10.0, 100.0), (15.0, 600.0), (20.0, 1100.0)]
    other = [(11.0, 50.0), (16.0, 300.0), (19.0, 450.0), (40.0, 9000.0)]
    assert rate_of([one]) == pytest.approx(100)
    assert rate_of([one, other]) == pytest.approx(100 + 50)


def test_too_few_commits_are_refused() -> None:
    with pytest.raises(RuntimeError, match="fewer than three slices"):
        rate_of([[(1.0, 5.0), (2.0, 9.0)]])
