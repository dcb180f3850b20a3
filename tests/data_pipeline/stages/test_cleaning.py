from __future__ import annotations

import gzip
import random
import time
import unicodedata
from pathlib import Path

import ftfy
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from ftfy.badness import is_bad

from trivium.data_pipeline.errors import InputError
from trivium.data_pipeline.stages import cleaning
from trivium.data_pipeline.stages.cleaning import FixEncoding, HtmlToText, Normalize
from trivium.data_pipeline.stages.stage import Stage, Verdict, batch

SHARED = Path(__file__).parents[4] / "shared" / "data" / "text"
# ftfy with what FixEncoding promises to leave alone switched off
SETTINGS = ftfy.TextFixerConfig(
    unescape_html=False,
    uncurl_quotes=False,
    fix_latin_ligatures=False,
    fix_character_width=False,
    fix_line_breaks=False,
    remove_control_chars=False,
)
PAGE = """<!DOCTYPE html>
<html><head><title>T</title><style>p {color: red}</style><script>var x = "<p>no</p>";</script>
</head><body><nav><a href="/">Home</a> <a href="/a">About</a></nav>
<main><h1>Tides</h1><p>The tide follows the moon.</p><p>It turns twice a day.</p></main>
<footer>Copyright</footer></body></html>"""


def real_texts(name: str, count: int, chars: int = 3000) -> list[str]:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"no {path.name}: real texts come with the data folder beside the repository")
    with gzip.open(path) as lines:
        texts = [orjson.loads(line)["text"] for line in lines]
    return [text[:chars] for text in random.Random(3).sample(texts, count)]


def one(stage: Stage, text: str) -> str:
    return str(stage(batch([text])).documents.column("text")[0].as_py())


def texts_of(verdict: Verdict) -> list[str]:
    return verdict.documents.column("text").to_pylist()


def test_the_main_content_of_a_page_with_its_paragraphs() -> None:
    text = one(HtmlToText(), PAGE)
    assert "The tide follows the moon.\n\nIt turns twice a day." in text
    for left_out in ("Home", "Copyright", "var x", "color", "<"):
        assert left_out not in text


def test_without_main_content_the_navigation_stays() -> None:
    assert "Home" in one(HtmlToText(main_content=False), PAGE)


@pytest.mark.parametrize(
    "start",
    ["", "\ufeff", " \n\t", '<?xml version="1.0"?>\n', "<!-- a - b -- c -->\n<!---->"],
)
@pytest.mark.parametrize("element", ["<!doctype HTML>", "<HTML lang=en>", "<head>", "<body\n>"])
def test_what_looks_like_a_page(start: str, element: str) -> None:
    page = f"{start}{element}<p>Just a sentence.</p>"
    assert one(HtmlToText(), page).strip() == "Just a sentence."


@pytest.mark.parametrize(
    "text",
    [
        '<p align="center">\n# A README\n</p>\n\nwith much text',
        "In HTML a page starts with <html> and <body>.",
        "<htmlish>",
        "if a <b and c> d",
        "<?php echo '<html>' ?>",
        "",
        "\x00",
    ],
)
def test_what_is_no_page_stays(text: str) -> None:
    verdict = HtmlToText()(batch([text]))
    assert texts_of(verdict) == [text]
    assert verdict.changed == 0
    assert verdict.reasons.to_pylist() == [None]


def test_the_column_mime_names_pages_too() -> None:
    fragment = "<div><p>One.</p><p>Two.</p></div>"
    mimes = ["text/html; charset=utf-8", "APPLICATION/xhtml+xml", "text/html5", "text/plain", None]
    verdict = HtmlToText()(batch([{"text": fragment, "mime": mime} for mime in mimes]))
    assert texts_of(verdict) == ["One.\n\nTwo."] * 2 + [fragment] * 3
    assert verdict.changed == 2


def test_a_page_without_text_is_dropped() -> None:
    verdict = HtmlToText()(batch(["<html><body><script>x()</script></body></html>", PAGE]))
    assert verdict.reasons.to_pylist() == ["HTML without text", None]


@pytest.mark.parametrize("ends", ["", "</div>" * 30_000])
def test_deep_nesting_does_not_hang(ends: str) -> None:
    begun = time.monotonic()
    verdict = HtmlToText()(batch(["<html>" + "<div>" * 30_000 + "x" + ends]))
    assert verdict.reasons.to_pylist() == ["HTML nested too deeply"]
    assert time.monotonic() - begun < 2


def test_a_long_flat_page_is_not_nested() -> None:
    page = "<html><body><main>" + "<p>A line of words<br>and <b>more</b>." * 5000
    verdict = HtmlToText()(batch([page]))
    assert verdict.reasons.null_count == 1
    assert texts_of(verdict)[0].count("A line of words") == 5000


def test_max_depth_is_checked() -> None:
    with pytest.raises(InputError, match="max_depth 0: 1 or more"):
        HtmlToText(max_depth=0)


def test_mojibake_is_repaired_and_meaning_left_alone() -> None:
    for text in ("naïve café – “déjà vu”", "größer als Übermut", "Привет, как дела?"):
        assert one(FixEncoding(), text.encode().decode("latin-1")) == text
    left_alone = "x &lt; y &amp;&amp; “q” ‘s’ ﬁ ＡＢＣ\r\n１２３、\x0c if (a<b) {…}"
    assert one(FixEncoding(), left_alone) == left_alone
    assert one(FixEncoding(), "e\u0301") == "é"
    assert one(FixEncoding(), "\x1b[31mred\x1b[0m") == "red"
    assert one(FixEncoding(remove_terminal_escapes=False), "\x1b[31mr") == "\x1b[31mr"


def test_repair_equals_ftfy_on_real_and_broken_texts() -> None:
    rng = random.Random(11)
    given = real_texts("tldr_39_languages.jsonl.gz", 400, 600)
    for _ in range(400):
        text = rng.choice(given[:400])
        codec = rng.choice(["latin-1", "windows-1252", "windows-1251", "macroman", "cp437"])
        start = rng.randrange(len(text))
        part = text[start : start + 60].encode().decode(codec, "replace")
        given.append(text[:start] + part + text[start + 60 :])
    given += ["first\nÃ la carte", "Â \n", "l'œ"]
    verdict = FixEncoding()(batch(given))
    expected = [ftfy.fix_text(text, SETTINGS) for text in given]
    assert texts_of(verdict) == expected
    assert verdict.changed == sum(a != b for a, b in zip(given, expected, strict=True)) > 100


def test_the_detector_runs_in_re2_and_misses_nothing() -> None:
    pattern = cleaning._damage_pattern()
    assert pattern != r"[^\x00-\x7f]"
    rng = random.Random(9)
    odd = [chr(n) for n in [*range(0x80, 0x180), *range(0x390, 0x460), *range(0x2010, 0x2600)]]
    texts = ["".join(rng.choices(odd + [*" aZ\n\t."] * 90, k=9)) for _ in range(30_000)]
    found = pc.match_substring_regex(pa.array(texts), pattern).to_pylist()
    bad = [bool(is_bad(text)) for text in texts]
    assert sum(bad) > 500
    assert not any(b and not f for b, f in zip(bad, found, strict=True))
    assert sum(found) < 1.2 * sum(bad)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\r\nb\rc\nd", "a\nb\nc\nd"),
        ("a\x0cb\x0bc\x85d\u2028e\u2029f", "a\nb\nc\nd\ne\nf"),
        ("\x00a\x00b\x07\x1b\x7f\x9f", "ab"),
        ("\ufeffa\ufeffb", "ab"),
        ("co\xadoperate\u2060", "cooperate"),
        ("a\tb", "a\tb"),
        ("a   b  c", "a b c"),
        ("def f():\n    return  1", "def f():\n    return 1"),
        ("    indented first line", "    indented first line"),
        ("a  \nb\t \n\u3000\nc", "a\nb\n\nc"),
        ("a\n\n\n\n\nb", "a\n\nb"),
        ("a\n \n\t\n  \nb", "a\n\nb"),
        ("\n\n a\n\n", " a"),
        ("a\xa0b \xa0 c", "a\xa0b c"),
        ("na\u200bme wo\u200crd \u200dx", "name word x"),  # watermarks in Latin
        ("می\u200cخواهم", "می\u200cخواهم"),  # Persian
        ("क्\u200dष र्\u200cक", "क्\u200dष र्\u200cक"),  # Devanagari
        ("👨\u200d👩\u200d👧 ❤️\u200d🔥 👩🏽\u200d💻", "👨\u200d👩\u200d👧 ❤️\u200d🔥 👩🏽\u200d💻"),
        ("ភាសា\u200bខ្មែរ", "ភាសា\u200bខ្មែរ"),  # Khmer word boundary
        ("中\u200b文", "中文"),
        ("\u200fשלום", "\u200fשלום"),  # direction marks order what is read
    ],
)
def test_normal_form(text: str, expected: str) -> None:
    assert one(Normalize(), text) == expected


def test_what_is_left_empty_is_dropped() -> None:
    given = ["\x00\u200b \n", "", "\u3000\n\n\xa0", "x"]
    verdict = Normalize()(batch(given))
    assert verdict.reasons.to_pylist() == ["no text"] * 3 + [None]
    assert verdict.changed == 2


def test_normal_form_holds_on_random_texts() -> None:
    rng = random.Random(5)
    alphabet = [*"ab Zé中क्می👩", " ", "  ", "\n", "\n\n", "\r", "\t", "\xa0", "\u200b", "\u200c"]
    alphabet += ["\u200d", "\ufeff", "\x00", "\x1b", "\x85", "\u3000", "\ufe0f", "ខ", "\xad"]
    given = ["".join(rng.choices(alphabet, k=rng.randrange(40))) for _ in range(1500)]
    verdict = Normalize()(batch(given))
    once = texts_of(verdict)
    assert texts_of(Normalize()(verdict.documents)) == once
    for before, after in zip(given, once, strict=True):
        assert not any(unicodedata.category(c) == "Cc" and c not in "\n\t" for c in after)
        assert not after.startswith("\n")
        assert not after.endswith(("\n", " ", "\t"))
        assert "\n\n\n" not in after
        visible = [c for c in before if c in "abZé中कमی👩ខ"]
        assert [c for c in after if c in "abZé中कमی👩ខ"] == visible


@pytest.mark.parametrize("stage", [HtmlToText(), FixEncoding(), Normalize()])
def test_every_stage_takes_any_batch(stage: Stage) -> None:
    empty = stage(batch([]))
    assert len(empty.documents) == len(empty.reasons) == empty.changed == 0
    huge = "<html> \x00é\u200d Ã©" * 20_000
    rows = batch(["", "\x00", huge, PAGE] * 2)
    chunked = pa.concat_tables([rows.slice(1, 3), rows.slice(0, 4)])
    assert chunked.column("text").num_chunks == 2
    begun = time.monotonic()
    verdict = stage(chunked.drop_columns([]))
    assert time.monotonic() - begun < 20
    assert len(verdict.documents) == len(verdict.reasons) == 7
    assert verdict.documents.schema.field("text").type == pa.large_string()
    assert texts_of(verdict)[:2] == texts_of(stage(rows.slice(1, 2)))
    assert verdict.documents.column("id").to_pylist() == chunked.column("id").to_pylist()


def test_a_table_of_contents_is_content_where_the_page_says_so():
    links = "".join(
        f"<li><a href='{n}.html'>Chapter {n}: on {n} things</a></li>" for n in range(60)
    )
    menu = "".join(f"<li><a href='m{n}'>menu {n}</a></li>" for n in range(30))
    page = (
        "<html><head><title>t</title></head><body>"
        f"<nav><ul>{menu}</ul></nav>"
        f"<{{}}><h1>Contents</h1><p>Of this book.</p><ul>{links}</ul></{{}}>"
        "<footer>imprint</footer></body></html>"
    )
    marked = page.format("main", "main")
    by_role = page.format("div role='main'", "div")
    for html in (marked, by_role):
        (text,) = HtmlToText()(batch([html])).documents.column("text").to_pylist()
        assert "Chapter 59: on 59 things" in text
        assert "menu 3" not in text
        assert "imprint" not in text
