"""HTML by construction: whatever is not markup already is text, and escaped."""

import html
import json
from typing import Any

_VOID = frozenset({"br", "hr", "img", "link", "meta"})


class Markup(str):
    """HTML as it stands. Only this module and constants in the code make it."""


def element(tag: str, *children: Any, **attributes: Any) -> Markup:
    """An element.

    Args:
      tag: its name.
      *children: `Markup` as it stands; None is left out, everything else is text and escaped.
      **attributes: by name, with "_" for "-" and without a last one (`class_`, `aria_label`). None
        and False leave it out, True gives it without a value; all else is escaped.

    Returns:
      `<tag name="value">children</tag>`.
    """
    opening = [tag]
    for name, value in attributes.items():
        name = name.removesuffix("_").replace("_", "-")
        if value is True:
            opening.append(name)
        elif value is not None and value is not False:
            opening.append(f'{name}="{html.escape(str(value))}"')
    if tag in _VOID:
        return Markup(f"<{' '.join(opening)}>")
    return Markup(f"<{' '.join(opening)}>{join(*children)}</{tag}>")


def join(*children: Any) -> Markup:
    """Children of `element` one after the other, without an element around them."""
    return Markup("".join(map(_text, children)))


def script(code: str) -> Markup:
    """JavaScript of our own, or of a package, in the page.

    Raises:
      ValueError: if it holds what ends a script in HTML.
    """
    if "</script" in code.lower() or "<!--" in code:
        raise ValueError("a script must hold neither '</script' nor '<!--'")
    return Markup(f"<script>{code}</script>")


def data(content: Any, identity: str) -> Markup:
    """JSON for a script to read, whatever its strings hold.

    Args:
      content: JSON-able.
      identity: `id` of the element.
    """
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    # In JSON these occur in strings alone, where they may be written as their codes.
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return element("script", Markup(text), type="application/json", id=identity)


def _text(child: Any) -> str:
    if child is None:
        return ""
    return child if isinstance(child, Markup) else html.escape(str(child))
