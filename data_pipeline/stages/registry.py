"""Stages by the names that recipes use."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import cache

# name -> module below data_pipeline, class
_STAGES = {
    "html_to_text": ("stages.cleaning", "HtmlToText"),
    "fix_encoding": ("stages.cleaning", "FixEncoding"),
    "normalize": ("stages.cleaning", "Normalize"),
    "language": ("stages.language", "LanguageId"),
    "seed_rules": ("stages.seed_rules", "SeedRules"),
    "gopher_quality": ("stages.gopher", "GopherQuality"),
    "gopher_repetition": ("stages.gopher", "GopherRepetition"),
    "c4_rules": ("stages.c4", "C4Rules"),
    "fineweb_rules": ("stages.fineweb", "FineWebRules"),
    "blocklist": ("stages.blocklist", "Blocklist"),
    "code_rules": ("stages.code_rules", "CodeRules"),
    "chinese_rules": ("stages.chinese_rules", "ChineseRules"),
    "decontaminate": ("stages.decontaminate", "Decontaminate"),
    "pii": ("stages.pii", "Pii"),
    "url_duplicates": ("dedup.whole", "UrlDuplicates"),
    "exact_duplicates": ("dedup.whole", "ExactDuplicates"),
    "near_duplicates": ("dedup.near_whole", "NearDuplicates"),
    "paragraph_duplicates": ("dedup.paragraphs", "ParagraphDuplicates"),
}


@cache
def stage_classes() -> Mapping[str, type]:
    """Name -> dataclass of its parameters, which is the stage."""
    package = __name__.rsplit(".", 2)[0]
    return {
        name: getattr(importlib.import_module(f"{package}.{module}"), cls)
        for name, (module, cls) in _STAGES.items()
    }
