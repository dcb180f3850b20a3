"""Text from a batch of prompts: Trivium's generator against transformers' `generate`.

    python tools/benchmark.py generate model=FOLDER              # a Hugging Face folder
    python tools/benchmark.py generate model=FOLDER batch=1 new_tokens=128 out=FILE

Both load the same folder, in fp32 on the CPU, and write greedily for the same prompts of different
lengths (cut out of this repository's licence), which transformers gets padded on the left, with its
defaults (a growing cache, its fused attention). Each is one process that loads, writes once to warm
up, and then writes on demand, in turn and in the opposite order (A B B A); ratios are taken pass by
pass. Both must write the same tokens. Tokens are new ones; the time includes reading the prompts.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tools.benchmarks.turns import Ratio, spread
from trivium.data_pipeline.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
BAR = 1.5  # tokens/s, Trivium over transformers, at a batch of 8
Ids = list[list[int]]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What to write, and how often."""

    model: str = ""  # a Hugging Face folder
    batch: int = 8  # prompts at a time
    new_tokens: int = 64
    prompt_tokens: int = 64  # of the longest prompt
    threads: int = 2
    passes: int = 4  # every second one in the opposite order
    out: str = ""  # JSON file for every measurement

    def __post_init__(self) -> None:
        for name in ("batch", "new_tokens", "prompt_tokens", "threads", "passes"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} {getattr(self, name)}: 1 or more")


def run(asked: Asked) -> None:
    """Measure, print, and write what was asked for."""
    if not Path(asked.model, "config.json").is_file():
        raise InputError(f"model {asked.model!r}: give a Hugging Face folder, model=FOLDER")
    if importlib.util.find_spec("transformers") is None:
        raise InputError("transformers: is not installed; pip install 'trivium[parity]'")
    workers = {name: _start(name, asked) for name in WRITERS}
    try:
        passes = []
        for number in range(-1, asked.passes):  # the first is a warm-up
            names = list(workers) if number % 2 == 0 else list(workers)[::-1]
            turn = {name: _ask(name, workers[name]) for name in names}
            if number >= 0:
                passes.append(turn)
    finally:
        for worker in workers.values():
            worker.kill()
            worker.wait()
    _report(asked, passes)


def _report(asked: Asked, passes: list[dict[str, Any]]) -> None:
    ours, theirs = ([each[name] for each in passes] for name in WRITERS)
    same = sum(a == b for a, b in zip(ours[0]["ids"], theirs[0]["ids"], strict=True))
    tokens = asked.batch * asked.new_tokens
    print(f"batch {asked.batch}, {asked.new_tokens} new tokens each, {asked.threads} threads, fp32")
    print("\n| | tokens/s | ms a step | CPU ms a step |\n|---|---|---|---|")
    for name, found in zip(WRITERS, (ours, theirs), strict=True):
        rates = [tokens / each["seconds"] for each in found]
        wall, cpu = (
            spread([1000 * each[clock] / asked.new_tokens for each in found])
            for clock in ("seconds", "cpu")
        )
        print(f"| {name} | {spread(rates)} | {wall} | {cpu} |")
    values, cpus = (
        [b[clock] / a[clock] for a, b in zip(ours, theirs, strict=True)]
        for clock in ("seconds", "cpu")
    )
    ratio = Ratio("tokens/s, trivium / transformers", values, BAR if asked.batch == 8 else None)
    print(f"\n{ratio}\n{Ratio('CPU seconds, transformers / trivium', cpus)}")
    print(f"the same tokens: {same} of {asked.batch} answers", flush=True)
    if asked.out:
        record = {"asked": asdict(asked), "passes": passes, "ratios": values}
        Path(asked.out).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


# --- The two processes ----------------------------------------------------------------------------


def _start(name: str, asked: Asked) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", __name__, name, json.dumps(asdict(asked))]
    quiet = {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "PYTHONWARNINGS": "ignore"}
    environment = {
        **os.environ,
        **quiet,
        "OMP_NUM_THREADS": str(asked.threads),
        "TRIVIUM_DEVICE": "cpu",
    }
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stdin=pipe, stdout=pipe)


def _ask(name: str, worker: subprocess.Popen[str]) -> dict[str, Any]:
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write("go\n")
    worker.stdin.flush()
    for line in worker.stdout:  # libraries may print as well
        if line.startswith('{"ids"'):
            found: dict[str, Any] = json.loads(line)
            return found
    raise RuntimeError(f"{name} ended with status {worker.wait()}; its standard error says why")


def _prompts(encode: Callable[[str], list[int]], asked: Asked) -> Ids:
    """Prompts of lengths from an eighth of the longest to the longest."""
    ids = encode((ROOT / "LICENSE").read_text(encoding="utf-8"))
    least, most = max(1, asked.prompt_tokens // 8), asked.prompt_tokens
    made = []
    for index in range(asked.batch):
        length = most - (most - least) * index // max(1, asked.batch - 1)
        start = (index * 97) % max(1, len(ids) - most)
        made.append(ids[start : start + length])
    return made


def trivium(asked: Asked) -> Callable[[], Ids]:
    """Trivium's generator, on one rank."""
    from trivium.engine import device

    device.prepare()
    import torch.distributed as dist

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    from trivium.engine.generation.generator import Generator, Limits
    from trivium.engine.generation.request import Request, Sampling
    from trivium.engine.opened import open_model
    from trivium.engine.schema import ParallelConfig

    opened = open_model(asked.model, ParallelConfig(), "fp32")
    greedy = Sampling(temperature=0)
    requests = [
        Request(prompt=tuple(ids), max_new_tokens=asked.new_tokens, sampling=greedy)
        for ids in _prompts(opened.tokenizer.encode, asked)
    ]
    generator = Generator.of(opened, Limits(max_requests=asked.batch))
    generator.__enter__()  # until the process ends
    return lambda: [answer.ids for answer in generator.run(requests)]


def transformers(asked: Asked) -> Callable[[], Ids]:
    """`generate` as it comes."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(asked.model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(asked.model)
    prompts = _prompts(lambda text: list(tokenizer(text)["input_ids"]), asked)
    longest = max(map(len, prompts))
    left = [longest - len(ids) for ids in prompts]
    ids_BS = torch.tensor([[0] * pad + ids for pad, ids in zip(left, prompts, strict=True)])
    mask_BS = torch.tensor([[0] * pad + [1] * (longest - pad) for pad in left])

    def write() -> Ids:
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids_BS,
                attention_mask=mask_BS,
                max_new_tokens=asked.new_tokens,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
            )
        found: Ids = out[:, longest:].tolist()
        return found

    return write


WRITERS = {"trivium": trivium, "transformers": transformers}


def _serve(name: str, asked: Asked) -> None:
    """In a worker: write whenever a line comes in."""
    write = WRITERS[name](asked)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        found: dict[str, Any] = {"ids": write()}
        found |= {"seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    _serve(sys.argv[1], Asked(**json.loads(sys.argv[2])))
