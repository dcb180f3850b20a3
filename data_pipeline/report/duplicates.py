"""Clusters of near-duplicates: members side by side, differences marked."""

from __future__ import annotations

from collections.abc import Sequence

from .clusters import CLUSTERS, MEMBERS, PIECE
from .difference import Run, difference
from .drops import place
from .model import Cluster, Member
from .quantities import count, things
from .visible import visible

_OPEN = 4  # clusters that are shown at once


def duplicates(clusters: Sequence[Cluster]) -> str:
    """The largest clusters; all but the first few are folded away."""
    cards = [
        _cluster(number, cluster) for number, cluster in enumerate(clusters[:CLUSTERS], start=1)
    ]
    rest = "".join(cards[_OPEN:])
    more = (
        f"<details><summary>{things(len(cards) - _OPEN, 'more cluster')}</summary>{rest}</details>"
    )
    return "".join(cards[:_OPEN]) + (more if rest else "")


def _cluster(number: int, cluster: Cluster) -> str:
    members = cluster.members[:MEMBERS]
    if not members:
        return ""
    first = next((member for member in members if member.kept), members[0])
    shown = "" if len(members) == cluster.size else f", {len(members)} shown"
    cards = "".join(_member(member, first) for member in members)
    return (
        f'<article class="cluster"><h3>Cluster {number} <small>'
        f"{things(cluster.size, 'document')}{shown}</small></h3>"
        f'<div class="members">{cards}</div></article>'
    )


def _member(member: Member, first: Member) -> str:
    fate = '<span class="stays">kept</span>' if member.kept else '<span class="out">dropped</span>'
    if member is not first:
        alike = member.similarity
        told = "through others" if alike is None else f"similarity {alike:.3f}"
        fate += f" · {told}"
    length = max(member.characters, len(member.text))
    end = min(length, member.start + len(member.text))
    where = f"{count(length)} characters"
    if end - member.start < length:
        where += f", {count(min(length, member.start + 1))} to {count(end)} shown"
    return (
        f'<section><p class="fate">{fate}</p>{place(member.source, member.id)}'
        f'<p class="place">{where}</p><div class="text" dir="auto" tabindex="0" role="group" '
        f'aria-label="text">{_marked(member, first)}</div></section>'
    )


def _marked(member: Member, first: Member) -> str:
    """The text, words marked that the kept member lacks, and where words of it are missing."""
    text = member.text[:PIECE]
    before = "…" if member.start else ""
    after = "…" if member.start + len(text) < member.characters else ""
    if member is first:
        return before + visible(text) + after
    cut = any(one.start + len(one.text[:PIECE]) < one.characters for one in (member, first))
    runs = difference(text, first.text[:PIECE], cut=cut)
    return before + "".join(map(_run, runs)) + after


def _run(run: Run) -> str:
    if run.kind == "both":
        return visible(run.text)
    words = run.text.rstrip()
    if run.kind == "there":  # lines that are not here do not break this text's
        return f"<del>{visible(words)}</del> "
    return f"<ins>{visible(words)}</ins>{visible(run.text[len(words) :])}"
