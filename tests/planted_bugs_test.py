"""The list of planted bugs is one of this code, and WORKSPACE.md has it."""

import pytest

from tests import planted_bugs
from tests.bugs import BUGS
from tests.planted_bugs import ROOT


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_bug_can_still_be_planted_and_its_tests_still_exist(bug):
    text = (ROOT / bug.file).read_text("utf-8")
    # It compiles: what fails with it fails for what it does.
    compile(planted_bugs.planted(bug, text), bug.file, "exec")
    assert bug.caught_by
    for test in bug.caught_by:
        file, function = test.split("[")[0].split("::")
        assert f"def {function}(" in (ROOT / file).read_text("utf-8")


def test_a_bug_whose_text_is_gone_or_ambiguous_is_refused():
    bug = BUGS[0]
    for text in ("", 2 * bug.old):
        with pytest.raises(ValueError, match=f"{text.count(bug.old)} times instead of once"):
            planted_bugs.planted(bug, text)


def test_the_map_has_the_table():
    assert planted_bugs.table(BUGS) in (ROOT / "WORKSPACE.md").read_text("utf-8")
