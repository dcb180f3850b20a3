"""A weight's gradient added to its accumulator inside the product, against float64."""

from __future__ import annotations

import pytest
import torch

from trivium.kernels.weight_gradient import accumulate

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def check(tokens, rows, columns, dtype, device="cpu", main=torch.float32):
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(tokens, columns, generator=generator).to(device, dtype)
    grad = torch.randn(tokens, rows, generator=generator).to(device, dtype)
    main_grad = (torch.randn(rows, columns, generator=generator) * 8).to(device, main)
    wanted = main_grad.double() + grad.double().t() @ x.double()
    where = main_grad.data_ptr()
    accumulate(x, grad, main_grad)
    error = (main_grad.double() - wanted).norm() / wanted.norm()
    assert main_grad.data_ptr() == where
    if device == "cuda":
        assert error <= 2e-5  # of fp32 sums in tensor cores; bf16 rounds by 1e-3
    else:
        assert error <= (1e-6 if dtype == torch.float32 else 4e-3)


@pytest.mark.parametrize("tokens", [0, 1, 37])
@pytest.mark.parametrize("dtype", DTYPES)
def test_reference(dtype, tokens):
    check(tokens, 5, 9, dtype)


def test_accumulator_of_the_same_dtype():
    check(37, 5, 9, torch.bfloat16, main=torch.bfloat16)


def test_a_transposed_gradient():
    x, grad, main_grad = torch.randn(6, 4), torch.randn(3, 6).t(), torch.zeros(3, 4)
    accumulate(x, grad, main_grad)
    torch.testing.assert_close(main_grad, grad.t() @ x)


def fused_layers(config):
    """In a rank: which linear layers add their weight gradients within the product."""
    from tests.parity.ranks import Run

    run = Run(config)
    modules = [pair for chunk in run.chunks for pair in chunk.module.named_modules()]
    flag = "gradient_accumulation_fusion"
    return {name: getattr(one, flag) for name, one in modules if hasattr(one, flag)}


@pytest.mark.parametrize("tied", [True, False])
def test_every_layer_of_the_engine_but_a_tied_output(tied):
    from tests.distributed.pool import run_distributed
    from tests.parity.layouts import place
    from tests.parity.models import run_of, tiny

    config, _ = place(run_of(tiny(tie_embeddings=tied)), "")
    [fused] = run_distributed(fused_layers, 1, config)
    assert len(fused) > 4
    assert {name for name, on in fused.items() if not on} == ({"output_layer"} if tied else set())


# --- on a GPU -------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_cuda_adds_in_fp32(dtype):
    from trivium.kernels.weight_gradient import _adds_in_place

    assert _adds_in_place(), "torch.addmm(out_dtype=) takes no fp32 accumulator here"
    for tokens, rows, columns in [(0, 8, 8), (37, 5, 9), (4096, 1024, 2048), (513, 1000, 776)]:
        check(tokens, rows, columns, dtype, "cuda")


@pytest.mark.gpu
def test_cuda_repeats_and_allocates_nothing():
    x = torch.randn(4096, 2048, device="cuda", dtype=torch.bfloat16)
    grad = torch.randn(4096, 1024, device="cuda", dtype=torch.bfloat16)
    sums = [torch.zeros(1024, 2048, device="cuda") for _ in range(3)]
    accumulate(x, grad, sums[0])
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    for total in sums[1:]:
        accumulate(x, grad, total)
    assert torch.cuda.max_memory_allocated() - before < sums[0].nbytes
    assert all(torch.equal(sums[0], total) for total in sums[1:])
