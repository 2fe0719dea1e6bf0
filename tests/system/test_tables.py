"""Tables are read back as they were written, whatever categories are called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mutineck.system.tables import read_table


@pytest.mark.parametrize(
    "names", [["0", "1"], ["True", "False"], ["NA", "null"], ["nan", ""], ["1.0", "1e3"], ["$ 5", "猫"]]
)
def test_names_stay_text_and_numbers_may_be_missing(names: list[str], tmp_path: Path) -> None:
    table = pd.DataFrame({"category": names, "value": [0.5, np.nan], "seed": [0, 1]})
    table.to_csv(tmp_path / "table.csv", index=False)
    found = read_table(tmp_path / "table.csv")
    assert found["category"].tolist() == names
    assert found["value"].isna().tolist() == [False, True] and found["seed"].tolist() == [0, 1]
