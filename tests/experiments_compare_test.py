"""The table of several experiments, and its place in a document."""

import json

import pytest

from air_jax.experiments import compare
from air_jax.reliability import SeedRun, reliability

DOCUMENT = """# Title
before
<!-- table rooms -->
old
<!-- end of table -->
between
<!-- table halls -->
| kept |
<!-- end of table -->
"""


@pytest.fixture
def folders(tmp_path):
    for name, accuracy in (("first", 0.991), ("second", 0.875)):
        evaluation = {"count_accuracy": accuracy, "elbo": 5.0}
        summary = reliability({0: SeedRun([], evaluation)})
        folder = tmp_path / "rooms" / name
        folder.mkdir(parents=True)
        (folder / "reliability.json").write_text(json.dumps({"summary": summary}))
    return [tmp_path / "rooms" / name for name in ("first", "second")]


def test_rows_are_named_by_their_folders(folders, capsys):
    assert compare.main([str(folder) for folder in folders]) == 0
    rows = capsys.readouterr().out.splitlines()[2:]
    assert rows[0].startswith("| first | 1 of 1 |") and "99.10" in rows[0]
    assert rows[1].startswith("| second | 0 of 1 |") and "87.50" in rows[1]


def test_only_the_named_table_of_a_document_is_replaced(folders, tmp_path, capsys):
    document = tmp_path / "README.md"
    document.write_text(DOCUMENT)
    assert compare.main([*map(str, folders), "--insert", str(document)]) == 0
    table = capsys.readouterr().out
    assert document.read_text() == DOCUMENT.replace("old\n", table)
    # Once more, over itself.
    assert compare.main([*map(str, folders), "--insert", str(document)]) == 0
    assert document.read_text() == DOCUMENT.replace("old\n", table)


@pytest.mark.parametrize("text", ["no table", DOCUMENT + DOCUMENT])
def test_a_document_without_one_place_for_it_is_left_alone(folders, tmp_path, capsys, text):
    document = tmp_path / "README.md"
    document.write_text(text)
    assert compare.main([*map(str, folders), "--insert", str(document)]) == 1
    assert "places for the table 'rooms', not one" in capsys.readouterr().err
    assert document.read_text() == text


def test_an_experiment_of_another_kind_has_the_table_of_its_folder(tmp_path, capsys):
    measure = {"mean": 0.5, "sd": 0.125, "num": 2}
    part = {"num_images": 1000, "count_accuracy": measure, "average_precision_50": measure}
    part |= {"mean_iou": measure, "elbo": None}
    folder = tmp_path / "halls"
    folder.mkdir()
    results = {"summary": {"additive": {"all scenes": part}}}
    (folder / "occlusion.json").write_text(json.dumps(results))
    document = tmp_path / "README.md"
    document.write_text(DOCUMENT)
    assert compare.main([str(folder), "--insert", str(document)]) == 0
    table = capsys.readouterr().out
    row = (
        "| additive | all scenes | 1,000 | 2 | 50.00 ± 12.50 | 0.500 ± 0.125 | 0.500 ± 0.125 | - |"
    )
    assert table.splitlines()[-1] == row
    assert document.read_text() == DOCUMENT.replace("| kept |\n", table)
    (folder / "occlusion.json").write_text("[]")
    assert compare.main([str(folder)]) == 1
    assert "occlusion.json" in capsys.readouterr().err


@pytest.mark.parametrize("contents", [None, "{", "[]", "{}"])
def test_what_is_no_experiment_is_refused_by_name(tmp_path, capsys, contents):
    if contents is not None:
        (tmp_path / "reliability.json").write_text(contents)
    assert compare.main([str(tmp_path)]) == 1
    assert "reliability.json" in capsys.readouterr().err
