"""Rotary embedding against products with e^(i angle) in float64, on a CPU and on a GPU."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from tests.distributed.pool import distributed
from trivium.kernels import library, rotary
from trivium.kernels.rotary import FORMS, Documents, document_positions, rotate, rotate_pair

TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 4e-3, torch.float16: 1e-3}
SOURCES = Path(library.__file__).parent / "csrc"


def random(*shape, seed=0, dtype=torch.float64, device="cpu"):
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float32, device=device).to(dtype)


def angles_of(positions, pairs, dtype=torch.float32, device="cpu"):
    """As a model's: position times a falling frequency."""
    frequency = 10000.0 ** -(torch.arange(pairs, device=device) / pairs)
    return torch.outer(torch.arange(positions, device=device).float(), frequency).to(dtype)


def exact(x, angles, form="half", scale=1.0, positions=None):
    """x times scale e^(i angle), as complex numbers in float64."""
    x, R = x.double(), 2 * angles.shape[1]
    angles = angles.double()[: x.shape[0]] if positions is None else angles.double()[positions]
    turning, rest = x[..., :R], x[..., R:]
    if form == "half":
        pair = torch.complex(turning[..., : R // 2], turning[..., R // 2 :])
    else:
        pair = torch.complex(turning[..., 0::2], turning[..., 1::2])
    pair = pair * torch.polar(torch.full_like(angles, scale), angles)[:, None, None]
    if form == "interleaved":
        turned = torch.stack([pair.real, pair.imag], dim=-1).flatten(-2)
    else:
        turned = torch.cat([pair.real, pair.imag], dim=-1)
    return torch.cat([turned, rest], dim=-1)


def assert_close(ours, expected, tolerance):
    """By relative L2 error."""
    assert ours.shape == expected.shape
    error = (ours.double() - expected).norm() / expected.norm().clamp(min=1e-30)
    assert error <= tolerance, f"relative error {error:.2e}"


def check(x, angles, form="half", scale=1.0, documents=None):
    """Value and gradient against float64; gives both."""
    positions = None
    if documents is not None:
        positions = document_positions(*documents[:1], x.shape[0], *documents[1:])
    leaf, exact_leaf = x.detach().requires_grad_(), x.detach().double().requires_grad_()
    y = rotate(leaf, angles, form, scale, documents)
    expected = exact(exact_leaf, angles, form, scale, positions)
    # of another layout, as attention's gradients are
    grad = random(*(x.shape[d] for d in (1, 2, 0, 3)), seed=1, dtype=x.dtype, device=x.device)
    grad = grad.permute(2, 0, 1, 3)
    y.backward(grad)
    expected.backward(grad.double())
    assert y.dtype == x.dtype
    assert_close(y, expected, TOLERANCE[x.dtype])
    assert_close(leaf.grad, exact_leaf.grad, TOLERANCE[x.dtype])
    return y.detach(), leaf.grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("pairs", [8, 5])
@pytest.mark.parametrize("form", FORMS)
def test_reference(form, pairs, dtype):
    x = random(7, 2, 3, 16, dtype=dtype)
    check(x, angles_of(9, pairs), form)
    check(x, angles_of(9, pairs), form, scale=1.3)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_in_float64(form):
    x, k = random(3, 2, 2, 6).requires_grad_(), random(3, 2, 1, 6).requires_grad_()
    angles = angles_of(3, 2, torch.float64)
    assert torch.autograd.gradcheck(lambda x: rotate(x, angles, form, 0.7), x)
    assert torch.autograd.gradcheck(lambda x, k: rotate_pair(x, k, angles, form), (x, k))
    assert torch.autograd.gradgradcheck(lambda x: rotate(x, angles, form), x)


def test_pair_equals_two():
    q, k, angles = random(5, 2, 4, 8).float(), random(5, 2, 2, 8).float(), angles_of(6, 3)
    documents = Documents(torch.tensor([0, 2, 5], dtype=torch.int32))
    for one in (None, documents):
        pair = rotate_pair(q, k, angles, "interleaved", 1.1, one)
        for ours, x in zip(pair, (q, k), strict=True):
            assert torch.equal(ours, rotate(x, angles, "interleaved", 1.1, one))


def held(length, size, rank):
    """Indices that a rank holds of 2 size chunks of a length."""
    chunks = torch.arange(length).chunk(2 * size)
    return torch.cat([chunks[rank], chunks[2 * size - 1 - rank]])


@pytest.mark.parametrize("size", [1, 2, 4])
def test_positions_in_documents(size):
    lengths = [8, 0, 16, 24, 0, 8, 0]
    cumulative = torch.tensor([0, *lengths]).cumsum(0).int()
    whole = torch.cat([torch.arange(length) for length in lengths])
    for rank in range(size):
        by_document = torch.cat([held(length, size, rank) for length in lengths if length])
        rows = len(by_document)
        assert torch.equal(document_positions(cumulative, rows, size, rank), by_document)
        by_row = whole[held(len(whole), size, rank)]
        assert torch.equal(document_positions(cumulative, rows, size, rank, True), by_row)


def test_documents():
    x, angles = random(9, 1, 3, 16).float(), angles_of(5, 8)
    documents = Documents(torch.tensor([0, 4, 9]))
    turned = rotate(x, angles, documents=documents)
    parts = [rotate(part, angles) for part in x.split([4, 5])]
    torch.testing.assert_close(turned, torch.cat(parts))
    check(x, angles, "interleaved", documents=Documents(torch.tensor([0, 4, 9]).int()))


def test_rows_past_the_documents_stay_within_the_angles():
    x, angles = random(9, 1, 3, 16).float(), angles_of(4, 8)
    turned = rotate(x, angles, documents=Documents(torch.tensor([0, 4, 6])))
    torch.testing.assert_close(turned[7:8], rotate(x[7:8], angles[3:]))
    torch.testing.assert_close(
        rotate(x, angles, documents=Documents(torch.tensor([0, 9])))[4:],
        rotate(x[4:], angles[3:].expand(5, 8)),
    )


def test_errors_name_what_is_wrong():
    x, angles = random(4, 1, 2, 8), angles_of(4, 4)
    for call, message in (
        (lambda: rotate(x, angles, "quarter"), "'quarter': choose half, interleaved, latent"),
        (lambda: rotate(x[0], angles), r"give x \[S, B, N, D\]"),
        (lambda: rotate(x, angles_of(4, 5)), "R <= D"),
        (lambda: rotate(x, angles[:3]), "4 rows, but angles for 3 positions"),
        (lambda: rotate_pair(x, x[:3], angles), "may differ in heads"),
        (lambda: rotate(x, angles, documents=Documents(torch.zeros(1))), "starts"),
        (lambda: rotate(x, angles, documents=Documents(torch.zeros(2), 2, 2)), "cp_rank 2"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("form", FORMS.values())
@pytest.mark.parametrize("inverse", [False, True])
def test_operators(form, inverse):
    q, k = random(4, 2, 3, 8).float().requires_grad_(), random(4, 2, 1, 8).float().requires_grad_()
    angles, cumulative = angles_of(4, 3), torch.tensor([0, 1, 4], dtype=torch.int32)
    rest = (form, 1.5, inverse, 1, 0, False)
    torch.library.opcheck(torch.ops.trivium.rotary, (q, angles, None, *rest))
    torch.library.opcheck(torch.ops.trivium.rotary_pair, (q, k, angles, cumulative, *rest))


# --- The arithmetic of the kernel, compiled for the host ------------------------------------------

PROGRAM = """
#include <cmath>
#include <cstdio>
#include <vector>
#include "rotary_row.h"
using namespace trivium;

template <int N, Form F> void head(int half, std::vector<float> angles, std::vector<float> x) {
  std::vector<float> y(x.size(), NAN);
  for (int column = 0; column < half / N; ++column) {
    float a[N], b[N], cos[N], sin[N];
    const PackPlace from = pack_place<N, F, false>(column, half);
    const PackPlace to = pack_place<N, F, true>(column, half);
    for (int j = 0; j < N; ++j) {
      a[j] = x[from.a + j], b[j] = x[from.b + j];
      const float angle = angles[pair_of<N, F>(column, j, half)];
      cos[j] = std::cos(angle), sin[j] = std::sin(angle);
    }
    turn<N, F>(a, b, cos, sin);
    for (int j = 0; j < N; ++j) y[to.a + j] = a[j], y[to.b + j] = b[j];
  }
  for (float v : y) std::printf("%.9g ", v);
  std::printf("\\n");
}

template <int N> void heads(int half, std::vector<float> angles, std::vector<float> x) {
  head<N, Form::half>(half, angles, x);
  head<N, Form::interleaved>(half, angles, x);
  head<N, Form::latent>(half, angles, x);
  head<N, Form::unlatent>(half, angles, x);
}

int main() {
  int half;
  std::scanf("%d", &half);
  std::vector<float> angles(half), x(2 * half);
  for (float& v : angles) std::scanf("%f", &v);
  for (float& v : x) std::scanf("%f", &v);
  heads<1>(half, angles, x);
  heads<4>(half, angles, x);
  heads<8>(half, angles, x);
  int documents, rows, size, rank, cut_row;
  std::scanf("%d", &documents);
  std::vector<int> cumulative(documents + 1);
  for (int& v : cumulative) std::scanf("%d", &v);
  while (std::scanf("%d %d %d %d", &rows, &size, &rank, &cut_row) == 4) {
    for (int row = 0; row < rows; ++row)
      std::printf("%d ", document_position(cumulative.data(), documents, row, rows, size, rank,
                                           cut_row));
    std::printf("\\n");
  }
}
"""


def test_arithmetic_of_the_kernel(tmp_path):
    """The row header, compiled for the host, gives what the reference gives."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not here to compile the kernel's arithmetic")
    (tmp_path / "row.cpp").write_text(PROGRAM)
    program = tmp_path / "row"
    flags = ["-std=c++20", "-O1", f"-I{SOURCES}"]
    subprocess.run(["g++", *flags, str(tmp_path / "row.cpp"), "-o", str(program)], check=True)

    x, angles = random(1, 1, 1, 32, dtype=torch.float32), random(1, 16, seed=1).float()
    cumulative = torch.tensor([0, 0, 16, 24, 24, 56, 56], dtype=torch.int32)
    cuts = [
        (60 // size, size, rank, cut) for size in (1, 2) for rank in range(size) for cut in (0, 1)
    ]
    numbers = [16, *angles.flatten().tolist(), *x.flatten().tolist()]
    numbers += [len(cumulative) - 1, *cumulative.tolist(), *(n for cut in cuts for n in cut)]
    text = " ".join(map(str, numbers))
    ran = subprocess.run([program], input=text, capture_output=True, text=True, check=True)
    lines = [torch.tensor([float(v) for v in line.split()]) for line in ran.stdout.splitlines()]

    cos_sin = (angles.cos()[:, None, None], angles.sin()[:, None, None])
    expected = [rotary._turn(x, *cos_sin, form, False).flatten() for form in (0, 1, 2)]
    expected.append(rotary._turn(x, *cos_sin, 2, True).flatten())
    for packs in range(3):
        for ours, reference in zip(lines[4 * packs : 4 * packs + 4], expected, strict=True):
            torch.testing.assert_close(ours, reference, rtol=1e-6, atol=1e-6)
    for ours, (rows, size, rank, cut) in zip(lines[12:], cuts, strict=True):
        positions = document_positions(cumulative, rows, size, rank, bool(cut))
        assert torch.equal(ours.long(), positions)


# --- In the engine --------------------------------------------------------------


def megatron_own(t, freqs, config, cumulative, mscale):
    from megatron.core.models.common.embeddings import rope_utils

    style = config.rotary_interleaved, config.multi_latent_attention, mscale
    if cumulative is None:
        return rope_utils._apply_rotary_pos_emb_bshd(t, freqs, *style)
    parts = t.split(cumulative.diff().tolist())
    turned = [
        rope_utils._apply_rotary_pos_emb_bshd(part.unsqueeze(1), freqs[: len(part)], *style)
        for part in parts
    ]
    return torch.cat(turned).squeeze(1)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["half", "interleaved", "latent"])
@distributed(1)
def test_engine_equals_megatron(kind, packed):
    from types import SimpleNamespace

    import torch.distributed as dist

    from trivium.engine.model.rotary import apply

    config = SimpleNamespace(
        rotary_interleaved=kind == "interleaved", multi_latent_attention=kind == "latent"
    )
    half = angles_of(9, 3, torch.float64)
    twice = half.repeat_interleave(2, -1) if kind == "interleaved" else half.repeat(1, 2)
    freqs = twice[:, None, None]
    x = random(9, 3, 8) if packed else random(9, 2, 3, 8)
    cumulative = torch.tensor([0, 2, 9], dtype=torch.int32) if packed else None
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    ours = apply(mine, freqs, config, cumulative, 1.2, dist.group.WORLD)
    expected = megatron_own(theirs, freqs, config, cumulative, 1.2)
    torch.testing.assert_close(ours, expected)
    grad = random(*x.shape, seed=2)
    ours.backward(grad)
    expected.backward(grad)
    torch.testing.assert_close(mine.grad, theirs.grad)


@distributed(1)
def test_interleaved_yarn_is_a_rotation():
    """megatron-core gives the two elements of such a pair different angles."""
    from types import SimpleNamespace

    from trivium.engine.model.rotary import apply

    config = SimpleNamespace(
        rotary_interleaved=True, multi_latent_attention=False, yarn_rotary_scaling_factor=2.0
    )
    angles, x = angles_of(5, 4), random(5, 1, 2, 8).float()
    turned = apply(x, angles.repeat(1, 2)[:, None, None], config)
    assert_close(turned, exact(x, angles, "interleaved"), 1e-6)


@distributed(2)
def test_documents_of_a_row_that_is_cut():
    from types import SimpleNamespace

    import torch.distributed as dist

    from trivium.engine.model.rotary import apply

    config = SimpleNamespace(rotary_interleaved=False, multi_latent_attention=False)
    x, freqs = random(12, 2, 8), angles_of(9, 4, torch.float64).repeat(1, 2)[:, None, None]
    cumulative = torch.tensor([0, 3, 12], dtype=torch.int32)
    expected = megatron_own(x, freqs, config, cumulative, 1.0)
    mine = held(12, 2, dist.get_rank())
    ours = apply(x[mine], freqs, config, cumulative, cp_group=dist.group.WORLD)
    torch.testing.assert_close(ours, expected[mine])


# --- On a GPU -------------------------------------------------------------------------------------

SHAPES = [  # S, B, heads of q, heads of k, D, pairs
    (4096, 1, 32, 8, 128, 64),  # Llama 3 8B
    (512, 2, 128, 1, 64, 32),  # DeepSeek-V3's rotary part
    (33, 3, 5, 2, 128, 32),  # partial
    (17, 2, 3, 1, 80, 10),  # no 16-byte accesses
    (5, 1, 7, 7, 96, 48),
    (3, 2, 1, 1, 2, 1),
    (2, 1, 2, 1, 642, 321),  # more columns than threads
    (1, 1, 32, 8, 128, 64),
    (1000, 7, 2, 1, 32, 16),
]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_kernel(dtype):
    assert library.load() is None
    for S, B, N, G, D, pairs in SHAPES:
        angles = angles_of(S + 3, pairs, device="cuda")
        q = random(S, B, N, D, dtype=dtype, device="cuda")
        k = random(S, B, G, D, seed=4, dtype=dtype, device="cuda")
        for form in FORMS:
            held = [torch.full_like(q, float("nan")) for _ in range(3)]
            del held  # what the kernel leaves out is NaN
            first = check(q, angles, form, 1.1)
            assert first[0].is_contiguous()
            again = check(q, angles, form, 1.1)
            assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
            both = rotate_pair(q, k, angles, form, 1.1)
            assert torch.equal(both[0], first[0])
            assert_close(both[1], exact(k, angles, form, 1.1), TOLERANCE[dtype])


@pytest.mark.gpu
def test_kernel_layouts():
    assert library.load() is None
    angles = angles_of(64, 32, device="cuda")
    mixed = random(64, 2, 2, 4 * 64, dtype=torch.bfloat16, device="cuda")
    for x in (
        mixed[..., :64],  # heads of a projection to queries, keys and values
        mixed[..., 1:65],  # off by two bytes
        mixed[..., ::4],
        mixed[:, :1, :, :64],
        mixed.permute(0, 2, 1, 3)[..., 64:128],
        mixed.permute(1, 2, 0, 3)[..., :64].contiguous().permute(2, 0, 1, 3),
    ):
        for form in FORMS:
            check(x, angles, form)
    repeated = angles.repeat_interleave(2, 1)
    expected = rotate(mixed[..., :64], angles)
    assert torch.equal(rotate(mixed[..., :64], repeated[:, ::2]), expected)
    assert torch.equal(rotate(mixed[..., :64], angles.repeat(1, 2)[:, :32]), expected)


@pytest.mark.gpu
@pytest.mark.parametrize("cut_row", [False, True])
def test_kernel_documents(cut_row):
    assert library.load() is None
    lengths = [8, 0, 16, 1024, 0, 8, 16, 0]
    cumulative = torch.tensor([0, *lengths], device="cuda").cumsum(0).int()
    angles = angles_of(1024, 32, device="cuda")
    for size in (1, 2, 4):
        for rank in range(size):
            x = random(sum(lengths) // size, 1, 4, 80, dtype=torch.float32, device="cuda")
            check(x, angles, "half", documents=Documents(cumulative, size, rank, cut_row))
    many = torch.arange(0, 4097, device="cuda", dtype=torch.int32)  # documents of one token
    x = random(4096, 1, 2, 64, dtype=torch.bfloat16, device="cuda")
    assert torch.equal(rotate(x, angles, documents=Documents(many)), x)


@pytest.mark.gpu
def test_kernel_at_far_positions():
    """Angles of a million radians: sine and cosine keep fp32's precision."""
    assert library.load() is None
    angles = torch.linspace(0, 1e6, 4096, device="cuda")[:, None].expand(4096, 32).contiguous()
    check(random(4096, 1, 1, 64, dtype=torch.float32, device="cuda"), angles)


@pytest.mark.gpu
def test_kernel_without_rows():
    assert library.load() is None
    angles = angles_of(4, 4, device="cuda")
    for shape in ((0, 2, 3, 8), (4, 0, 3, 8), (4, 2, 0, 8)):
        x = torch.empty(shape, device="cuda", requires_grad=True)
        rotate(x, angles).sum().backward()
        assert x.grad.shape == shape
