"""The tables of a report, as HTML."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from air_jax.charts import plural
from air_jax.markup import Markup, element, join
from air_jax.provenance import flatten

_SHARES = ("accuracy", "share_")
# What an evaluation measures, the most important first; another name is shown as it is.
_MEASURES = {
    "step": "training steps",
    "num_images": "test images",
    "not_finite_at": "not finite at step",
    "count_accuracy": "count accuracy",
    "average_precision_50": "average precision at IoU 0.5",
    "mean_iou": "mean IoU of matches",
    "share_matched": "objects matched",
    "elbo": "ELBO, nats per image",
    "iwae_100": "IWAE-100, nats per image",
    "elbo_iwae_images": "ELBO of the images of the IWAE bound",
    "iwae_num_images": "images of the IWAE bound",
    "log_p_x": "log p(x | z), nats",
    "kl": "KL of z, nats",
    "kl_what": "KL of z_what, nats",
    "kl_where": "KL of z_where, nats",
    "log_p_pres": "log p(z_pres), nats",
    "log_q_pres": "log q(z_pres), nats",
    "seconds": "wall time, s",
}
_FEATURES = {
    "position": "position in the image",
    "relative_position": "position relative to the others",
    "class": "class",
    "class_pair": "class, and the other's",
    "size": "size",
    "relative_size": "size relative to the others",
}
_PER_COUNT = "count_accuracy_per_count."
_LAST = "last validation: "


def show(value: Any, name: str = "") -> str:
    """A value as text: numbers rounded, shares in percent.

    Args:
      value: JSON-able.
      name: of what is measured, by which shares are known.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "—"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    if any(share in name for share in _SHARES):
        return f"{100 * value:.2f} %"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.2f}" if abs(value) >= 10 else f"{value:.4g}"


def table(
    caption: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    aligned: bool = True,
) -> Markup:
    """A table that scrolls where the page is too narrow for it.

    Args:
      caption: of the table.
      header: of the columns; the first is that of the rows' names.
      rows: as long as the header.
      aligned: whether all but the names are numbers, which stand to the right.
    """
    number = "number" if aligned else None
    head = [
        element("th", text, scope="col", class_=number if i else None)
        for i, text in enumerate(header)
    ]
    body = [
        element(
            "tr",
            element("th", name, scope="row"),
            *(element("td", value, class_=number) for value in values),
        )
        for name, *values in rows
    ]
    whole = element(
        "table",
        element("caption", caption),
        element("thead", element("tr", *head)),
        element("tbody", *body),
    )
    return scrolling(whole, caption)


def scrolling(content: Markup, label: str) -> Markup:
    """What may be wider than the page, reachable by the keyboard."""
    return element("div", content, class_="scroll", tabindex="0", role="region", aria_label=label)


def numbers(evaluation: Mapping[str, Any]) -> Markup:
    """What a run's evaluation measured.

    Args:
      evaluation: as in `evaluation.json`.
    """
    flat = _measured(evaluation)
    rows = [(_label(name), show(flat[name], name)) for name in _ordered(flat)]
    return table("The evaluation on the test set", ("measure", "value"), rows)


def final_figures(
    names: Sequence[str],
    runs: Sequence[tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]],
) -> Markup:
    """What several runs came to, side by side.

    Args:
      names: of the runs.
      runs: evaluation and scalars of each.
    """
    columns = [_measured(evaluation) | _last(scalars) for evaluation, scalars in runs]
    measures = _ordered({name: None for column in columns for name in column})
    rows = [
        (_label(name), *(show(column.get(name), name) for column in columns)) for name in measures
    ]
    return table("Evaluation, and the last validation", ("measure", *names), rows)


def differences(names: Sequence[str], columns: Sequence[Mapping[str, Any]], same: str) -> Markup:
    """The entries in which runs differ.

    Args:
      names: of the runs.
      columns: `{"section.key": value}` of each.
      same: what to say if there is none.
    """
    keys = sorted({key for column in columns for key in column})
    rows = []
    for key in keys:
        values = [show(column[key]) if key in column else "(not there)" for column in columns]
        if len(set(values)) > 1:
            rows.append((key, *values))
    if not rows:
        return element("p", same)
    return table("Entries that differ", ("entry", *names), rows, aligned=False)


def entries(title: str, flat: Mapping[str, Any]) -> Markup:
    """All entries of a config or a record, folded.

    Args:
      title: what they are.
      flat: `{"section.key": value}`.
    """
    rows = [(key, show(value)) for key, value in flat.items()]
    summary = element("summary", f"{title}: {len(rows)} entries")
    return element("details", summary, table(title, ("entry", "value"), rows, aligned=False))


def confusion(matrix: Sequence[Sequence[int]], source: str) -> Markup:
    """Confusion matrix of counts: images, and their share of the true count.

    Args:
      matrix: numbers of images, `[true, inferred]`.
      source: of which images.
    """
    rows = []
    for true, row in enumerate(matrix):
        cells = []
        for images in row:
            share = images / max(sum(row), 1)
            colour = "#fff" if share > 0.75 else "#222"
            style = f"background: rgb(11 90 148 / {share:.3f}); color: {colour}"
            percent = element("span", f"({100 * share:.1f} %)", class_="share")
            text = join(f"{images:,} ", percent) if images else "0"
            cells.append(element("td", text, style=style))
        rows.append(element("tr", element("th", f"{true} true", scope="row"), *cells))
    head = [element("th", f"{n} found", scope="col") for n in range(len(matrix))]
    caption = f"Count confusion: true and inferred number of objects, {source}"
    whole = element(
        "table",
        element("caption", caption),
        element("thead", element("tr", element("td"), *head)),
        element("tbody", *rows),
        class_="confusion",
    )
    return scrolling(whole, caption)


def policy(found: Mapping[str, Any]) -> Markup:
    """What decides which object is attended first.

    Args:
      found: what `scan_policy.scan_policy` gives.
    """
    rows = [
        (
            _FEATURES.get(name, name),
            f"{100 * told['fraction']:z.1f} %",
            f"{100 * told['null_95']:.1f} %",
            f"{told['p_value']:.2g}",
        )
        for name, told in found["features"].items()
        if told is not None
    ]
    scenes = plural(found["num_scenes"], "scene")
    if not rows:
        return element("p", f"What decides the order cannot be told from {scenes}.")
    caption = (
        f"How much of the order is told by each feature, over {scenes} of "
        f"{found['num_objects']} objects that were understood as they are: 100 % where it "
        "decides, about 0 % by chance"
    )
    return table(caption, ("feature", "told", "95 % of chance", "p-value"), rows)


def _measured(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of an evaluation; lists, such as the confusion matrix, are shown elsewhere."""
    return {
        name: value for name, value in flatten(evaluation).items() if not isinstance(value, list)
    }


def _last(scalars: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The last validation, of which a run that is not finished has one too."""
    validations = [entry for entry in scalars if entry["split"] == "validation"]
    if not validations:
        return {}
    last = validations[-1]
    return {_LAST + name: last[name] for name in ("step", "elbo", "count_accuracy") if name in last}


def _ordered(flat: Mapping[str, Any]) -> list[str]:
    order = {name: place for place, name in enumerate(_MEASURES)}
    return sorted(flat, key=lambda name: (name.startswith(_LAST), order.get(name, len(order))))


def _label(name: str) -> str:
    if name.startswith(_LAST):
        return _LAST + _label(name.removeprefix(_LAST))
    if name.startswith(_PER_COUNT):
        return f"count accuracy, n = {name.removeprefix(_PER_COUNT)}"
    return _MEASURES.get(name, name)
