"""What is said of a run while it goes on."""

import pytest

from air_jax import loop
from tests.loop_test import tiny_config


@pytest.mark.parametrize(
    ("num_seeds", "logit", "name", "told"),
    [
        (1, -30.0, "no_object", ["step 40: "]),
        (2, 30.0, "all_steps", ["seed 3: step 40: ", "seed 4: step 40: "]),
    ],
)
def test_a_run_that_collapses_says_so_with_the_step_and_what_to_change(
    num_seeds, logit, name, told, tmp_path, caplog
):
    config = tiny_config(seed=3, num_seeds=num_seeds, inference__presence_logit=logit)
    loop.run(config, str(tmp_path))
    warnings = [record.getMessage() for record in caplog.records if name in record.getMessage()]
    # Validated at 20 and 40 steps, of which two in a row have to agree.
    assert len(warnings) == len(told)
    for warning, start in zip(warnings, told, strict=True):
        assert warning.startswith(start)
        assert "prior.start" in warning and "inference.presence_logit" in warning
