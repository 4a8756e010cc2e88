"""The page of a report, from plain data: what is in it, and that nothing gets out or in."""

import base64
import hashlib
import itertools
import json
import re

import pytest

from air_jax.report_page import Case, Looked, Picture, Run, Steps, page
from air_jax.report_tables import show
from tests.markup_test import NASTY, Read

SCALARS = [
    {"step": 10, "split": "validation", "elbo": 1.0, "count_accuracy": 0.5},
    {"step": 20, "split": "validation", "elbo": 2.0, "count_accuracy": 0.75},
]
PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGMAAQAABQABDQottAAAAABJRU5ErkJggg==")  # fmt: skip # noqa: E501
PLOTLY = "const Plotly = {newPlot: () => {}};"


def case(number, wrong=True):
    pictures = Picture(PNG, f"scene {number}"), Picture(PNG, f"drawn {number}")
    return Case(f"Test scene {number}", pictures, (("true count", "2"), ("inferred", "1")), wrong)


def run(name="one", **changes):
    looked = Looked(
        summary="8 test scenes",
        examples=(case(0, wrong=False),),
        failures=(case(5), case(3)),
        failures_summary="2 of 8 test scenes were miscounted; the lowest ELBO comes first.",
        overview=Picture(PNG, "from above", "Several scenes."),
        steps=Steps("Objects", ("step", "used in"), (("1", "50 %"),)),
        heat_map=Picture(PNG, "heat map", "Where each step looks."),
    )
    whole = Run(
        name=name,
        kind="AIR, 20 of 20 training steps.",
        notes=(),
        config={"seed": 0, "train.num_steps": 20},
        versions={"jax": "1.0", "python": "3"},
        scalars=SCALARS,
        evaluation={
            "elbo": 1234.5,
            "count_accuracy": 0.9876,
            "data": {"digest": "abc"},
            "confusion_matrix": [[4, 0], [1, 3]],
        },
        timeline=Picture(PNG, "timeline", "As training went on."),
        looked=looked,
    )
    return whole._replace(**changes)


def written(*runs):
    return page(runs, "Written today.", PLOTLY)


def charts(text):
    (found,) = re.findall(r'<script type="application/json" id="charts">(.*?)</script>', text)
    return json.loads(found)


def rows(text):
    """The table rows of a page, each as the texts of its cells."""
    return [
        [Read(cell).text for cell in re.findall(r"<t[hd].*?</t[hd]>", row)]
        for row in re.findall(r"<tr>.*?</tr>", text)
    ]


def test_a_run_s_page_has_everything():
    text = written(run())
    read = Read(text)
    assert text.startswith("<!DOCTYPE html>")
    for expected in (
        *("Report: one", "AIR, 20 of 20 training steps.", "Config: 2 entries"),
        *("2 of 8 test scenes were miscounted", "The first of 8 test scenes."),
        *("Several scenes.", "Objects", "As training went on.", "Where each step looks."),
    ):
        assert expected in read.text
    for row in (
        *(["ELBO, nats per image", "1,234.50"], ["count accuracy", "98.76 %"]),
        *(["0 true", "4 (100.0 %)", "0"], ["1 true", "1 (25.0 %)", "3 (75.0 %)"]),
        *(["train.num_steps", "20"], ["jax", "1.0"], ["step", "used in"], ["1", "50 %"]),
    ):
        assert row in rows(text)
    assert [trace["y"] for chart in charts(text) for trace in chart["data"]] == [
        *([1.0, 2.0], [0.5, 0.75])
    ]
    assert "Comparison" not in read.text


def test_charts_have_as_many_places_as_there_are_charts():
    for runs in ([run()], [run("a"), run("b")]):
        text = written(*runs)
        places = [given["id"] for _, given in Read(text).tags if given.get("class") == "chart"]
        assert places == [f"chart-{i}" for i in range(len(charts(text)))]


def test_pictures_are_in_the_page_and_in_the_order_given():
    pictures = [given for tag, given in Read(written(run())).tags if tag == "img"]
    assert [given["alt"] for given in pictures] == [
        *("scene 0", "drawn 0", "from above", "timeline", "heat map"),
        *("scene 5", "drawn 5", "scene 3", "drawn 3"),
    ]
    for given in pictures:
        kind, _, encoded = given["src"].partition(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(encoded) == PNG


def test_the_page_is_well_formed_and_its_links_lead_somewhere():
    for runs in ([run()], [run("a"), run("b")]):
        text = written(*runs)
        tags = Read(text).tags
        for name in {tag for tag, _ in tags} - {"meta", "img"}:
            assert len(re.findall(rf"<{name}[ >]", text)) == text.count(f"</{name}>"), name
        ids = [given["id"] for _, given in tags if "id" in given]
        assert len(ids) == len(set(ids))
        links = [given["href"] for tag, given in tags if tag == "a"]
        assert len(links) >= 6
        assert {link.removeprefix("#") for link in links} <= set(ids)
        levels = [int(tag[1]) for tag, _ in tags if re.fullmatch(r"h\d", tag)]
        assert levels[0] == 1 and levels.count(1) == 1
        assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_nothing_is_asked_for_from_elsewhere():
    text = written(run("a"), run("b"))
    for _, given in Read(text).tags:
        for name in ("src", "href", "data", "poster", "action", "srcset"):
            assert given.get(name, "#").startswith(("#", "data:image/png;base64,"))
    assert "://" not in text and "@import" not in text and "url(" not in text


def test_the_policy_allows_the_scripts_of_the_page_and_nothing_else():
    text = written(run())
    (policy,) = [given["content"] for _, given in Read(text).tags if "http-equiv" in given]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data: blob:"
    codes = re.findall(r"<script>(.*?)</script>", text, flags=re.S)
    digests = [base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() for code in codes]
    assert rules["script-src"].split() == [f"'sha256-{digest}'" for digest in digests]
    assert codes[0] == PLOTLY


def test_what_comes_from_files_and_names_does_no_harm():
    scalars = [{"step": 1, "split": "validation", NASTY: 1.0, "elbo": 2.0}]
    nasty = run(
        name=NASTY,
        kind=NASTY,
        notes=(NASTY,),
        config={NASTY: NASTY, "list": [NASTY]},
        versions={NASTY: NASTY},
        scalars=scalars,
        evaluation={NASTY: NASTY, "data": {"digest": NASTY}},
        timeline=Picture(PNG, NASTY),
        looked=Looked(
            summary=NASTY,
            examples=(Case(NASTY, (Picture(PNG, NASTY),), ((NASTY, NASTY),), True),),
            failures_summary=NASTY,
            overview=Picture(PNG, NASTY, NASTY),
            steps=Steps(NASTY, (NASTY, NASTY), ((NASTY, NASTY),)),
            heat_map=Picture(PNG, NASTY, NASTY),
            policy={
                "num_scenes": 1,
                "num_objects": 2,
                "features": {NASTY: {"fraction": 0.5, "null_95": 0.1, "p_value": 0.01}},
            },
        ),
    )
    plain = run(evaluation={}, looked=Looked("2 test scenes"))
    for runs in ([nasty], [nasty, plain]):
        tags = Read(page(runs, NASTY, PLOTLY)).tags
        assert [given for tag, given in tags if tag == "script"] == [
            *({"type": "application/json", "id": "charts"}, {}, {})
        ]
        assert not [name for _, given in tags for name in given if name.startswith("on")]
        assert all(given["src"].startswith("data:") for tag, given in tags if tag == "img")
        assert {"b", "i", "iframe", "object", "link", "base"}.isdisjoint(tag for tag, _ in tags)


def test_several_runs_are_compared():
    other = run(
        name="two",
        config={"seed": 1, "train.num_steps": 20},
        scalars=[{"step": 30, "split": "validation", "elbo": -7.0}],
        evaluation={"elbo": 1.5, "data": {"digest": "abc"}},
    )
    text = written(run(), other)
    read = Read(text).text
    for row in (
        ["measure", "one", "two"],
        ["ELBO, nats per image", "1,234.50", "1.5"],
        ["count accuracy", "98.76 %", "—"],
        ["last validation: ELBO, nats per image", "2", "-7"],
        ["seed", "0", "1"],
    ):
        assert row in rows(text)
    assert ["train.num_steps", "20", "20"] not in rows(text)
    assert "The versions are the same." in read
    assert "different data" not in read
    over, *_ = charts(text)
    assert [(trace["name"], trace["x"], trace["y"]) for trace in over["data"]] == [
        ("one (validation)", [10, 20], [1.0, 2.0]),
        ("two (validation)", [30], [-7.0]),
    ]


def test_runs_on_different_data_are_not_compared_without_a_word():
    other = run(name="two", evaluation={"elbo": 1.0, "data": {"digest": "xyz"}})
    assert "evaluated on different data" in Read(written(run(), other)).text
    assert "The configs are the same." in Read(written(run(), other)).text


def test_a_run_without_anything_says_so():
    text = written(run(scalars=[], evaluation={}, timeline=None, looked=None, notes=("Nothing.",)))
    read = Read(text).text
    for expected in (
        *("There is no evaluation yet.", "Nothing was logged yet.", "There is nothing to show."),
        *("There are no objects to show.", "No scene was looked at.", "Nothing."),
    ):
        assert expected in read
    assert charts(text) == []


def test_scenes_that_were_looked_at_stand_in_for_an_evaluation_s_confusion():
    looked = Looked("8 test scenes", confusion=[[5, 0], [2, 1]])
    text = written(run(evaluation={}, looked=looked))
    assert ["1 true", "2 (66.7 %)", "1 (33.3 %)"] in rows(text)
    assert "over 8 test scenes" in Read(text).text


@pytest.mark.parametrize(
    "value, name, expected",
    [
        (None, "", "—"),
        (float("nan"), "elbo", "—"),
        (True, "", "True"),
        (12345, "", "12,345"),
        (0.12345, "share_matched", "12.35 %"),
        (-0.0029839, "", "-0.002984"),
        (576.9995, "elbo", "577.00"),
        ([1.0, "a"], "", "1.0, a"),
    ],
)
def test_values_are_shown_as_people_read_them(value, name, expected):
    assert show(value, name) == expected
