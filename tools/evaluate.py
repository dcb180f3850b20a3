"""Score a model: perplexity of text, tasks of lm-evaluation-harness, answers to arithmetic.

    python tools/evaluate.py model=FOLDER perplexity='[wiki.txt]'
    python tools/evaluate.py model=FOLDER tasks='[piqa_local]' include=examples/evaluation data=DIR
    python tools/evaluate.py model=FOLDER math=gsm8k.jsonl samples=8 limit=100 out=results

model: a Hugging Face folder, a checkpoint or a run's folder; under torchrun with parallel.* over
several ranks. Tasks are run by lm-evaluation-harness (pip install 'trivium[eval]'), which finds
YAML files in `include`; paths that begin with data/ in them are looked for in `data`, offline.
math is a file of JSON lines with a question and an answer whose last number counts (GSM8K's form);
`samples` answers each are put to a vote (self-consistency), and the best by mean log-probability is
taken (best of n): accuracy against the number of samples goes into a chart. Results go to the
terminal, and to `out` as JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.command import read
from trivium.data_pipeline.errors import InputError, fail_clean
from trivium.data_pipeline.files import write_atomic
from trivium.engine.schema import Dtype, ParallelConfig


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What to score, and on what."""

    model: str = ""
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    dtype: Dtype | None = None
    perplexity: tuple[str, ...] = ()  # text files
    length: int | None = None  # of a window, in tokens; default: 2048, or what the model takes
    stride: int | None = None  # between windows; default: half a window
    tasks: tuple[str, ...] = ()  # of lm-evaluation-harness
    include: str | None = None  # folder of task files
    data: str | None = None  # folder that data/ in task files stands for
    shots: int | None = None  # examples before a question; default: the task's
    math: str | None = None  # JSON lines of question and answer
    samples: int = 1  # answers to each question
    temperature: float = 0.7  # of several answers; one is greedy
    max_tokens: int = 320
    template: str | None = None
    limit: int | None = None  # questions, or items of a task
    batch_tokens: int = 4096
    max_requests: int = 16  # answers written at a time
    out: str | None = None  # folder for results.json, items and charts


def main() -> int:
    """Score; gives the exit status."""
    asked = read(Asked, __doc__)
    if not asked.model:
        raise InputError("model: is missing; give a Hugging Face folder, a checkpoint or a run")
    if not (asked.perplexity or asked.tasks or asked.math):
        raise InputError("nothing to score: give perplexity=, tasks= or math=; see --help")
    if asked.samples < 1 or (asked.limit is not None and asked.limit < 1):
        raise InputError("samples, limit: must be at least 1")
    for path in (*asked.perplexity, *([asked.math] if asked.math else [])):
        if not Path(path).is_file():
            raise InputError(f"{path}: no such file")
    from trivium.engine.world import world

    with world(asked.parallel.timeout_minutes):
        import torch.distributed as dist

        from trivium.engine.opened import open_model

        opened = open_model(asked.model, asked.parallel, asked.dtype)
        first = dist.get_rank() == 0
        results: dict[str, Any] = {"model": asked.model}
        if asked.perplexity:
            results["perplexity"] = _perplexity(asked, opened, first)
        if asked.tasks:
            results["tasks"] = _tasks(asked, opened, first)
        if asked.math:
            results["math"] = _math(asked, opened, first)
        if first:
            _show(results)
            if asked.out is not None:
                _write(Path(asked.out), results)
    return 0


def _perplexity(asked: Asked, opened: Any, first: bool) -> dict[str, Any]:
    from trivium.engine.evaluation.perplexity import perplexity

    made = {}
    for path in asked.perplexity:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
        with _progress(f"perplexity of {Path(path).name}", first) as told:
            found = perplexity(opened, text, asked.length, asked.stride, told)
        made[path] = {
            "perplexity": found.per_token,
            "word_perplexity": found.per_word,
            "bits_per_byte": found.bits_per_byte,
            "tokens": found.tokens,
            "bytes": found.bytes,
        }
    return made


# --- Tasks ----------------------------------------------------------------------------------------


def _tasks(asked: Asked, opened: Any, first: bool) -> dict[str, Any]:
    import logging
    import os

    os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        from lm_eval import simple_evaluate
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise InputError(
            "tasks: needs lm-evaluation-harness: pip install 'trivium[eval]'"
        ) from error
    from trivium.engine.evaluation.harness import TriviumLM

    logging.getLogger("lm_eval").setLevel(logging.WARNING)
    model = TriviumLM(opened, asked.batch_tokens, asked.max_requests)
    include = None if asked.include is None else str(Path(asked.include).resolve())
    with _data_at(asked.data):
        manager = TaskManager(include_path=include)
        unknown = [name for name in asked.tasks if name not in manager.all_tasks]
        if unknown:
            raise InputError(
                f"tasks: {unknown[0]!r} is not known; give include=FOLDER with its YAML file, or a "
                "name of lm-evaluation-harness"
            )
        found = simple_evaluate(
            model=model,
            tasks=list(asked.tasks),
            num_fewshot=asked.shots,
            limit=asked.limit,
            task_manager=manager,
            log_samples=True,
            bootstrap_iters=0,
        )
    assert found is not None
    return {
        name: {
            "scores": {
                key.removesuffix(",none"): value
                for key, value in figures.items()
                if isinstance(value, float)
            },
            "items": [
                {
                    "doc": sample["doc_id"],
                    "target": sample["target"],
                    "answers": sample["filtered_resps"],
                    **{
                        key: sample[key]
                        for key in ("acc", "acc_norm", "exact_match")
                        if key in sample
                    },
                }
                for sample in found["samples"][name]
            ],
        }
        for name, figures in found["results"].items()
    }


@contextmanager
def _data_at(folder: str | None) -> Iterator[None]:
    """A working folder in which data/ is `folder`: where task files look for their data."""
    import os
    import tempfile

    if folder is None:
        yield
        return
    target = Path(folder).resolve()
    if not target.is_dir():
        raise InputError(f"data={folder}: no such folder")
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as made:
        (Path(made) / "data").symlink_to(target)
        os.chdir(made)
        try:
            yield
        finally:
            os.chdir(before)


# --- Answers to arithmetic ------------------------------------------------------------------------


def _math(asked: Asked, opened: Any, first: bool) -> dict[str, Any]:
    from trivium.engine.evaluation.samples import best_of, number_in, vote_accuracy
    from trivium.engine.generation.generator import Generator, Limits
    from trivium.engine.generation.request import Request, Sampling
    from trivium.engine.serve.config import ServeConfig
    from trivium.engine.serve.serve import template_of

    assert asked.math is not None
    questions = _questions(Path(asked.math), asked.limit)
    template = template_of(ServeConfig(model=asked.model, template=asked.template), opened)
    temperature = asked.temperature if asked.samples > 1 else 0.0
    requests = []
    for index, (question, _) in enumerate(questions):
        text = f"{question}\nThink step by step, and end with the number."
        if template is None:
            ids = [
                *opened.dialogue.begin_ids,
                *opened.tokenizer.encode(f"Question: {text}\nAnswer:"),
            ]
        else:
            message = [{"role": "user", "content": text}]
            ids = template.encode(opened.tokenizer, message, add_generation_prompt=True)
        for sample in range(asked.samples):
            requests.append(
                Request(
                    prompt=tuple(ids),
                    max_new_tokens=asked.max_tokens,
                    sampling=Sampling(temperature=temperature, top_p=0.95 if temperature else 1.0),
                    seed=index * 1000 + sample,
                    stop_ids=opened.dialogue.stop_ids,
                )
            )
    answers: list[Any] = []
    with Generator.of(opened, Limits(max_requests=asked.max_requests)) as generator:
        with _progress("answers", first) as told:
            for start in range(0, len(requests), 64):
                answers += generator.run(requests[start : start + 64])
                told(len(answers), len(requests))
    items = []
    for index, (question, truth) in enumerate(questions):
        mine = answers[index * asked.samples : (index + 1) * asked.samples]
        numbers = [number_in(answer.text) for answer in mine]
        means = [sum(one.logprobs) / max(1, len(one.logprobs)) for one in mine]
        items.append(
            {
                "question": question,
                "truth": truth,
                "numbers": numbers,
                "scores": means,
                "texts": [answer.text for answer in mine],
            }
        )
    curves = _curves(asked.samples, items, vote_accuracy, best_of)
    return {"accuracy": curves, "items": items}


def _curves(samples: int, items: list[dict[str, Any]], vote: Any, best: Any) -> dict[str, Any]:
    """Accuracy of one answer, a vote, the best-scored and any of k, for k of 1, 2, 4, ..."""
    from trivium.engine.evaluation.samples import pass_at_k

    counts = [k for k in (2**p for p in range(20)) if k <= samples]
    if samples not in counts:
        counts.append(samples)
    made: dict[str, Any] = {"samples": counts, "majority": [], "best_of_n": [], "any": []}
    for k in counts:
        rows = []
        for item in items:
            right = [number == item["truth"] for number in item["numbers"]]
            rows.append(
                (
                    vote(item["numbers"], item["truth"], k),
                    best(item["scores"], right, k),
                    pass_at_k(samples, sum(right), k),
                )
            )
        for name, column in zip(
            ("majority", "best_of_n", "any"), zip(*rows, strict=True), strict=True
        ):
            made[name].append(sum(column) / len(rows))
    return made


def _questions(path: Path, limit: int | None) -> list[tuple[str, str]]:
    from trivium.engine.evaluation.samples import number_in

    made: list[tuple[str, str]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if limit is not None and len(made) == limit:
            break
        try:
            record = json.loads(line)
            question, answer = record["question"], number_in(str(record["answer"]))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}:{number}: is no JSON with question and answer") from error
        if answer is None:
            raise InputError(f"{path}:{number}: its answer has no number")
        made.append((question, answer))
    if not made:
        raise InputError(f"{path}: is empty")
    return made


# --- Results --------------------------------------------------------------------------------------


def _show(results: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("", "", "", box=None, show_header=False)
    for path, found in results.get("perplexity", {}).items():
        table.add_row(path, "perplexity", f"{found['perplexity']:.4f}")
        table.add_row("", "bits per byte", f"{found['bits_per_byte']:.4f}")
        table.add_row("", "tokens", f"{found['tokens']:,}")
    for name, found in results.get("tasks", {}).items():
        for key, value in found["scores"].items():
            table.add_row(name, key, f"{value:.4f}")
    found = results.get("math")
    if found:
        curves = found["accuracy"]
        for index, k in enumerate(curves["samples"]):
            for name in ("majority", "best_of_n", "any"):
                table.add_row(
                    "math" if not index else "", f"{name}, {k}", f"{curves[name][index]:.4f}"
                )
    Console().print(table)


def _write(folder: Path, results: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, indent=1, ensure_ascii=False, default=str) + "\n"
    write_atomic(folder / "results.json", text.encode())
    if "math" in results and len(results["math"]["accuracy"]["samples"]) > 1:
        write_atomic(folder / "samples.svg", _chart(results["math"]["accuracy"]))


def _chart(curves: dict[str, Any]) -> bytes:
    """Accuracy against the number of samples."""
    import io

    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4))
    names = {"any": "any of n is right", "majority": "majority of n", "best_of_n": "best of n"}
    for key, name in names.items():
        axes.plot(curves["samples"], curves[key], marker="o", label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(curves["samples"], [str(k) for k in curves["samples"]])
    axes.set_xlabel("samples of each question")
    axes.set_ylabel("accuracy")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    out = io.BytesIO()
    figure.savefig(out, format="svg", bbox_inches="tight")
    pyplot.close(figure)
    return out.getvalue()


@contextmanager
def _progress(what: str, first: bool) -> Iterator[Any]:
    """A bar on the terminal of the first rank."""
    if not first:
        yield lambda done, total: None
        return
    from rich.progress import Progress

    with Progress(transient=True) as bar:
        task = bar.add_task(what)
        yield lambda done, total: bar.update(task, completed=done, total=total)


if __name__ == "__main__":
    sys.exit(fail_clean(main))
