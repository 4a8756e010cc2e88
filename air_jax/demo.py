"""A page where a person draws a scene and sees what a trained model makes of it.

    python -m air_jax.demo --checkpoint runs/dair

Opens a page on this machine (`pip install ".[demo]"`): draw digits or shapes, drop a picture or
take another scene, and see the count, the windows, what each step read and drew; then move an
object or walk through its code, and see the scene drawn again. Without `--checkpoint` the page has
the model that comes with the package. Nothing is sent anywhere else.
"""

import argparse
import functools
import ipaddress
import logging
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from air_jax import demo_html, demo_pad, kinds, pretrained, scene_view
from air_jax.charts import plural
from air_jax.checkpoint import CheckpointError
from air_jax.demo_session import VALUES, Handlers, Session
from air_jax.inference import Model
from air_jax.parallel import keep_compiled

# A request holds a picture in base64, and little else.
_MAX_REQUEST = 2 * scene_view.MAX_BYTES
_SESSIONS = 100  # kept at a time; each holds some hundred kilobytes
_WAITING = 16  # events
# Gradio's own way for files, which the page does not use: pictures come with their event.
_UPLOADS = "/gradio_api/upload"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command until it is interrupted; every error is a sentence on standard error.

    Args:
      argv: arguments after the program's name; those of the process if None.

    Returns:
      0 once it was interrupted, 1 if it could not start.

    Raises:
      SystemExit: with code 2 if the arguments are wrong.
    """
    options = _parse(argv)
    logging.getLogger("jax").setLevel(logging.ERROR)  # the search for accelerators is verbose
    keep_compiled()
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        return _fail(f"the page needs Gradio ({error}): pip install '.[demo]'")
    try:
        model = load(options.checkpoint, options.num_steps)
        page, address = launch(model, host=options.host, port=options.port)
    except (ValueError, OSError, CheckpointError) as error:
        return _fail(str(error))
    print(f"the page is at {address} (Ctrl-C ends it)", flush=True)
    if not _is_loopback(options.host):
        print(f"everybody who reaches {options.host} can use it", flush=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        page.close(verbose=False)
    return 0


def load(checkpoint: Path | None, num_steps: int | None = None) -> Model:
    """Loads a model for the page, and lets it and the drawing of its scenes be compiled.

    Args:
      checkpoint: workdir of a run, or its folder `model`; that of the package if None.
      num_steps: see `scene_view.with_num_steps`.

    Raises:
      CheckpointError: if there is no model, or one of another kind.
      ValueError: if the model cannot take so many steps.
    """
    folder = pretrained.path() if checkpoint is None else checkpoint
    model = kinds.load(folder)
    if not isinstance(model, Model):
        raise CheckpointError(
            f"the model in {folder} is {model.config['model']!r}; the page shows those of AIR and "
            "DAIR in two dimensions."
        )
    model = scene_view.with_num_steps(model, num_steps)
    # Otherwise every look would bring the parameters to the device again.
    model = model._replace(params=jax.tree.map(jax.numpy.asarray, model.params))
    scene = model.air.scene
    view = scene_view.look(model, np.zeros((scene.image_size, scene.image_size, scene.channels)))
    scene_view.draw(model, view.z_where, view.z_what, 0)
    scene_view.influence(model, view.z_what[0])
    scene_view.walk(model, view.z_what[0], 0, np.array(VALUES))
    return model


def launch(model: Model, *, host: str, port: int | None) -> tuple[Any, str]:
    """Serves the page, and returns at once.

    Args:
      model: from `load`.
      host: address to listen at.
      port: the first free one from 7860 if None.

    Returns:
      The page, a `gradio.Blocks`, and its address.

    Raises:
      OSError: if the port is taken or the address is not this machine's.
    """
    import gradio
    from starlette.middleware import Middleware

    page = build(model).queue(max_size=_WAITING)
    font = [gradio.themes.Font("system-ui"), gradio.themes.Font("sans-serif")]
    mono = [gradio.themes.Font("ui-monospace"), gradio.themes.Font("monospace")]
    theme = gradio.themes.Default(primary_hue="blue", font=font, font_mono=mono).set(
        # Gradio's own is too pale to be read.
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
    )
    options: dict[str, Any] = dict(
        server_name=host,
        server_port=port,
        theme=theme,
        css=demo_html.STYLE,
        prevent_thread_lock=True,
        quiet=True,
        # Each of these the environment could turn on.
        share=False,
        inbrowser=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
        ssr_mode=False,
        run_history=False,
        footer_links=[],
        max_file_size=scene_view.MAX_BYTES,
        state_session_capacity=_SESSIONS,
        app_kwargs={"middleware": [Middleware(_LimitedRequests)]},
    )
    try:
        _, address, _ = page.launch(**options)
    except OSError as error:
        where = host if port is None else f"{host}, port {port}"
        raise OSError(
            f"cannot listen at {where}: the port is taken, or the address is not this machine's. "
            "Give another --port or --host."
        ) from error
    return page, address


def build(model: Model) -> Any:
    """The page, a `gradio.Blocks`.

    Args:
      model: from `load`.
    """
    import gradio as gr

    scene = model.air.scene
    size = scene.image_size
    variant = model.config["inference"]["variant"].upper()
    description = (
        f"{variant}, {size}x{size} pixels, up to {plural(model.air.num_steps, 'step')}, "
        f"z_what with {plural(scene.z_what_size, 'dimension')}"
    )
    handlers = Handlers(model)
    with gr.Blocks(title="AIR: what is in the picture?", analytics_enabled=False) as page:
        session = gr.State(None, time_to_live=3600)
        gr.HTML(demo_html.heading(description))
        with gr.Row():
            with gr.Column(scale=4, min_width=300):
                pad = gr.HTML(
                    None,
                    html_template=demo_pad.html(size, scene.channels),
                    css_template=demo_pad.STYLE,
                    js_on_load=demo_pad.SCRIPT,
                    elem_id="pad",
                    apply_default_css=False,
                )
                another = gr.Button("Another scene", elem_id="another", variant="primary")
                said = gr.HTML(demo_html.message(""), elem_id="message", apply_default_css=False)
            with gr.Column(scale=9, min_width=320):
                results = gr.HTML("", elem_id="results", apply_default_css=False)
        with gr.Row():
            with gr.Column(scale=4, min_width=300, elem_id="controls"):
                chosen = gr.Radio([], label="Object", elem_id="object")
                places = [
                    gr.Slider(low, high, label=label, step=0.5, buttons=[], elem_id=name)
                    for name, label, low, high in (
                        ("x", "x of its centre, pixels", 0, size),
                        ("y", "y of its centre, pixels", 0, size),
                        ("side", "side of its window, pixels", *scene_view.side_limits(size)),
                    )
                ]
                dimension = gr.Dropdown(
                    [], label="Dimension of z_what, the strongest first", elem_id="dimension"
                )
                value = gr.Slider(
                    *(VALUES[0], VALUES[-1]),
                    label="Its value",
                    step=0.1,
                    buttons=[],
                    elem_id="value",
                )
                reset = gr.Button("As it was inferred", elem_id="reset")
            with gr.Column(scale=9, min_width=320):
                changed = gr.HTML("", elem_id="changed", apply_default_css=False)

        controls = [chosen, *places, dimension, value, changed]
        everything = [session, said, pad, results, *controls]
        on: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "always_last"}
        # One at a time: none is slow, and the time that is shown is to be the network's alone.
        on |= {"concurrency_id": "model", "api_visibility": "private"}

        # Gradio finds an event's data by the annotation.
        def drawn(session: Session | None, event: gr.EventData) -> tuple:
            return handlers.drawn(session, event._data)

        def uploaded(session: Session | None, event: gr.EventData) -> tuple:
            return handlers.uploaded(session, event._data)

        # Gradio holds back what comes meanwhile, and then has lost the event's data.
        each = {**on, "trigger_mode": "multiple"}
        pad.input(drawn, [session], everything, **each)
        pad.upload(uploaded, [session], everything, **each)
        another.click(handlers.another, [session], everything, **on)
        page.load(handlers.another, [session], everything, **on)
        chosen.input(handlers.choose, [session, chosen], [session, *controls], **on)
        for axis, slider in enumerate(places):
            move = functools.partial(handlers.move, axis)
            slider.input(move, [session, slider], [session, changed], **on)
        dimension.input(handlers.turn_to, [session, dimension], [session, value, changed], **on)
        value.input(handlers.turn, [session, value], [session, changed], **on)
        reset.click(handlers.reset, [session], [session, *controls], **on)
    return page


class _LimitedRequests:
    """Refuses files, and bodies that are longer than a picture may make them, unread."""

    def __init__(self, app: Any):
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        length = dict(scope.get("headers", ())).get(b"content-length", b"0")
        chunked = b"transfer-encoding" in dict(scope.get("headers", ()))
        if chunked or not length.isdigit() or int(length) > _MAX_REQUEST:
            await send({"type": "http.response.start", "status": 413, "headers": []})
            await send({"type": "http.response.body", "body": b"The request is too large."})
            return
        if scope.get("path", "").rstrip("/") == _UPLOADS:
            await send({"type": "http.response.start", "status": 404, "headers": []})
            await send({"type": "http.response.body", "body": b"There is no such page."})
            return
        await self._app(scope, receive, send)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m air_jax.demo",
        description="A page where you draw a scene and see what a trained model makes of it.",
    )
    checkpoint = "workdir of a run, or its folder model (the model that comes with the package)"
    steps = "steps of the network, of which it takes as many as there are objects (at least 6)"
    add = parser.add_argument
    add("--checkpoint", type=Path, metavar="DIR", help=checkpoint)
    add("--num-steps", type=int, metavar="N", help=steps)
    own = "127.0.0.1"
    add("--host", type=_host, default=own, help=f"address to listen at ({own}: this machine only)")
    add("--port", type=_port, help="port to listen at (the first free one from 7860)")
    return parser.parse_args(argv)


def _host(text: str) -> str:
    if ":" in text:
        raise argparse.ArgumentTypeError(f"{text!r}: give a name or an IPv4 address")
    return text


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 65535")
    return int(text)


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
