"""Sweeps and turns: what the likelihood makes better in a scene that was found."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from air_jax import inverse_graphics, loop, refine3d
from air_jax.data.tabletop import create_tabletop
from air_jax.distributions import UnaryCode
from air_jax.experiments import ablation, contenders3d
from air_jax.inverse_graphics import Model3D
from air_jax.kinds import load
from air_jax.models.air3d import create_air3d
from air_jax.models.scene3d import create_scene3d
from air_jax.models.trace import Trace
from air_jax.refine3d import FoundScenes
from air_jax.render.scene import CATALOGUES, CROCKERY, SOLIDS
from configs import scene3d_table
from tests import tiny3d

PRIOR = UnaryCode(jnp.full((3,), np.log(1e-3)))
NUM_SCENES = 24
TURN = jax.jit(refine3d.turn, static_argnames=("scene", "num_turns"))


def found_as(identities, presence, poses):
    """Objects of which nothing else was said."""
    shape = presence.shape
    nothing = jnp.zeros(shape), jnp.zeros((*shape, 4))
    return FoundScenes(jnp.asarray(presence), jnp.asarray(identities), jnp.asarray(poses), *nothing)


@pytest.fixture(scope="module")
def scene():
    section = scene3d_table.get_config().scene.to_dict()
    return create_scene3d(section, image_size=32, channels=3)


class Oracle:
    """A network that finds the true objects, as many as are not given already.

    An object whose place is given is not found again; the others come in the scene's order. An
    object's log-odds is 100 plus its index in the scene; -100 where there is none.
    """

    num_steps = 3

    def __init__(self, scene, sampled, counts):
        self.scene, self.sampled, self.counts = scene, sampled, counts

    def mean_noise(self, batch_size):
        return jnp.zeros((batch_size, 0))

    def apply(self, variables, images, noise, *, mode, given):
        del variables, noise
        assert mode
        steps = jnp.arange(3)
        there = steps < self.counts[:, None]
        apart = given.z_where[:, :, None, :2] - self.sampled.z_where[:, None, :, :2]
        same = (jnp.abs(apart) < 1e-4).all(-1) & (steps < given.counts[:, None])[..., None]
        taken, num_given = same.any(1), given.counts
        left_first = jnp.argsort(~(there & ~taken), axis=-1, stable=True)
        place = (steps - num_given[:, None]).clip(min=0)
        source = jnp.take_along_axis(left_first, place, axis=-1)
        num_left = (there & ~taken).sum(-1)
        is_given = steps < num_given[:, None]
        z_what = jnp.take_along_axis(self.sampled.z_what, source, axis=-1)
        z_where = jnp.take_along_axis(self.sampled.z_where, source[..., None], axis=1)
        z_what = jnp.where(is_given, given.z_what, z_what)
        z_where = jnp.where(is_given[..., None], given.z_where, z_where)
        z_pres = (steps < (num_given + num_left)[:, None]).astype(jnp.float32)
        canvas = self.scene.draw(z_what, z_pres, z_where, self.sampled.camera)
        empty = dict.fromkeys(Trace._fields)
        return Trace(**empty)._replace(
            z_pres=z_pres,
            z_what=z_what,
            z_where=z_where,
            presence_logit=jnp.where(z_pres > 0, 100.0 + source, -100.0),
            what_log_probs=jax.nn.log_softmax(10.0 * jax.nn.one_hot(z_what, 4)),
            log_p_what=jnp.full(there.shape, -np.log(4.0)),
            log_p_x=self.scene.log_likelihood(images, canvas)[:, None],
        )


@pytest.fixture(scope="module")
def swept(scene):
    """True scenes, and what a sweep makes of them with an object more, one less, or unchanged."""
    counts = jnp.arange(NUM_SCENES) % 4
    sampled = scene.sample(jax.random.key(0), counts, 3)
    # Nothing hides another, or there would be more than one answer.
    apart = jnp.array([[-1.0, -1.0], [1.0, -1.0], [0.0, 1.0]])
    seen = jnp.broadcast_to(jnp.pad(apart, ((0, 0), (0, 1))), (NUM_SCENES, 3, 3))
    sampled = sampled._replace(z_where=scene.to_world(seen, sampled.camera[:, None]))
    presence = (jnp.arange(3) < counts[:, None]).astype(jnp.float32)
    images = scene.draw(sampled.z_what, presence, sampled.z_where, sampled.camera)
    oracle = Oracle(scene, sampled, counts)
    right = FoundScenes(
        presence,
        sampled.z_what,
        sampled.z_where,
        jnp.where(presence > 0, 1.0 + jnp.arange(3), -1.0),
        jnp.zeros((NUM_SCENES, 3, 4)),
    )
    # Of two objects: between them a third. Of three: the last one is missing.
    between = sampled.z_where[:, :2].mean(1)
    first = jnp.array([2, 0, 1])
    more = jax.tree.map(lambda leaf: leaf[:, first], right)
    more = more._replace(z_pres=jnp.ones_like(presence), z_where=more.z_where.at[:, 0].set(between))
    fewer = right._replace(z_pres=presence.at[:, 2].set(0.0))
    wrong = refine3d._select((counts == 2)[:, None], more, right)
    wrong = refine3d._select((counts == 3)[:, None], fewer, wrong)

    def log_joint(found):
        canvas = scene.draw(found.z_what, found.z_pres, found.z_where, sampled.camera)
        log_p_what = -np.log(4.0) * found.z_pres.sum(-1)
        return scene.log_likelihood(images, canvas) + PRIOR.log_prob(found.z_pres) + log_p_what

    options = {"air": oracle, "params": {}, "prior": PRIOR, "num_sweeps": 1}
    found = refine3d.sweep(images, wrong, log_joint(wrong), **options)
    return np.asarray(counts), sampled, right, found


def test_a_sweep_takes_away_what_is_wrong_and_finds_what_is_missing(swept):
    counts, sampled, _, found = swept
    np.testing.assert_array_equal(found.z_pres, np.arange(3) < counts[:, None])
    for i, count in enumerate(counts):
        true, inferred = (
            sorted(zip(of.z_what[i, :count].tolist(), of.z_where[i, :count].tolist(), strict=True))
            for of in (sampled, found)
        )
        assert [what for what, _ in inferred] == [what for what, _ in true]
        np.testing.assert_allclose(
            [where for _, where in inferred], [where for _, where in true], atol=1e-5
        )


def test_an_object_keeps_what_was_said_when_it_was_found(swept):
    counts, _, right, found = swept
    logits = np.asarray(found.presence_logit)
    # What was right is not touched: what is put in its place is no likelier.
    np.testing.assert_array_equal(logits[counts < 2], right.presence_logit[counts < 2])
    # The two behind the wrong one stay, with the log-odds 1 and 2 that they came with.
    np.testing.assert_array_equal(logits[counts == 2, :2], [[1, 2]] * (counts == 2).sum())
    # After two that were there the oracle found the third.
    np.testing.assert_array_equal(logits[counts == 3], [[1, 2, 102]] * (counts == 3).sum())


class Restless:
    """A network that always has something likelier to say: objects with a number of the pass.

    Attributes:
      num_found: of them in each pass, beside those that are given.
      gain: nats by which each pass is likelier than the one before.
      given: z_what of the given objects in each pass, so far.
    """

    num_steps = 3

    def __init__(self, num_found, gain):
        self.num_found, self.gain, self.given = num_found, gain, []

    def mean_noise(self, batch_size):
        return jnp.zeros((batch_size, 0))

    def apply(self, variables, images, noise, *, mode, given):
        del variables, images, noise, mode
        (count,) = given.counts
        self.given.append(given.z_what[0, :count].tolist())
        steps = jnp.arange(3)[None]
        z_what = jnp.where(steps < count, given.z_what, 100 * len(self.given))
        return Trace(**dict.fromkeys(Trace._fields))._replace(
            z_pres=(steps < count + self.num_found).astype(jnp.float32),
            z_what=z_what,
            z_where=jnp.zeros((1, 3, 3)),
            presence_logit=jnp.zeros((1, 3)),
            what_log_probs=jnp.zeros((1, 3, 4)),
            log_p_what=jnp.zeros((1, 3)),
            log_p_x=jnp.full((1, 1), self.gain * len(self.given)),
        )


@pytest.mark.parametrize(
    ("num_found", "gain", "others", "left"),
    [
        (1, 1.0, [[1, 2], [1, 100], [100, 200]], [100, 200, 300]),
        (0, 1e3, [[1, 2], [1], []], []),
        # Likelier by no more than rounding.
        (1, 1e-3, [[1, 2], [1, 3], [2, 3]], [1, 2, 3]),
    ],
)
def test_every_object_is_taken_away_once_whatever_is_kept(num_found, gain, others, left):
    z_what = jnp.array([[1, 2, 3]])
    found = found_as(z_what, jnp.ones((1, 3)), jnp.zeros((1, 3, 3)))
    network = Restless(num_found, gain)
    options = {"air": network, "params": {}, "prior": PRIOR, "num_sweeps": 1}
    with jax.disable_jit():
        found = refine3d.sweep(
            jnp.zeros((1, 8, 8, 3)), found, PRIOR.log_prob(found.z_pres), **options
        )
    assert network.given == others
    assert found.z_what[0, : int(found.z_pres.sum())].tolist() == left


@pytest.mark.parametrize(
    "changes",
    [
        {"inference.variant": "air"},
        {"inference.variant": "dair", "scene.camera_scale": [0.0, 0.0]},
        {"inference.variant": "dair", "inference.fixed_count": True},
    ],
)
def test_no_scene_becomes_less_likely(changes):
    """Of a network of random weights, whose proposals are mostly bad."""
    config = ablation.change(tiny3d.config(), {**tiny3d.TABLE, **changes})
    air = create_air3d(
        scene=config["scene"], inference=config["inference"], image_size=8, channels=3
    )
    scenes = create_tabletop(**{**config["data"], "num_test": 64}).test
    images = jnp.asarray(scenes.images / np.float32(255))
    params = jax.jit(air.init)(jax.random.key(0), images[:1], air.mean_noise(1))["params"]
    keys = iter(jax.random.split(jax.random.key(1), len(jax.tree.leaves(params))))
    params = jax.tree.map(
        lambda leaf: leaf + 0.5 * jax.random.normal(next(keys), leaf.shape), params
    )
    prior = inverse_graphics.prior_over_counts(air, PRIOR)
    model = Model3D(air, params, prior, config)

    def log_joint(found):
        there = jnp.arange(3) < found.counts[:, None]
        likelihood = air.scene.log_likelihood(images, found.reconstructions)
        log_p_pres = prior.log_prob(there.astype(jnp.float32))
        return likelihood + log_p_pres - np.log(4.0) * found.counts

    found = model.infer(scenes.images, num_sweeps=2)
    gain = log_joint(found) - log_joint(model.infer(scenes.images))
    assert (gain > -1e-2).all() and (gain > 1).any()
    counts, identities, poses = model.detect(scenes.images, num_sweeps=2)
    np.testing.assert_array_equal(counts, found.counts)
    np.testing.assert_array_equal(identities, found.identities)
    np.testing.assert_allclose(poses, found.poses, atol=1e-4)
    with pytest.raises(ValueError, match="num_sweeps is -1"):
        model.infer(scenes.images, num_sweeps=-1)


@pytest.fixture(scope="module")
def solids(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    changes = {"estimator": "enumerate", "scene__gradient": "surface_motion"}
    loop.run(tiny3d.config(**changes), str(folder))
    return load(folder), create_tabletop(**tiny3d.config()["data"]).test


def test_the_likeliest_of_an_object_s_turns_is_kept(solids):
    model, scenes = solids
    given = model.infer(scenes.images)
    found = model.infer(scenes.images, num_turns=8)
    np.testing.assert_array_equal(found.identities, given.identities)
    np.testing.assert_array_equal(found.poses[..., :2], given.poses[..., :2])
    # Of cube, sphere and cylinder: four sides alike, all, none.
    periods = 2 * np.pi / np.array([4, np.inf, 1])[given.identities]
    images = scenes.images / np.float32(255)

    def errors(turn):
        poses = given.poses.copy()
        poses[..., 2] += turn / 8 * periods
        drawn = contenders3d.as_objects(
            model.air.scene, identities=given.identities, poses=poses
        ).reconstructions
        return np.square(images - drawn).sum((1, 2, 3))

    every = np.stack([errors(turn) for turn in range(8)])
    found_errors = np.square(images - found.reconstructions).sum((1, 2, 3))
    np.testing.assert_allclose(found_errors, every.min(0), rtol=1e-4)
    assert (every.min(0) < every[0] - 1e-3).any()  # there was something to turn
    assert np.abs(found.poses[..., 2]).max() <= np.pi
    _, _, poses = model.detect(scenes.images, num_turns=8)
    np.testing.assert_allclose(poses, found.poses, atol=1e-5)
    with pytest.raises(ValueError, match="num_turns is 0"):
        model.infer(scenes.images, num_turns=0)


def test_what_is_there_is_turned_whatever_else_there_is(scene):
    """Of true scenes by stray cameras, each yaw wrong by some of 24 turns."""
    sampled = jax.device_get(scene.sample(jax.random.key(0), jnp.arange(24) % 3 + 1, 3))
    rng = np.random.default_rng(0)
    wrong = sampled.z_where + np.zeros_like(sampled.z_where)
    wrong[..., 2] += 2 * np.pi / 24 * rng.integers(24, size=wrong.shape[:2])
    presence = (np.arange(3) < (np.arange(24) % 3 + 1)[:, None]).astype(np.float32)
    given = found_as(sampled.z_what, presence, wrong)
    found = np.asarray(TURN(sampled.images, given, sampled.camera, scene=scene, num_turns=24))
    np.testing.assert_array_equal(found[..., :2], wrong[..., :2])
    is_round = np.array([not model.fold for model in CROCKERY])[sampled.z_what]
    untouched = is_round | (presence == 0)
    np.testing.assert_array_equal(found[untouched], wrong[untouched])
    off = np.cos(found[..., 2] - sampled.z_where[..., 2])[~untouched]
    assert len(off) > 15 and (off > 0.999).mean() > 0.7  # some objects hide or cross each other


def test_turns_are_within_what_a_symmetry_tells_apart(monkeypatch):
    models = CROCKERY + SOLIDS
    monkeypatch.setitem(CATALOGUES, "crockery and solids", models)
    section = {**scene3d_table.get_config().scene.to_dict(), "catalogue": "crockery and solids"}
    scene = create_scene3d(section, image_size=32, channels=3)
    names = [model.name for model in models]
    identities = np.array([names.index(name) for name in ("cube", "plate", "bowl")] * 8)[:, None]
    rng, steps = np.random.default_rng(0), np.arange(24)
    poses = np.concatenate(
        [rng.uniform(-0.9, 0.9, (24, 1, 2)), rng.uniform(-3, 3, (24, 1, 1))], axis=-1
    ).astype(np.float32)
    cameras, there = jnp.broadcast_to(scene.prior_camera().loc, (24, 2)), jnp.ones((24, 1))
    images = scene.draw(identities, there, poses, cameras)
    is_cube = identities[:, 0] == names.index("cube")
    given = poses.copy()
    given[is_cube, 0, 2] += np.pi / 2 / 24 * steps[is_cube]
    given[~is_cube, 0, :2] += 0.02  # so that rounding would turn some
    found = np.asarray(
        TURN(images, found_as(identities, there, given), cameras, scene=scene, num_turns=24)
    )
    quarters = (found - poses)[is_cube, 0, 2] / (np.pi / 2)
    np.testing.assert_allclose(quarters, quarters.round(), atol=1e-3)
    np.testing.assert_array_equal(found[~is_cube], given[~is_cube])
