"""Norm, verdict and scaling of many tensors, against float64."""

from __future__ import annotations

import math

import pytest
import torch

from trivium.kernels import multi_tensor as module
from trivium.kernels.multi_tensor import clip_, judge, scale_, squared_sum

SIZES = [(7,), (33, 5), (), (70001,), (0,), (3, 4, 5)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def tensors(dtype, device="cpu", skew=0, sizes=SIZES):
    generator = torch.Generator(device).manual_seed(2)
    made = []
    for size in sizes:
        whole = torch.randn(math.prod(size) + skew, generator=generator, device=device)
        made.append(whole.to(dtype)[skew:].view(size))
    return made


def exact(values):
    return sum(float(value.double().square().sum()) for value in values)


def check_squares(values):
    total = squared_sum(values)
    assert (total.shape, total.dtype) == ((), torch.float64)
    assert float(total) == pytest.approx(exact(values), rel=1e-6)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
def test_squared_sum(dtype):
    check_squares(tensors(dtype))
    check_squares([*tensors(dtype), *tensors(torch.float32)])


def test_squares_of_nothing():
    assert float(squared_sum([], torch.device("cpu"))) == 0.0


def check_judge(device):
    def verdict(squares, loss, max_norm):
        squares = torch.tensor(squares, dtype=torch.float64, device=device)
        loss = None if loss is None else torch.tensor(loss, device=device)
        return judge(squares, loss, max_norm).tolist()

    assert verdict(4.0, None, 0.0) == [2.0, 1.0, 0.0]
    assert verdict(4.0, 3.0, 8.0) == [2.0, 1.0, 0.0]
    norm, factor, refused = verdict(16.0, 3.0, 1.0)
    assert (norm, refused) == (4.0, 0.0)
    assert factor == pytest.approx(1 / (4 + 1e-6), rel=1e-7)
    assert verdict(0.0, None, 1.0) == [0.0, 1.0, 0.0]
    assert verdict(4.0, math.nan, 1.0) == [2.0, 1.0, 1.0]
    assert verdict(4.0, -math.inf, 1.0)[2] == 1.0
    assert verdict(math.inf, 1.0, 1.0) == [math.inf, 1.0, 1.0]
    norm, factor, refused = verdict(math.nan, 1.0, 1.0)
    assert math.isnan(norm)
    assert (factor, refused) == (1.0, 1.0)
    assert verdict(1e80, 1.0, 1.0) == [math.inf, 1.0, 1.0]  # beyond fp32


def test_judge():
    check_judge("cpu")


def check_scale(values):
    wanted = [(value.float() * 0.3).to(value.dtype) for value in values]
    scale_(values, torch.tensor(0.3, device=values[0].device))
    for value, want in zip(values, wanted, strict=True):
        torch.testing.assert_close(value, want, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_scale(dtype):
    check_scale(tensors(dtype))
    scale_([], torch.tensor(0.5))


def check_clip(values):
    norm = math.sqrt(exact(values))
    assert clip_(values, 2 * norm).tolist() == pytest.approx([norm, 1.0, 0.0], rel=1e-6)
    assert clip_(values, 3.0)[0].item() == pytest.approx(norm, rel=1e-6)
    assert math.sqrt(exact(values)) == pytest.approx(3.0, rel=1e-5)


def test_clip():
    check_clip(tensors(torch.float32))


def test_opcheck():
    values, number = tensors(torch.float32), torch.tensor(2.0, dtype=torch.float64)
    torch.library.opcheck(torch.ops.trivium.squared_sum.default, (values,))
    torch.library.opcheck(torch.ops.trivium.judge.default, (number, number, 1.0))
    torch.library.opcheck(torch.ops.trivium.judge.default, (number, None, 0.0))
    torch.library.opcheck(torch.ops.trivium.scale_.default, (values, torch.tensor([0.5])))


# --- on a GPU -------------------------------------------------------------------------------------


@pytest.fixture
def kernel():
    from trivium.kernels import library

    assert library.load() is None
    assert module.GRADIENT_NORM.path == "cuda"
    poison = torch.full((1 << 22,), math.nan, device="cuda")
    del poison


@pytest.mark.gpu
@pytest.mark.parametrize("skew", [0, 1])
@pytest.mark.parametrize("dtype", DTYPES)
def test_kernels(kernel, dtype, skew):
    many = [(n % 7,) for n in range(400)]  # three launches
    large = [(4096, 4096), (32768 * 3 + 5,)]
    for sizes in (SIZES, many, large):
        check_squares(tensors(dtype, "cuda", skew, sizes))
        check_scale(tensors(dtype, "cuda", skew, sizes))
    mixed = [one for d in DTYPES for one in tensors(d, "cuda", skew)]
    check_squares(mixed)
    check_scale(mixed)
    check_clip(tensors(torch.float32, "cuda", skew))


@pytest.mark.gpu
def test_kernel_sums_in_one_order(kernel):
    values = tensors(torch.float32, "cuda", 0, [(1 << 24,), (12345,), (77, 77)])
    assert len({squared_sum(values).item() for _ in range(3)}) == 1


@pytest.mark.gpu
def test_kernel_judges_and_nobody_waits(kernel):
    check_judge("cuda")
    values = tensors(torch.float32, "cuda")
    values[1].fill_(math.inf)
    loss = torch.tensor(1.0, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        verdict = judge(squared_sum(values), loss, 1.0)
        scale_(values, verdict[1:2])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert verdict.tolist() == [math.inf, 1.0, 1.0]


@pytest.mark.gpu
def test_kernel_says_what_it_refuses(kernel):
    with pytest.raises(RuntimeError, match="contiguous"):
        squared_sum([torch.ones(4, 6, device="cuda").t()])
    with pytest.raises(RuntimeError, match="float32, bfloat16 or float16"):
        scale_([torch.ones(4, device="cuda").double()], torch.ones(1, device="cuda"))
