"""Multi-head latent attention whose gradients are right under tensor parallelism.

megatron-core's MLA shards the down projections, which are meant to be small and whole, and forgets
to sum the gradient of the shared rotary key over tp when there is no sequence parallelism. Here the
down projections are replicated over tp; the rest is megatron-core's `MLASelfAttention`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.tensor_parallel import copy_to_tensor_model_parallel_region
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer import multi_latent_attention as mla
from megatron.core.transformer.multi_latent_attention import MLASelfAttention
from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint

from trivium.engine.model.cached_attention import CachedRows, Positions


class ReplicatedLinear(torch.nn.Module):
    """y = x W^T with the whole W on every tensor-parallel rank.

    Under sequence parallelism each rank sees its part of the sequence, so W is marked for its
    gradient to be summed over tp; otherwise every rank computes the same gradient.
    """

    def __init__(
        self, input_size: int, output_size: int, *, config: TransformerConfig, **unused: Any
    ) -> None:
        super().__init__()
        del unused  # what a column-parallel layer would need
        device = torch.cuda.current_device()
        weight = torch.empty(output_size, input_size, dtype=config.params_dtype, device=device)
        self.weight = torch.nn.Parameter(weight)
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
        """x [..., input_size] -> [..., output_size], and no bias."""
        return F.linear(x, self.weight), None

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple[Any, ...] = (), metadata: Any = None
    ) -> dict[str, Any]:
        """One whole tensor, the same on every rank of tp."""
        del metadata
        state = self.state_dict(prefix="", keep_vars=True)
        return make_sharded_tensors_for_checkpoint(state, prefix, {}, sharded_offsets)


class KVDownProjection(ReplicatedLinear):
    """The joint down projection of keys and values: [.., kv_lora_rank + rotary dims].

    The latent part goes on through a column-parallel layer, which sums its gradient over tp; the
    rotary part goes straight into every rank's heads, so its gradient must be summed here unless
    the gather of sequence parallelism does it.
    """

    def __init__(self, input_size: int, output_size: int, *, config: Any, **unused: Any) -> None:
        super().__init__(input_size, output_size, config=config, **unused)
        self.rank = config.kv_lora_rank
        self.sum_rotary_gradient = not config.sequence_parallel

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
        """x [S, B, hidden] -> [S, B, kv_lora_rank + rotary dims], and no bias."""
        y, _ = super().forward(x)
        if self.sum_rotary_gradient:
            latent, rotary = y.split([self.rank, y.shape[-1] - self.rank], dim=-1)
            y = torch.cat([latent, copy_to_tensor_model_parallel_region(rotary)], dim=-1)
        return y, None


class _Admitted:
    """Compares equal to the replicated projections, which a constructor looks up in a list."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type) and issubclass(other, ReplicatedLinear)

    __hash__ = None  # type: ignore[assignment]


class LatentAttention(MLASelfAttention):
    """`MLASelfAttention`, accepting the replicated down projections above."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        known = mla.Linear
        mla.Linear = _Admitted()
        try:
            super().__init__(*args, **kwargs)
        finally:
            mla.Linear = known

    def get_query_key_value_tensors(self, *args: Any, **kwargs: Any) -> Any:
        """As the parent's, which cuts a table of angles to as many positions as there are rows:
        cached rows stand at others, so they get their own angles instead of a table."""
        rows = kwargs.get("packed_seq_params")
        if rows is None:
            rows = next((each for each in args if isinstance(each, CachedRows)), None)
        if not isinstance(rows, CachedRows):
            return super().get_query_key_value_tensors(*args, **kwargs)
        self.__dict__["rotary_pos_emb"] = _AnglesAt(self._modules["rotary_pos_emb"], rows)
        try:
            return super().get_query_key_value_tensors(*args, **kwargs)
        finally:
            del self.__dict__["rotary_pos_emb"]


class _AnglesAt:
    """A rotary embedding that gives the angles of cached rows."""

    def __init__(self, rotary: Any, rows: CachedRows) -> None:
        self.rotary, self.rows = rotary, rows

    def get_rotary_seq_len(self, *args: Any, **kwargs: Any) -> Any:
        """As the rotary embedding says."""
        return self.rotary.get_rotary_seq_len(*args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Angles [T, 1, 1, R], with YaRN's magnitude where it has one."""
        found = self.rotary(*args, **kwargs)
        at = self.rows.cu_seqlens_q
        assert isinstance(at, Positions)
        if isinstance(found, tuple):
            return at.pick(found[0]), *found[1:]
        return at.pick(found)
