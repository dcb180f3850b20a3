"""One micro-batch on the device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from trivium.engine.model.attention import Documents


@dataclass(frozen=True)
class Batch:
    """A micro-batch of B rows of S tokens.

    tokens, labels, positions: int64 [B, S]; weights: float32 [B, S], 0 where no loss is taken.
    document_ids: int32 [B, S], equal within a document of a row, or None when attention crosses
    documents. Under a document mask the rows are handed to the model as one row of B * S
    (`documents` says where each begins).
    """

    tokens: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor
    positions: torch.Tensor
    document_ids: torch.Tensor | None = None
    documents: Documents | None = None

    @staticmethod
    def from_arrays(
        arrays: dict[str, np.ndarray], device: torch.device, document_mask: bool
    ) -> Batch:
        """From what `PackedSamples.gather` returns."""

        def put(name: str) -> torch.Tensor:
            return torch.from_numpy(arrays[name]).to(device, non_blocking=True)

        ids = documents = None
        if document_mask:
            ids = put("document_ids")
            documents = Documents.of(document_boundaries(arrays["document_ids"]), device)
        return Batch(
            tokens=put("tokens"),
            labels=put("labels"),
            weights=put("loss_mask"),
            positions=put("position_ids"),
            document_ids=ids,
            documents=documents,
        )


def document_boundaries(document_ids_BS: np.ndarray) -> tuple[int, ...]:
    """Cumulative lengths of the documents of the rows laid end to end: 0, ..., B * S."""
    rows, length = document_ids_BS.shape
    changes = np.ones((rows, length), dtype=bool)
    changes[:, 1:] = document_ids_BS[:, 1:] != document_ids_BS[:, :-1]
    return (*np.flatnonzero(changes).tolist(), rows * length)
