"""One micro-batch on the device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from trivium.engine.model.attention import Documents
from trivium.engine.model.context_parallel import split
from trivium.engine.objectives.language import shift_labels


@dataclass(frozen=True)
class Batch:
    """A micro-batch of B rows of S tokens, and this rank's part of it.

    tokens, positions: int64, what the model is handed: [B, S / cp], of each row the part that this
    rank holds. Under a document mask the rows are laid end to end and are one, [1, B * S / cp];
    `documents` says where each document begins. labels: int64 [B, S], whole, and so are weights:
    float32, 0 where no loss is taken, and document_ids: int32, equal within a document of a row, or
    None when attention crosses documents. `targets` gives this rank's part of them.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor
    document_ids: torch.Tensor | None = None
    documents: Documents | None = None
    cp: int = 1
    cp_rank: int = 0

    @staticmethod
    def from_arrays(
        arrays: dict[str, np.ndarray],
        device: torch.device,
        document_mask: bool,
        cp: int = 1,
        cp_rank: int = 0,
    ) -> Batch:
        """From what `PackedSamples.gather` returns: whole rows, on every rank of cp."""

        def put(name: str) -> torch.Tensor:
            return torch.from_numpy(arrays[name]).to(device, non_blocking=True)

        ids = documents = None
        tokens, positions = put("tokens"), put("position_ids")
        if document_mask:
            ids = put("document_ids")
            documents = Documents.of(document_boundaries(arrays["document_ids"]), device)
            tokens, positions = tokens.reshape(1, -1), positions.reshape(1, -1)
        return Batch(
            tokens=split(tokens, cp_rank, cp),
            positions=split(positions, cp_rank, cp),
            labels=put("labels"),
            weights=put("loss_mask"),
            document_ids=ids,
            documents=documents,
            cp=cp,
            cp_rank=cp_rank,
        )

    @property
    def row_length(self) -> int:
        """Tokens of a row of the model's, all ranks of cp together."""
        return self.tokens.shape[1] * self.cp

    def targets(self, depth: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Labels and weights of head `depth`, shaped as `tokens`; 0 is the trunk.

        Shifted over whole rows, so that the label after a chunk of cp is the next chunk's.
        """
        labels, weights = shift_labels(self.labels, self.weights, depth, self.document_ids)
        if self.documents is not None:
            labels, weights = labels.reshape(1, -1), weights.reshape(1, -1)
        return split(labels, self.cp_rank, self.cp), split(weights, self.cp_rank, self.cp)


def document_boundaries(document_ids_BS: np.ndarray) -> tuple[int, ...]:
    """Cumulative lengths of the documents of the rows laid end to end: 0, ..., B * S."""
    rows, length = document_ids_BS.shape
    changes = np.ones((rows, length), dtype=bool)
    changes[:, 1:] = document_ids_BS[:, 1:] != document_ids_BS[:, :-1]
    return (*np.flatnonzero(changes).tolist(), rows * length)
