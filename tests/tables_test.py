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


def test_lines_are_summarised_by_their_columns():
    lines = [
        {"set": "a", "method": "x", "seed": 0, "error": 1.0, "time": None},
        {"set": "a", "method": "x", "seed": 1, "error": 3.0, "time": None},
        {"set": "a", "method": "y", "seed": 0, "error": None, "time": 2.0},
        {"set": "b", "method": "x", "seed": 0, "error": 5.0, "time": 4.0},
    ]
    summary = tables.summarise(lines, by=["set", "method"], measures=["error", "time"])
    assert list(summary) == ["a", "b"] and list(summary["a"]) == ["x", "y"]
    assert summary["a"]["x"] == {"error": tables.spread([1.0, 3.0]), "time": None}
    assert summary["a"]["y"] == {"error": None, "time": tables.spread([2.0])}
    assert summary["b"]["x"]["error"]["mean"] == 5.0
    assert tables.sentence(lines[0], ["error", "time"]) == "a, x, 0: error 1"
