"""A report with something in every place, and texts that try to break a page."""

from __future__ import annotations

from trivium.data_pipeline.report import (
    Cluster,
    Lengths,
    Member,
    Report,
    ShardFacts,
    SourceFacts,
    StageFacts,
)
from trivium.data_pipeline.stages.tally import Example

HOSTILE = (
    "</script><script>alert(1)</script>",
    "</style></div></details></section></body></html>",
    "\"' onmouseover='alert(1)' x=\"",
    "<!-- <![CDATA[ <img src=http://example.org/x onerror=alert(1)>",
    "&lt;b&gt; &amp; &#60;",
    "safe \u202egnol\u202c \u2066x",
    "nul \x00 bell \x07 escape \x1b[31m next \x85 line \u2028 end",
    "שלום \u200f(a) עולם",
    "half \ud800 pair",
)


def full(text: str = "a text", name: str = "a name") -> Report:
    """Every field filled; texts of documents are `text`, names of files and records `name`."""
    example = Example("00", f"folder/{name}", name, text)
    members = (
        Member(name, name, f"one two {text} three", True, None, 0, 5000),
        Member(name, name, f"one 2 {text} three", False, 0.875, 0, 5001),
        Member(name, name, f"one {text}", False, None, 7, 5002),
    )
    return Report(
        recipe={"sources": [{"name": name, "paths": [name]}], "stages": [{"pii": {"k": {2: 0.5}}}]},
        sources=(SourceFacts(name, 1000, 4096, 3, 4, (f"{name}: {text}",)),),
        stages=(
            StageFacts("normalize", 1000, 1000, 4096, 4000, 17, {}, {}, 0.25),
            StageFacts(
                name, 1000, 400, 4000, 1024, 0, {text: 599, "other": 1}, {text: (example,)}, 0.5
            ),
        ),
        languages={"en": 300, "und": 90, name: 10},
        lengths=Lengths((100, 125, 160, 200), (100, 250, 50), 101, 199, 60_000),
        clusters=(Cluster(7, members),),
        shards=(
            ShardFacts(name, 300, 900, 3600, 0.75, {"train": 890, "validation": 10}),
            ShardFacts("other", 100, 100, 400, 0.25, {"train": 90, "test": 10}),
        ),
        tokenizer={"kind": name, "vocab_size": 32000, "lossless": True, "none": None},
        versions={"trivium": "0.1", name: text},
        wall_seconds=1.5,
        cpu_seconds=2.0,
        title=name,
    )
