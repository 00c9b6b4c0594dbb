"""The closing table of the campaigns."""

import pytest

from benchmarks import faults


@pytest.mark.parametrize("lost", [0, 2])
def test_the_table_has_a_line_a_campaign_and_fails_where_anything_was_lost(tmp_path, monkeypatch, capsys, lost):
    monkeypatch.delenv("FAULTS", raising=False)
    faults.note("nobody asks", 1, 1, 1)
    file = tmp_path / "faults.jsonl"
    monkeypatch.setenv("FAULTS", str(file))
    faults.note("pictures", 100, 100, 0)
    faults.note("live events", 64, 30, lost)
    monkeypatch.setattr("sys.argv", ["faults", str(file)])
    assert faults.main() == min(lost, 1)
    rows = [line.rsplit(maxsplit=3) for line in capsys.readouterr().out.splitlines()[1:]]
    assert rows == [
        ["pictures", "100", "100", "0"], ["live events", "64", "30", str(lost)], ["all", "164", "130", str(lost)],
    ]  # fmt: skip
