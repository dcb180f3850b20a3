"""FLOPs of training on one token, and what share of the hardware's peak a run reaches (MFU).

A multiply-add counts 2, and the backward pass twice the forward (one product for the input's
gradient, one for the weight's), so training costs 6 FLOPs for each weight that a token meets in a
product, plus attention's two products over the keys, which hold no weights. Counted are model
FLOPs, what the mathematics asks for: recomputation, padding of the vocabulary and work on experts
that were not chosen are not (PaLM, arXiv 2204.02311, appendix B).

Attention is where conventions differ, so every figure names its own: `full` counts each query with
all S keys, as PaLM does; `causal` only with the keys it may see, (S + 1) / 2 on average, fewer
under a sliding window. Document masks are not counted: a sequence counts as one document.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from trivium.engine.parameters import model_tensors
from trivium.engine.schema import Dtype, ModelConfig
from trivium.engine.units import format_flops

Convention = Literal["causal", "full"]

NAMES: dict[Convention, str] = {
    "causal": "model FLOPs, causal attention",
    "full": "model FLOPs, full attention",
}

BACKWARD_AND_FORWARD = 3  # in units of the forward pass
LOOKED_UP = {"word_embeddings", "position_embeddings"}  # read, not multiplied with
TIED = {"output_layer"}  # counted with the heads that use it, tied to the embedding or not


def training_flops_per_token(
    model: ModelConfig, sequence_length: int, convention: Convention
) -> float:
    """FLOPs of one training token, forward and backward, over all ranks.

    Expects a filled-in model whose vocabulary size is known.
    """
    assert model.vocab_size is not None
    weights = sum(
        tensor.size * tensor.used
        for tensor in model_tensors(model)
        if len(tensor.shape) > 1 and tensor.name not in LOOKED_UP | TIED
    )
    heads = 1 + model.mtp.num_heads
    logits = heads * model.vocab_size * model.hidden_size
    windows = [model.window if seen else None for seen in model.window_pattern]
    windows += [model.window] * model.mtp.num_heads
    keys = sum(keys_per_query(sequence_length, window, convention) for window in windows)
    attention = keys * model.num_attention_heads * _query_and_value_dims(model)
    return 2 * BACKWARD_AND_FORWARD * float(weights + logits + attention)


def keys_per_query(sequence_length: int, window: int | None, convention: Convention) -> float:
    """Keys that a query is counted with, on average; a window counts the token itself."""
    seen = min(sequence_length, window or sequence_length)
    if convention == "full":
        return seen
    return seen - seen * (seen - 1) / (2 * sequence_length)


def _query_and_value_dims(model: ModelConfig) -> int:
    """Dims of one head in the scores' product, plus those in the values' product."""
    if model.mla is not None:
        mla = model.mla
        return mla.qk_nope_head_dim + mla.qk_rope_head_dim + mla.v_head_dim
    assert model.head_dim is not None
    return 2 * model.head_dim


# --- Peaks --------------------------------------------------------------------

# Dense peaks in TFLOP/s from the makers' data sheets: tensor cores in 16 bits with fp32
# accumulation, and plain fp32 (no TF32). The first pattern that occurs in a device's name decides.
PEAKS: tuple[tuple[str, float, float], ...] = (
    (r"\bGB200\b", 2500.0, 80.0),
    (r"\bB200\b", 2250.0, 75.0),
    (r"\bGH200\b", 989.4, 66.9),
    (r"\bH[12]00 NVL\b", 835.5, 60.0),
    (r"\bH100 PCIe\b", 756.0, 51.2),
    (r"\b(H100|H200|H800)\b", 989.4, 66.9),
    (r"\b(A100|A800)\b", 312.0, 19.5),
    (r"\bA40\b", 149.7, 37.4),
    (r"\bA30\b", 165.0, 10.3),
    (r"\bA10\b", 125.0, 31.2),
    (r"\bL40S\b", 362.0, 91.6),
    (r"\bL40\b", 181.0, 90.5),
    (r"\bL4\b", 121.0, 30.3),
    (r"\bV100-SXM", 125.0, 15.7),
    (r"\bV100-PCIE", 112.0, 14.0),
    (r"\bT4\b", 65.0, 8.1),
    (r"\bRTX A6000\b", 154.8, 38.7),
    (r"\bRTX 6000 Ada\b", 364.0, 91.1),
    (r"\bRTX 3090$", 71.0, 35.6),
    (r"\bRTX 4090$", 165.2, 82.6),
    (r"\bMI3(00X|25X)\b", 1307.4, 163.4),
)


def known_peak(device_name: str, dtype: Dtype) -> float | None:
    """Peak FLOP/s of a GPU by the name it reports, or None for one that is not in the table."""
    for pattern, half, single in PEAKS:
        if re.search(pattern, device_name):
            return 1e12 * (single if dtype == "fp32" else half)
    return None


def measured_peak(multiply: Callable[[], object], flops: float, seconds: float = 0.2) -> float:
    """Best FLOP/s of `multiply`, a large matrix product of `flops`, tried for `seconds`.

    For devices that no table lists, CPUs above all: there, what a product reaches is the peak.
    """
    multiply()  # first call: threads start, pages are touched
    best, ends = math.inf, time.perf_counter() + seconds
    while time.perf_counter() < ends:
        began = time.perf_counter()
        multiply()
        best = min(best, time.perf_counter() - began)
    return flops / best


@dataclass(frozen=True)
class Utilization:
    """What turns tokens per second into MFU, with the convention that makes it comparable."""

    flops_per_token: float
    convention: Convention
    peak: float  # FLOP/s of all devices of the run together
    peak_source: str  # "(8 x NVIDIA H200)", "(measured)"

    def of(self, tokens_per_s: float) -> float:
        """Model FLOPs utilization, a share of 1."""
        return tokens_per_s * self.flops_per_token / self.peak

    @property
    def label(self) -> str:
        """The convention in words, for whoever reads the number."""
        return f"{NAMES[self.convention]}; peak {format_flops(self.peak)} {self.peak_source}"
