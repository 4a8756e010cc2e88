"""Models of three channels, under both compositions, as people use them: from files to pictures."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from air_jax import export, figures, gallery, infer, inference
from air_jax.data.sprites import compose_sprites
from tests import tiny

SIZE = 16
COMPOSITIONS = ("additive", "layered")


@pytest.fixture(scope="module")
def scenes():
    return compose_sprites(
        num_scenes=8, counts=(0, 1, 2), image_size=SIZE, sprite_size=(4, 8), seed=0
    )


@pytest.fixture(scope="module", params=COMPOSITIONS)
def model(request, scenes):
    """A random DAIR that finds objects in half of the scenes."""
    config = {**tiny.MODEL_CONFIG, "image": {"image_size": SIZE, "channels": 3}}
    config["scene"] = {**config["scene"], "composition": request.param}
    config["inference"] = {**config["inference"], "variant": "dair", "glimpse_source": "error"}
    rng = np.random.default_rng(0)
    params = tiny.model_params(lambda shape: rng.normal(scale=0.5, size=shape), config)
    first = inference.create_model(config, params).infer(scenes.images).presence[:, 0]
    params["predict_pres"]["Dense_1"]["bias"] -= np.median(np.log(first / (1 - first)))
    return inference.create_model(config, params)


def test_detection_finds_what_inference_finds(model, scenes):
    objects = model.infer(scenes.images)
    assert objects.reconstructions.shape == (8, SIZE, SIZE, 3)
    for leaf in jax.tree.leaves(objects):
        assert np.isfinite(leaf).all()
    assert len(set(objects.counts.tolist())) > 1
    found = model.detect(scenes.images)
    np.testing.assert_array_equal(found.counts, objects.counts)
    present = np.arange(2) < objects.counts[:, None]
    np.testing.assert_allclose(found.z_where[present], objects.z_where[present], rtol=1e-4)


def test_a_milestone_is_kept_and_drawn_in_colour(model, scenes, tmp_path):
    gallery.save_milestone(tmp_path, 5, model.infer(scenes.images), scenes)
    (file,) = (tmp_path / "milestones").iterdir()
    with np.load(file) as kept:
        assert kept["images"].shape == kept["reconstructions"].shape == (8, SIZE, SIZE, 3)
        rows = [kept[name][None] for name in ("reconstructions", "z_where", "z_pres")]
        figure = figures.timeline(kept["images"], [5], *rows)
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), scenes.images[0])


def test_a_colour_picture_is_read_in_colour(model, scenes, tmp_path):
    picture = np.zeros((2 * SIZE, 3 * SIZE, 3), np.uint8)  # of another size and shape
    picture[8:20, 10:30] = (250, 60, 0)
    Image.fromarray(picture).save(tmp_path / "a.png")
    for i in range(2):
        Image.fromarray(scenes.images[i]).save(tmp_path / f"b{i}.png")
    export.export_model(tmp_path / "model", model.params, model.config)
    source, output = str(tmp_path), str(tmp_path / "out")
    assert infer.main(["--checkpoint", source, "--input", source, "--output", output]) == 0
    lines = [json.loads(line) for line in (tmp_path / "out/objects.jsonl").read_text().splitlines()]
    assert [line["name"] for line in lines] == ["a.png", "b0.png", "b1.png"]
    assert "resized" in lines[0]["note"] and lines[1]["note"] is None
    assert [line["count"] for line in lines[1:]] == model.infer(scenes.images[:2]).counts.tolist()
    with Image.open(tmp_path / "out/pictures/a.png") as drawn:
        pixels = np.asarray(drawn.convert("RGB")).reshape(-1, 3)
    assert (pixels == (250, 60, 0)).all(-1).mean() > 0.02
