"""megatron-core without Trivium in the training benchmark: its own GPTModel, DDP and optimizer.

It is as it comes without Transformer Engine and apex: the local layer spec (torch's RMSNorm,
attention over an S x S matrix), its own fused cross-entropy, SwiGLU and bias-dropout (torch.compile
on a GPU), torch's AdamW, here the fused one. `masked_softmax_fusion` is off: its kernel comes with
apex, and without it the first step raises. None of Trivium's corrections or kernels are in the
process, but for the host adapter where there is no GPU.

    megatron             as it is; where the S x S matrices do not fit, they are recomputed
    megatron_attention   with F.scaled_dot_product_attention in the core attention's slot
    megatron_liger       that, with Liger-Kernel's adapter for megatron-core over norms, SwiGLU and
                         cross-entropy
"""

from __future__ import annotations

import warnings
from typing import Any

import torch

if not torch.cuda.is_available():
    from trivium.engine import host

    host.install()
warnings.filterwarnings("ignore", module=r"(megatron|torch)\b")

import torch.distributed as dist  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from megatron.core import parallel_state, tensor_parallel  # noqa: E402
from megatron.core.distributed import (  # noqa: E402
    DistributedDataParallel,
    DistributedDataParallelConfig,
    finalize_model_grads,
)
from megatron.core.models.gpt import GPTModel  # noqa: E402
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec  # noqa: E402
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer  # noqa: E402
from megatron.core.pipeline_parallel import get_forward_backward_func  # noqa: E402
from megatron.core.transformer import TransformerConfig  # noqa: E402
from megatron.core.transformer.module import Float16Module  # noqa: E402
from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402

from tools.benchmarks.measure import micro_batches  # noqa: E402
from tools.benchmarks.train_peer import place, train  # noqa: E402
from tools.benchmarks.train_work import TrainWork  # noqa: E402

BACKENDS = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


class Attention(torch.nn.Module):
    """Causal attention in DotProductAttention's slot: [S, B, N, D] -> [S, B, N * D]."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        del args, kwargs

    def forward(self, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        del args, kwargs
        q_BNSD, k_BGSD, v_BGSD = (x.permute(1, 2, 0, 3) for x in (query, key, value))
        with sdpa_kernel(BACKENDS, set_priority=True):
            out = F.scaled_dot_product_attention(
                q_BNSD, k_BGSD, v_BGSD, is_causal=True, enable_gqa=True
            )
        return out.permute(2, 0, 1, 3).flatten(2)


def ready(name: str) -> None:
    """Import and patch what only this peer needs."""
    if name == "megatron_liger":
        from liger_kernel.megatron import apply_liger_kernel_to_megatron

        apply_liger_kernel_to_megatron(rms_norm=True, cross_entropy=True, swiglu=True)


def recomputed(name: str, work: TrainWork) -> bool:
    """Must the S x S matrices be recomputed, because all layers' together would not fit?"""
    if name != "megatron":
        return False
    if not torch.cuda.is_available():
        return True  # so that a trial on a CPU sees the path
    room = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    return work.scores + 18 * work.parameters > room


def transformer_config(name: str, work: TrainWork) -> TransformerConfig:
    """megatron-core's own configuration of the work."""
    again: dict[str, Any] = {}
    if recomputed(name, work):
        again = {"recompute_granularity": "selective", "recompute_modules": ["core_attn"]}
    return TransformerConfig(
        num_layers=work.layers,
        hidden_size=work.hidden,
        num_attention_heads=work.heads,
        num_query_groups=work.groups,
        kv_channels=work.head_dim,
        ffn_hidden_size=work.ffn,
        normalization="RMSNorm",
        layernorm_epsilon=work.norm_epsilon,
        activation_func=F.silu,
        gated_linear_unit=True,
        add_bias_linear=False,
        attention_dropout=0.0,
        hidden_dropout=0.0,
        bf16=True,
        params_dtype=torch.bfloat16,
        bias_activation_fusion=True,
        bias_dropout_fusion=True,
        masked_softmax_fusion=False,
        cross_entropy_loss_fusion=True,
        cross_entropy_fusion_impl="native",
        transformer_impl="local",
        init_method=lambda tensor: tensor,
        output_layer_init_method=lambda tensor: tensor,
        **again,
    )


def build(name: str, work: TrainWork) -> GPTModel:
    """The model on the device, in bf16, with the starting weights."""
    spec = get_gpt_layer_local_spec(normalization="RMSNorm")
    if name != "megatron":
        spec.submodules.self_attention.submodules.core_attention = Attention
    model = GPTModel(
        config=transformer_config(name, work),
        transformer_layer_spec=spec,
        vocab_size=work.vocab,
        max_sequence_length=work.sequence,
        parallel_output=True,
        share_embeddings_and_output_weights=work.tie,
        position_embedding_type="rope",
        rotary_base=work.rope_theta,
    )
    model.cuda(torch.cuda.current_device())
    return model


def forward_step(batches: Any, model: Any) -> tuple[torch.Tensor, Any]:
    """As megatron-core's schedules call it."""
    rows = next(batches)
    tokens, labels = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
    positions = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)

    def loss_of(output: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        loss = output.float().mean()
        return loss, {"loss": loss.detach().clone()}

    return model(tokens, positions, None, labels=labels), loss_of


def run(name: str, work: TrainWork) -> dict[str, Any]:
    """Train and report."""
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    parallel_state.initialize_model_parallel()
    tensor_parallel.model_parallel_cuda_manual_seed(1234)
    model = build(name, work)
    config = model.config
    chunk = DistributedDataParallel(
        config,
        DistributedDataParallelConfig(grad_reduce_in_fp32=True),
        Float16Module(config, model),
    )
    place(model)
    optimizer = get_megatron_optimizer(
        OptimizerConfig(
            optimizer="adam",
            lr=work.lr,
            weight_decay=work.weight_decay,
            adam_beta1=work.beta1,
            adam_beta2=work.beta2,
            clip_grad=work.clip,
            bf16=True,
            params_dtype=torch.bfloat16,
        ),
        [chunk],
        use_gloo_process_groups=False,
    )
    for group in optimizer.param_groups:
        group["fused"], group["foreach"] = True, False
    config.finalize_model_grads_func = finalize_model_grads
    schedule = get_forward_backward_func()
    taken = iter(range(work.all_steps))

    def step() -> float:
        device = torch.cuda.current_device()
        rows = [one.to(device) for one in micro_batches(work, next(taken))]
        chunk.zero_grad_buffer()
        optimizer.zero_grad()
        outputs = schedule(
            forward_step_func=forward_step,
            data_iterator=iter(rows),
            model=[chunk],
            num_microbatches=len(rows),
            seq_length=work.sequence,
            micro_batch_size=work.micro_batch,
            forward_only=False,
        )
        optimizer.step()
        return sum(float(output["loss"]) for output in outputs) / len(outputs)

    found = train(work, step)
    if recomputed(name, work):
        found["note"] = f"core attention recomputed: kept, {work.scores / 1e9:.0f} GB more"
    dist.destroy_process_group()
    return found
