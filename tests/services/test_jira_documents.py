"""Jira's document format and its wiki markup: what we write is valid, what people write is read."""

from __future__ import annotations

import re
from importlib.resources import files

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft4Validator  # type: ignore[import-untyped]

from nightcrew.adapters.boards.jira import adf, wiki

ADF = files("nightcrew.testing.company").joinpath("schemas", "adf.json").read_bytes()
SCHEMA = Draft4Validator(msgspec.json.decode(ADF))
MARKDOWN = """\
# Why

**nightcrew**: see [this](https://x.example/1), `code` and https://x.example/2.

1. one
2. two
   - in
   - it

- a
- b

```py
a = "**1**"

b = 2
```

The
end"""


def test_our_markdown_becomes_a_document_and_comes_back_as_it_was() -> None:
    document = adf.document(MARKDOWN)
    assert [node["type"] for node in document["content"]] == [
        "heading", "paragraph", "orderedList", "bulletList", "codeBlock", "paragraph"]  # fmt: skip
    assert SCHEMA.is_valid(document)
    assert adf.text(document) == MARKDOWN


lines = st.lists(st.one_of(st.text(max_size=20), st.sampled_from(
    ["- a", "  - b", "1. c", "```", "", "# d", "**e [f](http://g) h**", "`i`", "* - 1) # j", "   ```x", "http://", "**"]
)), max_size=12)  # fmt: skip


@pytest.mark.slow
@settings(deadline=None)
@given(lines)
def test_whatever_is_written_is_a_document_that_atlassian_takes(some: list[str]) -> None:
    document = adf.document("\n".join(some))
    assert [error.message for error in SCHEMA.iter_errors(document)] == []
    assert isinstance(adf.text(document), str)


def node(kind: str, *content: object, **attrs: object) -> dict[str, object]:
    return {"type": kind, "content": list(content)} | ({"attrs": attrs} if attrs else {})


def words(text: str, *marks: str) -> dict[str, object]:
    return {"type": "text", "text": text, "marks": [{"type": mark} for mark in marks]}


def row(*cells: str) -> dict[str, object]:
    return node("tableRow", *(node("tableCell", node("paragraph", words(cell))) for cell in cells))


@pytest.mark.parametrize(("said", "text"), [
    (node("heading", words("Why"), level=2), "## Why"), (node("heading", words("Why"), level="x"), "# Why"),
    (node("codeBlock", words("a\n\nb"), language="py"), "```py\na\n\nb\n```"),
    (node("paragraph", words("a"), {"type": "hardBreak"}, words("b", "em"), words("c", "strike")), "a\n*b*~~c~~"),
    (node("paragraph", node("mention", id="5b1", text="@Ada"), words(" hi")), "@Ada hi"),
    (node("paragraph", node("mention", id="me"), words(" stop")), "@nightcrew stop"),
    (node("paragraph", node("emoji", shortName=":tada:"), node("status", text="LATER")), ":tada:[LATER]"),
    (node("paragraph", node("date", timestamp="1582152559000"), node("inlineCard", url="u")), "2020-02-19u"),
    (node("panel", node("paragraph", words("note")), node("paragraph", words("two"))), "> note\n>\n> two"),
    (node("taskList", node("taskItem", words("a"), state="DONE"), node("taskItem", words("b"))), "- [x] a\n- [ ] b"),
    (node("orderedList", node("listItem", node("paragraph", words("c"))), order=9), "9. c"),
    (node("table", row("a", "b"), row("c", "d")), "| a | b |\n| c | d |"), (node("rule"), "---"),
    (node("expand", node("paragraph", words("inside")), title="More"), "More\n\ninside"),
    (node("mediaSingle", node("media", id="1", alt="shot.png")), "(shot.png)"),
    (node("futureThing", node("paragraph", words("a")), node("other", words("b"))), "a\n\nb"),
    ({"type": "paragraph", "content": "odd"}, ""), (node("paragraph", None, 7, "x"), ""),
    (node("bulletList", None), "- "), ({"type": "text"}, ""),
])  # fmt: skip
def test_what_people_write_reads_as_text(said: dict[str, object], text: str) -> None:
    document = {"version": 1, "type": "doc", "content": [said]}
    assert adf.text(document, {"me": "nightcrew"}) == text.strip()


json = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner) | (
    st.fixed_dictionaries({"type": st.sampled_from(["doc", "text", *adf.BLOCKS, *adf.INLINES])}, optional={
        "content": inner, "attrs": inner, "text": inner, "marks": inner})), max_leaves=12)  # fmt: skip


@settings(deadline=None)
@given(json)
def test_garbage_is_read_as_text_and_never_raises(garbage: object) -> None:
    assert isinstance(adf.text(garbage), str)


def test_no_depth_is_too_deep() -> None:
    deep: dict[str, object] = words("bottom")
    for _ in range(5000):
        deep = node("blockquote", deep)
    assert "bottom" not in adf.text(deep)
    assert adf.text(adf.document("- " * 60 + "bottom")).endswith("bottom")


@pytest.mark.parametrize(("markdown", "markup"), [
    ("**a** `b` [c](https://d.example/)", "*a* {{b}} [c|https://d.example/]"),
    ("[~ada] {code} !x.png! a|b", "\\[\u200b~ada] \\{code} \\!x.png\\! a\\|b"),
    ("## Why", "h2. Why"), ("- a\n- b", "- a\n- b"),
    ("```py\n{a} [b]\n```", "{noformat}\n{a} [b]\n{noformat}"),
    ("```\n{noformat}", "{noformat}\n(noformat)\n{noformat}"),
    ("see https://x.example/a{b}", "see https://x.example/a%7Bb}"),
    ("[a](https://x.example/]!https://y.example/p.png!{toc})", "[a|https://x.example/%5D%21https://y.example/p.png%21%7Btoc}]"),
    ("a\\{toc} `\\\\!x!`", "a\\\u200b\\{toc} {{\\\\\u200b\\!x\\!}}"),
    ("```\n{noformat:nopanel=true} !x!\n```", "{noformat}\n(noformat:nopanel=true) !x!\n{noformat}"),
])  # fmt: skip
def test_our_markdown_in_wiki_markup_is_what_it_was_and_commands_nothing(markdown: str, markup: str) -> None:
    assert wiki.markup(markdown) == markup


@pytest.mark.parametrize("said", [
    "[~ada]", "a[@ada] b", "`[~ada]`", "```\n[~ada]\n```", "**[~accountid:5b10]**", "\\[~ada]", "[[~ada]]",
    "[~ada](https://x.example/)",
])  # fmt: skip
def test_no_mention_is_left_for_jira_that_looks_for_them_behind_backslashes_and_in_code_too(said: str) -> None:
    assert re.findall(r"\[[~@][^\\,|]+?\]", wiki.markup(said)) == []
    assert "ada" in wiki.markup(said) or "5b10" in wiki.markup(said)
