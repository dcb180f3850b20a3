"""The report of a data recipe: what was read, what every stage did with it, what it became."""

from .clusters import Document, chosen, cluster
from .model import (
    Cluster,
    Lengths,
    Member,
    Report,
    ShardFacts,
    SourceFacts,
    StageFacts,
)
from .page import render, write_report
from .profile import Profile

__all__ = [
    "Cluster",
    "Document",
    "Lengths",
    "Member",
    "Profile",
    "Report",
    "ShardFacts",
    "SourceFacts",
    "StageFacts",
    "chosen",
    "cluster",
    "render",
    "write_report",
]
