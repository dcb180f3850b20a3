"""The model of a run: megatron-core's GPTModel, with its heads handed to the objective.

`build` gives this rank's chunks, one for each virtual pipeline stage, with the initial weights that
`init` defines. The last chunk returns `Heads` instead of a loss: what the loss is belongs to the
objective, and only the engine divides.

Shapes: S sequence, B micro-batch, H hidden, V vocabulary rows of this tensor-parallel rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.models.backends import BackendSpecProvider
from megatron.core.models.gpt import GPTModel
from megatron.core.transformer import TransformerConfig

from trivium.engine.mesh import Mesh
from trivium.engine.model.backend import choose_backend, start_overlap
from trivium.engine.model.cached_attention import CachedRows
from trivium.engine.model.init import initialize
from trivium.engine.model.megatron_config import transformer_config
from trivium.engine.model.specs import block_spec, mtp_spec
from trivium.engine.schema import ModelConfig, RunConfig
from trivium.kernels.linear_cross_entropy import linear_cross_entropy


@dataclass(frozen=True)
class Heads:
    """What the last pipeline chunk offers an objective.

    hidden: after the final norm, [S, B, H] (S / tp under sequence parallelism): the trunk's first,
    then one for each MTP head. `logits` projects one of them to [S, B, V], sharded over tp;
    `linear_cross_entropy` goes to the loss without ever holding all of them.
    """

    model: DecoderModel
    hidden: tuple[torch.Tensor, ...]

    def logits(self, index: int = 0) -> torch.Tensor:
        """Vocabulary-parallel logits [S, B, V] of head `index`; 0 is the trunk."""
        return self.model.project(self.hidden[index])

    def linear_cross_entropy(
        self,
        index: int,
        labels_R: torch.Tensor,
        weights_R: torch.Tensor,
        vocab_size: int,
        z_weight: float,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of head `index`: (sum of weights (nll + z_weight logsumexp^2), nll, logsumexp).

        Labels, weights and results are those of rows [S, B], flattened; only the sum is
        differentiable. See `kernels.linear_cross_entropy`.
        """
        model = self.model
        if model.logit_softcap is not None:
            raise ValueError("capped logits: take them whole, `logits`")
        return linear_cross_entropy(
            self.hidden[index].flatten(0, 1),
            model.output_weight,
            labels_R,
            weights_R,
            model.pg_collection.tp,
            vocab_size,
            z_weight,
            sharded_rows=model.output_layer.sequence_parallel,
        )


class DecoderModel(GPTModel):
    """GPTModel whose last chunk returns `Heads`: trunk and MTP, or for cached rows the trunk."""

    def __init__(
        self,
        *args: Any,
        embedding_scale: float | None = None,
        logit_softcap: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.logit_softcap = logit_softcap
        if embedding_scale is not None and hasattr(self, "embedding"):
            # rounded as the weights are, which is what Gemma was trained with
            scale = torch.tensor(embedding_scale, dtype=self.config.params_dtype).item()
            self.embedding.word_embeddings.register_forward_hook(
                lambda module, given, output: output * scale
            )
        if self.share_embeddings_and_output_weights and self.mtp_process and not self.pre_process:
            # this chunk has its copy of the embedding, for MTP; the parent allocates an output
            # weight beside it that nothing uses and its own state dict does not expect
            self.output_layer.register_parameter("weight", None)
            # two uses of one weight: a fused weight gradient must leave autograd's own in place
            self.embedding.word_embeddings.weight.zero_out_wgrad = True

    def project(self, hidden_SBH: torch.Tensor) -> torch.Tensor:
        """Output layer (tied to the embedding or not): [S, B, H] -> [S, B, V] of this tp rank."""
        logits, _ = self.output_layer(hidden_SBH, weight=self.output_weight)
        if self.logit_softcap is not None:
            logits = torch.tanh(logits / self.logit_softcap) * self.logit_softcap
        return logits

    @property
    def output_weight(self) -> torch.Tensor:
        """Weight of the output layer, [V, H]; it is the embedding's where they are tied."""
        if self.share_embeddings_and_output_weights:
            return self.shared_embedding_or_output_weight()
        return self.output_layer.weight

    def _postprocess(self, hidden_states: torch.Tensor, **kwargs: Any) -> Any:
        """Replaces the loss of the parent, which is hard-wired to next-token cross-entropy.

        Cached rows get the trunk alone: what MTP heads add to them is `prediction_head`.
        """
        cached = isinstance(kwargs.get("packed_seq_params"), CachedRows)
        if kwargs.get("mtp_in_postprocess") and not cached:
            hidden_states = self.mtp(
                input_ids=kwargs["input_ids"],
                position_ids=kwargs["position_ids"],
                hidden_states=hidden_states,
                attention_mask=kwargs["attention_mask"],
                inference_params=None,
                rotary_pos_emb=kwargs["rotary_pos_emb"],
                rotary_pos_cos=kwargs["rotary_pos_cos"],
                rotary_pos_sin=kwargs["rotary_pos_sin"],
                packed_seq_params=kwargs["packed_seq_params"],
                sequence_len_offset=kwargs["sequence_len_offset"],
                embedding=self.embedding,
            )
        if not self.post_process:
            return hidden_states
        heads = 1 if cached else 1 + (self.config.mtp_num_layers or 0)
        return Heads(self, hidden_states.chunk(heads, dim=0))

    def prediction_head(
        self,
        index: int,
        hidden_S1H: torch.Tensor,
        tokens_1S: torch.Tensor,
        positions_1S: torch.Tensor,
        rows: CachedRows,
    ) -> torch.Tensor:
        """Output [S, 1, H] of MTP head `index` (from 0) for cached rows.

        hidden: of the trunk, or of the head before, at each row. tokens: of each row the token
        that stands `index + 1` behind it.
        """
        layer = self.mtp.layers[index]
        embedded = self.embedding(input_ids=tokens_1S, position_ids=positions_1S)
        angles = self._preprocess(
            input_ids=tokens_1S,
            position_ids=positions_1S,
            decoder_input=embedded,
            packed_seq_params=rows,
        )[1]
        return layer._proj_and_transformer_layer(
            hidden_S1H, embedded, rotary_pos_emb=angles, packed_seq_params=rows
        )


def build(
    config: RunConfig, mesh: Mesh, backend: BackendSpecProvider | None = None
) -> list[DecoderModel]:
    """This rank's model chunks of a resolved run, on its device, with their initial weights."""
    chunks = assemble(config, mesh, backend)
    initialize(chunks, config.seed, config.model, mesh)
    return chunks


def assemble(
    config: RunConfig, mesh: Mesh, backend: BackendSpecProvider | None = None
) -> list[DecoderModel]:
    """As `build`, with weights that have yet to be written: for a model that is loaded."""
    backend = backend or choose_backend(config.kernels)
    megatron = transformer_config(config)
    if config.parallel.tp_overlap:
        rows = config.data.sequence_length * config.train.micro_batch // config.parallel.cp
        start_overlap(rows, megatron.hidden_size, config.parallel.tp, megatron.fp8 is not None)
    stages: list[int | None] = [None]
    if megatron.virtual_pipeline_model_parallel_size is not None:
        stages = list(range(megatron.virtual_pipeline_model_parallel_size))
    chunks = [_chunk(config.model, megatron, mesh, backend, stage, len(stages)) for stage in stages]
    for chunk in chunks:
        # megatron-core makes a router's weight on the CPU and moves it in the first forward pass:
        # by then the hook that collects its gradient would hang on what it was before
        chunk.cuda()
    _mark_expert_parameters(chunks, mesh)
    return chunks


def _mark_expert_parameters(chunks: list[DecoderModel], mesh: Mesh) -> None:
    """Reduce experts' gradients over the ranks that share them.

    megatron-core treats experts as dense parameters when ep is 1, and so reduces over dp; when they
    are not split over tp (etp 1), the ranks of tp hold copies as well and would drift apart.
    """
    if mesh.layout.ep == 1 and mesh.layout.etp != mesh.layout.tp:
        for chunk in chunks:
            for name, parameter in chunk.named_parameters():
                if ".experts." in name:
                    parameter.allreduce = False


def _chunk(
    model: ModelConfig,
    megatron: TransformerConfig,
    mesh: Mesh,
    backend: BackendSpecProvider,
    stage: int | None,
    stages: int,
) -> DecoderModel:
    """The pipeline chunk (mesh.pp_rank, stage) of the model."""
    first = mesh.pp_rank == 0 and stage in (None, 0)
    last = mesh.pp_rank == mesh.layout.pp - 1 and stage in (None, stages - 1)
    positions = {"rope": "rope", "learned": "learned_absolute", "none": "none"}[model.position]
    if positions == "rope" and model.rope.scaling == "yarn" and model.mla is None:
        positions = "yarn"
    rope, pattern = model.rope, model.moe_pattern
    assert model.max_position is not None
    chunk = DecoderModel(
        config=megatron,
        transformer_layer_spec=block_spec(megatron, backend, pattern, stage, mesh.pp_rank),
        vocab_size=model.padded_vocab_size,
        max_sequence_length=model.max_position,
        pre_process=first,
        post_process=last,
        parallel_output=True,
        share_embeddings_and_output_weights=model.tie_embeddings,
        position_embedding_type=positions,
        rotary_percent=rope.percent,
        rotary_base=rope.theta,
        seq_len_interpolation_factor=rope.factor if rope.scaling == "linear" else None,
        mtp_block_spec=mtp_spec(megatron, backend, pattern[-1]) if last else None,
        pg_collection=mesh.groups,
        vp_stage=stage,
        embedding_scale=model.embedding_scale,
        logit_softcap=model.logit_softcap,
    )
    if positions == "rope" and rope.scaling == "llama3" and model.mla is None:
        rotary = chunk.rotary_pos_emb
        rotary.inv_freq = rotary._apply_scaling(
            rotary.inv_freq,
            factor=rope.factor,
            low_freq_factor=rope.low_freq_factor,
            high_freq_factor=rope.high_freq_factor,
            original_max_position_embeddings=rope.original_max_position,
        )
    return chunk
