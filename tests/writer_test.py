"""What the writer leaves on disk and on the terminal."""

import errno
import io
import json
import math
import os
import struct
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from air_jax import writer


class Terminal(io.StringIO):
    def isatty(self):
        return True


def lines(workdir):
    return (workdir / "metrics.jsonl").read_text().splitlines()


def quiet(workdir, **options):
    return writer.Writer(
        workdir, **({"total_steps": 100, "tensorboard": False, "progress": "none"} | options)
    )


def tensorboard_events(workdir):
    """Reads the event files record by record: length, checksum, data, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    events = []
    for path in sorted((workdir / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            events.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return events


def test_an_entry_is_on_disk_before_the_writer_is_closed(tmp_path):
    with quiet(tmp_path / "new" / "run") as log:
        log.scalars(3, "train", {"elbo": 1.5, "count_accuracy": np.float32(0.25)})
        assert [json.loads(line) for line in lines(tmp_path / "new" / "run")] == [
            {"step": 3, "split": "train", "elbo": 1.5, "count_accuracy": 0.25}
        ]


def test_array_scalars_are_numbers_and_non_finite_ones_are_null(tmp_path):
    with quiet(tmp_path) as log:
        log.scalars(
            np.int64(1), "train", {"a": jnp.float32(2), "b": np.nan, "c": -math.inf, "d": 3}
        )
    (line,) = lines(tmp_path)
    assert line == '{"step": 1, "split": "train", "a": 2.0, "b": null, "c": null, "d": 3.0}'


def test_metrics_cannot_hide_the_step(tmp_path):
    with quiet(tmp_path) as log, pytest.raises(ValueError, match="'step'"):
        log.scalars(1, "train", {"step": 2.0})


def test_read_scalars_returns_what_was_written(tmp_path):
    with quiet(tmp_path) as log:
        log.scalars(1, "train", {"elbo": -5.0})
        log.scalars(1, "validation", {"elbo": math.nan})
        log.scalars(2, "train", {"elbo": -4.0})
    assert writer.read_scalars(tmp_path, "train") == [
        {"step": 1, "split": "train", "elbo": -5.0},
        {"step": 2, "split": "train", "elbo": -4.0},
    ]
    assert len(writer.read_scalars(tmp_path)) == 3
    assert math.isnan(writer.read_scalars(tmp_path, "validation")[0]["elbo"])


def test_a_folder_without_metrics_has_no_entries(tmp_path):
    assert writer.read_scalars(tmp_path) == []


def test_resuming_drops_the_steps_that_will_be_repeated(tmp_path):
    with quiet(tmp_path) as log:
        for step in range(1, 6):
            log.scalars(step, "train", {"elbo": step})
        log.scalars(3, "validation", {"elbo": 0.0})
    with quiet(tmp_path, start_step=3) as log:
        log.scalars(4, "train", {"elbo": 40})
    entries = writer.read_scalars(tmp_path)
    assert [entry["step"] for entry in entries] == [1, 2, 3, 3, 4]
    assert entries[-1]["elbo"] == 40
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.jsonl"}


def test_a_run_that_starts_over_keeps_nothing(tmp_path):
    for _ in range(2):
        with quiet(tmp_path) as log:
            log.scalars(0, "train", {"elbo": 0})
            log.scalars(1, "train", {"elbo": 1})
    assert len(lines(tmp_path)) == 2


def test_a_torn_last_line_is_dropped(tmp_path):
    whole = '{"step": 1, "split": "train", "elbo": 1.0}'
    (tmp_path / "metrics.jsonl").write_text(f'{whole}\n{{"step": 2, "split": "tr')
    assert [entry["step"] for entry in writer.read_scalars(tmp_path)] == [1]
    with quiet(tmp_path, start_step=2) as log:
        log.scalars(3, "train", {"elbo": 3.0})
    assert lines(tmp_path) == [whole, '{"step": 3, "split": "train", "elbo": 3.0}']


def test_a_last_line_that_lacks_only_its_line_break_is_kept(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "split": "train"}')
    with quiet(tmp_path, start_step=1) as log:
        log.scalars(2, "train", {})
    assert [json.loads(line)["step"] for line in lines(tmp_path)] == [1, 2]


@pytest.mark.parametrize("damage", [b"\xff\x00\n", b"[1]\n", b'{"split": "train"}\n', b"3\n"])
def test_a_damaged_line_does_not_take_the_others_with_it(tmp_path, damage):
    whole = b'{"step": 1, "split": "train"}\n'
    (tmp_path / "metrics.jsonl").write_bytes(whole + damage + whole)
    assert [entry["step"] for entry in writer.read_scalars(tmp_path)] == [1, 1]


def test_tensorboard_gets_every_finite_scalar_under_its_split(tmp_path):
    with quiet(tmp_path, tensorboard=True) as log:
        log.scalars(7, "validation", {"elbo": 1.5, "mean_iou": math.nan})
        log.text("config", "`batch_size`: 64")
    values = [
        (event.step, value.tag, value.simple_value)
        for event in tensorboard_events(tmp_path)
        for value in event.summary.value
    ]
    assert values[0] == (7, "validation/elbo", 1.5)
    assert [tag for _, tag, _ in values[1:]] == ["config/text_summary"]


@pytest.mark.parametrize(("start_step", "first_purged"), [(0, 0), (7, 8)])
def test_tensorboard_hides_the_steps_that_will_be_repeated(tmp_path, start_step, first_purged):
    with quiet(tmp_path, tensorboard=True, start_step=start_step):
        pass
    restarts = [e for e in tensorboard_events(tmp_path) if e.HasField("session_log")]
    assert [event.step for event in restarts] == [first_purged]


def test_tensorboard_writes_without_a_warning(tmp_path):
    # In a fresh interpreter: what is imported here already would warn no more.
    program = (
        "import sys; from air_jax.writer import Writer\n"
        "with Writer(sys.argv[1], total_steps=2) as log:\n"
        "    log.scalars(1, 'train', {'elbo': 2.0})\n"
        "    log.text('config', 'text')\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "tensorboard").is_dir()


def test_a_full_disk_names_the_scalars_and_the_remedy(tmp_path):
    log = quiet(tmp_path)
    log._metrics.close()
    log._metrics = open("/dev/full", "a")  # noqa: SIM115
    with pytest.raises(OSError, match="the same command again") as error, log:
        log.scalars(1, "train", {"elbo": 1.5})
    # What it says is not hidden by the failure to close the same file.
    assert (error.value.errno, error.value.filename) == (
        errno.ENOSPC,
        str(tmp_path / "metrics.jsonl"),
    )


def test_a_full_disk_stops_tensorboard_too_and_nothing_waits_for_it(tmp_path):
    log = quiet(tmp_path, tensorboard=True)
    log._events._file._writer.close()
    log._events._file._writer = open("/dev/full", "wb")  # noqa: SIM115
    # More than fits into a buffer.
    with pytest.raises(OSError, match="the same command again") as error, log:
        for step in range(1000):
            log.scalars(step, "train", {"elbo": 1.5})
    assert error.value.filename == str(tmp_path / "tensorboard")
    assert len(lines(tmp_path)) == step + 1


def test_elsewhere_than_on_a_terminal_progress_is_plain_lines(tmp_path):
    stream = io.StringIO()
    with quiet(tmp_path, total_steps=10_000, progress=None, stream=stream) as log:
        log.progress(2500, {"elbo": 512.345, "count_accuracy": 0.5}, 50.0)
        log.message("validation: 97 %")
        log.progress(10_000, {"elbo": -12_345.6}, None)
    # 7,500 steps at 50 a second are 150 seconds.
    assert stream.getvalue() == (
        "step 2,500/10,000 (25 %)  elbo 512.3  count_accuracy 0.5  50 steps/s  "
        "2 min 30 s left\n"
        "validation: 97 %\n"
        "step 10,000/10,000 (100 %)  elbo -12,346\n"
    )


def test_on_a_terminal_one_line_is_redrawn(tmp_path):
    stream = Terminal()
    with quiet(tmp_path, total_steps=1000, progress=None, stream=stream) as log:
        log.progress(500, {"elbo": 1.0}, 10)
        log.message("validation: 97 %")
        log.progress(999, {"elbo": 2.0}, 10)
    redraws = stream.getvalue().split("\r\x1b[K")[1:]
    bar = " 50 % [##########----------] 500/1,000  elbo 1  10 steps/s  50 s left"
    assert redraws[0] == bar
    # The bar gives its line to the message and is drawn again below it.
    assert redraws[1] == f"validation: 97 %\n{bar}"
    # Rounded down: 100 % means done. Closing leaves the cursor on a line of its own.
    assert redraws[2].startswith(" 99 % [###################-] 999/1,000")
    assert redraws[2].endswith("left\n")


def test_a_bar_longer_than_the_terminal_is_cut_off(tmp_path):
    stream = Terminal()
    with quiet(tmp_path, progress=None, stream=stream) as log:
        log.progress(50, {f"metric_{i}": i for i in range(30)}, 10)
    assert len(stream.getvalue().split("\r\x1b[K")[1].rstrip("\n")) == 79


@pytest.mark.parametrize(
    ("speed", "left"),
    [(10.0, "10 s left"), (1 / 36, "1 h 00 min left"), (0, ""), (math.nan, ""), (None, "")],
)
def test_time_left_is_readable_and_absent_while_unknown(tmp_path, speed, left):
    stream = io.StringIO()
    with quiet(tmp_path, progress="lines", stream=stream) as log:
        log.progress(0, {}, speed)
    assert stream.getvalue().strip().endswith(left or "(0 %)")


def test_silent_progress_writes_nothing(tmp_path):
    stream = io.StringIO()
    with quiet(tmp_path, progress="none", stream=stream) as log:
        log.progress(1, {"elbo": 1.0}, 1.0)
        log.message("hello")
    assert stream.getvalue() == ""


def test_an_unknown_kind_of_progress_is_refused_with_the_valid_ones(tmp_path):
    with pytest.raises(ValueError, match='"bar", "lines", "none" or None, got \'dots\''):
        quiet(tmp_path, progress="dots")


def test_closing_twice_is_harmless(tmp_path):
    log = quiet(tmp_path, tensorboard=True)
    log.close()
    log.close()


def test_json_of_arrays_and_non_finite_numbers_is_valid(tmp_path):
    path = tmp_path / "deep" / "evaluation.json"
    writer.write_json(
        path,
        {
            "elbo": np.float32(1.5),
            "mean_iou": math.nan,
            "matrix": np.array([[1, 2], [3, 4]]),
            "curve": jnp.array([0.5, jnp.inf]),
            "per_count": {np.int64(0): 1.0, 1: (2, None)},
            "done": np.bool_(True),
            "path": tmp_path,
        },
    )

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    assert json.loads(path.read_text(), parse_constant=refuse) == {
        "elbo": 1.5,
        "mean_iou": None,
        "matrix": [[1, 2], [3, 4]],
        "curve": [0.5, None],
        "per_count": {"0": 1.0, "1": [2, None]},
        "done": True,
        "path": str(tmp_path),
    }


def test_what_json_cannot_hold_leaves_the_old_file(tmp_path):
    path = tmp_path / "config.json"
    writer.write_json(path, {"version": 1})
    with pytest.raises(TypeError):
        writer.write_json(path, {"version": object()})
    assert json.loads(path.read_text()) == {"version": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]
