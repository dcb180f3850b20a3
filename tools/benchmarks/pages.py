"""Web pages whose main content is known: real documents inside the frames that sites put around.

A document (Markdown, or lines of text) is rendered to HTML, and one of six frames is laid around
it: an HTML5 blog, documentation with a table of contents, a news site, a wiki, a layout of tables,
and next to nothing. What a frame says (menus, teasers, related pages) is made of the titles and
sentences of other documents, so it is no fixed phrase. The truth is the text of the rendered
document, read by the standard library's parser. Images are left out: whether the words that stand
for one belong to the text is a matter of taste.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from html import escape
from html.parser import HTMLParser
from typing import NamedTuple

_HEADING = re.compile(r"(?:[^\W\d]+ )?\d+(?:\.\d+)*\.? \S.{0,80}\Z")
_IMAGE = re.compile(r"<img [^>]*>")
_WORD = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]|\w+")
_INLINE = frozenset({"a", "abbr", "b", "cite", "code", "dfn", "em", "i", "kbd", "s", "samp"}) | {
    *("small", "span", "strong", "sub", "sup", "u")
}
_MENU = ("Home", "About", "Products", "Documentation", "Blog", "Community", "Careers", "Contact")
_SMALL = ("Privacy policy", "Terms of use", "Cookies", "Imprint", "Accessibility", "Site map")


class Page(NamedTuple):
    """HTML, the text of its main content, and what kind of page it is."""

    html: str
    content: str
    kind: str


def pages(documents: Sequence[str], markdown: Sequence[bool], seed: int) -> list[Page]:
    """A page for each of `documents`, its frame chosen at random."""
    from markdown_it import MarkdownIt

    render = MarkdownIt("commonmark", {"html": False}).enable("table").render
    chance = random.Random(seed)
    bodies = [
        _IMAGE.sub("", render(text)) if is_markdown else paragraphs(text)
        for text, is_markdown in zip(documents, markdown, strict=True)
    ]
    texts = [text_of(body) for body in bodies]
    teasers = [teaser for text in texts for teaser in _sentences(text)]
    made = []
    for body, text in zip(bodies, texts, strict=True):
        kind = chance.choice(list(FRAMES))
        made.append(Page(FRAMES[kind](_Frame(chance, teasers), body), text, kind))
    return made


def paragraphs(text: str) -> str:
    """Every line a paragraph, or a heading where it is short and begins with a number."""
    parts = []
    for number, line in enumerate(text.splitlines()):
        if line.strip():
            tag = "h1" if number == 0 else "h2" if _HEADING.match(line) else "p"
            parts.append(f"<{tag}>{escape(line.strip())}</{tag}>")
    return "\n".join(parts)


def text_of(fragment: str) -> str:
    """All text of a piece of HTML."""
    reader = _Text()
    reader.feed(fragment)
    reader.close()
    return " ".join(reader.pieces)


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []

    def handle_data(self, data: str) -> None:
        self.pieces.append(data)


def main_of(html: str) -> str:
    """Text of the element whose role is main, as Sphinx marks the content of its pages.

    Empty where there is none. Scripts, styles and the marks that link to headings are left out.
    """
    reader = _Main()
    reader.feed(html)
    reader.close()
    return "".join(reader.pieces).replace("¶", "")


class _Main(HTMLParser):
    """Elements of the name of the main one are counted to find its end."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []
        self.name = ""
        self.depth = 0
        self.ended = False
        self.silent = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if not self.name and ("role", "main") in attrs:
            self.name = tag
        self.depth += tag == self.name and not self.ended
        self.silent = tag in ("script", "style")
        if tag not in _INLINE:
            self.pieces.append("\n" if self.depth else "")

    def handle_endtag(self, tag: str) -> None:
        if tag == self.name and self.depth:
            self.depth -= 1
            self.ended = not self.depth
        self.silent = False
        if tag not in _INLINE:
            self.pieces.append("\n" if self.depth else "")

    def handle_data(self, data: str) -> None:
        if self.depth and not self.silent:
            self.pieces.append(data)


def words(text: str) -> Counter[str]:
    """How often each word is there; a character is a word where a script has no spaces."""
    return Counter(_WORD.findall(text))


def f1(found: Counter[str], truth: Counter[str]) -> float:
    """Harmonic mean of precision and recall of words, each as often as it is there."""
    size = found.total() + truth.total()
    return 2 * (found & truth).total() / size if size else 1.0


def _sentences(text: str) -> list[str]:
    """A few pieces of a text that could stand on another page."""
    lines = [line.strip() for line in re.split(r"[\n.。]", text)]
    return [line[:160] for line in lines if 15 < len(line) < 400][:6]


class _Frame:
    """What goes around a page's content."""

    def __init__(self, chance: random.Random, teasers: Sequence[str]) -> None:
        self.chance = chance
        self.teasers = teasers or ["Something else to read"]

    def teaser(self) -> str:
        return escape(self.chance.choice(self.teasers))

    def link(self, text: str | None = None) -> str:
        label = self.teaser()[: self.chance.randint(12, 60)] if text is None else text
        return f'<a href="/p/{self.chance.randrange(10**6)}.html">{label}</a>'

    def menu(self) -> str:
        names = self.chance.sample(_MENU, self.chance.randint(4, len(_MENU)))
        return "<ul>" + "".join(f"<li>{self.link(name)}</li>" for name in names) + "</ul>"

    def links(self, least: int, most: int) -> str:
        count = self.chance.randint(least, most)
        return "<ul>" + "".join(f"<li>{self.link()}</li>" for _ in range(count)) + "</ul>"

    def small(self) -> str:
        names = self.chance.sample(_SMALL, self.chance.randint(2, len(_SMALL)))
        year = self.chance.randint(2005, 2026)
        parts = [f"&copy; {year} Example Media. All rights reserved.", *map(self.link, names)]
        return " | ".join(parts)

    def head(self) -> str:
        style = "".join(f".c{n} {{ margin: {n}px; float: left }}\n" for n in range(30))
        return (
            f'<meta charset="utf-8"><title>{self.teaser()}</title>\n<style>{style}</style>\n'
            "<script>window.dataLayer = window.dataLayer || []; function gtag() "
            "{ dataLayer.push(arguments) }</script>\n"
            '<script type="application/ld+json">'
            f'{{"@type": "WebPage", "id": "{self.chance.randrange(10**9)}"}}</script>'
        )


def _blog(frame: _Frame, body: str) -> str:
    teasers = "".join(
        f"<li>{frame.link()}<p>{frame.teaser()}</p></li>" for _ in range(frame.chance.randint(2, 5))
    )
    return f"""<!DOCTYPE html>
<html lang="en"><head>{frame.head()}</head><body class="single">
<header class="site-header"><div class="brand">{frame.link("The Notebook")}</div>
<nav class="main-nav">{frame.menu()}</nav></header>
<main><article class="post"><div class="entry-content">
{body}
</div></article></main>
<aside class="sidebar"><h3>Recent posts</h3>{frame.links(4, 9)}<h3>Archive</h3><ul>{teasers}</ul>
</aside><footer class="site-footer"><p>{frame.small()}</p></footer></body></html>"""


def _documentation(frame: _Frame, body: str) -> str:
    return f"""<!DOCTYPE html>
<html><head>{frame.head()}</head><body>
<div class="related" role="navigation"><h3>Navigation</h3>{frame.links(3, 5)}</div>
<div class="document"><div class="documentwrapper"><div class="bodywrapper">
<div class="body" role="main">
{body}
</div></div></div>
<div class="sphinxsidebar" role="navigation"><h3>Table of contents</h3>{frame.links(8, 30)}
<h4>Previous topic</h4><p>{frame.link()}</p><h4>Next topic</h4><p>{frame.link()}</p>
<form class="search" action="/search"><input name="q"><input type="submit" value="Go"></form>
</div></div><div class="footer">{frame.small()} Last updated on Nov 21. Created using a
generator.</div></body></html>"""


def _news(frame: _Frame, body: str) -> str:
    related = "".join(
        f'<div class="teaser"><h4>{frame.link()}</h4><p>{frame.teaser()}</p></div>'
        for _ in range(frame.chance.randint(3, 8))
    )
    return f"""<!DOCTYPE html>
<html lang="en"><head>{frame.head()}</head><body>
<div id="cookie-banner" class="cookie-notice"><p>We use cookies to give you the best experience.</p>
<button>Accept all</button><button>Settings</button></div>
<div id="header" class="header"><div class="logo">{frame.link("Daily Example")}</div>
<div class="navigation">{frame.menu()}</div></div>
<div id="breadcrumbs" class="breadcrumb">{frame.link("Home")} &gt; {frame.link("Science")}</div>
<div id="page"><div class="article-body" id="article">
{body}
</div>
<div class="share-buttons"><span>Share</span> {frame.link("Mail")} {frame.link("Print")}</div>
<div class="newsletter"><h3>Never miss a story</h3><form><input type="email"><button>Subscribe
</button></form></div>
<div class="related-articles"><h3>More on this</h3>{related}</div></div>
<div id="footer" class="footer"><p>{frame.small()}</p>{frame.links(3, 10)}</div></body></html>"""


def _wiki(frame: _Frame, body: str) -> str:
    return f"""<!DOCTYPE html>
<html><head>{frame.head()}</head><body class="mediawiki">
<div id="mw-page-base"></div><div id="content" class="mw-body" role="main">
<div id="bodyContent"><div id="mw-content-text" class="mw-parser-output">
{body}
</div><div id="catlinks" class="catlinks">Categories: {frame.links(2, 6)}</div></div></div>
<div id="mw-navigation"><div id="p-personal"><ul><li>{frame.link("Log in")}</li>
<li>{frame.link("Create account")}</li></ul></div><div id="mw-panel">{frame.menu()}
<h3>Tools</h3>{frame.links(5, 9)}<h3>In other languages</h3>{frame.links(3, 20)}</div></div>
<div id="footer" role="contentinfo"><ul><li>This page was last edited on 21 November, at 11:05.</li>
<li>{frame.small()}</li></ul></div></body></html>"""


def _tables(frame: _Frame, body: str) -> str:
    return f"""<html><head>{frame.head()}</head><body bgcolor="#ffffff">
<table width="100%" border="0" cellpadding="4"><tr><td colspan="2" class="banner" id="top">
<font size="5"><b>{frame.link("Welcome")}</b></font></td></tr>
<tr><td width="18%" valign="top" class="menu" id="nav"><font size="2">{frame.links(6, 14)}</font>
</td><td valign="top" class="content">
{body}
</td></tr><tr><td colspan="2" align="center" class="footer"><font size="1">{frame.small()}</font>
</td></tr></table></body></html>"""


def _bare(frame: _Frame, body: str) -> str:
    return f"""<!DOCTYPE html>
<html><head>{frame.head()}</head><body>
<p class="nav">{frame.link("Back")} {frame.link("Up")} {frame.link("Next")}</p>
{body}
<hr><address class="footer">{frame.small()}</address></body></html>"""


FRAMES = {
    "blog": _blog,
    "documentation": _documentation,
    "news": _news,
    "wiki": _wiki,
    "tables": _tables,
    "bare": _bare,
}
