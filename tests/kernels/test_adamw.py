"""AdamW of many tensors against the formula in float64, torch's fused kernel, the kernel's row."""

from __future__ import annotations

import ctypes
import math
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from trivium.kernels import adamw as module
from trivium.kernels.adamw import adamw_

SETTINGS = {"lr": 3e-3, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1}
SIZES = [(7,), (33, 5), (), (1024,), (3, 4, 5), (0,), (9001,)]
CSRC = Path(module.__file__).parent / "csrc"


def state(sizes=SIZES, grad=torch.float32, moment=torch.float32, copy=None, device="cpu", skew=0):
    """Random params, grads and moments, copies full of NaN; all `skew` elements off alignment."""
    generator = torch.Generator(device).manual_seed(1)

    def make(scale, dtype, positive=False):
        made = []
        for size in sizes:
            count = math.prod(size) + skew
            whole = torch.randn(count, generator=generator, device=device) * scale
            whole = whole.abs() if positive else whole
            made.append(whole.to(dtype)[skew:].view(size))
        return made

    params = make(1.0, torch.float32)
    grads, firsts = make(0.3, grad), make(0.1, moment)
    seconds = make(0.05, moment, positive=True)
    copies = [] if copy is None else [torch.full_like(p, math.nan, dtype=copy) for p in params]
    return params, grads, firsts, seconds, copies


def expected(params, grads, firsts, seconds, step, factor=1.0, decoupled=True):
    """Algorithm 2 of arXiv 1711.05101 in float64; the new params and moments."""
    s, out = SETTINGS, []
    for p, g, m, v in zip(params, grads, firsts, seconds, strict=True):
        p, g, m, v = p.double(), g.double() * factor, m.double(), v.double()
        if decoupled:
            p = p - s["lr"] * s["weight_decay"] * p
        else:
            g = g + s["weight_decay"] * p
        m = s["beta1"] * m + (1 - s["beta1"]) * g
        v = s["beta2"] * v + (1 - s["beta2"]) * g * g
        root = (v / (1 - s["beta2"] ** step)).sqrt() + s["eps"]
        out.append((p - s["lr"] * (m / (1 - s["beta1"] ** step)) / root, m, v))
    return [list(column) for column in zip(*out, strict=True)]


def assert_near(actual, wanted, tolerance):
    for a, w in zip(actual, wanted, strict=True):
        assert a.numel() == 0 or (a.double() - w).norm() <= tolerance * w.norm()


def check(device, grad, moment, copy, step=3, decoupled=True, judged=False, skew=0, sizes=SIZES):
    params, grads, firsts, seconds, copies = state(sizes, grad, moment, copy, device, skew)
    verdict = torch.tensor([4.0, 0.25, 0.0], device=device) if judged else None
    factor = 0.25 if judged else 1.0
    wanted = expected(params, grads, firsts, seconds, step, factor, decoupled)
    before = [g.clone() for g in grads]
    options = {"copies": copies, "verdict": verdict, "decoupled": decoupled}
    adamw_(params, grads, firsts, seconds, step=step, **SETTINGS, **options)
    low = 1e-6 if moment == torch.float32 else 4e-3
    assert_near(params, wanted[0], 1e-6)
    assert_near(firsts, wanted[1], low)
    assert_near(seconds, wanted[2], low)
    assert all(torch.equal(c, p.to(copy)) for p, c in zip(params, copies, strict=bool(copies)))
    assert all(torch.equal(g, b) for g, b in zip(grads, before, strict=True))


GRADS = [torch.float32, torch.bfloat16, torch.float16]
MOMENTS = [torch.float32, torch.bfloat16]
COPIES = [None, torch.bfloat16, torch.float16, torch.float32]


@pytest.mark.parametrize("copy", COPIES)
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("grad", GRADS)
def test_reference_is_the_formula(grad, moment, copy):
    check("cpu", grad, moment, copy)
    check("cpu", grad, moment, copy, step=1, judged=True)


def test_adam_couples_the_decay():
    check("cpu", torch.float32, torch.float32, None, decoupled=False)


def test_reference_is_torch_fused_adamw_bit_by_bit(monkeypatch):
    monkeypatch.setattr(module, "_PIECE", 1000)  # 9001 elements: in ten pieces
    ours, theirs = state(), state()
    adamw_(*ours[:4], step=5, **SETTINGS)
    steps = [torch.tensor(5.0)] * len(SIZES)
    torch._fused_adamw_(*theirs[:4], [], steps, **SETTINGS, amsgrad=False, maximize=False)
    for a, b in zip(ours[:4], theirs[:4], strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_float64():
    doubles = [[t.double() for t in tensors] for tensors in state()[:4]]
    wanted = expected(*doubles, step=2)
    adamw_(*doubles, step=2, **SETTINGS)
    for actual, want in zip((doubles[0], *doubles[2:]), wanted, strict=True):
        assert_near(actual, want, 1e-14)


def refuse(device):
    """A refused update leaves every bit, whatever the gradient."""
    params, grads, firsts, seconds, copies = state(copy=torch.bfloat16, device=device)
    grads[1].fill_(math.nan)
    tensors = [*params, *firsts, *seconds, *copies]
    before = [t.clone() for t in tensors]
    verdict = torch.tensor([math.nan, 1.0, 1.0], device=device)
    adamw_(params, grads, firsts, seconds, copies=copies, verdict=verdict, step=1, **SETTINGS)
    for tensor, old in zip(tensors, before, strict=True):
        torch.testing.assert_close(tensor, old, rtol=0, atol=0, equal_nan=True)


def test_refused():
    refuse("cpu")


def test_nothing_to_do():
    adamw_([], [], [], [], step=1, **SETTINGS)
    with pytest.raises(ValueError, match="counts from 1"):
        adamw_(*state()[:4], step=0, **SETTINGS)


@pytest.mark.parametrize("copy", [None, torch.bfloat16])
def test_opcheck(copy):
    params, grads, firsts, seconds, copies = state([(5,), (3, 4)], copy=copy)
    verdict = torch.tensor([4.0, 0.25, 0.0])
    numbers = (*SETTINGS.values(), 3, True)
    arguments = (params, grads, firsts, seconds, copies, verdict, *numbers)
    torch.library.opcheck(torch.ops.trivium.adamw_.default, arguments)


ROW = """
#include "optimizer_row.h"
extern "C" void row(float* w, const float* g, float* m, float* v, int n, double lr, double b1,
                    double b2, double eps, double wd, long step, bool decoupled) {
  const trivium::AdamWStep s = trivium::adamw_step(lr, b1, b2, eps, wd, step, decoupled);
  for (int i = 0; i < n; ++i) trivium::adamw_element(w[i], g[i], m[i], v[i], s);
}
"""


@pytest.mark.parametrize("decoupled", [True, False])
def test_the_row_of_the_kernel_on_the_host(tmp_path, decoupled):
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not here")
    (tmp_path / "row.cpp").write_text(ROW)
    command = [compiler, "-O2", "-std=c++17", "-shared", "-fPIC", f"-I{CSRC}", "row.cpp"]
    subprocess.run([*command, "-o", "row.so"], cwd=tmp_path, check=True)
    row = ctypes.CDLL(str(tmp_path / "row.so")).row
    ours, theirs = state([(9001,)]), state([(9001,)])
    numbers = [ctypes.c_double(value) for value in SETTINGS.values()]
    pointers = [ctypes.c_void_p(tensors[0].data_ptr()) for tensors in ours[:4]]
    row(*pointers, 9001, *numbers, ctypes.c_long(7), ctypes.c_bool(decoupled))
    adamw_(*theirs[:4], step=7, **SETTINGS, decoupled=decoupled)
    for a, b in zip(ours[:4], theirs[:4], strict=True):
        assert_near(a, [b[0].double()], 1e-7)


def test_optimizer_counts_and_takes_back():
    from trivium.engine.adamw import FusedAdamW

    param, model = torch.ones(6, requires_grad=True), torch.zeros(6, dtype=torch.bfloat16)
    idle = torch.ones(2, requires_grad=True)
    optimizer = FusedAdamW([{"params": [param, idle]}], lr=0.1, moment_dtype=torch.bfloat16)
    optimizer.copies[param] = model
    param.grad = torch.full((6,), 0.5)
    optimizer.verdict = torch.tensor([1.0, 1.0, 1.0])
    optimizer.step()
    assert optimizer.param_groups[0]["step"] == 1
    optimizer.take_back()
    assert optimizer.param_groups[0]["step"] == 0
    assert torch.equal(param, torch.ones(6))
    assert not model.any()
    optimizer.verdict = torch.tensor([1.0, 1.0, 0.0])
    optimizer.step()
    torch.testing.assert_close(param.detach(), torch.full((6,), 0.9))
    assert torch.equal(model, param.bfloat16())
    assert torch.equal(idle, torch.ones(2))
    assert optimizer.state[param]["exp_avg"].dtype == torch.bfloat16


def settle(config):
    """In a rank: a step whose loss is not a number, and what it leaves; then one that is sound."""
    from tests.parity.ranks import Run
    from trivium.engine.optimizer import apply_update, parts_of

    run = Run(config, rough=True)
    run.accumulate(1)

    def held():
        weights = [parameter for chunk in run.chunks for parameter in chunk.parameters()]
        inner = [part.optimizer for part in parts_of(run.optimizer)]
        states = [t for o in inner for s in o.state.values() for t in s.values()]
        masters = [p for o in inner for group in o.param_groups for p in group["params"]]
        return [t.detach().clone() for t in (*weights, *states, *masters)]

    def counts():
        return [group.get("step", 0) for group in run.optimizer.param_groups]

    apply_update(run.optimizer, config, 1e-3)  # moments exist
    before, counted = held(), counts()
    update = apply_update(run.optimizer, config, 1e-3, torch.tensor(math.nan))
    assert (update.applied, math.isfinite(update.grad_norm), counts()) == (False, True, counted)
    assert all(torch.equal(a, b) for a, b in zip(before, held(), strict=True))
    run.chunks[0].buffers[0].grad_data[0] = math.inf
    update = apply_update(run.optimizer, config, 1e-3, torch.tensor(1.0))
    assert (update.applied, math.isfinite(update.grad_norm), counts()) == (False, False, counted)
    assert all(torch.equal(a, b) for a, b in zip(before, held(), strict=True))
    run.accumulate(2)
    update = apply_update(run.optimizer, config, 1e-3, torch.tensor(1.0))
    assert update.applied
    assert counts() == [count + 1 for count in counted]
    assert not all(torch.equal(a, b) for a, b in zip(before, held(), strict=True))
    if config.train.dtype == "bf16":
        for part in parts_of(run.optimizer):
            for master, model in part.optimizer.copies.items():
                assert torch.equal(model, master.bfloat16())


def waits(config):
    """In a rank: how often the host reads a number within a step, before the step's own read."""
    from torch.utils._python_dispatch import TorchDispatchMode

    from tests.parity.ranks import Run, _micro_batches
    from trivium.engine.batch import Batch
    from trivium.engine.optimizer import finish_update, launch_update
    from trivium.engine.step import launch_microbatches, read

    class Reads(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            name = str(function)
            Reads.count += name.startswith(("aten._local_scalar_dense", "aten.nonzero"))
            return function(*args, **(kwargs or {}))

    run = Run(config)
    rows = list(_micro_batches(config, run.mesh, 1))
    batches = [Batch.from_arrays(row, torch.device("cpu"), False) for row in rows]
    for chunk in run.chunks:
        chunk.zero_grad_buffer()
    with Reads():
        losses = launch_microbatches(run.step, run.chunks, batches, run.mesh)
        launched = launch_update(run.optimizer, config, 1e-3, losses["loss"])
    norm, _, refused = launched.verdict
    values = read(losses | {"norm": norm, "refused": refused})
    assert finish_update(run.optimizer, launched, values["norm"], bool(values["refused"])).applied
    return Reads.count


@pytest.mark.parametrize(("dtype", "layout"), [("fp32", ""), ("bf16", ""), ("bf16", "zero")])
def test_the_engine_refuses_on_the_device(dtype, layout):
    from tests.distributed.pool import run_distributed
    from tests.parity.layouts import place
    from tests.parity.models import run_of, tiny
    from trivium.engine.schema import TrainConfig

    train = TrainConfig(steps=5, global_batch=2, dtype=dtype)
    config, _ = place(run_of(tiny(tie_embeddings=True), train), layout)
    run_distributed(settle, 1, config)
    [count] = run_distributed(waits, 1, config)
    assert count == 0, f"the host reads the device {count} times within a step"


# --- on a GPU -------------------------------------------------------------------------------------


@pytest.fixture
def kernel():
    from trivium.kernels import library

    assert library.load() is None
    assert module.ADAMW.path == "cuda"
    poison = torch.full((1 << 22,), math.nan, device="cuda")
    del poison


@pytest.mark.gpu
@pytest.mark.parametrize("copy", COPIES)
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("grad", GRADS)
def test_kernel_is_the_formula(kernel, grad, moment, copy):
    check("cuda", grad, moment, copy)
    check("cuda", grad, moment, copy, judged=True, skew=1)  # nothing lies on 16 bytes
    check("cuda", grad, moment, copy, sizes=[(n % 7,) for n in range(150)])  # three launches


@pytest.mark.gpu
@pytest.mark.parametrize("sizes", [[(8192 * 3 + 5,), (4096, 4096)], [(128256, 512), (14336,)]])
def test_kernel_on_large_tensors(kernel, sizes):
    check("cuda", torch.float32, torch.float32, torch.bfloat16, sizes=sizes, decoupled=False)


@pytest.mark.gpu
def test_kernel_is_torch_fused_adamw_to_rounding_and_repeats(kernel):
    sizes = [(4096, 1024), (14336,), (5, 3)]
    theirs = state(sizes, device="cuda")
    steps = [torch.tensor(5.0, device="cuda")] * len(sizes)
    torch._fused_adamw_(*theirs[:4], [], steps, **SETTINGS, amsgrad=False, maximize=False)
    first = None
    for _ in range(3):
        ours = state(sizes, copy=torch.bfloat16, device="cuda")
        adamw_(*ours[:4], copies=ours[4], step=5, **SETTINGS)
        for a, b in zip((ours[0], *ours[2:4]), (theirs[0], *theirs[2:4]), strict=True):
            torch.testing.assert_close(a, b, rtol=3e-6, atol=5e-8)
        flat = [t for tensors in ours for t in tensors]
        first = first or flat
        assert all(torch.equal(a, b) for a, b in zip(first, flat, strict=True))


@pytest.mark.gpu
def test_kernel_refuses_and_nobody_waits(kernel):
    refuse("cuda")
    tensors = state(device="cuda", copy=torch.bfloat16)
    verdict = torch.tensor([4.0, 0.25, 0.0], device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        adamw_(*tensors[:4], copies=tensors[4], verdict=verdict, step=1, **SETTINGS)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_kernel_says_what_it_refuses(kernel):
    params, grads, firsts, seconds, _ = state([(6, 4)], device="cuda")
    for bad in ([params[0].double()], [params[0].t()]):
        with pytest.raises(RuntimeError, match="params"):
            adamw_(bad, grads, firsts, seconds, step=1, **SETTINGS)
    with pytest.raises(RuntimeError, match="not of the size"):
        adamw_(params, [grads[0][:3]], firsts, seconds, step=1, **SETTINGS)


@pytest.mark.gpu
def test_without_the_kernel_the_reference_runs(kernel):
    from trivium.kernels.registry import switch_off

    switch_off(["adamw"])
    try:
        assert module.ADAMW.path == "torch"
        check("cuda", torch.bfloat16, torch.bfloat16, torch.bfloat16, judged=True)
        check("cuda", torch.float32, torch.float32, None)
    finally:
        switch_off([])
