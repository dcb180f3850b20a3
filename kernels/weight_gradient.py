"""The gradient of a linear layer's weight, added to its fp32 accumulator inside the product."""

from __future__ import annotations

import functools

import torch


def accumulate(x: torch.Tensor, grad: torch.Tensor, main_grad: torch.Tensor) -> None:
    """main_grad += grad^T x, in place.

    x [T, in], grad [T, out], of one dtype; main_grad [out, in], contiguous, of that dtype or fp32.
    On CUDA the product of bf16 or fp16 is added in fp32, unrounded, without a temporary: cuBLAS at
    beta 1, as in apex's `wgrad_gemm_accum_fp32`. T may be 0.
    """
    if x.shape[0] == 0:
        return
    if x.dtype == main_grad.dtype:
        torch.addmm(main_grad, grad.t(), x, out=main_grad)
    elif not x.is_cuda:
        main_grad.add_(grad.t() @ x)
    elif _adds_in_place():
        torch.addmm(main_grad, grad.t(), x, out_dtype=main_grad.dtype, out=main_grad)
    else:
        main_grad.add_(torch.mm(grad.t(), x, out_dtype=main_grad.dtype))


@functools.cache
def _adds_in_place() -> bool:
    """Does this torch add a bf16 product to an fp32 matrix? It came after `out_dtype` itself."""
    one = torch.ones(16, 16, dtype=torch.bfloat16, device="cuda")
    total = torch.ones(16, 16, device="cuda")
    try:
        torch.addmm(total, one.t(), one, out_dtype=torch.float32, out=total)
    except RuntimeError:
        return False
    return True
