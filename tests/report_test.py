"""The command `python -m air_jax.report`, on tiny trained runs, and its page in a browser."""

import json
import os
import re
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("plotly", reason="plotly is not installed: pip install '.[report]'")

from air_jax import export, kinds, loop, report, report_run, writer
from air_jax.experiments import ablation
from configs import scene3d_object
from tests import draw_test, loop_test, tiny3d
from tests.markup_test import Read
from tests.report_page_test import charts, rows

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A DAIR of a few steps."""
    workdir = tmp_path_factory.mktemp("runs") / "dair"
    config = loop_test.tiny_config(train__num_steps=20, evaluation__iwae_images=0)
    loop.run(config, str(workdir))
    return workdir


@pytest.fixture
def other(trained, tmp_path):
    """The same with another config, curve and evaluation."""
    folder = tmp_path / "other"
    shutil.copytree(trained, folder, ignore=shutil.ignore_patterns("checkpoints"))
    change(folder / "config.json", lambda config: config["optimizer"].update(clip_norm=7.5))
    change(folder / "evaluation.json", lambda evaluation: evaluation.update(elbo=-4321.0))
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    entries = [json.loads(line) | {"elbo": -77.0} for line in lines]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(e) + "\n" for e in entries))
    return folder


def change(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def write(*workdirs, output, images=24):
    arguments = [text for workdir in workdirs for text in ("--workdir", str(workdir))]
    report.main([*arguments, "--output", str(output), "--images", str(images)])
    return output.read_text("utf-8")


def refusal(caplog, *arguments):
    """What a start that is refused says."""
    with pytest.raises(SystemExit) as ended:
        report.main([str(argument) for argument in arguments])
    assert ended.value.code == 1
    return caplog.text


@pytest.fixture(scope="module")
def page(trained, tmp_path_factory):
    return write(trained, output=tmp_path_factory.mktemp("report") / "report.html")


def facts(text):
    """Of every scene that a page shows its title, true and inferred count, and ELBO."""
    found = []
    for card in re.findall(r"<li[^>]*><h4>.*?</li>", text):
        read = Read(card).text
        match = re.match(r"Test scene (\d+)true count(\d)inferred(\d).*ELBO(.*) nats", read)
        found.append((*map(int, match.groups()[:3]), float(match[4].replace(",", ""))))
    return found


def test_a_report_says_what_the_run_left(trained, page):
    evaluation = json.loads((trained / "evaluation.json").read_text())
    (curve, *_) = charts(page)
    assert [trace["name"] for trace in curve["data"]] == ["validation", "training"]
    entries = writer.read_scalars(trained, "validation")
    assert curve["data"][0]["x"] == [entry["step"] for entry in entries]
    np.testing.assert_allclose(curve["data"][0]["y"], [e["elbo"] for e in entries], rtol=1e-5)
    shown = dict(row for row in rows(page) if len(row) == 2)
    assert shown["ELBO, nats per image"] == f"{evaluation['elbo']:,.2f}"
    assert shown["inference.variant"] == "dair"
    assert {"jax", "commit", "python", "data.source"} <= shown.keys()
    matrix = evaluation["confusion_matrix"]
    for true, row in enumerate(matrix):
        cells = [f"{n:,} ({100 * n / sum(row):.1f} %)" if n else "0" for n in row]
        assert [f"{true} true", *cells] in rows(page)
    read = Read(page).text
    assert "DAIR, 20 of 20 training steps." in read
    assert "not finished" not in read and "other data" not in read
    alts = [given["alt"] for tag, given in Read(page).tags if tag == "img"]
    assert sum("several training steps" in alt for alt in alts) == 1
    assert sum("Heat maps" in alt for alt in alts) == 1


def test_failures_come_with_the_lowest_elbo_first(trained, page):
    model = kinds.load(trained)
    config = json.loads((trained / "config.json").read_text())
    scenes = kinds.create_dataset(config).test
    counts = model.infer(scenes.images).counts
    failed = np.flatnonzero(counts != scenes.counts)
    assert 0 < len(failed) <= 24
    _, _, failures = page.partition('id="run-0-failures"')
    shown = facts(failures)[: len(failed)]
    assert {scene for scene, *_ in shown} == set(failed.tolist())
    for scene, true, inferred, _ in shown:
        assert (true, inferred) == (scenes.counts[scene], counts[scene])
    elbo = [value for *_, value in shown]
    assert elbo == sorted(elbo) and elbo[0] < elbo[-1]
    # The others follow, again from the lowest on.
    others = facts(failures)[len(failed) :]
    assert all(true == inferred for _, true, inferred, _ in others)
    assert [value for *_, value in others] == sorted(value for *_, value in others)
    assert f"{len(failed)} of 24 test scenes were miscounted" in Read(failures).text


def test_elbos_are_those_that_the_evaluation_is_the_mean_of(trained, page):
    evaluation = json.loads((trained / "evaluation.json").read_text())
    by_scene = {scene: value for scene, *_, value in facts(page)}
    if len(by_scene) == evaluation["num_images"]:
        np.testing.assert_allclose(np.mean(list(by_scene.values())), evaluation["elbo"], atol=0.1)
    (run,) = report_run.find(trained)
    keys = report_run._keys(run)
    scenes = kinds.create_dataset(run.config).test
    found = kinds.load(trained).infer(scenes.images, key=jax.random.split(keys.evaluation)[0])
    np.testing.assert_allclose(found.elbo_terms["elbo"].mean(), evaluation["elbo"], rtol=1e-5)
    for scene, value in by_scene.items():
        np.testing.assert_allclose(value, found.elbo_terms["elbo"][scene], atol=0.06)


def test_several_runs_are_compared_each_with_its_own(trained, other, tmp_path):
    text = write(trained, other, output=tmp_path / "both.html")
    evaluation = json.loads((trained / "evaluation.json").read_text())
    table = rows(text)
    assert ["measure", "dair", "other"] in table
    assert ["ELBO, nats per image", f"{evaluation['elbo']:,.2f}", "-4,321.00"] in table
    assert ["optimizer.clip_norm", "1,000.00", "7.5"] in table
    assert not [row for row in table if row[0] == "inference.num_steps" and len(row) == 3]
    over = charts(text)[0]["data"]
    assert [trace["name"] for trace in over] == ["dair (validation)", "other (validation)"]
    assert set(over[1]["y"]) == {-77.0} != set(over[0]["y"])
    titles = [Read(found).text for found in re.findall(r"<h2>.*?</h2>", text)]
    assert titles == ["Comparison", "dair", "other"]


def test_the_default_output_lies_in_the_first_workdir(other, caplog):
    caplog.set_level("INFO", logger="absl")
    report.main(["--workdir", str(other), "--images", "24"])
    size = (other / "report.html").stat().st_size
    assert size > 1_000_000
    assert f"{size / 1e6:.1f} MB" in caplog.text


def test_a_run_that_is_not_finished_says_so(other, tmp_path):
    (other / "evaluation.json").unlink()
    shutil.rmtree(other / "milestones")
    read = Read(write(other, output=tmp_path / "r.html")).text
    assert (
        "The run is not finished: it has no evaluation.json. Its last entry is of step 20" in read
    )
    assert "over 24 test scenes" in read  # the confusion, by the model that there is


def test_a_run_that_was_stopped_before_it_had_a_model(other, tmp_path):
    for name in ("model", "milestones"):
        shutil.rmtree(other / name)
    for name in ("evaluation.json", "run.json"):
        (other / name).unlink()
    text = write(other, output=tmp_path / "r.html")
    read = Read(text).text
    assert "The model cannot be loaded" in read and "There is no run.json" in read
    assert charts(text)


@pytest.mark.parametrize("damage", [b"", b"[1]", b'{"confusion_matrix": [[1, "<b>"], [2, 3]]}'])
def test_damaged_files_are_named_and_the_rest_is_shown(other, tmp_path, damage):
    (other / "evaluation.json").write_bytes(damage)
    (other / "run.json").write_bytes(b"{}")
    (other / "milestones" / "00000000.npz").write_bytes(damage)
    (other / "model" / "params.safetensors").write_bytes(b"no")
    text = write(other, output=tmp_path / "r.html")
    read = Read(text).text
    for name in ("evaluation.json", "run.json", "milestones/", "params.safetensors"):
        assert name in read
    assert "damaged" in read
    assert charts(text)


def test_scenes_that_are_not_those_of_the_run_are_said_to_be(other, tmp_path):
    change(other / "evaluation.json", lambda found: found["data"].update(digest="another"))
    read = Read(write(other, output=tmp_path / "r.html")).text
    assert "of other data than those that the run had" in read


def test_a_workdir_with_a_script_for_a_name_does_no_harm(other, tmp_path):
    # Two folders: a name holds no slash.
    folder = tmp_path / "<script>alert(1)<" / 'script><img src=x onerror="alert(2)">'
    folder.parent.mkdir()
    shutil.move(other, folder)
    shutil.rmtree(folder / "model")
    plain = tmp_path / "script>"
    shutil.copytree(folder, plain)
    text = write(folder, plain, output=tmp_path / "r.html")
    read = Read(text)
    assert len([tag for tag, _ in read.tags if tag == "script"]) == 3
    assert not [given for _, given in read.tags if "onerror" in given]
    assert 'script><img src=x onerror="alert(2)">' in read.text


def test_a_model_without_objects_has_its_curves_and_what_it_explains_worst(tmp_path):
    config = draw_test.tiny_config()
    folder = tmp_path / "draw"
    size = config["data"]["image_size"]
    exported = {**config, "image": {"image_size": size, "channels": 1}, "step": 5}
    network = kinds.create_model(exported, None).network
    noise = jnp.zeros((1, network.num_steps, network.z_size))
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, size, size, 1)), noise)
    params = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.01, np.float32), shapes["params"])
    export.export_model(folder / "model", params, exported)
    writer.write_json(folder / "config.json", config)
    entry = {"step": 5, "split": "train", "elbo": 3.0}
    (folder / "metrics.jsonl").write_text(json.dumps(entry))
    text = write(tmp_path / "draw", output=tmp_path / "r.html")
    read = Read(text).text
    assert "DRAW, 5 of 20 training steps." in read
    assert "The model finds no objects" in read and "There are no objects to show." in read
    elbo = [float(value.replace(",", "")) for value in re.findall(r"ELBO(-?\d[\d,.]*) nats", read)]
    assert len(elbo) == 12 + 24 and elbo[12:] == sorted(elbo[12:])
    assert charts(text)


@pytest.fixture(scope="module")
def trained_3d(tmp_path_factory):
    """A DAIR through a renderer of a few steps, on crockery."""
    workdir = tmp_path_factory.mktemp("runs") / "table"
    config = ablation.change(tiny3d.config(), tiny3d.TABLE)
    loop.run(config, str(workdir))
    return workdir


def test_a_report_says_which_3d_scenes_were_found(trained_3d, tmp_path):
    text = write(trained_3d, output=tmp_path / "r.html", images=6)
    (run,) = report_run.find(trained_3d)
    scenes = kinds.create_dataset(run.config).test
    model = kinds.load(trained_3d)
    found = model.infer(scenes.images, key=report_run._keys(run).evaluation)
    evaluation = json.loads((trained_3d / "evaluation.json").read_text())
    np.testing.assert_allclose(found.elbo_terms["elbo"].mean(), evaluation["elbo"], rtol=1e-5)
    catalogue = model.air.scene.view.catalogue
    _, _, shown = text.partition('id="run-0-scenes"')
    examples, _, failures = shown.partition('id="run-0-failures"')
    cards = [Read(card).text for card in re.findall(r"<li[^>]*><h4>.*?</li>", examples)]
    assert len(cards) == 6
    num_failed = 0
    for i, card in enumerate(cards):
        true, inferred = (
            ", ".join(sorted((catalogue[j].name for j in listed), key=names(catalogue).index))
            for listed in (
                scenes.identities[i, : scenes.counts[i]],
                found.identities[i, : found.counts[i]],
            )
        )
        assert f"true{true or 'nothing'}inferred{inferred or 'nothing'}camera" in card
        assert f"ELBO{found.elbo_terms['elbo'][i]:,.1f} nats" in card
        azimuths = np.degrees([found.cameras[i, 0], scenes.cameras[i, 0]])
        assert "azimuth{:.1f}° (true {:.1f}°)".format(*azimuths) in card
        num_failed += true != inferred
    assert f"In {num_failed} of 6 test scenes other objects were found" in Read(failures).text
    assert len(re.findall(r'<li class="wrong">', failures)) == num_failed
    for step in range(3):
        share = f"{100 * (found.counts > step).mean():.1f} %"
        assert [row[:2] for row in rows(text)].count([f"{step + 1}", share]) == 1
    assert ["step", "used in", *names(catalogue)] in rows(text)
    alts = [given["alt"] for tag, given in Read(text).tags if tag == "img"]
    for start in ("Scenes from above", "For each step a heat map of places"):
        assert sum(alt.startswith(start) for alt in alts) == 1
    assert charts(text)


def names(catalogue):
    return [model.name for model in catalogue]


def test_a_run_of_3d_scenes_without_a_model_has_its_config_curves_and_evaluation(tmp_path):
    config = json.loads(scene3d_object.get_config().to_json())
    writer.write_json(tmp_path / "config.json", config)
    evaluation = {"step": 5, "elbo": 12.5, "count_accuracy": 0.5, "identity_accuracy": 0.75}
    writer.write_json(tmp_path / "evaluation.json", evaluation)
    entry = {"step": 5, "split": "validation", "elbo": 3.0}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(entry))
    text = write(tmp_path, output=tmp_path / "r.html")
    assert "AIR through a renderer, 5 of" in Read(text).text
    assert "no scene was looked at" in Read(text).text
    for row in (["ELBO, nats per image", "12.50"], ["identity_accuracy", "75.00 %"]):
        assert row in rows(text)
    assert charts(text)[0]["data"][0]["y"] == [3.0]
    assert ["scene.catalogue", config["scene"]["catalogue"]] in rows(text)


def test_every_seed_of_a_program_is_a_run(other, tmp_path):
    """And a seed's own folder is one of them."""
    together = tmp_path / "together"
    together.mkdir()
    for name in ("config.json", "run.json"):
        shutil.copy(other / name, together)
    change(together / "config.json", lambda config: config.update(num_seeds=2, seed=3))
    for seed in (3, 4):
        shutil.copytree(
            other, together / f"seed_{seed}", ignore=lambda *_: ["config.json", "run.json"]
        )
    found = report_run.find(together)
    assert [run.folder.name for run in found] == ["seed_3", "seed_4"]
    assert [run.config["seed"] for run in found] == [3, 4]
    assert report_run.find(together / "seed_4") == found[1:]


def test_names_are_as_short_as_they_can_be(tmp_path):
    folders = [tmp_path / "a" / "x", tmp_path / "b" / "x", tmp_path / "b" / "y"]
    assert report.name_apart(folders[:1]) == ["x"]
    assert report.name_apart(folders) == ["a/x", "b/x", "b/y"]
    assert report.name_apart(folders[:1] * 2) == ["x", "x"]


def test_what_is_no_workdir_is_refused_in_a_sentence(trained, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "config.json").write_text("{")
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"train": []}')
    for folder, message in (
        (other, "its config.json is not a run's"),
        (tmp_path / "absent", "is not a folder: give the workdir of a run"),
        (tmp_path / "file", "is not a folder"),
        (tmp_path, "is no workdir of a run: it has no config.json"),
        (trained / "model", f"give {trained}, of which this is the model"),
        (damaged, "is damaged: it is not JSON"),
    ):
        caplog.clear()
        assert message in refusal(caplog, "--workdir", folder)
    assert not list(tmp_path.glob("**/report.html"))
    caplog.clear()
    message = refusal(caplog, "--workdir", trained, "--output", damaged)
    assert "is a folder: give the file to write" in message


def test_without_plotly_it_says_what_to_install(trained, caplog, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    assert 'pip install "air_jax[report]"' in refusal(caplog, "--workdir", trained)


def test_no_scene_at_all_is_refused(trained):
    with pytest.raises(SystemExit) as ended:
        report.main(["--workdir", str(trained), "--images", "0"])
    assert ended.value.code == 2


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium to open the page in")
def test_the_page_opens_in_a_browser_from_disk(trained, other, tmp_path):
    """Without a request, an error or an overflow, and with its curves, on a desk and a phone."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    nasty = tmp_path / "<script>alert(1)<"
    shutil.move(other, nasty)
    file = tmp_path / "report.html"
    drawn = [len(chart["data"]) for chart in charts(write(trained, nasty, output=file))]
    count_curves = """Array.from(document.querySelectorAll(".chart"),
        it => it.querySelectorAll(".scatterlayer .trace").length)"""
    options = ["--no-sandbox"] if os.getuid() == 0 else []
    with playwright.sync_playwright() as playing:
        browser = playing.chromium.launch(executable_path=CHROMIUM, args=options)
        for width, height in ((1280, 900), (390, 844)):
            requests, errors = [], []
            tab = browser.new_page(viewport={"width": width, "height": height})
            tab.on("request", lambda request, urls=requests: urls.append(request.url))
            tab.on("console", lambda said, texts=errors: texts.append(said.text))
            tab.on("pageerror", lambda error, texts=errors: texts.append(str(error)))
            tab.on("dialog", lambda dialog, texts=errors: (texts.append("!"), dialog.dismiss()))
            tab.goto(file.as_uri())
            tab.wait_for_function(f"{count_curves}.every(number => number > 0)")
            assert tab.evaluate(count_curves) == drawn
            legend = tab.locator(".chart .legendtext").all_text_contents()
            assert {"dair (validation)", "<script>alert(1)< (validation)"} <= set(legend)
            assert tab.evaluate("Array.from(document.images).every(it => it.naturalWidth > 0)")
            for summary in tab.locator("summary").all():
                summary.click()
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
            assert [url for url in requests if not url.startswith("data:")] == [file.as_uri()]
            assert errors == []
        browser.close()
