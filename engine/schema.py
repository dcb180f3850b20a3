"""The configuration tree: every knob of a run, as frozen dataclasses with the field's own names.

A run is fully described by one `RunConfig`. `config.py` loads it strictly, validates it once at the
edge and prints it; everything past that edge trusts it. The bounds of single values and of sections
are in `limits.py`; what depends on the number of ranks (heads against tp, layers against pp) is in
`layout.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Dtype = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True, kw_only=True)
class RunSection:
    """Where a run lives: a folder of config.yaml, metrics.jsonl, checkpoints/, report.html."""

    dir: str = "runs/trivium"
    resume: bool = True  # continue from the newest complete checkpoint of `dir`, if there is one
    log_every: int = 1  # steps between lines on the progress display; metrics.jsonl gets every step


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """Sizes of the parallel axes; data parallelism is what remains of the world size.

    `sp` (sequence parallelism) defaults to tp > 1, `etp` (expert-tensor parallelism) to 1.
    """

    tp: int = 1
    pp: int = 1
    vpp: int = 1  # model chunks per pipeline rank (1 = plain 1F1B, > 1 = interleaved 1F1B)
    cp: int = 1
    # how attention sees rows that cp splits: keys and values go around, or heads are exchanged for
    # positions (Ulysses)
    cp_kind: Literal["ring", "all_to_all"] = "ring"
    ep: int = 1
    etp: int = 1
    sp: bool | None = None
    zero: Literal[0, 1] = 1  # 1: optimizer state sharded over data parallel ranks (ZeRO-1)
    overlap_grad_reduce: bool = False
    overlap_param_gather: bool = False
    tp_overlap: bool = False  # tp's exchange beside products: Transformer Engine's user buffers
    timeout_minutes: float = 10.0  # a collective that waits longer ends the run


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How many steps, on how many sequences, in which arithmetic."""

    steps: int = 100
    global_batch: int = 8  # sequences per optimizer step, over all ranks
    micro_batch: int = 1  # sequences per forward pass of one rank
    # [start, increment, sequences]: the global batch grows by increments over so many sequences
    ramp_up: tuple[int, int, int] | None = None
    dtype: Dtype = "fp32"
    recompute: Literal["none", "selective", "full"] = "none"
    # logits: whole, of the output layer. chunked: loss and gradient of half a GB of them at a time,
    # with the same result; for a vocabulary x micro_batch x sequence whose logits do not fit
    head: Literal["logits", "chunked"] = "logits"
    z_loss: float = 0.0  # weight of mean(logsumexp(logits)^2), PaLM (arXiv 2204.02311) section 5
    # a step whose loss or gradient is not finite is skipped and counted; this many in a row stop it
    max_bad_steps: int = 10
    loss_scale: float | None = None  # fp16: a fixed scale; None scales dynamically
    manual_gc_every: int = 100  # collect garbage at the same step on every rank; 0: Python decides


@dataclass(frozen=True, kw_only=True)
class KernelsConfig:
    """Who computes: `trivium kernels` shows what there is, a run prints what it uses."""

    # auto: Transformer Engine where it is installed, else our kernels; torch: neither
    backend: Literal["auto", "transformer_engine", "trivium", "torch"] = "auto"
    off: tuple[str, ...] = ()  # operators that run in plain torch on a GPU too
    fp8: Literal["none", "hybrid", "e4m3"] = "none"  # Transformer Engine's linear layers
    fp8_recipe: Literal["tensorwise", "delayed", "blockwise", "mxfp8"] = "tensorwise"


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is read: a corpus to prepare on first use, or shards that exist.

    Exactly one of `corpus` and `shards` is set. A corpus is prepared once, by rank 0, into `dir`.
    """

    corpus: tuple[str, ...] | None = None  # built-in name (python-docs), files, folders, globs
    shards: dict[str, float] | None = None  # .bin/.idx prefix -> blend weight
    dir: str | None = None  # where a corpus is prepared; default: build/data/<hash of its settings>
    text_key: str = "text"
    # tokenizer.json, .model or HF folder; or a kind to train: bpe, sentencepiece-bpe,
    # sentencepiece-unigram
    tokenizer: str = "bpe"
    vocab_size: int = 8192  # of a tokenizer to train
    sequence_length: int = 256
    split: tuple[float, float, float] = (0.98, 0.01, 0.01)  # train, validation, test by document
    document_mask: bool = False  # no attention across documents; positions restart in each


@dataclass(frozen=True, kw_only=True)
class RopeConfig:
    """Rotary position embedding (arXiv 2104.09864) and its length extensions."""

    theta: float = 10000.0
    percent: float = 1.0  # share of each head's dims that rotate
    interleaved: bool = False
    scaling: Literal["none", "linear", "llama3", "yarn"] = "none"
    factor: float = 1.0
    original_max_position: int = 4096
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0  # llama3
    beta_fast: float = 32.0  # yarn (arXiv 2309.00071)
    beta_slow: float = 1.0
    mscale: float = 1.0
    mscale_all_dim: float = 0.0
    # another theta, without scaling, for the layers that have a window (Gemma 3, arXiv 2503.19786)
    window_theta: float | None = None


@dataclass(frozen=True, kw_only=True)
class MoEConfig:
    """Mixture of experts in the feed-forward blocks."""

    num_experts: int = 8
    top_k: int = 2
    ffn_hidden_size: int | None = None  # of one expert; default: model.ffn_hidden_size
    # every n-th layer is MoE, or one 0/1 per layer
    layers: int | tuple[int, ...] = 1
    shared_ffn_hidden_size: int | None = None  # total width of the shared experts; None: none
    shared_gate: bool = False
    score: Literal["softmax", "sigmoid"] = "softmax"
    pre_softmax: bool = False  # softmax over all experts before top-k, instead of over the chosen
    balance: Literal["aux", "sequence", "bias", "none"] = "aux"  # bias: DeepSeek's aux-loss-free
    aux_loss_weight: float = 0.01
    bias_update_rate: float = 1e-3
    z_loss_weight: float = 0.0  # ST-MoE (arXiv 2202.08906)
    num_groups: int | None = None  # group-limited routing (DeepSeek-V2, arXiv 2405.04434)
    groups_top_k: int | None = None
    scaling_factor: float | None = None  # multiplies the chosen experts' weights
    dispatcher: Literal["alltoall", "allgather"] = "alltoall"


@dataclass(frozen=True, kw_only=True)
class MLAConfig:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434)."""

    q_lora_rank: int | None = None  # None: queries are not compressed
    kv_lora_rank: int = 512
    qk_nope_head_dim: int = 128
    qk_rope_head_dim: int = 64
    v_head_dim: int = 128


@dataclass(frozen=True, kw_only=True)
class MTPConfig:
    """Multi-token prediction heads (DeepSeek-V3, arXiv 2412.19437, section 2.2)."""

    num_heads: int = 0
    loss_weight: float = 0.1  # total, shared equally by the heads


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A decoder-only transformer.

    With `from_hf`, a Hugging Face folder says what the model is and holds its first weights; of the
    other fields only those of training may differ from it (`config.FREE_OF_FOLDER`).
    """

    from_hf: str | None = None
    num_layers: int = 4
    hidden_size: int = 128
    num_attention_heads: int = 4
    num_query_groups: int | None = None  # default: num_attention_heads (no GQA)
    # key/value groups are padded to a multiple of it by groups of zeros, which stay zeros, so that
    # tp can split a model whose groups it does not divide
    group_multiple: int = 1
    head_dim: int | None = None  # default: hidden_size / num_attention_heads
    ffn_hidden_size: int | None = None  # default: 8/3 hidden (gated) or 4 hidden, in 64s
    vocab_size: int | None = None  # default: the tokenizer's
    vocab_multiple: int = 128  # embedding rows are padded to it: a constant, so not by layout
    max_position: int | None = None  # default: data.sequence_length
    normalization: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    norm_epsilon: float = 1e-5
    norm_zero_centered: bool = False
    # where a layer normalises: before attention and feed-forward, behind both, or before and behind
    norm_placement: Literal["pre", "post", "sandwich"] = "pre"
    activation: Literal["swiglu", "geglu", "geglu_tanh", "gelu", "relu", "relu2", "silu"] = "swiglu"
    position: Literal["rope", "learned", "none"] = "rope"
    rope: RopeConfig = field(default_factory=RopeConfig)
    tie_embeddings: bool = False
    qkv_bias: bool = False
    linear_bias: bool = False  # attention output and feed-forward
    qk_norm: bool = False
    qk_norm_over: Literal["head", "all"] = "head"  # a norm for each head, or one over all of them
    window: int | None = None  # sliding-window attention: tokens seen, the token itself included
    window_layers: tuple[int, ...] | None = None  # one 0/1 per layer; default: all have the window
    attention_scale: float | None = None  # of the scores; default: 1 / sqrt(head_dim)
    # scores, and the logits of the output layer, become c tanh(x / c) (Gemma 2, arXiv 2408.00118)
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    embedding_scale: float | None = None  # multiplies the token embeddings
    attention_dropout: float = 0.0
    hidden_dropout: float = 0.0
    init_std: float = 0.02
    moe: MoEConfig | None = None
    mla: MLAConfig | None = None
    mtp: MTPConfig = field(default_factory=MTPConfig)

    @property
    def gated(self) -> bool:
        """Has the feed-forward a gate: two input projections instead of one?"""
        return self.activation in ("swiglu", "geglu", "geglu_tanh")

    @property
    def padded_vocab_size(self) -> int:
        """Embedding rows: the vocabulary padded to a constant multiple, so not by layout."""
        if self.vocab_size is None:
            raise ValueError("model.vocab_size is not known yet: it is the tokenizer's")
        return -(-self.vocab_size // self.vocab_multiple) * self.vocab_multiple

    @property
    def padded_groups(self) -> int:
        """Key/value groups with those that only pad (`group_multiple`)."""
        groups = self.num_query_groups or self.num_attention_heads
        return -(-groups // self.group_multiple) * self.group_multiple

    @property
    def padded_heads(self) -> int:
        """Query heads of `padded_groups`."""
        groups = self.num_query_groups or self.num_attention_heads
        return self.num_attention_heads // groups * self.padded_groups

    @property
    def window_pattern(self) -> tuple[bool, ...]:
        """For every decoder layer, whether it sees a window only."""
        if self.window is None:
            return (False,) * self.num_layers
        if self.window_layers is None:
            return (True,) * self.num_layers
        return tuple(bool(flag) for flag in self.window_layers)

    @property
    def moe_pattern(self) -> tuple[bool, ...]:
        """For every decoder layer, whether its feed-forward is MoE."""
        if self.moe is None:
            return (False,) * self.num_layers
        if isinstance(self.moe.layers, int):
            return tuple(layer % self.moe.layers == 0 for layer in range(self.num_layers))
        return tuple(bool(flag) for flag in self.moe.layers)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW (arXiv 1711.05101). Biases and norm gains are not decayed."""

    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip_grad: float = 1.0  # global norm; 0 does not clip


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Learning rate over steps: linear warm-up from 0, then the named decay to `min_lr`."""

    kind: Literal["cosine", "linear", "wsd", "constant"] = "cosine"
    warmup_steps: int = 0
    decay_steps: int | None = None  # step at which min_lr is reached; default: train.steps
    min_lr: float = 0.0
    stable_fraction: float = 0.8  # wsd: share of decay_steps before the final decay starts
    wsd_decay: Literal["linear", "cosine", "sqrt"] = "sqrt"  # 1 - sqrt: arXiv 2405.18392


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When the run is saved, and what it may start from."""

    every: int = 100  # steps; 0 saves only at the end and on a signal
    keep: int = 2  # newest checkpoints kept; 0 keeps all
    asynchronous: bool = False
    load: str | None = None  # start from this checkpoint (or run folder), when run.dir has none
    load_optimizer: bool = True


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """Loss on held-out documents."""

    every: int = 0  # steps; 0: only at the end
    batches: int = 4  # global batches per validation; 0 switches it off


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """Text written during training by the model under training."""

    every: int = 0  # steps; 0: only at the end
    prompts: tuple[str, ...] = ()
    max_new_tokens: int = 64
    temperature: float = 0.8  # 0 is greedy
    top_k: int = 0
    top_p: float = 0.95


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """A Hugging Face folder written when the run is finished."""

    hf: bool = False
    dir: str | None = None  # default: <run.dir>/hf; it must not exist, or be one of this run's
    dtype: Dtype | None = None  # default: train.dtype
    family: str | None = None  # a model_type; default: the first that can say what the model is
    mtp: Literal["keep", "drop"] = "keep"  # MTP heads: few families have a place for them


@dataclass(frozen=True, kw_only=True)
class TrackConfig:
    """Other places that metrics go to."""

    tensorboard: bool = False
    wandb: bool = False
    wandb_project: str = "trivium"
    wandb_mode: Literal["online", "offline"] = "offline"


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run, whole."""

    seed: int = 1234
    run: RunSection = field(default_factory=RunSection)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    kernels: KernelsConfig = field(default_factory=KernelsConfig)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    track: TrackConfig = field(default_factory=TrackConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
