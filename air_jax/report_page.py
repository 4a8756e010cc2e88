"""A report as one HTML page, from plain data. It asks for nothing from elsewhere."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from air_jax import report_charts
from air_jax.markup import Markup, data, element, join, script
from air_jax.report_style import DRAW, STYLE
from air_jax.report_tables import (
    confusion,
    differences,
    entries,
    final_figures,
    numbers,
    policy,
    scrolling,
    table,
)


class Picture(NamedTuple):
    """A picture in the page.

    Attributes:
      png: the bytes of a PNG file.
      alt: what it shows, in words, for whoever does not see it.
      caption: a sentence below it, of a picture that stands alone.
    """

    png: bytes
    alt: str
    caption: str = ""


class Case(NamedTuple):
    """What a model made of one scene.

    Attributes:
      title: which scene it is.
      pictures: the image with windows, the reconstruction.
      facts: names and values, to be read below the pictures.
      wrong: whether it is a failure.
    """

    title: str
    pictures: tuple[Picture, ...]
    facts: tuple[tuple[str, str], ...]
    wrong: bool


class Steps(NamedTuple):
    """What the steps of the object loop do, as a table.

    Attributes:
      caption: of the table.
      header: names of the columns.
      rows: one for each step.
    """

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Looked(NamedTuple):
    """What a model made of test scenes.

    Attributes:
      summary: how many scenes, of what, in a sentence.
      examples: the first few scenes.
      failures: scenes that it failed at, or explains worst, the lowest ELBO first.
      failures_summary: what they are, and how many there are, in a sentence.
      worst: of the other scenes those that it explains worst, likewise.
      confusion: numbers of scenes `[true, inferred]`; None where either is unknown.
      overview: several scenes in one picture, if there is one.
      steps: what each step's objects are like; None without objects.
      heat_map: where each step looks, or puts its objects; None without objects.
      policy: what `scan_policy.scan_policy` gives; None where nothing is known of the objects.
    """

    summary: str
    examples: tuple[Case, ...] = ()
    failures: tuple[Case, ...] = ()
    failures_summary: str = ""
    worst: tuple[Case, ...] = ()
    confusion: Sequence[Sequence[int]] | None = None
    overview: Picture | None = None
    steps: Steps | None = None
    heat_map: Picture | None = None
    policy: Mapping[str, Any] | None = None


class Run(NamedTuple):
    """What a report says of one run.

    Attributes:
      name: of the run, unlike any other's in the report.
      kind: of its model.
      notes: what is missing or odd, in sentences.
      config: `{"section.key": value}`.
      versions: of its last start: commit, packages, devices, likewise.
      scalars: entries of `metrics.jsonl`.
      evaluation: `evaluation.json`; empty where the run has none.
      timeline: reconstructions as training went on.
      looked: what its model made of test scenes; None where it has none.
    """

    name: str
    kind: str
    notes: tuple[str, ...]
    config: Mapping[str, Any]
    versions: Mapping[str, Any]
    scalars: Sequence[Mapping[str, Any]]
    evaluation: Mapping[str, Any]
    timeline: Picture | None
    looked: Looked | None


_SECTIONS = {
    "results": "Results",
    "curves": "Curves",
    "scenes": "Scenes",
    "policy": "Scan policy",
    "failures": "Failures",
    "config": "Config and versions",
}


def page(runs: Sequence[Run], written: str, plotly: str) -> str:
    """The whole page.

    Args:
      runs: at least one.
      written: when and with what, in a sentence.
      plotly: its JavaScript.

    Returns:
      HTML. Its policy allows the scripts that are in it, and no request.
    """
    charts: list[report_charts.Chart] = []
    several = len(runs) > 1
    parts = [_comparison(runs, charts)] if several else []
    for i, run in enumerate(runs):
        links = _links(f"Contents of {run.name}", _parts(f"run-{i}")) if several else None
        parts.append(_run(run, f"run-{i}", links, charts))
    title = "Runs compared" if several else f"Report: {runs[0].name}"
    header = element(
        "header",
        element("h1", title),
        element("p", written, class_="quiet"),
        _contents(runs),
    )
    noscript = element(
        "noscript",
        element("p", "The curves need JavaScript; all else is here without.", class_="note"),
    )
    drawn = [report_charts.as_plotly(chart) for chart in charts]
    body = element("body", header, noscript, element("main", *parts), data(drawn, "charts"))
    codes = [plotly, DRAW]
    scripts = join(*map(script, codes))
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_policy(codes)),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", f"{title} (air_jax)"),
        element("style", Markup(STYLE)),
    )
    # Scripts last: what is to be read is there while they load.
    whole = Markup(body.removesuffix("</body>") + scripts + "</body>")
    return "<!DOCTYPE html>\n" + element("html", head, whole, lang="en") + "\n"


def _policy(codes: Sequence[str]) -> str:
    """Lets these scripts run, pictures of the page itself be shown, and nothing be fetched."""
    digests = [base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() for code in codes]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _contents(runs: Sequence[Run]) -> Markup:
    if len(runs) == 1:
        return _links("Contents", _parts("run-0"))
    links = {"comparison": "Comparison"} | {f"run-{i}": run.name for i, run in enumerate(runs)}
    return _links("Contents", links)


def _parts(place: str) -> dict[str, str]:
    return {f"{place}-{name}": title for name, title in _SECTIONS.items()}


def _links(label: str, links: Mapping[str, str]) -> Markup:
    items = [element("li", element("a", text, href=f"#{place}")) for place, text in links.items()]
    return element("nav", element("ul", *items), aria_label=label)


def _comparison(runs: Sequence[Run], charts: list[report_charts.Chart]) -> Markup:
    names = [run.name for run in runs]
    digests = {str(run.evaluation["data"].get("digest")) for run in runs if _has_data(run)}
    warning = None
    if len(digests) > 1:
        warning = element(
            "p",
            "These runs were evaluated on different data: their figures cannot be compared as "
            "they are.",
            class_="note",
        )
    return element(
        "section",
        element("h2", "Comparison"),
        element("h3", "Final figures"),
        warning,
        final_figures(names, [(run.evaluation, run.scalars) for run in runs]),
        element("h3", "Curves over one another"),
        _charts(report_charts.of_runs([(run.name, run.scalars) for run in runs]), charts),
        element("h3", "Where the configs differ"),
        differences(names, [run.config for run in runs], "The configs are the same."),
        element("h3", "Where the versions differ"),
        differences(names, [run.versions for run in runs], "The versions are the same."),
        id="comparison",
    )


def _has_data(run: Run) -> bool:
    return isinstance(run.evaluation.get("data"), Mapping)


def _run(run: Run, place: str, links: Markup | None, charts: list[report_charts.Chart]) -> Markup:
    looked = run.looked
    matrix = run.evaluation.get("confusion_matrix")
    source = "over all test scenes of the evaluation"
    if matrix is None and looked is not None and looked.confusion is not None:
        matrix, source = looked.confusion, f"over {looked.summary}"
    results = [
        numbers(run.evaluation) if run.evaluation else None,
        confusion(matrix, source) if matrix else None,
    ]
    drawn = report_charts.of_run(run.scalars)

    def heading(part: str) -> Markup:
        return element("h3", _SECTIONS[part], id=f"{place}-{part}")

    return element(
        "section",
        element("h2", run.name),
        element("p", run.kind),
        links,
        *(element("p", note, class_="note") for note in run.notes),
        heading("results"),
        *results if any(results) else [element("p", "There is no evaluation yet.")],
        heading("curves"),
        _charts(drawn, charts) if drawn else element("p", "Nothing was logged yet."),
        heading("scenes"),
        *_scenes(run),
        heading("policy"),
        *_scan_policy(looked),
        heading("failures"),
        *_failures(looked),
        heading("config"),
        entries("Config", run.config),
        entries("Versions", run.versions),
        id=place,
    )


def _charts(new: Sequence[report_charts.Chart], charts: list[report_charts.Chart]) -> Markup:
    """Places for charts, which are drawn by their number on the page."""
    figures = []
    for chart in new:
        unit = f", {chart.unit}" if chart.unit else ""
        described = f"{chart.title}{unit} over training steps"
        figures.append(
            element(
                "figure",
                element("figcaption", f"{chart.title}{unit}"),
                element(
                    "div", class_="chart", id=f"chart-{len(charts)}", role="img",
                    aria_label=described,
                ),
            )
        )  # fmt: skip
        charts.append(chart)
    return element("div", *figures, class_="charts")


def _scenes(run: Run) -> list[Markup | None]:
    looked = run.looked
    parts: list[Markup | None] = []
    if looked is not None and looked.examples:
        parts.append(element("p", f"The first of {looked.summary}."))
        parts.append(_cases(looked.examples))
    if looked is not None and looked.overview is not None:
        parts.append(_wide(looked.overview))
    if looked is not None and looked.steps is not None:
        parts.append(table(*looked.steps))
    if run.timeline is not None:
        parts.append(_wide(run.timeline))
    return parts or [element("p", "There is nothing to show.")]


def _scan_policy(looked: Looked | None) -> list[Markup | None]:
    if looked is None or looked.heat_map is None:
        return [element("p", "There are no objects to show.")]
    return [_wide(looked.heat_map), policy(looked.policy) if looked.policy else None]


def _failures(looked: Looked | None) -> list[Markup | None]:
    if looked is None:
        return [element("p", "No scene was looked at.")]
    parts = [element("p", looked.failures_summary), _cases(looked.failures)]
    if looked.worst:
        parts.append(element("p", "Of the others, those with the lowest ELBO:"))
        parts.append(_cases(looked.worst))
    return parts


def _wide(picture: Picture) -> Markup:
    """A picture that scrolls where it would be too small to be read."""
    shown = scrolling(element("div", _image(picture), class_="wide"), picture.alt)
    return element("figure", shown, element("figcaption", picture.caption))


def _cases(cases: Sequence[Case]) -> Markup | None:
    if not cases:
        return None
    return element("ul", *map(_case, cases), class_="cases")


def _case(case: Case) -> Markup:
    facts = [join(element("dt", name), element("dd", value)) for name, value in case.facts]
    return element(
        "li",
        element("h4", case.title),
        element("div", *map(_image, case.pictures), class_="pair"),
        element("dl", *facts),
        class_="wrong" if case.wrong else None,
    )


def _image(picture: Picture) -> Markup:
    encoded = base64.b64encode(picture.png).decode()
    return element("img", src=f"data:image/png;base64,{encoded}", alt=picture.alt)
