"""Whether a workdir may be resumed with a config that has entries it does not know."""

import copy
import json

import pytest

from air_jax import provenance


def test_a_run_from_before_there_was_streaming_was_resident(tmp_path):
    config = {"seed": 0, "data": {"source": "auto", "resident": True}}
    before = copy.deepcopy(config)
    del before["data"]["resident"]
    (tmp_path / "config.json").write_text(json.dumps(before))
    provenance.check_config(tmp_path, config, ())
    streamed = {"seed": 0, "data": {"source": "auto", "resident": False}}
    with pytest.raises(ValueError, match=r"data.resident: True there, False given"):
        provenance.check_config(tmp_path, streamed, ())


def test_a_run_from_before_there_were_two_gradients_had_finite_differences(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"scene": {"reach": 1.4}}))
    differences = {"scene": {"reach": 1.4, "gradient": "finite_differences"}}
    provenance.check_config(tmp_path, differences, ())
    with pytest.raises(ValueError, match=r"scene.gradient: 'finite_differences' there"):
        motion = {"scene": {"reach": 1.4, "gradient": "surface_motion"}}
        provenance.check_config(tmp_path, motion, ())


def test_the_last_start_tells_how_many_devices_there_were(tmp_path):
    assert provenance.last_num_devices(tmp_path) is None
    starts = [{"devices": ["cpu"] * 4, "num_devices": 8}, {"devices": ["cpu"] * 2}]
    (tmp_path / "run.json").write_text(json.dumps(starts))
    # Before several processes could train together, all devices were the process's own.
    assert provenance.last_num_devices(tmp_path) == 2
    (tmp_path / "run.json").write_text(json.dumps(starts[:1]))
    assert provenance.last_num_devices(tmp_path) == 8
    (tmp_path / "run.json").write_text("[]")
    assert provenance.last_num_devices(tmp_path) is None
