"""Makes documents with personal values planted at known places, and scores a redaction of them.

An independent examination of the stage `pii`: sentences, formats and traps of the first two files
in `pii_held_out` were written before the filters were read. The filters were tuned on `tuning`;
`held_out` shares neither sentence nor format with it, nor does any later file with those before it.
Values come from `pii_held_out_values`.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.data_pipeline.stages.pii_held_out_values import draw

FIELD = re.compile(r"\{([a-z0-9_]+|[dmnhHlUukawbs]\d*)(?::([^{}|]*))?(?:\|([^{}]*))?\}")
MARK = re.compile(r"⟦(\w+)(?::([^⟧]*))?⟧")
FOLDER = Path(__file__).with_name("pii_held_out")


@dataclass(frozen=True, kw_only=True)
class Planted:
    """One planted value: `text[start:stop]` of its document."""

    kind: str
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class Labelled:
    text: str
    planted: tuple[Planted, ...]


@dataclass(frozen=True, kw_only=True)
class Score:
    """Counts of one kind: planted values, those found, replacements, and those that were right."""

    planted: int
    found: int
    replaced: int
    right: int

    @property
    def recall(self) -> float:
        return self.found / self.planted if self.planted else 1.0

    @property
    def precision(self) -> float:
        return self.right / self.replaced if self.replaced else 1.0


class Half:
    """The sentences, formats and choices of one file."""

    def __init__(self, name: str) -> None:
        self.choices: dict[str, list[str]] = {}
        self.formats: dict[str, list[str]] = {}
        self.filler: dict[str, list[str]] = defaultdict(list)
        self.sentences: dict[str, list[tuple[str, str]]] = defaultdict(list)  # by first kind, or ""
        section = ""
        for line in (FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines():
            if line.startswith("== "):
                section = line[3:]
            elif not line or not section:
                continue
            elif section.startswith("choice "):
                self.choices[section[7:]] = line.split()
            elif section.startswith("format "):
                self.formats.setdefault(section[7:], []).append(line)
            elif section == "filler":
                language, text = line.split(" ", 1)
                self.filler[language].append(text)
            else:
                mark = MARK.search(line)
                kind = mark[1] if mark else ""
                self.sentences[kind].append((section, line.replace("\\n", "\n")))

    @property
    def kinds(self) -> list[str]:
        return sorted(filter(None, self.sentences))

    def _fill(self, pattern: str, random: Random) -> str:
        def field(match: re.Match[str]) -> str:
            name, argument, groups = match[1], match[2] or "", match[3]
            if name in self.choices:
                return random.choice(self.choices[name])
            return regroup(draw(random, name, argument), groups)

        return FIELD.sub(field, pattern)

    def line(self, sentence: str, random: Random) -> tuple[str, list[Planted]]:
        """The sentence with its fields drawn, and where its planted values lie."""
        text, planted, last = "", [], 0
        for mark in MARK.finditer(sentence):
            text += self._fill(sentence[last : mark.start()], random)
            pattern = mark[2] or random.choice(self.formats[mark[1]])
            value = self._fill(pattern, random)
            planted.append(Planted(kind=mark[1], start=len(text), stop=len(text) + len(value)))
            text, last = text + value, mark.end()
        return text + self._fill(sentence[last:], random), planted

    def documents(self, seed: int, lines_per_kind: int) -> list[Labelled]:
        """`lines_per_kind` sentences of each kind and as many traps as planted values, shuffled."""
        random = Random(seed)
        lines: dict[str, list[tuple[str, list[Planted]]]] = defaultdict(list)

        def add(kind: str) -> int:
            language, sentence = random.choice(self.sentences[kind])
            drawn = self.line(sentence, random)
            lines[language].append(drawn)
            return len(drawn[1])

        count = sum(add(kind) for kind in self.kinds for _ in range(lines_per_kind))
        for _ in range(count):
            add("")
        documents = []
        for language, drawn in lines.items():
            drawn += [(random.choice(self.filler[language]), []) for _ in range(len(drawn) // 6)]
            random.shuffle(drawn)
            while drawn:
                size = random.randint(4, 12)
                joint = " " if language != "code" and random.random() < 0.25 else "\n"
                documents.append(join(drawn[:size], joint))
                del drawn[:size]
        return documents


def regroup(value: str, groups: str | None) -> str:
    """`value` cut as `groups` says: sizes and separators by turns (`3-2-4`), the last repeated.

    `~` stands for a no-break space.
    """
    if groups is None:
        return value
    parts = re.findall(r"(\d+)(\D*)", groups.replace("~", "\N{NO-BREAK SPACE}"))
    text, size, separator = "", 0, ""
    for index in range(len(value)):
        if not value:
            break
        if index < len(parts):
            size, separator = int(parts[index][0]), parts[index][1]
        text, value = text + value[:size] + separator, value[size:]
    return text if text.endswith(")") else text.rstrip(" \N{NO-BREAK SPACE}-.")


def join(lines: list[tuple[str, list[Planted]]], joint: str) -> Labelled:
    """One document of `lines`, its spans moved to match."""
    text, planted = "", []
    for line, spans in lines:
        text += joint if text else ""
        planted += [
            Planted(kind=s.kind, start=s.start + len(text), stop=s.stop + len(text)) for s in spans
        ]
        text += line
    return Labelled(text=text, planted=tuple(planted))


def replacements(before: str, after: str, tokens: Mapping[str, str]) -> list[tuple[int, int, str]]:
    """`(start, stop, token)` of what each token in `after` took the place of in `before`."""
    parts = re.split("(" + "|".join(map(re.escape, tokens)) + ")", after)
    gap = r"(-----BEGIN [\s\S]*?-----END [^\n]+?-----|[^\n]+?)"  # only a PEM block has many lines
    match = re.fullmatch(gap.join(map(re.escape, parts[::2])), before)
    assert match, f"not a redaction of the text: {after[:200]!r}"
    return [(*match.span(index), tokens[token]) for index, token in enumerate(parts[1::2], start=1)]


def score(
    documents: list[Labelled],
    redacted: list[str],
    tokens: Mapping[str, str],
    group: Mapping[str, str],
    failures: list[tuple[str, str, str]] | None = None,
) -> dict[str, Score]:
    """Precision and recall by kind of planted value.

    `tokens` maps each replacement to its group, `group` each kind to its. A value is found if
    replacements of its group took every letter and digit of it. A replacement is right if it
    touches a planted value of its group, else it counts against every kind of the group. `failures`
    collects (what, value or replaced text, line).
    """
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for document, after in zip(documents, redacted, strict=True):
        text = document.text
        taken = replacements(text, after, tokens)

        def note(kind: str, start: int, stop: int, text: str = text) -> None:
            if failures is not None:
                low, high = text.rfind("\n", 0, start) + 1, text.find("\n", stop)
                failures.append((kind, text[start:stop], text[low : high if high > 0 else None]))

        for one in document.planted:
            own = [t for t in taken if t[2] == group[one.kind]]
            left = [
                i
                for i in range(one.start, one.stop)
                if text[i].isalnum() and not any(a <= i < b for a, b, _ in own)
            ]
            counts[one.kind][0] += 1
            counts[one.kind][1] += not left
            if left:
                note(f"missed {one.kind}", one.start, one.stop)
        for start, stop, name in taken:
            touched = {p.kind for p in document.planted if p.start < stop and start < p.stop}
            right = {kind for kind in touched if group[kind] == name}
            for kind in right or {kind for kind in group if group[kind] == name}:
                counts[kind][2] += 1
                counts[kind][3] += bool(right)
            if not right:
                note(f"wrongly {name}", start, stop)
    return {k: Score(planted=a, found=b, replaced=c, right=d) for k, (a, b, c, d) in counts.items()}
