"""What the demo's page does on each event, and what it keeps of each person at it."""

import base64
import binascii
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from air_jax import demo_html, scene_view
from air_jax.inference import Model
from air_jax.models.spatial_transformer import window_box
from air_jax.scene_view import View

NUM_SCENES = 60
# Of a dimension of z_what, whose prior is N(0, 1).
VALUES = tuple(range(-4, 5))


class Session(NamedTuple):
    """What one person at the page has before them.

    Attributes:
      view: what the model made of the image.
      z_where: `[N, 3]`, as the person has changed them.
      z_what: `[N, D]`, likewise.
      chosen: place of the object that is changed.
      dimension: of its z_what.
      serial: number of pictures that the pad was sent.
    """

    view: View
    z_where: np.ndarray
    z_what: np.ndarray
    chosen: int
    dimension: int
    serial: int


class Handlers:
    """What the page does on each event: a session and what changed to a session and updates.

    Every method returns the values of its outputs, in the order of `build`.
    """

    def __init__(self, model: Model):
        self._model = model
        self._size = model.air.scene.image_size
        self._take = {"image_size": self._size, "channels": model.air.scene.channels}
        scenes = scene_view.example_scenes(model.config, NUM_SCENES, seed=0)
        # The page opens with the fullest.
        fullest = scenes.sum((1, 2, 3)).argmax() if len(scenes) else 0
        self._scenes = np.roll(scenes, -int(fullest), axis=0)

    def drawn(self, session: Session | None, data: Any) -> tuple:
        """A drawing came: `{"picture": data URL}`."""
        return self._show(
            session, lambda: (scene_view.read_drawing(_bytes(data), **self._take), ())
        )

    def uploaded(self, session: Session | None, data: Any) -> tuple:
        """A file came, likewise, or only its `size`, which was too large."""
        return self._show(
            session, lambda: scene_view.read_picture(_bytes(data), **self._take), to_pad=True
        )

    def another(self, session: Session | None) -> tuple:
        """The next of the example scenes was asked for."""
        serial = session.serial if session else 0
        scenes = self._scenes
        if not len(scenes):
            scenes = np.zeros((1, self._size, self._size, self._take["channels"]), np.uint8)
        return self._show(session, lambda: (scenes[serial % len(scenes)], ()), to_pad=True)

    def choose(self, session: Session | None, label: str) -> tuple:
        """Another object is to be changed."""
        if session is None or label not in _labels(session):
            return self._unchanged(session)
        session = session._replace(chosen=_labels(session).index(label))
        return session, *self._controls(self._with_strongest(session))

    def move(self, axis: int, session: Session | None, number: float) -> tuple:
        """The chosen object's x, y or side (axis 0, 1, 2) was set, in pixels."""
        if session is None or not session.view.num_objects or not _is_number(number):
            return session, _nothing(session)
        place = list(scene_view.to_place(session.z_where[session.chosen], self._size))
        place[axis] = number
        x, y, side = place
        # What was inferred may have another size than a slider can set.
        side = float(np.clip(side, *scene_view.side_limits(self._size)))
        z_where = session.z_where.copy()
        z_where[session.chosen] = scene_view.to_z_where(x, y, side, self._size)
        session = session._replace(z_where=z_where)
        return session, self._changed(session)

    def turn_to(self, session: Session | None, label: str) -> tuple:
        """Another dimension of the chosen object's code is to be changed."""
        dimensions = [str(d) for d in range(session.z_what.shape[1])] if session else []
        if session is None or not session.view.num_objects or str(label) not in dimensions:
            return session, _skip(), _nothing(session)
        session = session._replace(dimension=int(label))
        return session, _update(value=_value(session)), self._changed(session)

    def turn(self, session: Session | None, number: float) -> tuple:
        """The chosen dimension was set."""
        if session is None or not session.view.num_objects or not _is_number(number):
            return session, _nothing(session)
        z_what = session.z_what.copy()
        z_what[session.chosen, session.dimension] = number
        session = session._replace(z_what=z_what)
        return session, self._changed(session)

    def reset(self, session: Session | None) -> tuple:
        """The scene is to be again as it was inferred."""
        if session is None:
            return self._unchanged(session)
        view = session.view
        session = session._replace(z_where=view.z_where, z_what=view.z_what)
        return session, *self._controls(session)

    def _show(
        self,
        session: Session | None,
        read: Callable[[], tuple[np.ndarray, tuple[str, ...]]],
        *,
        to_pad: bool = False,
    ) -> tuple:
        try:
            image, notes = read()
            view = scene_view.look(self._model, image)
        except ValueError as error:
            return session, demo_html.message(str(error)), *[_skip()] * 9
        serial = (session.serial if session else 0) + to_pad
        session = Session(view, view.z_where, view.z_what, 0, 0, serial)
        session = self._with_strongest(session)
        pad = {"picture": demo_html.data_url(view.image), "serial": serial}
        text = f"The picture was changed: {'; '.join(notes)}." if notes else ""
        return (
            session,
            demo_html.message(text),
            pad if to_pad else _skip(),
            demo_html.results(view),
            *self._controls(session),
        )

    def _with_strongest(self, session: Session) -> Session:
        """The session with the dimension that changes the chosen object most."""
        return session._replace(dimension=int(self._order(session)[0]))

    def _order(self, session: Session) -> np.ndarray:
        z_what = session.view.z_what[session.chosen]
        return np.argsort(-scene_view.influence(self._model, z_what), kind="stable")

    def _controls(self, session: Session) -> tuple:
        labels = _labels(session)
        if not labels:
            off = [_update(interactive=False)] * 3
            nothing = _update(choices=[], value=None, interactive=False)
            return nothing, *off, nothing, off[0], demo_html.nothing_to_change()
        limits = ((0, self._size), (0, self._size), scene_view.side_limits(self._size))
        place = scene_view.to_place(session.z_where[session.chosen], self._size)
        return (
            _update(choices=labels, value=labels[session.chosen], interactive=True),
            *(
                _update(value=round(float(np.clip(x, *limit)), 1), interactive=True)
                for x, limit in zip(place, limits, strict=True)
            ),
            _update(
                choices=[str(d) for d in self._order(session)],
                value=str(session.dimension),
                interactive=True,
            ),
            _update(value=_value(session), interactive=True),
            self._changed(session),
        )

    def _changed(self, session: Session) -> str:
        view, count = session.view, session.view.num_objects
        code = session.z_what[session.chosen]
        return demo_html.changed(
            view.canvases[count],
            scene_view.draw(self._model, session.z_where, session.z_what, count),
            np.asarray(window_box(session.z_where[:count], self._size)),
            session.z_where[session.chosen],
            scene_view.walk(self._model, code, session.dimension, np.array(VALUES)),
            VALUES,
            float(code[session.dimension]),
        )

    def _unchanged(self, session: Session | None) -> tuple:
        return session, *[_skip()] * 6, _nothing(session)


def _nothing(session: Session | None) -> Any:
    """What the changed scene is to show where nothing was changed."""
    if session is None:
        text = "This page was left for long, and its scene is forgotten: draw, or take another one."
        return demo_html.message(text)
    return _skip()


def _labels(session: Session) -> list[str]:
    return [str(i + 1) for i in range(session.view.num_objects)]


def _is_number(number: Any) -> bool:
    """False while the field beside a slider is empty."""
    return isinstance(number, int | float) and math.isfinite(number)


def _value(session: Session) -> float:
    value = session.z_what[session.chosen, session.dimension]
    return round(float(np.clip(value, VALUES[0], VALUES[-1])), 1)


def _bytes(data: Any) -> bytes:
    """The file in `{"picture": data URL}`; ValueError if there is none."""
    given = data if isinstance(data, dict) else {}
    if isinstance(given.get("size"), int):
        limit = scene_view.MAX_BYTES / 2**20
        raise ValueError(
            f"This file has {given['size'] / 2**20:.1f} MB, and the limit is {limit:.0f} MB: give "
            "a smaller picture."
        )
    try:
        return base64.b64decode(str(given["picture"]).partition(",")[2], validate=True)
    except (KeyError, binascii.Error) as error:
        raise ValueError("No picture came: try it again.") from error


def _update(**changes: Any) -> Any:
    import gradio

    return gradio.update(**changes)


def _skip() -> Any:
    import gradio

    return gradio.skip()
