"""AdamW with one step count a group and eager states, over the kernel of `kernels/adamw.py`.

megatron-core wants the interface of Transformer Engine's FusedAdam: `step` lives in the parameter
group, the states are `exp_avg` and `exp_avg_sq`, and they exist as soon as somebody asks. With it,
fp32 masters, fp16 scaling and checkpoints that change layout all work.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from trivium.kernels.adamw import adamw_


class FusedAdamW(torch.optim.Optimizer):
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101); one fused pass per group and dtype.

    `adam_w_mode=False` couples the decay to the gradient, as in Adam. Parameters must be floating
    point, contiguous and, on CUDA, fp32; those whose `grad` is None are left alone. `moment_dtype`:
    what the moments are kept in, by default what the parameter is; bf16 halves them.

    Attributes:
        verdict: what `kernels.multi_tensor.judge` gave for the next step, or None. It stays on the
            device: a refused step writes nothing, and is counted until `take_back`.
        copies: by parameter, the tensor that its new value is rounded to in the same pass.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        adam_w_mode: bool = True,
        moment_dtype: torch.dtype | None = None,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)
        self.verdict: torch.Tensor | None = None
        self.copies: dict[torch.Tensor, torch.Tensor] = {}
        self._decoupled = adam_w_mode
        self._moment_dtype = moment_dtype

    def initialize_state(self, param: torch.Tensor) -> None:
        """Give `param` its two moments, zero, of its own shape and device."""
        self.state[param] = {
            "exp_avg": torch.zeros_like(param.data, dtype=self._moment_dtype),
            "exp_avg_sq": torch.zeros_like(param.data, dtype=self._moment_dtype),
        }

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update of every parameter that has a gradient, as far as the verdict allows."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            group["step"] = group.get("step", 0) + 1
            for params in self._alike(group["params"]):
                states = [self.state[param] for param in params]
                adamw_(
                    params,
                    [param.grad.contiguous() for param in params if param.grad is not None],
                    [state["exp_avg"] for state in states],
                    [state["exp_avg_sq"] for state in states],
                    copies=[self.copies[param] for param in params if param in self.copies],
                    verdict=self.verdict,
                    lr=group["lr"],
                    beta1=group["betas"][0],
                    beta2=group["betas"][1],
                    eps=group["eps"],
                    weight_decay=group["weight_decay"],
                    step=group["step"],
                    decoupled=self._decoupled,
                )
        return loss

    def take_back(self) -> None:
        """Take the last step out of the count: its verdict had refused it."""
        for group in self.param_groups:
            group["step"] -= 1

    def _alike(self, params: Iterable[torch.Tensor]) -> list[list[torch.Tensor]]:
        """Those that have a gradient, apart by the dtypes that one pass has one of."""
        lists: dict[Any, list[torch.Tensor]] = {}
        for param in params:
            if param.grad is None:
                continue
            if not self.state[param]:
                self.initialize_state(param)
            copy = self.copies.get(param)
            kind = (param.dtype, param.grad.dtype, None if copy is None else copy.dtype)
            lists.setdefault(kind, []).append(param)
        return list(lists.values())
