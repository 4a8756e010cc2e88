"""Means over seeds and their tables."""

import csv
import io

import pytest

from air_jax import tables


def test_a_spread_is_of_a_sample():
    values = [1.0, 2.0, 6.0]
    assert tables.spread(values) == {"mean": 3.0, "sd": pytest.approx(7**0.5), "num": 3}
    assert tables.spread([5.0]) == {"mean": 5.0, "sd": None, "num": 1}


def test_a_spread_is_shown_with_its_deviation_where_there_is_one():
    assert tables.show(tables.spread([0.25, 0.75]), 1, factor=100) == "50.0 ± 35.4"
    assert tables.show(tables.spread([0.5]), 2) == "0.50"
    assert tables.show({"mean": None, "sd": None}, 2) == "-"
    assert tables.show(None, 2) == "-"


def test_a_name_with_a_bar_stays_one_cell():
    text = tables.markdown(["a", "b"], [[tables.cell("x|y"), "1"]])
    assert text == "| a | b |\n| --- | --- |\n| x\\|y | 1 |\n"


def test_csv_has_the_named_columns_only():
    rows = [{"a": 1, "b": "x, y"}, {"a": 2, "c": 3}]
    read = list(csv.DictReader(io.StringIO(tables.to_csv(rows, ["b", "a"]))))
    assert read == [{"b": "x, y", "a": "1"}, {"b": "", "a": "2"}]
    assert tables.to_csv(rows[:1]).splitlines()[0] == "a,b"
    with pytest.raises(ValueError, match="c"):
        tables.to_csv(rows)
