"""The command `python -m air_jax.demo` and what its page does, without a browser."""

import base64
import gc
import http.client
import io
import re
import sys
import types
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image

from air_jax import checkpoint, demo, demo_html, demo_pad, demo_session, export, scene_view
from tests import demo_pages, tiny

gradio = pytest.importorskip("gradio", reason="the page needs Gradio: pip install '.[demo]'")

pytestmark = demo_pages.GRADIO_WARNINGS
SIZE = tiny.MODEL_CONFIG["image"]["image_size"]
# Names of what `Handlers.drawn` and its like return.
OUTPUTS = ("session", "message", "pad", "results", "object", "x", "y", "side")
OUTPUTS += ("dimension", "value", "changed")


def params(presence_logit):
    """A network that says the same of every image: its two objects, or none (see infer_test)."""
    weights = tiny.model_params(np.zeros)
    weights["predict_where"]["Dense_1"]["bias"][1:3] = (0.5, -0.25)
    weights["predict_pres"]["Dense_1"]["bias"][:] = presence_logit
    # Another drawing for every code.
    kernel = weights["scene"]["decoder"]["MLP_0"]["Dense_1"]["kernel"]
    kernel[:] = np.random.default_rng(0).normal(size=kernel.shape)
    weights["scene"]["decoder"]["MLP_0"]["Dense_0"]["kernel"][:] = 0.5
    return weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    export.export_model(folder / "model", params(5.0), tiny.MODEL_CONFIG)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return demo.load(folder, 2)


@pytest.fixture(scope="module")
def handlers(model):
    return demo_session.Handlers(model)


@pytest.fixture
def session(handlers):
    return handlers.another(None)[0]


def picture(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return {"picture": f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"}


def drawing():
    side = scene_view.PEN_PIXELS * SIZE
    array = np.zeros((side, side), np.uint8)
    array[side // 4 : side // 2, side // 4 : side // 2] = 255
    return picture(array)


def named(outputs):
    return dict(zip(OUTPUTS, outputs, strict=True))


def count(results):
    return int(re.search(r'data-count="(\d+)"', results)[1])


def is_skipped(update):
    return update.get("__type__") == "update" and set(update) == {"__type__"}


def test_a_drawing_is_counted_and_every_step_shown(handlers):
    shown = named(handlers.drawn(None, drawing()))
    assert count(shown["results"]) == 2
    assert [float(p) for p in re.findall(r"([\d.]+) %<", shown["results"])] == [0.7, 0.7, 98.7]
    assert shown["results"].count('class="step"') == 2
    assert "The network took" in shown["results"]
    assert is_skipped(shown["pad"])
    image = shown["session"].view.image
    assert image[SIZE // 4 : SIZE // 2, SIZE // 4 : SIZE // 2].all() and image.sum() == SIZE
    assert shown["object"]["choices"] == ["1", "2"]
    # The window of side 8 centred at (6, 9).
    assert [shown[name]["value"] for name in ("x", "y", "side")] == [6, 9, 8]
    assert sorted(shown["dimension"]["choices"]) == ["0", "1", "2"]


def test_windows_are_drawn_where_they_are_in_the_enlarged_image(handlers):
    results = named(handlers.drawn(None, drawing()))["results"]
    data = re.search(r'src="data:image/png;base64,([^"]*)"', results)[1]
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        shown = np.asarray(picture)
    # 16 pixels in 400; the windows of both objects are from (2, 5) to (10, 13), the second on top.
    assert shown.shape == (400, 400, 3)
    green = (shown == (0x3D, 0xF0, 0x8A)).all(-1)
    rows, columns = np.nonzero(green)
    edges = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    np.testing.assert_allclose(edges, (50, 125, 250, 325), atol=1)


def test_a_picture_of_any_size_comes_to_the_pad_with_what_was_done_to_it(handlers, session):
    light = np.full((64, 32), 255, np.uint8)
    light[24:40, 8:24] = 0
    shown = named(handlers.uploaded(session, picture(light)))
    assert "inverted" in shown["message"] and "resized" in shown["message"]
    assert shown["pad"]["serial"] == session.serial + 1
    data = base64.b64decode(shown["pad"]["picture"].partition(",")[2])
    with Image.open(io.BytesIO(data)) as sent:
        assert sent.size == (SIZE, SIZE)
        assert np.asarray(sent)[8, 8].min() > 200


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"picture": "data:image/png;base64,bm8gcGljdHVyZQ=="}, "cannot be read"),
        ({"picture": "data:image/png;base64,%%%"}, "No picture came"),
        ({"size": scene_view.MAX_BYTES + 1}, "limit is 10 MB"),
        ({}, "No picture came"),
        (None, "No picture came"),
    ],
)
def test_a_bad_picture_is_a_sentence_and_leaves_everything(handlers, session, data, message):
    shown = named(handlers.uploaded(session, data))
    assert message in shown["message"] and "Traceback" not in shown["message"]
    assert shown["session"] is session
    assert all(is_skipped(shown[name]) for name in OUTPUTS[2:])


def test_a_drawing_of_another_size_is_a_sentence(handlers, session):
    shown = named(handlers.drawn(session, picture(np.zeros((5, 5), np.uint8))))
    assert "128x128" in shown["message"] and shown["session"] is session


def test_every_other_scene_is_another(handlers):
    first = handlers.another(None)[0]
    second = handlers.another(first)[0]
    assert (first.serial, second.serial) == (1, 2)
    assert not np.array_equal(first.view.image, second.view.image)
    assert first.view.image.sum() >= second.view.image.sum() > 0


@pytest.mark.parametrize("axis", range(3))
def test_a_slider_moves_the_chosen_object_only(handlers, session, axis):
    chosen = handlers.choose(session, "2")[0]
    moved, changed = handlers.move(axis, chosen, 5.0)
    place = [6, 9, 8]
    place[axis] = 5.0
    np.testing.assert_allclose(scene_view.to_place(moved.z_where[1], SIZE), place, rtol=1e-5)
    np.testing.assert_array_equal(moved.z_where[0], session.z_where[0])
    np.testing.assert_array_equal(moved.view.z_where, session.view.z_where)
    assert changed != handlers.reset(chosen)[-1]


def test_a_dimension_is_chosen_and_set(handlers, session):
    turned, value, _ = handlers.turn_to(session, "2")
    assert (turned.dimension, value["value"]) == (2, 0)
    after, changed = handlers.turn(turned, 3.0)
    assert after.z_what[0, 2] == 3 and not session.z_what.any()
    assert after.z_what.sum() == 3
    assert changed != handlers.reset(after)[-1]
    # Of nine tiles from -4 to 4, that of 3 is where the object is.
    tiles = re.findall(r'<img src="[^"]*" alt="the object at [^"]*"( class="here")?>', changed)
    assert [bool(tile) for tile in tiles] == [False] * 7 + [True, False]


def test_reset_gives_back_what_was_inferred(handlers, session):
    changed = handlers.turn(handlers.move(0, session, 3.0)[0], 2.0)[0]
    after = handlers.reset(changed)
    np.testing.assert_array_equal(after[0].z_where, session.view.z_where)
    np.testing.assert_array_equal(after[0].z_what, session.view.z_what)
    assert after[2]["value"] == 6


def test_what_cannot_be_changed_changes_nothing(handlers, session):
    for given in (None, session):
        assert handlers.choose(given, "9")[0] is given
        assert handlers.turn_to(given, "77")[0] is given
        assert handlers.move(0, given, None)[0] is given
        assert handlers.turn(given, float("nan"))[0] is given
    assert handlers.reset(None)[0] is None


def test_without_an_object_there_is_nothing_to_change(folder, tmp_path):
    export.export_model(tmp_path, params(-5.0), tiny.MODEL_CONFIG)
    handlers = demo_session.Handlers(demo.load(tmp_path))
    shown = named(handlers.drawn(None, drawing()))
    assert count(shown["results"]) == 0
    assert len(shown["session"].view.count_probs) == 7
    assert "No object was found" in shown["results"] and "No object" in shown["changed"]
    assert not any(shown[name]["interactive"] for name in OUTPUTS[4:10])
    assert handlers.move(0, shown["session"], 3.0)[0] is shown["session"]


def test_text_from_outside_is_no_html():
    assert "<script>" not in demo_html.message("<script>") + demo_html.heading("<script>")


def test_only_a_model_of_colours_has_colours_to_draw_with():
    assert "data-colour" not in demo_pad.html(SIZE, 1)
    assert demo_pad.html(SIZE, 3).count("data-colour") == 6


@pytest.fixture(scope="module")
def server(model):
    with demo_pages.served(model) as page_address_port:
        yield page_address_port
    gc.collect()


def test_the_page_is_served_without_analytics_sharing_or_other_hosts(server):
    page, address, _ = server
    with urllib.request.urlopen(address) as response:
        text = response.read().decode()
    assert page.analytics_enabled is False and page.share is False
    assert not page.run_history and page.footer_links == []
    assert "Attend, infer, repeat" in text
    # What a browser would fetch by itself.
    fetched = re.findall(r'<(?:script|link)[^>]*(?:src|href)="(https?:)?//', text)
    assert not fetched and "fonts.googleapis" not in text


def test_a_request_longer_than_any_picture_is_refused_unread(server):
    _, _, port = server
    for header, value in (("Content-Length", str(2**30)), ("Transfer-Encoding", "chunked")):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.putrequest("POST", "/gradio_api/queue/join")
        connection.putheader(header, value)
        connection.endheaders()
        assert connection.getresponse().status == 413
        connection.close()


def test_a_taken_port_is_an_error(server, model):
    with pytest.raises(OSError, match=str(server[2])):
        demo.launch(model, host="127.0.0.1", port=server[2])


def test_it_listens_on_this_machine_only_unless_told_otherwise():
    assert demo._parse([]).host == "127.0.0.1"
    assert demo._parse(["--host", "0.0.0.0"]).host == "0.0.0.0"
    assert demo._is_loopback("127.0.0.1") and demo._is_loopback("localhost")
    assert not demo._is_loopback("0.0.0.0")


@pytest.mark.parametrize(
    "options", [("--port", "0"), ("--port", "70000"), ("--port", "x"), ("--host", "::1")]
)
def test_an_address_that_is_none_is_a_wrong_argument(options):
    with pytest.raises(SystemExit, match="2"):
        demo._parse(options)


def test_files_are_taken_with_their_event_only(server):
    body = b"--x\r\nContent-Disposition: form-data; name=files; filename=a\r\n\r\nb\r\n--x--"
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    request = urllib.request.Request(f"{server[1]}gradio_api/upload", body, headers)
    with pytest.raises(urllib.error.HTTPError, match="404"), urllib.request.urlopen(request):
        pass


def test_an_object_of_a_size_that_no_slider_has_can_be_moved(handlers, session):
    z_where = session.z_where.copy()
    z_where[session.chosen, 0] = 12.0  # a window of less than 2 pixels
    _, changed = handlers.move(0, session._replace(z_where=z_where), 3.0)
    assert "data:image" in changed


def test_a_forgotten_scene_is_a_sentence(handlers):
    said = [handlers.move(0, None, 1.0)[-1], handlers.turn(None, 1.0)[-1]]
    said += [
        handlers.turn_to(None, "0")[-1],
        handlers.reset(None)[-1],
        handlers.choose(None, "1")[-1],
    ]
    assert all("forgotten" in text for text in said)


def run(capsys, *arguments):
    code = demo.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured


def test_it_runs_until_it_is_interrupted(folder, capsys, monkeypatch):
    closed = []

    class Page:
        def close(self, verbose):
            closed.append(verbose)

    def interrupt(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(
        demo, "launch", lambda model, host, port: (Page(), f"http://{host}:{port}/")
    )
    monkeypatch.setattr(demo.threading.Event, "wait", interrupt)
    code, captured = run(capsys, "--checkpoint", folder, "--host", "0.0.0.0", "--port", "7999")
    assert (code, closed, captured.err) == (0, [False], "")
    assert "http://0.0.0.0:7999/" in captured.out and "everybody" in captured.out


def test_without_gradio_it_says_how_to_get_it(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    code, captured = run(capsys, "--checkpoint", folder)
    assert code == 1 and captured.out == ""
    assert "pip install '.[demo]'" in captured.err and len(captured.err.splitlines()) == 1


def test_a_missing_model_is_a_sentence(tmp_path, capsys):
    code, captured = run(capsys, "--checkpoint", tmp_path / "missing")
    assert code == 1 and "missing is not a folder" in captured.err
    assert len(captured.err.splitlines()) == 1


def test_too_few_steps_are_a_sentence(folder, capsys):
    code, captured = run(capsys, "--checkpoint", folder, "--num-steps", "0")
    assert code == 1 and "num_steps" in captured.err and len(captured.err.splitlines()) == 1


@pytest.mark.parametrize("kind", ["draw", "air3d"])
def test_models_of_other_kinds_are_refused(kind, tmp_path, monkeypatch):
    other = types.SimpleNamespace(config={"model": kind})
    monkeypatch.setattr(demo.kinds, "load", lambda folder: other)
    with pytest.raises(checkpoint.CheckpointError, match=f"'{kind}'; the page shows"):
        demo.load(tmp_path)


def test_without_a_checkpoint_it_takes_the_packages_model(folder, monkeypatch):
    monkeypatch.setattr(demo.pretrained, "path", lambda: folder / "model")
    assert demo.load(None, 2).config["scene"] == tiny.MODEL_CONFIG["scene"]


def test_wrong_usage_is_exit_code_2(capsys):
    with pytest.raises(SystemExit) as stop:
        demo.main(["--port", "many"])
    assert stop.value.code == 2
    assert "usage: python -m air_jax.demo" in capsys.readouterr().err
