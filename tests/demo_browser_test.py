"""The demo's page in a browser: drawn upon, looked at and used by the keyboard alone.

The model is random, but for one bias: it finds no object in a blank image, and some in a drawing.
"""

import base64
import io
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from air_jax import demo, export, inference, pretrained, scene_view
from air_jax.figures import STEP_COLOURS
from tests import demo_pages, tiny

pytest.importorskip("gradio", reason="the page needs Gradio: pip install '.[demo]'")
sync_api = pytest.importorskip(
    "playwright.sync_api", reason="the browser is driven by Playwright: pip install '.[dev]'"
)
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)

pytestmark = [
    *demo_pages.GRADIO_WARNINGS,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium"),
]
SIZE = tiny.MODEL_CONFIG["image"]["image_size"]
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
RED, GREEN = (tuple(int(code[i : i + 2], 16) for i in (1, 3, 5)) for code in STEP_COLOURS[:2])
TIMEOUT = 20_000  # milliseconds; the machine may be busy


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    config = {**tiny.MODEL_CONFIG}
    config["inference"] = {**config["inference"], "variant": "dair", "glimpse_source": "error"}
    rng = np.random.default_rng(0)
    params = tiny.model_params(lambda shape: rng.normal(scale=0.5, size=shape), config)
    images = np.zeros((2, SIZE, SIZE, 1), np.float32)
    images[1, 4:12, [4, 11]] = 1
    presence = inference.create_model(config, params).infer(images).presence[:, 0]
    blank, drawn = np.log(presence / (1 - presence))
    last, sign = params["predict_pres"]["Dense_1"], np.sign(drawn - blank)
    last["kernel"] *= sign
    last["bias"] *= sign
    last["bias"] -= sign * (blank + drawn) / 2
    folder = tmp_path_factory.mktemp("run")
    export.export_model(folder / "model", params, config)
    return demo.load(folder, 2)


@pytest.fixture(scope="module")
def server(model):
    with demo_pages.served(model) as (_, address, _):
        yield address


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        # Chromium refuses to run as root within its sandbox, as CI does.
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def visit(browser, address, viewport=DESKTOP, **options):
    page = browser.new_context(viewport=viewport, **options).new_page()
    page.set_default_timeout(TIMEOUT)
    page.complaints, page.asked = [], []
    page.on("console", lambda said: said.type == "error" and page.complaints.append(said.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(address)
    page.wait_for_selector("[data-count]")
    return page


@pytest.fixture
def page(browser, server):
    page = visit(browser, server)
    yield page
    page.context.close()


def count(page):
    return int(page.get_attribute("[data-count]", "data-count"))


def clear(page):
    page.click("text=Clear")
    page.wait_for_selector('[data-count="0"]')


def draw(page, *strokes):
    """Draws lines, each from (x, y) to (x, y) in shares of the pad."""
    page.locator("#pad canvas").scroll_into_view_if_needed()
    box = page.locator("#pad canvas").bounding_box()
    for stroke in strokes:
        (x, y), (to_x, to_y) = (
            (box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke
        )
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(to_x, to_y, steps=5)
        page.mouse.up()


STROKES = ((0.25, 0.25), (0.3, 0.75)), ((0.7, 0.25), (0.7, 0.75))


def draw_two(page):
    clear(page)
    draw(page, *STROKES)
    page.wait_for_selector('[data-count]:not([data-count="0"])')
    settle(page)


def settle(page):
    """Waits until what is shown is what the pad holds: nothing new comes any more."""
    page.wait_for_timeout(700)


def pixels(page, selector):
    return np.asarray(Image.open(io.BytesIO(page.locator(selector).first.screenshot())))[..., :3]


def has_colour(picture, colour):
    return bool((np.abs(picture.astype(int) - colour).max(-1) < 12).sum() > 20)


def on_the_pad(page):
    """What the pad shows, as the model takes it."""
    address = page.evaluate("document.querySelector('#pad canvas').toDataURL()")
    data = base64.b64decode(address.partition(",")[2])
    side = page.evaluate("document.querySelector('#pad canvas').width") // scene_view.PEN_PIXELS
    return scene_view.read_drawing(data, image_size=side, channels=1)


def test_two_strokes_are_counted_as_the_model_counts_them(page, model):
    draw_two(page)
    found = model.infer(on_the_pad(page)[None])
    assert count(page) == found.counts[0] > 0
    shown = re.findall(r"([\d.]+) %", page.inner_text("#results"))
    np.testing.assert_allclose(np.array(shown, float), 100 * found.count_probs[0], atol=0.06)
    assert page.locator("#results .step").count() == count(page)
    assert re.search(r"took [\d.]+ ms", page.inner_text("#results"))


def test_strokes_in_quick_succession_are_all_seen(page, model):
    for _ in range(4):
        clear(page)
        draw(page, *STROKES, ((0.1, 0.9), (0.4, 0.9)), ((0.5, 0.1), (0.9, 0.1)))
        page.wait_for_timeout(1_500)
        probs = 100 * model.infer(on_the_pad(page)[None]).count_probs[0]
        shown = re.findall(r"([\d.]+) %", page.inner_text("#results"))
        np.testing.assert_allclose(np.array(shown, float), probs, atol=0.06)


def test_windows_are_in_colour_where_there_are_objects(page):
    clear(page)
    assert not has_colour(pixels(page, "#results img"), RED)
    draw_two(page)
    shown = pixels(page, "#results img")
    assert has_colour(shown, RED)
    assert has_colour(shown, GREEN) == (count(page) > 1)


def places(page):
    """The chosen object's x, y and side, as the sliders have them."""
    return [page.input_value(f"#{name} input[type=range]") for name in ("x", "y", "side")]


def test_the_sliders_draw_the_scene_again(page):
    draw_two(page)
    inferred = pixels(page, '#changed img[alt*="inferred"]')
    unchanged = pixels(page, '#changed img[alt*="changed"]')
    start = places(page)
    # To whichever end it is not at.
    for name in ("x", "y", "side", "value"):
        low, high, now = page.evaluate(
            "(at => [at.min, at.max, at.value].map(Number))"
            f"(document.querySelector('#{name} input[type=range]'))"
        )
        keys = "Home" if now - low > high - now else "End"
        before = pixels(page, '#changed img[alt*="changed"]')
        source = page.get_attribute('#changed img[alt*="changed"]', "src")
        page.focus(f"#{name} input[type=range]")
        page.keyboard.press(keys)
        page.wait_for_function(
            "old => document.querySelector('#changed img[alt*=\"changed\"]').src !== old",
            arg=source,
        )
        settle(page)
        after = pixels(page, '#changed img[alt*="changed"]')
        assert (before != after).any(-1).mean() > 0.01, name
        np.testing.assert_array_equal(pixels(page, '#changed img[alt*="inferred"]'), inferred)
    page.click("#reset")
    settle(page)
    assert places(page) == start
    np.testing.assert_array_equal(pixels(page, '#changed img[alt*="changed"]'), unchanged)


def test_every_control_is_reached_by_tab(page):
    draw_two(page)
    page.focus("#pad canvas")
    reached = []
    for _ in range(24):
        reached.append(
            page.evaluate(
                "(at => at.ariaLabel || at.closest('#object')?.id || at.id || at.innerText)"
                "(document.activeElement)"
            )
        )
        page.keyboard.press("Tab")
    text = "\n".join(reached)
    for control in ("Drawing pad", "Open a picture", "Width of the pen", "another", "object"):
        assert control in text
    for control in ("x of its centre", "y of its centre", "side of its window", "Its value"):
        assert f"range slider for {control}" in text
    assert "Dimension of z_what" in text and "reset" in text


def test_the_keyboard_draws(page):
    clear(page)
    page.focus("#pad canvas")
    for _ in range(8):
        page.keyboard.press("ArrowLeft")
    assert not on_the_pad(page).any()
    for _ in range(10):
        page.keyboard.press("Shift+ArrowDown")
    page.wait_for_function("document.querySelector('[data-count]')")
    settle(page)
    drawn = on_the_pad(page)
    assert drawn[SIZE // 2 :].sum() > 3 * drawn[: SIZE // 2].sum() > 0
    assert drawn[:, : SIZE // 2].sum() > 9 * drawn[:, SIZE // 2 :].sum()
    page.click("text=Undo")
    settle(page)
    assert not on_the_pad(page).any() and count(page) == 0


def test_another_scene_and_a_picture_come_to_the_pad(page, model, tmp_path):
    clear(page)
    page.click("#another")
    page.wait_for_function(
        "document.querySelector('#pad canvas').getContext('2d')"
        ".getImageData(0, 0, 128, 128).data.some((x, i) => i % 4 < 3 && x)"
    )
    paper = np.full((48, 48), 255, np.uint8)
    paper[12:36, 12:24] = 0
    Image.fromarray(paper).save(tmp_path / "paper.png")
    page.set_input_files("#pad input[type=file]", tmp_path / "paper.png")
    page.wait_for_selector("#message >> text=inverted")
    settle(page)
    shown = on_the_pad(page)
    assert shown[8, 5] > 0.9 and shown[0, 0] == 0
    assert count(page) == model.infer(shown[None]).counts[0]


def test_a_picture_may_be_dropped(page):
    clear(page)
    file = io.BytesIO()
    Image.fromarray(np.full((SIZE, SIZE), 40, np.uint8)).save(file, "PNG")
    page.evaluate(
        """data => {
          const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0));
          const dataTransfer = new DataTransfer();
          dataTransfer.items.add(new File([bytes], 'a.png', {type: 'image/png'}));
          document.querySelector('#pad .surface').dispatchEvent(
            new DragEvent('drop', {dataTransfer, bubbles: true, cancelable: true}));
        }""",
        base64.b64encode(file.getvalue()).decode(),
    )
    page.wait_for_selector("#message >> text=background was set to black")


def test_a_bad_file_is_a_sentence_on_the_page(page, tmp_path):
    draw_two(page)
    before = page.inner_html("#results")
    (tmp_path / "a.png").write_bytes(b"no picture")
    (tmp_path / "b.png").write_bytes(bytes(scene_view.MAX_BYTES + 1))
    for name, sentence in (("a.png", "cannot be read as a picture"), ("b.png", "limit is 10 MB")):
        page.set_input_files("#pad input[type=file]", tmp_path / name)
        page.wait_for_selector(f"#message >> text={sentence}")
        assert "Traceback" not in page.inner_text("body")
    assert page.inner_html("#results") == before
    # It goes away with the next drawing.
    draw(page, STROKES[0])
    page.wait_for_function("!document.querySelector('#message').innerText.includes('limit')")


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_it_fits_the_screen_and_asks_no_other_host(browser, server, viewport):
    page = visit(browser, server, viewport, has_touch=viewport is PHONE)
    draw_two(page)
    width, height = viewport["width"], viewport["height"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.evaluate("scrollTo(0, 0)")
    # The count is seen at once, beside or below the pad.
    box = page.locator("[data-count]").bounding_box()
    assert box["y"] + box["height"] < height
    for image in page.locator("img").all():
        assert image.get_attribute("alt")
    others = [url for url in page.asked if not url.startswith((server, "data:", "blob:"))]
    assert others == [] and page.complaints == []
    page.context.close()


@pytest.mark.skipif(
    not (pretrained.path() / "config.json").is_file(), reason="the package has no model yet"
)
def test_the_packages_model_counts_what_is_drawn(browser):
    with demo_pages.served(demo.load(None)) as (_, address, _):
        page = visit(browser, address)
        for strokes in ((), STROKES[:1], STROKES):
            clear(page)
            draw(page, *strokes)
            page.wait_for_selector(f'[data-count="{len(strokes)}"]')
            settle(page)
            assert count(page) == len(strokes)
        page.context.close()
