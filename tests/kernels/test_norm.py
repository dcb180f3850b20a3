"""RMSNorm and LayerNorm against their formulas in float64, on a CPU and by the kernel on a GPU."""

from __future__ import annotations

import ctypes
import functools

import pytest
import torch
import torch.nn.functional as F

from tests.kernels.on_host import compile_on_host, pointer
from trivium.kernels import library, registry
from trivium.kernels.norm import add_rms_norm, layer_norm, rms_norm

EPS = 1e-5
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 4e-3, torch.float16: 1e-3}
HALVES = [torch.bfloat16, torch.float16]


def random(*shape, seed=0, dtype=torch.float32, device="cpu"):
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(*shape, generator=generator, device=device).to(dtype)


# --- The formulas, differentiated by torch --------------------------------------------------------


def plain_rms(x, weight, zero_centered):
    gain = weight + 1 if zero_centered else weight
    return x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * gain


def plain_layer(x, weight, bias, zero_centered):
    return F.layer_norm(x, x.shape[-1:], weight + 1 if zero_centered else weight, bias, EPS)


def assert_close(ours, expected, tolerance):
    """By relative L2 error."""
    assert ours.shape == expected.shape
    error = (ours.double() - expected).norm() / expected.norm().clamp(min=1e-30)
    assert error <= tolerance, f"relative error {error:.2e}"


def check(ours, plain, inputs, grads):
    """Outputs and gradients of ours, after comparing them with `plain` in float64."""
    mine = [x.detach().requires_grad_() for x in inputs]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    outputs, expected = ours(*mine), plain(*exact)
    torch.autograd.backward(outputs, grads)
    torch.autograd.backward(expected, [grad.double() for grad in grads])
    for one, other in zip(outputs, expected, strict=True):
        assert one.dtype == inputs[0].dtype
        assert_close(one, other, TOLERANCE[one.dtype])
    for leaf, other in zip(mine, exact, strict=True):
        assert leaf.grad.dtype == leaf.dtype
        assert_close(leaf.grad, other.grad, TOLERANCE[leaf.dtype])
    return [*outputs, *(leaf.grad for leaf in mine)]


def check_rms(x, weight, grad, zero_centered=False):
    return check(
        lambda x, w: [rms_norm(x, w, EPS, zero_centered)],
        lambda x, w: [plain_rms(x, w, zero_centered)],
        [x, weight],
        [grad],
    )


def check_add(x, residual, weight, grad, grad_sum, zero_centered=False):
    total = (x.double() + residual.double()).to(x.dtype).double()

    def plain(x, residual, weight):
        exact = x + residual
        rounded = exact + (total - exact.detach())  # what is normalised is the rounded sum
        return [plain_rms(rounded, weight, zero_centered), rounded]

    return check(
        lambda x, r, w: list(add_rms_norm(x, r, w, EPS, zero_centered)),
        plain,
        [x, residual, weight],
        [grad, grad_sum],
    )


def check_layer(x, weight, bias, grad, zero_centered=False):
    return check(
        lambda x, w, b: [layer_norm(x, w, b, EPS, zero_centered)],
        lambda x, w, b: [plain_layer(x, w, b, zero_centered)],
        [x, weight, bias],
        [grad],
    )


def check_all(shape, dtype, device="cpu", gains=None, zero_centered=False, arrange=lambda x: x):
    """Every operator on one shape; `arrange` makes inputs and gradients that are not contiguous."""
    made = functools.partial(random, dtype=dtype, device=device)
    x, residual, grad, grad_sum = (arrange(made(*shape, seed=seed)) for seed in range(4))
    x = x + 0.5  # a mean; adding keeps the strides
    weight, bias = (
        random(x.shape[-1], seed=s, dtype=gains or dtype, device=device) for s in (4, 5)
    )
    return [
        *check_rms(x, weight, grad, zero_centered),
        *check_add(x, residual, weight, grad, grad_sum, zero_centered),
        *check_layer(x, weight, bias, grad, zero_centered),
    ]


# --- On a CPU -------------------------------------------------------------------------------------


@pytest.mark.parametrize("zero_centered", [False, True], ids=["", "zero-centred"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_against_float64(dtype, zero_centered):
    check_all((5, 3, 72), dtype, zero_centered=zero_centered)
    check_all((33,), dtype, zero_centered=zero_centered)


def test_a_gain_of_another_dtype():
    check_all((4, 48), torch.bfloat16, gains=torch.float32, zero_centered=True)


@pytest.mark.parametrize(
    "arrange",
    [lambda x: x.transpose(0, 1), lambda x: x.flip(0)[::2, :, 1:], lambda x: x[:1].expand_as(x)],
    ids=["transposed", "cut", "expanded"],
)
def test_inputs_that_are_not_contiguous(arrange):
    def cut_gains(x, weight, *rest):
        return weight[: x.shape[-1]]

    x, grad = arrange(random(6, 4, 24)), arrange(random(6, 4, 24, seed=1))
    weight = cut_gains(x, random(24, seed=2))
    y = check_rms(x, weight, grad)[0]
    assert y.is_contiguous()
    check_layer(x, weight, weight, grad)


def test_a_zero_centred_gain_keeps_its_bits():
    """1 + 2^-10 is 1 in bf16; the one is added in fp32."""
    x = torch.full((1, 64), 256.0).bfloat16()
    weight = torch.full((64,), 2.0**-7 + 2.0**-10).bfloat16()
    wide = plain_rms(x.double(), weight.double(), True)
    assert_close(rms_norm(x, weight, EPS, True), wide.bfloat16().double(), 0)


def test_the_sum_may_be_all_that_is_used():
    x, residual, weight = random(4, 8), random(4, 8, seed=1), random(8, seed=2)
    leaves = [t.requires_grad_() for t in (x, residual, weight)]
    add_rms_norm(*leaves)[1].sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))
    assert torch.equal(residual.grad, torch.ones_like(x))
    assert weight.grad is None
    normed, _ = add_rms_norm(*leaves)
    ours = torch.autograd.grad(normed.square().sum(), leaves)
    theirs = torch.autograd.grad(plain_rms(x + residual, weight, False).square().sum(), leaves)
    torch.testing.assert_close(ours, theirs)


def test_add_refuses_two_dtypes():
    with pytest.raises(ValueError, match="one dtype"):
        add_rms_norm(random(2, 8), random(2, 8).bfloat16(), random(8))


@pytest.mark.parametrize("zero_centered", [False, True])
def test_gradcheck(zero_centered):
    def made(*shape, seed):
        return random(*shape, seed=seed, dtype=torch.float64).requires_grad_()

    x, residual = made(3, 5, seed=0), made(3, 5, seed=1)
    weight, bias = made(5, seed=2), made(5, seed=3)
    options = {"eps": EPS, "zero_centered": zero_centered}
    for function, inputs in (
        (rms_norm, (x, weight)),
        (add_rms_norm, (x, residual, weight)),
        (layer_norm, (x, weight, bias)),
    ):
        assert torch.autograd.gradcheck(functools.partial(function, **options), inputs)
    assert torch.autograd.gradcheck(lambda x, w: layer_norm(x, w, None, **options), (x, weight))


def samples(dtype=torch.float32):
    """Arguments of each torch operator, by name."""
    x, residual, grad = (random(4, 3, 16, seed=seed, dtype=dtype) for seed in range(3))
    weight, bias = random(16, seed=3, dtype=dtype), random(16, seed=4, dtype=dtype)
    mean, rstd = random(4, 3, seed=5), random(4, 3, seed=6).abs()
    return {
        "rms_norm": (x, weight, EPS, True),
        "rms_norm_backward": (grad, x, weight, rstd, True),
        "add_rms_norm": (x, residual, weight, EPS, False),
        "add_rms_norm_backward": (grad, residual, x, weight, rstd, False),
        "layer_norm": (x, weight, bias, EPS, False),
        "layer_norm_backward": (grad, x, weight, mean, rstd, True),
    }


@pytest.mark.parametrize("name", samples())
def test_opcheck(name):
    operator = getattr(torch.ops.trivium, name).default
    for dtype in (torch.float32, torch.bfloat16):
        arguments = samples(dtype)[name]
        torch.library.opcheck(operator, arguments)
        leaves = [
            a.detach().requires_grad_() if isinstance(a, torch.Tensor) else a for a in arguments
        ]
        if not name.endswith("backward"):
            torch.library.opcheck(operator, leaves)


# --- The kernel's arithmetic, by the host's compiler ----------------------------------------------

HOST = """
#include "norm_row.h"
using namespace trivium::norm;

template <bool kCentred>
void row(const float* x, const float* g, const float* gain, int width, float eps, float* y,
         float* dx, float* dgain) {
  float mean = 0, squares = 0, of_g = 0, of_gn = 0;
  for (int i = 0; i < width && kCentred; ++i) mean += x[i] / width;
  for (int i = 0; i < width; ++i) squares += (x[i] - mean) * (x[i] - mean);
  const float rstd = inverse_deviation(squares, width, eps);
  for (int i = 0; i < width; ++i) {
    const float n = normalised<kCentred>(x[i], mean, rstd);
    y[i] = n * gain[i];
    dgain[i] += g[i] * n;
    of_g += g[i] * gain[i] / width;
    of_gn += g[i] * gain[i] * n / width;
  }
  for (int i = 0; i < width; ++i) {
    const float n = normalised<kCentred>(x[i], mean, rstd);
    dx[i] = input_gradient<kCentred>(g[i], n, gain[i], rstd, of_g, of_gn);
  }
}

extern "C" void rows(bool centred, const float* x, const float* g, const float* gain, int count,
                     int width, float eps, float* y, float* dx, float* dgain) {
  for (int r = 0; r < count; ++r, x += width, g += width, y += width, dx += width)
    (centred ? row<true> : row<false>)(x, g, gain, width, eps, y, dx, dgain);
}
"""


@pytest.mark.parametrize("centred", [False, True], ids=["rms", "layer"])
def test_row_arithmetic_of_the_kernel(centred, tmp_path):
    rows = compile_on_host(HOST, tmp_path).rows
    x, grad, weight = random(6, 80) + 0.5, random(6, 80, seed=1), random(80, seed=2)
    y, dx, dgain = torch.empty_like(x), torch.empty_like(x), torch.zeros_like(weight)
    rows(
        ctypes.c_bool(centred),
        *map(pointer, (x, grad, weight)),
        6,
        80,
        ctypes.c_float(EPS),
        *map(pointer, (y, dx, dgain)),
    )
    operators = torch.ops.trivium
    if centred:
        ours, mean, rstd = operators.layer_norm(x, weight, None, EPS, False)
        grads = operators.layer_norm_backward(grad, x, weight, mean, rstd, False)
    else:
        ours, rstd = operators.rms_norm(x, weight, EPS, False)
        grads = operators.rms_norm_backward(grad, x, weight, rstd, False)
    for kernel, reference in zip((y, dx, dgain), (ours, *grads), strict=False):
        assert_close(kernel, reference.double(), 2e-6)


# --- On a GPU -------------------------------------------------------------------------------------


@pytest.fixture
def kernel():
    assert library.load() is None
    assert registry.OPERATORS["norm"].path == "cuda"


def poison(shape, dtype):
    """Leave NaN in the memory that outputs and scratch will be made of."""
    kept = [torch.full(shape, float("nan"), dtype=dtype, device="cuda") for _ in range(4)]
    kept += [torch.full((n,), float("nan"), device="cuda") for n in (shape[0], 1 << 16, 1 << 22)]
    del kept


# One width for each way of giving rows to threads: lanes of a warp, a warp, several teams of warps
# in a block, one team (16 and 32 columns a thread), unaligned, too wide.
WIDTHS = [64, 72, 128, 192, 256, 512, 520, 1536, 4096, 7168, 16384, 3, 33, 1025, 4097, 20000]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("width", WIDTHS)
def test_kernel(kernel, width, dtype):
    rows = 2051 if width < 600 else 301
    poison((rows, width), dtype)
    check_all((rows, width), dtype, "cuda", zero_centered=width % 3 == 0)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_kernel_of_uneven_rows_and_other_gains(kernel, dtype):
    fused = functools.partial(check_all, dtype=dtype, device="cuda", gains=torch.float32)
    fused((64, 6, 384), arrange=lambda x: x[..., 128:256])  # a slice of q, k and v
    fused((64, 6, 384), arrange=lambda x: x.transpose(0, 1))
    fused((64, 6, 260), arrange=lambda x: x[..., 1:257])  # not aligned
    fused((64, 6, 128), arrange=lambda x: x[:, :1].expand_as(x))


@pytest.mark.gpu
@pytest.mark.parametrize("width", [128, 1536, 4096, 1025])
def test_kernel_gives_the_same_bits_again(kernel, width):
    def once():
        poison((1033, width), torch.bfloat16)
        return check_all((1033, width), torch.bfloat16, "cuda")

    first = once()
    for _ in range(2):
        assert all(torch.equal(a, b) for a, b in zip(first, once(), strict=True))


@pytest.mark.gpu
def test_kernel_of_many_narrow_rows(kernel):
    """Rows of q: heads of 8192 tokens. The gain's gradient is a sum over all of them."""
    shape = (8192, 32, 128)
    x, grad = (random(*shape, seed=s, dtype=torch.bfloat16, device="cuda") for s in range(2))
    check_rms(x, random(128, seed=2, dtype=torch.bfloat16, device="cuda"), grad)


@pytest.mark.gpu
def test_kernel_of_no_rows(kernel):
    x = torch.empty(0, 64, device="cuda", requires_grad=True)
    weight = torch.ones(64, device="cuda", requires_grad=True)
    rms_norm(x, weight).sum().backward()
    assert x.grad.shape == x.shape
    assert not weight.grad.any()


@pytest.mark.gpu
def test_kernel_refuses_what_it_cannot_do(kernel):
    x = torch.ones(2, 64, device="cuda")
    with pytest.raises(RuntimeError, match="weight has 63 elements"):
        rms_norm(x, torch.ones(63, device="cuda"))
    with pytest.raises(RuntimeError, match="dtype must be"):
        rms_norm(x.double(), torch.ones(64, device="cuda").double())


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_reference_on_a_gpu(kernel, dtype):
    """What runs there without the library."""
    registry.switch_off(["norm"])
    try:
        check_all((301, 512), dtype, "cuda")
    finally:
        registry.switch_off([])
