"""What is planted is found, at the length of an n-gram and not below, and nothing else is."""

from __future__ import annotations

import gzip
import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
import zstandard

from tests.data_pipeline.stages.quality_texts import TEXTS, real_texts
from trivium.data_pipeline.errors import InputError
from trivium.data_pipeline.stages.decontaminate import Decontaminate
from trivium.data_pipeline.stages.evaluation_sets import read_evaluation_sets
from trivium.data_pipeline.stages.stage import batch

QUESTION = (
    "Janet sells the eggs her ducks lay each morning at the market, and bakes muffins with four; "
    "how much does she earn in a week of rain?"
)
AROUND = "Some words before it stand here, {} while others follow."


def lines(path: Path, *records: Any) -> str:
    path.write_text("\n".join(map(json.dumps, records)))
    return str(path)


def reasons(stage: Decontaminate, texts: Sequence[str]) -> list[str | None]:
    found = stage(batch(texts)).reasons.to_pylist()
    assert stage(batch(texts[::-1])).reasons.to_pylist()[::-1] == found
    return found


def hit(stage: Decontaminate, text: str) -> bool:
    [reason] = reasons(stage, [text])
    return reason is not None


@pytest.fixture
def asked(tmp_path: Path) -> Decontaminate:
    return Decontaminate(paths=(lines(tmp_path / "ducks.jsonl", {"id": "1", "q": QUESTION}),))


def test_an_ngram_is_found_and_a_shorter_run_is_not(asked):
    words = QUESTION.split()
    for first in range(len(words) - 12):
        assert hit(asked, AROUND.format(" ".join(words[first : first + 13])))
        assert not hit(asked, AROUND.format(" ".join(words[first : first + 12])))


def test_case_punctuation_and_white_space_do_not_hide(asked):
    part = " ".join(QUESTION.split()[:13])
    assert part.endswith("market, and")
    for edited in (
        part.upper(),
        part.replace(" ", "\n\t "),
        part.replace(" ", " -- "),
        part.replace("market,", "»market« ..."),
        f"({part})",
        part.replace("ducks", "du(c)ks"),
    ):
        assert hit(asked, AROUND.format(edited)), edited
    assert not hit(asked, AROUND.format(part.replace("ducks", "geese")))


def test_the_reason_names_the_first_file_that_is_hit(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    other = "one two three four five six seven eight nine"
    paths = (
        lines(tmp_path / "a" / "test.jsonl", {"q": QUESTION}),
        lines(tmp_path / "b" / "test.jsonl", {"q": other}),
        lines(tmp_path / "third.jsonl", {"q": QUESTION + " Why?"}, {"q": other + " ten"}),
    )
    stage = Decontaminate(paths=paths)
    texts = [other, QUESTION + " Why?", f"{other} ten {QUESTION}", f"{other} ten", "other"]
    assert reasons(stage, texts) == [
        "contains evaluation text: b/test.jsonl",
        "contains evaluation text: a/test.jsonl",
        "contains evaluation text: a/test.jsonl",
        "contains evaluation text: b/test.jsonl",
        None,
    ]
    only_ten = [f"{other} ten".removeprefix("one ")]
    assert reasons(stage, only_ten) == [None]  # nine of the words of a text that has ten


def test_short_texts_are_found_whole_and_the_shortest_not_at_all(tmp_path):
    eight, seven = "what gas do most plants take in daily", "what gas do most plants take in"
    stage = Decontaminate(paths=(lines(tmp_path / "x.jsonl", {"q": eight}, {"q": seven}),))
    assert hit(stage, AROUND.format(eight.title()))
    assert not hit(stage, AROUND.format(seven))
    [file] = stage.index().files
    assert (file.records, file.too_short, file.runs) == (2, 1, 1)


def test_a_template_does_not_hide_a_short_question(tmp_path):
    records = [
        {"q": f"Question: {' '.join(f'w{n}x{k}' for k in range(8))}?\nAnswer:"} for n in range(20)
    ]
    plain = " ".join(f"w7x{k}" for k in range(8))
    stage = Decontaminate(paths=(lines(tmp_path / "x.jsonl", *records),))
    assert hit(stage, AROUND.format(plain))
    # what is left of a text without its template may be too short: then it stays whole
    shorter = [{"q": record["q"].replace(" w7x7", "")} for record in records]
    stage = Decontaminate(paths=(lines(tmp_path / "shorter.jsonl", *shorter),))
    assert hit(stage, AROUND.format(records[6]["q"].replace("Question", "")))
    assert not hit(stage, AROUND.format(plain.removesuffix(" w7x7")))
    assert hit(stage, AROUND.format(f"Question: {plain.removesuffix(' w7x7')} Answer:"))
    few = Decontaminate(paths=(lines(tmp_path / "few.jsonl", *records[:19]),))
    assert not hit(few, AROUND.format(plain))
    assert hit(few, AROUND.format(f"Question: {plain} Answer:"))


def test_one_text_in_every_record_is_no_template(tmp_path):
    same = {"q": "which of these words is the odd one out"}
    stage = Decontaminate(paths=(lines(tmp_path / "x.jsonl", *[same] * 30),))
    assert hit(stage, AROUND.format(same["q"]))
    path = lines(tmp_path / "long.jsonl", *[{"q": QUESTION}] * 30)
    most = Decontaminate(paths=(path,), min_covered_fraction=0.9)
    assert hit(most, QUESTION)
    assert not hit(most, " ".join(QUESTION.split()[:15]))


CHINESE = "小明在市场上卖鸭蛋每天早晨收集十六个早餐吃掉三个其余按两元一个卖出问他每周收入多少"


def test_scripts_without_spaces_by_letters(tmp_path):
    stage = Decontaminate(paths=(lines(tmp_path / "zh.jsonl", {"q": CHINESE + "？"}),))
    for first in range(len(CHINESE) - 19):
        part = CHINESE[first : first + 20]
        assert hit(stage, f"据说{part[:7]}，{part[7:]}。")
        assert not hit(stage, f"据说{part[:7]}，{part[7:-1]}。")


def test_a_mixed_ngram_is_the_shortest_run_that_comes_to_one(tmp_path):
    text = "安装 the Debian 系统 with apt 之后请 reboot the machine 并检查 kernel 是否正确"
    stage = Decontaminate(paths=(lines(tmp_path / "mixed.jsonl", {"q": text}),))
    parts = re.findall(r"[a-zA-Z]+|[^\sa-zA-Z]", text)
    counts = [20 if part.isascii() else 13 for part in parts]
    last = next(n for n in range(len(parts)) if sum(counts[: n + 1]) >= 260)
    assert hit(stage, f"foo {' '.join(parts[: last + 1])} bar")
    assert not hit(stage, f"foo {' '.join(parts[:last])} bar")


def units(text: str) -> list[str]:
    """Words in lower case without punctuation; Han letters are words."""
    found = []
    for word in text.lower().split():
        for part in re.findall(r"[\u4e00-\u9fff]|[^\u4e00-\u9fff]+", word):
            found.append("".join(c for c in part if c.isalnum()))
    return [unit for unit in found if unit]


def runs(text: str, ngram: int, letters: int, words: int, characters: int) -> set[tuple[str, ...]]:
    """The n-grams of a text, or itself: the rule again, in Python."""
    whole = units(text)
    is_letter = ["\u4e00" <= unit <= "\u9fff" for unit in whole]
    found = set()
    for first in range(len(whole)):
        total = 0
        for last in range(first, len(whole)):
            total += ngram if is_letter[last] else letters
            if total >= ngram * letters:
                found.add(tuple(whole[first : last + 1]))
                break
    short = sum(words if letter else characters for letter in is_letter) >= words * characters
    if not found and short:
        found.add(tuple(whole))
    return {
        run
        for run in found
        if 2 * len({unit for unit in run if any(c.isalpha() for c in unit)}) >= len(run)
    }


def contains(text: list[str], wanted: set[tuple[str, ...]]) -> bool:
    sizes = {len(run) for run in wanted}
    return any(
        tuple(text[at : at + size]) in wanted
        for size in sizes
        for at in range(len(text) - size + 1)
    )


@pytest.mark.parametrize("shape", [(5, 7, 3, 4), (4, 4, 4, 4), (6, 3, 2, 2)])
def test_decisions_are_those_of_a_plain_search(tmp_path, shape):
    ngram, letters, words, characters = shape
    chance = random.Random(sum(shape))
    vocabulary = [
        "Of",
        "cat",
        "dog's",
        "run",
        "42",
        "7",
        "...",
        "don't",
        "中",
        "文，",
        "中文。",
        "-",
    ]

    def text(size: int) -> str:
        return " ".join(chance.choices(vocabulary, k=chance.randrange(1, size)))

    items = [text(14) for _ in range(50)]
    wanted = set().union(*(runs(item, *shape) for item in items))
    stage = Decontaminate(
        paths=(lines(tmp_path / "x.jsonl", *({"t": item} for item in items)),),
        ngram=ngram,
        characters=letters,
        min_words=words,
        min_characters=characters,
    )
    documents = [text(40) for _ in range(400)]
    expected = [contains(units(one), wanted) for one in documents]
    assert 20 < sum(expected) < 380
    assert [reason is not None for reason in reasons(stage, documents)] == expected


def test_runs_of_numbers_and_repeated_words_name_no_text(tmp_path):
    table = " ".join(map(str, range(40)))
    path = lines(tmp_path / "x.jsonl", {"q": QUESTION, "table": table, "a": "no " * 30})
    stage = Decontaminate(paths=(path,))
    assert not hit(stage, table)
    assert not hit(stage, "no " * 99)
    [file] = stage.index().files
    assert file.ignored == 40 - 12 + 1


def test_ngrams_of_many_texts_can_be_ignored(tmp_path):
    formula = "for all of these tasks write a function in the language that you like best"
    tasks = [{"q": f"{formula} which gives item {n} of row x{n}"} for n in range(4)]
    path = lines(tmp_path / "x.jsonl", *tasks, tasks[0], tasks[0])
    loose = Decontaminate(paths=(path,), max_texts=3)
    assert hit(Decontaminate(paths=(path,)), formula)
    assert not hit(loose, formula)
    assert hit(loose, tasks[0]["q"])  # its end is in one text only, however often that is there
    assert hit(Decontaminate(paths=(path,), max_texts=4), formula)


def test_a_part_of_a_text_can_be_asked_for(tmp_path):
    words = [f"w{n}x" for n in range(40)]
    path = lines(tmp_path / "x.jsonl", {"q": " ".join(words)}, {"q": QUESTION})
    half = Decontaminate(paths=(path,), ngram=8, min_covered_fraction=0.5)
    assert hit(half, " ".join([*words[:10], "stop", *words[20:30]]))  # ten and ten of forty
    assert not hit(half, " ".join([*words[:10], "stop", *words[20:29]]))
    assert not hit(half, " ".join([*words[:10], "stop", *words[5:15]]))  # five are there twice
    again = lines(tmp_path / "y.jsonl", {"q": "and " + " ".join(words[:10])})
    both = Decontaminate(paths=(path, again), ngram=8, min_covered_fraction=0.5)
    assert reasons(both, [" ".join(words[:10])]) == ["contains evaluation text: y.jsonl"]


@pytest.mark.parametrize("fraction", [0.3, 0.8, 1.0])
def test_parts_of_texts_are_those_of_a_plain_search(tmp_path, fraction):
    chance = random.Random(2)
    items = [chance.choices("abcdefghij", k=chance.randrange(4, 15)) for _ in range(50)]
    stage = Decontaminate(
        paths=(lines(tmp_path / "x.jsonl", *({"t": " ".join(item)} for item in items)),),
        ngram=4,
        min_words=3,
        min_covered_fraction=fraction,
    )
    documents = [chance.choices("abcdefghij", k=chance.randrange(5, 60)) for _ in range(100)]
    documents += [*items[:10], *(item[:-1] for item in items)]

    def share(document: list[str], item: list[str]) -> float:
        found = {
            place
            for first in range(len(item) - 3)
            if len(set(item[first : first + 4])) >= 2
            and contains(document, {tuple(item[first : first + 4])})
            for place in range(first, first + 4)
        }
        return len(found) / len(item)

    expected = [max(share(one, item) for item in items) >= fraction for one in documents]
    assert any(expected)
    assert not all(expected)
    texts = [" ".join(document) for document in documents]
    assert [reason is not None for reason in reasons(stage, texts)] == expected


def test_a_batch_of_nothing(asked):
    assert reasons(asked, []) == []
    assert reasons(asked, ["", " \n", "..."]) == [None] * 3


def test_nested_fields_and_keys(tmp_path):
    ending = "pulls the last of the tiles off the roof and throws it into the garden"
    record = {
        "question": {"stem": QUESTION, "choices": [{"text": ending, "label": "A"}]},
        "note": "a long remark of the makers that nobody has to keep out of any corpus at all",
    }
    path = lines(tmp_path / "x.jsonl", record)
    every = Decontaminate(paths=(path,))
    assert [hit(every, text) for text in (QUESTION, ending, record["note"])] == [True, True, True]
    some = Decontaminate(paths=(path,), keys=("question.choices",))
    assert [hit(some, text) for text in (QUESTION, ending, record["note"])] == [False, True, False]
    whole = Decontaminate(paths=(path,), keys=("question",))
    assert [hit(whole, text) for text in (QUESTION, ending, record["note"])] == [True, True, False]


@pytest.mark.parametrize(
    "name",
    [
        *("x.jsonl", "x.json", "x.jsonl.gz", "x.json.zst", "x.txt", "x.txt.gz", "x.parquet"),
        *("x.csv", "x.csv.gz", "x.tsv"),
    ],
)
def test_every_kind_of_file(tmp_path, name):
    other = "which planet of the sun has the most moons that we know of today"
    records = [{"q": QUESTION}, {"q": other}]
    path = tmp_path / name
    if ".parquet" in name:
        pa.parquet.write_table(pa.table({"r": records, "n": [1, 2]}), path)
    else:
        content = {
            ".jsonl": "\n".join(map(json.dumps, records)),
            ".json": json.dumps(records, indent=1),
            ".txt": f"{QUESTION}\r\n \r\n{other}\n",
            ".csv": f'"{QUESTION}",A\n{other},B\n',
            ".tsv": f"{QUESTION}\tA\n{other}\tB\n",
        }[path.suffixes[0]].encode()
        pack = {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}
        path.write_bytes(pack.get(path.suffix, bytes)(content))
    stage = Decontaminate(paths=(str(path),))
    [file] = stage.index().files
    assert (file.label, file.records, file.too_short) == (name, 2, 0)
    assert hit(stage, AROUND.format(QUESTION))
    assert hit(stage, AROUND.format(other))


def test_a_table_with_a_header(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text(f'id,question,remark\n1,"{QUESTION}",a b c\n')
    [file] = read_evaluation_sets([str(path)], ("question",))
    assert file.records == [[("question", QUESTION)]]


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        ('{"q": "a b"}', {}, "x.jsonl: no text in it is long and special enough"),
        ('{"q": 1}', {}, "x.jsonl: no text"),
        ('{"q": "a"}\n{"r":', {}, "line 2:"),
        ('{"q": "a"}', {"keys": ("r",)}, "no text under r (its fields: q)"),
        ("", {"min_words": 14}, "min_words 14 is above ngram 13"),
        ("", {"characters": 11}, "min_characters 12 is above characters 11"),
        ("", {"min_words": 1}, "min_words 1, min_characters 12: 2 or more"),
        ("", {"max_texts": -1}, "max_texts -1: 0 or more"),
        ("", {"min_covered_fraction": 1.1}, "a fraction, 1 at most"),
    ],
)
def test_what_is_refused(tmp_path, content, settings, message):
    (tmp_path / "x.jsonl").write_text(content)
    with pytest.raises(InputError) as error:
        Decontaminate(paths=(str(tmp_path / "x.jsonl"),), **settings)
    assert message in str(error.value)


@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.json.zst", "x.parquet", "x.html", "no.jsonl"])
def test_damaged_files_are_refused(tmp_path, name):
    path, content = tmp_path / name, json.dumps({"q": QUESTION}).encode()
    if name == "x.jsonl.gz":
        path.write_bytes(gzip.compress(content)[:-9])
    elif name == "x.json.zst":
        path.write_bytes(zstandard.ZstdCompressor().compress(content)[:-3])
    elif name != "no.jsonl":
        path.write_bytes(content)
    with pytest.raises(InputError, match=name):
        Decontaminate(paths=(str(path),))


# --- Real evaluation sets and texts, where this checkout has them beside it -----


@pytest.fixture(scope="module")
def real() -> Decontaminate:
    paths = tuple(str(TEXTS.parent / name) for name in ("eval", "math", "code"))
    for path in paths:
        if not Path(path).is_dir():
            pytest.skip(f"no evaluation sets here: {path} is missing")
    return Decontaminate(paths=paths)


def edited(text: str, chance: random.Random) -> str:
    """`text` as a page may quote it: other case, white space, marks here and there."""
    words = text.split()
    return "".join(
        chance.choice([word, word, word, word.upper(), f"“{word}”", f"{word},"])
        + chance.choice([" ", " ", "\n", "  ", " \u2013 "])
        for word in words
    )


def test_planted_texts_are_found_and_clean_documents_stay(real):
    chance = random.Random(3)
    clean = real_texts("c4_sample.jsonl.gz", 300)
    assert reasons(real, clean) == [None] * len(clean)
    planted = list[str]()
    for file in read_evaluation_sets(real.paths):
        long = [f.text for record in file.records for f in record if len(units(f.text)) >= 15]
        for text in chance.sample(long, min(40, len(long))):
            if not runs(text, 13, 20, 8, 12):
                continue
            words = clean[chance.randrange(len(clean))].split()
            at = chance.randrange(len(words))
            planted.append(" ".join([*words[:at], edited(text, chance), *words[at:]]))
    assert len(planted) > 400
    assert None not in reasons(real, planted)


def test_a_textbook_that_questions_were_made_from_is_found(real):
    """SciQ was written from open textbooks: Welbl et al. 2017, arXiv 1707.06209."""
    found = set(reasons(real, real_texts("openstax_biology_en.jsonl.gz", 300)))
    assert found == {None, "contains evaluation text: sciq.jsonl"}
