"""Texts on which two encoders that are meant to be the same are likely to differ.

Every script and kind of character that patterns and normalizers treat specially, short random
mixtures of them (always the same ones), and tokens of the vocabulary that are more than a word.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

_TEXTS = (
    "",
    " ",
    "\n",
    "\n\n\t  indented\r\n\r\n   \n x",
    "  two leading, two trailing  ",
    "it's we'll I'VE don’t ’tis 'tis ''quoted'' `code` rock 'n' roll X's",
    "naïve Ünïcödé Straße ŁÓDŹ ﬁ ǆ ŉ e\u0301 \u00e9 a\u0308\u0323 İi ıI ſs K Å",
    "русский текст, Ελληνικά ἄνθρωπος; עברית שָׁלוֹם، العربية مُحَمَّد فارسی‌ها",
    "हिन्दी में क्षत्रिय বাংলা தமிழ் తెలుగు ಕನ್ನಡ മലയാളം ไทยไม่มีช่องว่าง ລາວ မြန်မာ ខ្មែរ བོད",
    "中文没有空格，只有标点。日本語：カタカナとひらがな「かぎ」々〆 한국어 조선글 ㄱㄴ",
    "ქართული ՀԱՅԵՐԵՆ አማርኛ ᏣᎳᎩ ᐃᓄᒃᑎᑐᑦ ᚠᚢᚦ 𐍈𐌰 𓀀 𝔘𝔫𝔦 𝟘𝟙 ⅷ Ⅻ ½ ² ₃ ① ٣٤٥ १२३ 一二",
    "emoji 👩‍👩‍👧‍👦 🇨🇭🇨 👍🏽 ❤️ 🏴󠁧󠁢󠁥󠁮󠁧󠁿 ☃︎ ©®™ 𝄞",
    "1234567890 0.1e-7 1,000,000.00 -5 +7 0xDEADbeef 1st 2nd 3.14.15 20261121T1015Z a1b2c3",
    "def f(x):\n    return x**2  # squared\n\tif x != y:\n\t\tpass;\n\n\n}\n",
    '{"key": [1, 2.5, null], "s": "\\u00e9\\n"}\r\n<a href="x?y=1&amp;z">t</a> https://e.org/~a_b#c',
    "\x00\x01\x08\x0b\x0c\x1b[0m\x1c\x1d\x1e\x1f\x7f\x80\x85\x9f\xa0\xad controls\x00",
    "sp \u00a0 \u2003\u2003 x\u3000y \u3000z \u2028 l\u2029p \u202f\u205f\u1680 w ▁  ▁ v",
    "\ufeffb\u200bz\u2060 \u00ad",
    "bidi \u202eabc\u202c \u2066x\u2069 replaced \ufffd \ue000 \U000f0000 \U0010ffff \ufdd0",
    "<|endoftext|> </s> <s> <unk> <pad> <|im_start|>user\n[INST] <0x0A> ▁ ▁▁a Ġ Ċ ## ##ing",
    "a" * 300,
    " " * 200 + "x" + "\n" * 100 + "\t" * 50 + "y",
    "-" * 120 + "=" * 121 + "." * 7 + " ..." + "!" * 33 + "?!" * 9,
    "ab" * 200 + "\u0301" * 40 + "한" * 60 + "9" * 70,
)
# What random texts are made of: white space often, as its runs are where encoders differ.
_PARTS = (
    *"   \n\n\t\r\x0b",
    "\r\n", "  ", "    ", "\u00a0", "\u2003", "\u3000", "\u0085", "\u2028", "\u200b", "\u1680", "▁",
    *"aZsdt019'\"’.,;:!?-_()[]{}<>/\\|@#$%^&*+=~`",
    "'s", "'LL", "'re", "the", "The", "ABC", "Abc", "abC", "word", "42", "123", "12345",
    "é", "e\u0301", "\u0301", "ß", "İ", "Ж", "слово", "Ω", "ש", "م", "ी", "क", "ไ", "ม้",
    "中", "文字", "。", "，", "カ", "ー", "한", "👍", "🏽", "\u200d", "½", "٣", "Ⅻ",
    "\x00", "\x7f", "\x1c",
)  # fmt: skip
_SEED = 20_261_121
_RANDOM = 1500  # of 1 to 24 parts
_TOKENS = 2000


def hard_texts(tokens: Iterable[str] = ()) -> list[str]:
    """About 50 KB of texts, the same ones in every process, and ``tokens`` of a vocabulary, alone
    and between words: of many, those with a space in them first."""
    chance = random.Random(_SEED)
    texts = list(_TEXTS)
    texts.append(" ".join(_TEXTS))
    for _ in range(_RANDOM):
        texts.append("".join(chance.choice(_PARTS) for _ in range(chance.randint(1, 24))))
    mixed = sorted(tokens, key=lambda token: (" " not in token.lstrip(), token))
    for token in mixed[:_TOKENS]:
        texts += [token, f"x{token}y", f" x {token} y"]
    return texts
