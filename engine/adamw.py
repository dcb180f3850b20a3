"""AdamW with one step count a group and eager states, over torch's fused kernel.

megatron-core wants the interface of Transformer Engine's FusedAdam: `step` lives in the parameter
group, the states are `exp_avg` and `exp_avg_sq`, and they exist as soon as somebody asks. With it,
fp32 masters, fp16 scaling and checkpoints that change layout all work.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch


class FusedAdamW(torch.optim.Optimizer):
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101); one fused pass per group and device.

    `adam_w_mode=False` couples the decay to the gradient, as in Adam. Parameters must be floating
    point and dense; those whose `grad` is None are left alone.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        adam_w_mode: bool = True,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)
        self._update = torch._fused_adamw_ if adam_w_mode else torch._fused_adam_

    def initialize_state(self, param: torch.Tensor) -> None:
        """Give `param` its two moments, zero, of its own shape, dtype and device."""
        self.state[param] = {
            "exp_avg": torch.zeros_like(param.data),
            "exp_avg_sq": torch.zeros_like(param.data),
        }

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update of every parameter that has a gradient."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            group["step"] = group.get("step", 0) + 1
            params = [param for param in group["params"] if param.grad is not None]
            if not params:
                continue
            for param in params:
                if not self.state[param]:
                    self.initialize_state(param)
            step = torch.tensor(float(group["step"]), device=params[0].device)
            self._update(
                params,
                [param.grad for param in params],
                [self.state[param]["exp_avg"] for param in params],
                [self.state[param]["exp_avg_sq"] for param in params],
                [],
                [step] * len(params),
                lr=group["lr"],
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
            )
        return loss
