"""What is put into a page stays what it is: text."""

import json
from html.parser import HTMLParser

import pytest

from air_jax.markup import Markup, data, element, join, script

NASTY = """" onload="alert(0)</script><script>alert(1)</script><img src=x onerror="alert('2')">&"""


class Read(HTMLParser):
    """Tags, attributes and text of a page, as a browser takes them apart."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_text_and_attributes_are_read_back_as_they_were():
    read = Read(element("p", NASTY, 3, None, title=NASTY, class_="a", aria_label="b"))
    assert read.tags == [("p", {"title": NASTY, "class": "a", "aria-label": "b"})]
    assert read.text == NASTY + "3"


def test_markup_stands_as_it_is():
    inner = join(element("b", "1"), "<2>")
    assert (
        element("p", inner, hidden=True, id=None, lang=False) == "<p hidden><b>1</b>&lt;2&gt;</p>"
    )
    assert element("img", alt="x") == '<img alt="x">'


def test_markup_that_text_is_added_to_is_text_again():
    assert element("p", Markup("<b>") + "<i>") == "<p>&lt;b&gt;&lt;i&gt;</p>"


def test_data_is_one_script_and_read_back_as_it_was():
    content = {NASTY: [NASTY, 1.5, None]}
    text = data(content, "it")
    read = Read(text)
    assert read.tags == [("script", {"type": "application/json", "id": "it"})]
    assert json.loads(read.text) == content


@pytest.mark.parametrize("code", ["x = '</SCRIPT>'", "y = '<!--'"])
def test_a_script_that_would_end_early_is_refused(code):
    with pytest.raises(ValueError, match="a script must hold neither"):
        script(code)
