"""Lines of use become code on the site."""

import pytest


def test_a_prompt_begins_a_block_of_code_and_an_empty_line_ends_it():
    markdown = pytest.importorskip("markdown")
    text = "Rounds.\n>>> [round(x) for x in y]\n[0.9, 0.2]\n\nAfter [it](a.md).\n\n```\n>>> kept\n```\n\n>>> last\n1"
    html = markdown.markdown(text, extensions=["gramian.atlas.pages.doctests", "fenced_code"])
    assert html.count("<pre>") == 3
    assert "blockquote" not in html
    assert "[0.9, 0.2]" in html
    assert '<a href="a.md">it</a>' in html
    assert html.index("<pre>") < html.index("0.9") < html.index("</pre>") < html.index("After")
