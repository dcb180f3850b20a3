"""SwiGLU and GeGLU against their formula in float64, on a CPU and, by the kernel, on a GPU."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from trivium.kernels import library
from trivium.kernels.activation import KINDS, gated_activation

ACTS = {"silu": F.silu, "gelu": F.gelu}
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 4e-3, torch.float16: 1e-3}
SOURCES = Path(library.__file__).parent / "csrc"


def random(*shape, seed=0, dtype=torch.float64, device="cpu"):
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float32, device=device).to(dtype)


def exact(x, kind, probs=None):
    gate, value = x.chunk(2, dim=-1)
    y = ACTS[kind](gate) * value
    return y if probs is None else y * probs.unsqueeze(-1)


def assert_close(ours, expected, tolerance):
    """By relative L2 error."""
    assert ours.shape == expected.shape
    error = (ours.double() - expected).norm() / expected.norm().clamp(min=1e-30)
    assert error <= tolerance, f"relative error {error:.2e}"


def check(x, kind, probs, grad, tolerance):
    """Value and gradients against float64; probabilities' gradient always to fp32's rounding of
    sums over what x's dtype holds."""
    leaf = x.detach().requires_grad_()
    weights = None if probs is None else probs.detach().requires_grad_()
    y = gated_activation(leaf, kind, weights)
    assert y.dtype == x.dtype
    y.backward(grad)
    exact_leaf = x.double().detach().requires_grad_()
    exact_weights = None if probs is None else probs.double().detach().requires_grad_()
    expected = exact(exact_leaf, kind, exact_weights)
    expected.backward(grad.double())
    assert_close(y, expected, tolerance)
    assert_close(leaf.grad, exact_leaf.grad, tolerance)
    if probs is not None:
        assert weights.grad.dtype == probs.dtype
        assert_close(weights.grad, exact_weights.grad, tolerance)
    return y, leaf.grad, None if weights is None else weights.grad


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_reference(kind, dtype, weighted):
    x = random(5, 3, 46, dtype=dtype)
    probs = random(5, 3, seed=1, dtype=torch.float32).abs() if weighted else None
    check(x, kind, probs, random(5, 3, 23, seed=2, dtype=dtype), TOLERANCE[dtype])


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_in_float64(kind):
    x, probs = random(3, 8).requires_grad_(), random(3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: gated_activation(x, kind), x)
    assert torch.autograd.gradcheck(lambda x, p: gated_activation(x, kind, p), (x, probs))


def test_strided_rows_and_gradients():
    whole = random(6, 2, 40, dtype=torch.float32)
    x = whole[::2, :, 3:31]
    check(x, "silu", None, random(1, 1, 14, dtype=torch.float32).expand(3, 2, 14), 1e-6)
    x = whole.transpose(0, 1)
    check(x, "gelu", random(2, 6, dtype=torch.float32), random(2, 6, 20).float(), 1e-6)


def test_no_tokens():
    x = torch.empty(0, 16, requires_grad=True)
    probs = torch.empty(0, requires_grad=True)
    gated_activation(x, "silu", probs).sum().backward()
    assert x.grad.shape == (0, 16)
    assert probs.grad.shape == (0,)


def test_probabilities_of_another_dtype():
    x, probs = random(4, 8, dtype=torch.bfloat16), random(4, dtype=torch.bfloat16).requires_grad_()
    gated_activation(x, "silu", probs).sum().backward()
    assert probs.grad.dtype == torch.bfloat16


def test_errors_name_what_is_wrong():
    x = random(4, 8)
    with pytest.raises(ValueError, match="'relu': choose silu or gelu"):
        gated_activation(x, "relu")
    with pytest.raises(ValueError, match="last dim"):
        gated_activation(x[:, :7], "silu")
    with pytest.raises(ValueError, match=r"give one a token, \(4,\)"):
        gated_activation(x, "silu", random(4, 1))


@pytest.mark.parametrize("weighted", [False, True])
def test_operators(weighted):
    x = random(3, 8, dtype=torch.float32).requires_grad_()
    probs = random(3, dtype=torch.float32).requires_grad_() if weighted else None
    torch.library.opcheck(torch.ops.trivium.gated_activation, (x, probs, 0))
    grad = random(3, 4, dtype=torch.float32)
    inputs = (grad, x.detach(), None if probs is None else probs.detach(), 1)
    torch.library.opcheck(torch.ops.trivium.gated_activation_backward, inputs)


PROGRAM = """
#include <cstdio>
#include "activation_row.h"
using namespace trivium;
template <Gate G> void run() {
  float gate, value, grad, weight;
  while (std::scanf("%f %f %f %f", &gate, &value, &grad, &weight) == 4) {
    const float y = gated<G>(gate, value, weight);
    const float part = gated_gradient<G>(grad, gate, value, weight);
    std::printf("%.9g %.9g %.9g %.9g\\n", y, gate, value, part);
  }
}
int main(int argc, char**) { argc > 1 ? run<Gate::gelu>() : run<Gate::silu>(); }
"""


@pytest.mark.parametrize("kind", KINDS)
def test_arithmetic_of_the_kernel(kind, tmp_path):
    """The row header, compiled for the host, gives what the reference gives."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not here to compile the kernel's arithmetic")
    (tmp_path / "row.cpp").write_text(PROGRAM)
    program = tmp_path / "row"
    flags = ["-std=c++20", "-O1", f"-I{SOURCES}"]
    subprocess.run(["g++", *flags, str(tmp_path / "row.cpp"), "-o", str(program)], check=True)
    rows = (random(200, 4, dtype=torch.float32) * 3).requires_grad_()
    text = "\n".join(" ".join(f"{v:.9g}" for v in row) for row in rows.tolist())
    command = [str(program), *(["gelu"] if kind == "gelu" else [])]
    out = subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout
    ours = torch.tensor([[float(v) for v in line.split()] for line in out.splitlines()])
    gate, value, grad, weight = (c.detach().double().requires_grad_() for c in rows.unbind(1))
    y = ACTS[kind](gate) * value * weight
    y.backward(grad)
    expected = torch.stack([y.detach(), gate.grad, value.grad, weight.grad], dim=1)
    for column in range(4):
        assert_close(ours[:, column], expected[:, column], 1e-6)


# --- On a GPU -------------------------------------------------------------------------------------

SHAPES = [  # tokens, F
    (4096, 14336),  # Llama 3 8B
    (8192, 2048),  # an expert of DeepSeek-V3
    (17, 1408),
    (333, 56),  # less than a warp wide
    (5, 24000),
    (129, 1001),  # no 16-byte accesses
    (1, 1),
    (70000, 8),
]


def poison(*shapes, dtype):
    """Leave NaN in the memory that the next results will be given."""
    held = [torch.full(shape, float("nan"), dtype=dtype, device="cuda") for shape in shapes]
    del held


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_kernel(dtype):
    assert library.load() is None
    for tokens, width in SHAPES:
        for kind in KINDS:
            for weighted in (False, True):
                x = random(tokens, 2 * width, dtype=dtype, device="cuda")
                grad = random(tokens, width, seed=1, dtype=dtype, device="cuda")
                probs = torch.rand(tokens, device="cuda") if weighted else None
                poison((tokens, width), (tokens, 2 * width), dtype=dtype)
                first = check(x, kind, probs, grad, TOLERANCE[dtype])
                for _ in range(2 if tokens < 5000 else 0):
                    again = check(x, kind, probs, grad, TOLERANCE[dtype])
                    pairs = zip(first, again, strict=True)
                    assert all(a is b or torch.equal(a, b) for a, b in pairs)


@pytest.mark.gpu
def test_kernel_strides():
    assert library.load() is None
    whole = random(64, 2, 4 * 264, dtype=torch.bfloat16, device="cuda")
    grad = random(1, 1, 264, dtype=torch.bfloat16, device="cuda")
    probs = torch.rand(2, 64, device="cuda").t()  # not contiguous
    for x in (
        whole[..., :528],
        whole[..., 1:529],  # off by two bytes
        whole[::2, :, 264:792].expand(32, 2, 528),
        whole.transpose(0, 1)[..., 264:792].transpose(0, 1),
        whole[..., ::2],
        whole.transpose(0, 1)[..., :528],  # rows in an order of their own
    ):
        shape = (*x.shape[:2], 264)
        weights = probs[: shape[0]] if shape[1] == 2 else None
        check(x, "silu", weights, grad.expand(shape), 4e-3)
        check(x, "gelu", None, grad.expand(shape).contiguous(), 4e-3)


@pytest.mark.gpu
def test_kernel_without_tokens():
    assert library.load() is None
    x = torch.empty(0, 16, device="cuda", requires_grad=True)
    probs = torch.empty(0, device="cuda", requires_grad=True)
    gated_activation(x, "silu", probs).sum().backward()
    assert x.grad.shape == (0, 16)


@pytest.mark.gpu
def test_kernel_past_two_to_the_31_elements():
    assert library.load() is None
    tokens, width = 131072 + 8, 8192 + 8
    x = torch.randn(1, 2 * width, device="cuda", dtype=torch.bfloat16).expand(tokens, -1)
    x = x.contiguous()
    y = gated_activation(x, "silu")
    assert torch.equal(y[-1], y[0])
    assert_close(y[-1], exact(x[-1].double(), "silu"), 4e-3)
