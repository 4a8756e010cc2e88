"""The whole comparison on models that were never trained, and what its table says."""

import csv
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from air_jax import classification, export, tables
from air_jax.experiments import contenders, representation, representation_report
from air_jax.models.draw import DRAW
from tests import draw_test, loop_test
from tests.tiny import model_params


def export_air(folder, seed=0, **changes):
    rng = np.random.default_rng(seed)
    config = loop_test.tiny_config(seed=seed, **changes)
    config |= {"image": {"image_size": config["data"]["image_size"], "channels": 1}, "step": 1}
    params = model_params(lambda shape: rng.normal(scale=0.1, size=shape), config)
    export.export_model(folder / "model", params, config)


def export_draw(folder, data):
    config = draw_test.tiny_config()
    config |= {"data": data, "image": {"image_size": data["image_size"], "channels": 1}, "step": 1}
    network = DRAW(**config["draw"], **config["image"])
    images = jnp.zeros((1, data["image_size"], data["image_size"], 1))
    noise = jnp.zeros((1, network.num_steps, network.z_size))
    params = jax.jit(network.init)(jax.random.key(0), images, noise)["params"]
    export.export_model(folder / "model", jax.tree.map(np.asarray, params), config)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """An experiment with two seeds of AIR, and a run of DRAW on the same scenes."""
    folder = tmp_path_factory.mktemp("models")
    data = {"data__image_size": 48}
    export_air(folder / "air" / "seeds_5", seed=5, **data)
    export_air(folder / "air" / "seeds_6", seed=6, **data)
    export_draw(folder / "draw", export.load_model(folder / "air" / "seeds_5")[1]["data"])
    return folder


def test_every_representation_is_measured_and_written(models, tmp_path):
    arguments = ["--air", models / "air", "--draw", models / "draw", "--workdir", tmp_path]
    representation.main([*map(str, arguments), "--smoke"])
    written = json.loads((tmp_path / "representation.json").read_text())
    names = ["AIR", "DRAW", "autoencoder", "CNN on pixels"]
    assert list(written["summary"]) == names
    plan = contenders.SMOKE
    # Each representation, both tasks.
    assert len(written["measurements"]) == 4 * 2 * len(plan.sizes) * plan.num_seeds
    assert len(written["trials"]) == 4 * 2 * len(plan.sizes) * plan.budget.trials
    for row in written["measurements"]:
        assert 0 <= row["test"] <= 1
    assert len(written["models"]["AIR"]) == 2
    # Of one trial all, as of more half, let objects share a network, where there are objects.
    assert {row["representation"] for row in written["measurements"] if row["per_object"]} == {
        "AIR"
    }
    assert set(written["parts"]) == set(names)
    assert written["reconstruction_error"]["CNN on pixels"] is None
    assert written["reconstruction_error"]["DRAW"]["num"] == 1
    lines = list(csv.DictReader((tmp_path / "representation.csv").read_text().splitlines()))
    assert [line["representation"] for line in lines[:: len(lines) // 4]] == names
    text = (tmp_path / "table.md").read_text()
    assert all(f"| {name} |" in text for name in names)
    assert "pixels" in text and "| sum | 20 |" in text
    assert (tmp_path / "representation.png").stat().st_size > 1000

    # Of the parts, those that are there are not measured again, and one that is missing is.
    parts = tmp_path / "parts"
    stems = sorted(file.stem for file in parts.iterdir())
    assert stems == ["air", "autoencoder", "cnn_on_pixels", "draw"]
    kept = (parts / "autoencoder.json").read_text()
    (parts / "air.json").unlink()
    representation.main([*map(str, arguments), "--smoke", "--only", "AIR", "autoencoder"])
    assert (parts / "autoencoder.json").read_text() == kept
    again = json.loads((tmp_path / "representation.json").read_text())
    assert again["measurements"] == written["measurements"]
    with pytest.raises(SystemExit):
        representation.main([*map(str, arguments), "--only", "AIR"])
    older = json.loads(kept)
    del older["question"]["hyperparameters"]
    (parts / "autoencoder.json").write_text(json.dumps(older))
    with pytest.raises(
        ValueError, match=r"autoencoder.json was measured with hyperparameters None"
    ):
        representation.run([models / "air"], [models / "draw"], str(tmp_path), plan)


def test_codes_of_as_many_objects_as_the_models_take_steps(models, tmp_path, monkeypatch):
    given = []

    def search(variants, labels, trials, **options):
        given.append(options["num_objects"])
        return trials[0], [classification.Classified(0.5, 0.5, 1)] * len(trials)

    monkeypatch.setattr(classification, "search", search)
    monkeypatch.setattr(
        classification, "fit", lambda *_, **options: search([], None, [0], **options)[1][0]
    )
    measure = functools.partial(
        representation.run, workdir=str(tmp_path / "found"), plan=contenders.SMOKE
    )
    measure([models / "air"], [models / "draw"], only=["AIR"])
    steps = export.load_model(models / "air" / "seeds_5")[1]["inference"]["num_steps"]
    assert set(given) == {steps}
    given.clear()
    measure([models / "air"], [models / "draw"], only=["DRAW"])
    assert set(given) == {None}
    # Nor is there one number of objects where models take different numbers of steps.
    given.clear()
    export_air(tmp_path / "more", data__image_size=48, inference__num_steps=steps + 1)
    measure([tmp_path / "more", models / "air"], [], workdir=str(tmp_path / "mixed"), only=["AIR"])
    assert set(given) == {None}


def test_what_cannot_be_compared_is_refused(models, tmp_path):
    def run(air, draw=()):
        representation.run(air, draw, str(tmp_path / "results"), contenders.SMOKE)

    with pytest.raises(ValueError, match="another kind of model than AIR or DAIR"):
        run([models / "draw"])
    export_air(tmp_path / "other", data__image_size=48, data__counts=(1,))
    with pytest.raises(ValueError, match=r"trained with data.counts \[1\]"):
        run([models / "air", tmp_path / "other"])
    with pytest.raises(ValueError, match="they must ascend"):
        contenders.Plan(sizes=(100, 100)).check()
    assert not (tmp_path / "results").exists()


def test_labels_needed_are_read_off_the_curve():
    needed = representation_report.labels_needed
    # 0.9 is half way between 0.8 and 1.0, and sqrt(100 x 10,000) half way between the sizes.
    assert needed([100, 10_000], [0.8, 1.0]) == pytest.approx(1_000)
    assert needed([100, 10_000], [0.95, 0.2]) == 100
    assert needed([100, 10_000], [0.1, 0.89]) is None


def rows(accuracies):
    """Measurements of one task, by representation and seed."""
    return [
        {"representation": name, "task": "sum", "labels": size, "seed": seed, "test": accuracy}
        for name, seeds in accuracies.items()
        for seed, values in enumerate(seeds)
        for size, accuracy in zip((100, 10_000), values, strict=True)
    ]


def test_the_table_has_means_deviations_and_labels_needed():
    measured = rows({"AIR": [(0.75, 0.96), (0.85, 1.0)], "pixels": [(0.1, 0.2), (0.1, 0.3)]})
    summary = representation_report.summarise(measured)
    found = summary["AIR"]["sum"]["accuracy"]["100"]
    assert found == {"mean": pytest.approx(0.8), "sd": pytest.approx(0.0707, abs=1e-4), "num": 2}
    text = representation_report.table(
        {
            "summary": summary,
            "measurements": measured,
            "code_sizes": {"AIR": [162], "pixels": None},
            "reconstruction_error": {
                "AIR": tables.spread([20.0, 22.0]),
                "pixels": None,
            },
        }
    )
    # From 80 to 98 %: 100 x 100^(10 / 18) = 1,292.
    assert "| AIR | 162 | 21.00 ± 1.41 | 1,300 | 98.0 ± 2.8 |" in text
    assert "| pixels | pixels | - | never | 25.0 ± 7.1 |" in text
    assert "| sum | 100 | 80.0 ± 7.1 | 10.0 ± 0.0 |" in text
