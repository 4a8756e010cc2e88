"""Checkpoints, exported models and records of a run, damaged at random.

What is read is what was saved, bit for bit, or an error says which file it is and what to do; and
nothing in a file is ever run.
"""

import json
import pickle
import shutil

import jax
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from air_jax import checkpoint, export, kinds, provenance, writer
from air_jax.checkpoint import CheckpointError
from tests import tiny
from tests.bad_input import Trap, contents, examples, outside

TREE = {
    "step": np.int32(3),
    "params": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3) / 7},
    "moving": np.float32([np.nan, -0.0]),
}
PARAMS = {"encoder": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3) / 7}}
CONFIG = {"scale": 0.1 + 0.2, "name": "é", "sizes": [1, 2]}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A checkpoint and an exported model, undamaged."""
    folder = tmp_path_factory.mktemp("saved")
    checkpoint.save(folder / "checkpoints", 3, TREE)
    export.export_model(folder / "model", PARAMS, CONFIG)
    return folder


@pytest.fixture
def copied(saved, tmp_path_factory):
    """Makes a copy for each example."""

    def copy():
        folder = tmp_path_factory.mktemp("example")
        return shutil.copytree(saved, folder / "run")

    return copy


def same_bits(read, expected):
    pairs = zip(jax.tree.leaves(read), jax.tree.leaves(expected), strict=True)
    return jax.tree.structure(read) == jax.tree.structure(expected) and all(
        one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
        for one, other in pairs
    )


@st.composite
def damages(draw, traps=True):
    """What happens to a file: `(kind, where, what)`, where as a share of its length."""
    kind = draw(
        st.sampled_from(
            ["overwrite", "cut", "insert", "append", "remove", "folder", "loop"]
            + ["pickle"] * traps
        )
    )
    return kind, draw(st.floats(0, 1, exclude_max=True)), draw(st.binary(min_size=1, max_size=8))


def damage(path, kind, where, what, sprung):
    data = path.read_bytes()
    place = int(where * len(data))
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    elif kind != "remove":
        path.write_bytes(
            {
                "overwrite": data[:place] + what + data[place + len(what) :],
                "cut": data[:place],
                "insert": data[:place] + what + data[place:],
                "append": data + what,
                "pickle": pickle.dumps(Trap(sprung)),
            }[kind]
        )


def choose(draw, folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return draw.draw(st.sampled_from(files))


@examples(40)
@given(draw=st.data(), what=damages())
def test_a_damaged_checkpoint_is_refused_with_the_remedy_or_comes_back_whole(copied, draw, what):
    run = copied()
    damage(choose(draw, run / "checkpoints"), *what, run / "sprung")
    before = contents(run)
    try:
        restored = checkpoint.restore(run / "checkpoints", TREE)
    except CheckpointError as error:
        assert str(run / "checkpoints") in str(error)
        assert "Delete the folder" in str(error) or "Give the folder" in str(error)
    else:
        assert same_bits(restored, TREE)
    assert contents(run) == before


# An orbax that gives up leaves coroutines behind.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@examples(15)
@given(draw=st.data(), what=damages())
def test_a_damaged_checkpoint_that_its_manifest_vouches_for_is_still_no_traceback(
    copied, draw, what
):
    run = copied()
    folder = run / "checkpoints" / "00000003"
    damage(choose(draw, folder / "state"), *what, run / "sprung")
    table = checkpoint._file_table(folder)
    (folder / "manifest.json").write_bytes(checkpoint._encode_manifest(3, table))
    before = contents(run)
    try:
        restored = checkpoint.restore(run / "checkpoints", TREE)
    except CheckpointError as error:
        assert str(folder) in str(error)
    else:
        # Of what nobody could have noticed: the structure at least is the template's.
        assert jax.tree.structure(restored) == jax.tree.structure(TREE)
    assert outside(contents(run), "checkpoints") == outside(before, "checkpoints")


@examples(60)
@given(draw=st.data(), what=damages())
def test_a_damaged_model_is_refused_with_its_file_or_comes_back_whole(copied, draw, what):
    run = copied()
    path = choose(draw, run / "model")
    damage(path, *what, run / "sprung")
    before = contents(run)
    try:
        params, config = export.load_model(run)
    except CheckpointError as error:
        assert path.name in str(error)
        assert "again" in str(error) or "Use the air_jax" in str(error)
    else:
        assert same_bits(params, PARAMS) and config == CONFIG
    assert contents(run) == before


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
# Whole configs with a section that is something else.
CONFIGS = st.builds(
    lambda name, value: {**tiny.MODEL_CONFIG, name: value},
    st.sampled_from(sorted(tiny.MODEL_CONFIG)),
    JSON,
)


@examples(30)
@given(config=CONFIGS | st.dictionaries(st.text(max_size=5), JSON))
def test_a_model_with_any_other_config_is_loaded_or_refused(tmp_path, config):
    try:
        export.export_model(tmp_path, PARAMS, config)
    except ValueError:  # JSON has no NaN
        return
    try:
        model = kinds.load(tmp_path)
    except CheckpointError as error:
        assert str(tmp_path) in str(error)
    else:
        assert model.config["image"]


TEXTS = JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=20)


@examples(60)
@given(data=TEXTS)
@example(b"[" * 100_000)
@example(b"[{}]")
@example(b"[1]")
@example(b'[{"data": 1}]')
def test_a_damaged_record_of_a_run_is_named_when_it_is_resumed(tmp_path, data):
    for name in ("config.json", "run.json"):
        (tmp_path / name).write_bytes(data)
    for name, check in (
        ("config.json", lambda: provenance.check_config(tmp_path, {"seed": 0}, ())),
        ("run.json", lambda: provenance.check_data(tmp_path, {"source": "embedded"})),
    ):
        try:
            check()
        except ValueError as error:
            # Of another run, or of none.
            assert str(tmp_path) in str(error)
            assert "choose another --workdir" in str(error)
            assert name in str(error) or "was begun with" in str(error)


@examples(60)
@given(lines=st.lists(TEXTS, max_size=4))
@example([b'{"step": Infinity, "split": "train"}'])
@example([b"[" * 100_000, b'{"step": 1, "split": "train"}'])
def test_unreadable_lines_of_a_log_are_left_out(tmp_path, lines):
    good = {"step": 20, "split": "train", "loss": 0.5}
    data = b"\n".join([*lines, json.dumps(good).encode()]) + b"\n"
    (tmp_path / writer.METRICS_FILE).write_bytes(data)
    assert writer.read_scalars(tmp_path)[-1] == good
