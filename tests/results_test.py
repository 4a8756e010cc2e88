"""The tables of the documents are those of the reference runs' results, not typed by hand."""

import pathlib
import re

import pytest

from air_jax.experiments import compare

ROOT = pathlib.Path(__file__).resolve().parent.parent
TABLE = re.compile(r"<!-- table (\S+) -->\n(.*?)<!-- end of table -->\n", re.DOTALL)
TABLES = [
    (document, name, text)
    for document in ("README.md", "WORKSPACE.md")
    for name, text in TABLE.findall((ROOT / document).read_text("utf-8"))
]


def test_every_table_is_found():
    documents = [(ROOT / name).read_text("utf-8") for name in ("README.md", "WORKSPACE.md")]
    assert len(TABLES) == sum(text.count("<!-- table ") for text in documents) > 0


@pytest.mark.parametrize(("document", "name", "text"), TABLES, ids=lambda value: str(value)[:20])
def test_a_table_is_that_of_its_results(document, name, text):
    folder = ROOT / "results" / name
    several = sorted(file.parent for file in folder.glob("*/reliability.json"))
    expected = compare.table(several or [folder])
    found, wanted = text.splitlines(), expected.splitlines()
    if several:  # rows are in the order in which the experiments were given
        assert found[:2] == wanted[:2]
        found, wanted = sorted(found), sorted(wanted)
    assert found == wanted
