"""The command: errors are sentences, exit codes are the shell's."""

import signal

import jax
import pytest
from absl import flags
from absl.testing import flagsaver

from air_jax import loop, main
from air_jax.checkpoint import CheckpointError
from air_jax.interruption import Interrupted
from air_jax.monitor import NonFiniteError


@pytest.fixture(scope="module", autouse=True)
def parsed():
    flags.FLAGS(["main", "--config=configs/smoke.py", "--workdir=unused"])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Interrupted(signal.SIGTERM, 20), 143),
        (Interrupted(signal.SIGINT, 20), 130),
        (KeyboardInterrupt(), 130),
        (ValueError("no"), 1),
        (NonFiniteError("no"), 1),
        (CheckpointError("no"), 1),
        (PermissionError("no"), 1),
        (MemoryError("no"), 1),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no"), 1),
    ],
)
def test_exit_codes(error, code, monkeypatch):
    def fail(config, workdir):
        raise error

    monkeypatch.setattr(loop, "run", fail)
    with pytest.raises(SystemExit) as exit_:
        main.main(["main"])
    assert exit_.value.code == code


def test_an_error_of_the_program_itself_is_not_taken_for_one_of_the_user(monkeypatch):
    def fail(config, workdir):
        raise jax.errors.JaxRuntimeError("INTERNAL: no")

    monkeypatch.setattr(loop, "run", fail)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        main.main(["main"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file"),
        ("def get_config(:", "SyntaxError"),
        ("import a_module_that_is_not_there", "a_module_that_is_not_there"),
        ("get_config = 3", "not callable"),
        ("def get_config():\n    return {}", "no ConfigDict"),
    ],
)
def test_a_config_file_that_cannot_be_used_is_one_error(tmp_path, text, message):
    file = tmp_path / "config.py"
    if text is not None:
        file.write_text(text)
    with pytest.raises(main.ConfigError, match=message):
        main.read_config([f"--config={file}"])


def test_the_mode_chooses_what_is_done_and_the_config_arrives_as_plain_types(monkeypatch):
    called = {}
    monkeypatch.setattr(loop, "run", lambda *given: called.setdefault("train", given))
    monkeypatch.setattr(loop, "evaluate_run", lambda *given: called.setdefault("evaluate", given))
    main.main(["main"])
    with flagsaver.flagsaver(mode="evaluate"):
        main.main(["main"])
    assert called["train"] == called["evaluate"]
    config, workdir = called["train"]
    assert workdir == "unused"
    assert config["data"]["counts"] == [0, 1]
    assert type(config["train"]) is dict
