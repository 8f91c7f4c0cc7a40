"""The table has a row for each engine that is asked for, and what is finer is nearer."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.rounding_cost import main


def test_each_way_to_build_a_recipe_has_its_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    four, eight = "target.weights=int4", "target.weights=int8_block"
    mixed = f"{four} target.head=int8_block"
    few = ["--cache", str(tmp_path), "--texts", "prose", "--every", "150"]
    asked = ["demo", *few, "--ours", four, "--ours", mixed, "--ours", eight, "--keep"]
    main(asked)
    out = capsys.readouterr().out
    rows = {name: float(divergence) for name, divergence in re.findall(ROW, out)}
    assert list(rows) == [four, mixed, eight]
    assert rows[four] > rows[mixed] > rows[eight] > 0
    kept = list(tmp_path.glob("compared/kept/*/*/*.npz"))
    assert len(kept) >= 3
    main(asked)
    assert capsys.readouterr().out == out


ROW = r"\| (target\S*(?: \S+)?) \|[^|]*\|[^|]*\|[^|]*\| ([\d.]+) ±"
