"""Chunks of English text that are cut in their own way: contractions, abbreviations, emoticons.

Tokenizers of English agree on most of them, and the published filters count what spaCy's English
tokenizer makes of them; so the choices here (`cannot` is two words, `id` is read as a contraction,
`Mr.` keeps its full stop) are its behaviour. The lists are written from grammar and usage.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

# Stems, and what may follow them: with an apostrophe, and (careless writing) without.
_CONTRACTIONS = (
    ("i", "m m+a"),
    ("i you he she it we they", "ll ll+ve d d+ve"),
    ("i you we they", "ve"),
    ("you we they", "re"),
    ("he she it", "s"),
    ("who what when where why how there that this", "s"),
    ("who what when where why how there that this these those", "ll ll+ve d d+ve"),
    ("who what when where why how there these those", "re ve"),
    ("could might must should would not", "ve"),
)
_NEGATED = "ca could do does did had may might must need ought sha should wo would"
_NEGATED_ALONE = "ai are is was were have has dare"
# What they would make of common words.
_ORDINARY = {"its", "ill", "well", "were", "hell", "shell", "shed", "whore"}
_CUT = "can|not gon|na got|ta"  # in both cases of the first letter
_CUT_AS_WRITTEN = "let|'s Let|'s y'|all y|all c'm|on C'm|on how|'d|'y How|'d|'y"

_WHOLE = (
    "'em em 'll ll 'nuff nuff 's 'S ‘s ‘S 're 'd 'cause 'Cause 'cos 'Cos 'coz 'Coz 'cuz 'Cuz 'bout "
    "and/or w/o ma'am Ma'am o'clock O'clock C++ '' ' \\\") \\t \\n <space> —"
)
_DROPPED_G = "doin goin nothin nuthin somethin lovin havin ol"

_MONTHS = "Jan Feb Mar Apr Jun Jul Aug Sep Sept Oct Nov Dec"
_STATES = (
    "Ak Ala Ariz Ark Calif Colo Conn Del Fla Ga Ia Id Ill Ind Kan Kans Ky La Mass Md Mich Minn "
    "Miss Mo Mont Neb Nebr Nev Okla Ore Pa Tenn Va Wash Wis"
)
_NAMES = "Adm Bros Co Corp Dr Gen Gov Inc Jr Ltd Messrs Mr Mrs Ms Mt Prof Rep Rev Sen St"
_DOTTED = (
    "N.C N.D N.H N.J N.M N.Y S.C D.C Ph.D a.m p.m e.g E.g E.G i.e I.e I.E vs v.s co "
    "a b c d e f g h i j k l m n o p q r s t u v w x y z ä ö ü"
)

_MOUTHS = ") )) ))) ( (( ((( ] } / | P p O o 0 * 3 > X x D"
_FACES = (
    "=) =( =] =[ =/ =| =3 =D (= ]= [= :1 [: (-8 :() :o) (o: >:( >:o xD XD xDD XDD <3 <33 <333 </3 "
    "^_^ ^__^ ^___^ >.< >.> <.< ._. ;_; -_- -__- @_@ (^_^) (-_-) (._.) (>_<) (*_*) ಠ_ಠ"
)


def special_cases() -> dict[str, tuple[str, ...]]:
    """Chunk -> its pieces, which are the chunk when they are joined."""
    cases: dict[str, tuple[str, ...]] = {}
    for pieces in _contractions():
        word = "".join(pieces)
        if word.lower() not in _ORDINARY:
            cases[word] = pieces
    for word in _CUT.split():
        for cut in (word, word.capitalize()):
            cases[cut.replace("|", "")] = tuple(cut.split("|"))
    for cut in _CUT_AS_WRITTEN.split():
        cases[cut.replace("|", "")] = tuple(cut.split("|"))
    for hour, half in product(range(1, 13), ("am", "pm", "a.m.", "p.m.")):
        cases[f"{hour}{half}"] = (str(hour), half)
    for scale in "cfkCFK":
        cases[f"°{scale}."] = ("°", scale, ".")
    whole = [*_WHOLE.split(), *_emoticons()]
    for word in _DROPPED_G.split():
        whole += [f"{start}{end}" for start in (word, word.capitalize()) for end in ("", "'")]
    for names in (_MONTHS, _STATES, _NAMES, _DOTTED):
        whole += [f"{name}." for name in names.split()]
    cases.update((word, (word,)) for word in whole)
    for word, pieces in list(cases.items()):
        cases[_curly(word)] = tuple(map(_curly, pieces))
    return cases


def _curly(word: str) -> str:
    return word.replace("'", "’")


def _contractions() -> Iterator[tuple[str, ...]]:
    endings = [
        (stem, ending) for stems, some in _CONTRACTIONS for stem, ending in _pairs(stems, some)
    ]
    for stem, ending in endings:
        parts = ending.split("+")
        for first in (stem, stem.capitalize()):
            # `i'ma` is said with one apostrophe
            yield (first, *("'" + part if part != "a" else part for part in parts))
            yield (first, *parts)
    for stems, longer in ((_NEGATED, True), (_NEGATED_ALONE, False)):
        for stem in stems.split():
            for first in (stem, stem.capitalize()):
                yield from ((first, "n't"), (first, "nt"))
                if longer:
                    yield from ((first, "n't", "'ve"), (first, "nt", "ve"))


def _pairs(stems: str, endings: str) -> Iterator[tuple[str, str]]:
    return product(stems.split(), endings.split())


def _emoticons() -> Iterator[str]:
    """Faces on their side (eyes, nose, mouth, either way round) and upright ones."""
    for nose in ("", "-"):
        yield from (f":{nose}{mouth}" for mouth in _MOUTHS.split())
        yield from (f"{mouth}{nose}:" for mouth in "()[")
        yield from (f";{nose}{mouth}" for mouth in ")D")
        yield from (f":'{nose}{mouth}" for mouth in ")(")
        yield from (f"8{nose}{mouth}" for mouth in ")D")
        yield f"({nose};"
    yield from (f"{eye}{mouth}{eye}" for eye in "vV" for mouth in "._")
    for left, right, mouth in product("oO0", "oO0", "._"):
        if (left, right) not in {("O", "0"), ("0", "O")}:
            yield f"{left}{mouth}{right}"
    yield from _FACES.split()
