"""The models of the training benchmark, and what a run of one of them is. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

from tools.benchmarks.workload import Workload
from trivium.engine.config import fill_model
from trivium.engine.flops import training_flops_per_token
from trivium.engine.parameters import model_tensors
from trivium.engine.schema import ModelConfig, RopeConfig

STATE = 18  # bytes a parameter: bf16 weight; fp32 gradient, master and two moments


@dataclass(frozen=True, kw_only=True)
class TrainWork(Workload):
    """A Llama trained in bf16 with fp32 masters and gradients on one GPU."""

    tie: bool = False  # the output layer is the embedding
    profile: bool = False  # one more step of the engine, under torch's profiler
    dtype: str = "bf16"
    lr: float = 1e-4
    rope_theta: float = 500000.0
    micro_batches: int = 1
    warmup: int = 5
    steps: int = 8

    @property
    def model(self) -> ModelConfig:
        """The model, filled in."""
        return fill_model(
            ModelConfig(
                num_layers=self.layers,
                hidden_size=self.hidden,
                num_attention_heads=self.heads,
                num_query_groups=self.groups,
                ffn_hidden_size=self.ffn,
                vocab_size=self.vocab,
                norm_epsilon=self.norm_epsilon,
                rope=RopeConfig(theta=self.rope_theta),
                tie_embeddings=self.tie,
            ),
            self.sequence,
        )

    @property
    def parameters(self) -> int:
        return sum(tensor.size for tensor in model_tensors(self.model))

    def flops(self, full: bool) -> float:
        """Model FLOPs of one training token, causal attention counted half or full."""
        return training_flops_per_token(self.model, self.sequence, "full" if full else "causal")

    @property
    def scores(self) -> int:
        """Bytes of probabilities, fp32 and bf16, that unfused attention keeps for backward."""
        return self.layers * self.micro_batch * self.heads * self.sequence**2 * (4 + 2)


MODELS = {
    "llama-3.2-1b": TrainWork(
        vocab=128256,
        hidden=2048,
        layers=16,
        heads=32,
        groups=8,
        ffn=8192,
        sequence=4096,
        micro_batch=4,
        tie=True,
    ),
    "llama-8b-16-layers": TrainWork(
        vocab=128256,
        hidden=4096,
        layers=16,
        heads=32,
        groups=8,
        ffn=14336,
        sequence=8192,
        micro_batch=1,
    ),
}

# to see that it works
TINY = TrainWork(
    vocab=512,
    hidden=64,
    layers=2,
    heads=4,
    groups=2,
    ffn=128,
    sequence=32,
    micro_batch=2,
    tie=True,
    warmup=1,
    steps=2,
)
