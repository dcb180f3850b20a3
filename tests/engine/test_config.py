from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pytest

from trivium.data_pipeline.config_tree import dump_yaml, fingerprint, leaves, load, to_dict
from trivium.data_pipeline.errors import InputError
from trivium.engine.config import check, fill, resolve, training_fingerprint
from trivium.engine.limits import RANGES, nearest_divisors, nearest_multiples
from trivium.engine.schema import DataConfig, MoEConfig, RunConfig

DATA = "data.corpus=python-docs"


@dataclass(frozen=True, kw_only=True)
class Inner:
    number: int = 1
    share: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Outer:
    """A tree that is not a run: scripts have their own."""

    out: str
    mode: Literal["fast", "slow"] = "fast"
    names: tuple[str, ...] | None = None
    triple: tuple[int, float, bool] = (1, 2.0, True)
    weights: dict[str, float] | None = None
    pattern: int | tuple[int, ...] = 1
    inner: Inner = field(default_factory=lambda: Inner(number=7))
    maybe: Inner | None = None


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(*overrides: str, cls: type = RunConfig, path: Path | None = None) -> str:
    with pytest.raises(InputError) as caught:
        load(cls, path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- Reading ------------------------------------------------------------------


def test_file_then_overrides_in_order(tmp_path: Path) -> None:
    path = write(tmp_path, "optimizer:\n  lr: 1e-3\n  eps: 1\ntrain: {steps: 7}\nparallel:\n")
    config = load(RunConfig, path, ["train.steps=8", "train.steps=9", "optimizer.beta1=0.5"])
    assert config.optimizer.lr == 1e-3
    assert type(config.optimizer.eps) is float
    assert (config.train.steps, config.optimizer.beta1) == (9, 0.5)
    assert config.parallel == RunConfig().parallel  # a section with nothing in it


@pytest.mark.parametrize("text", ["", "# only a comment\n"])
def test_an_empty_file_is_the_defaults(tmp_path: Path, text: str) -> None:
    assert load(RunConfig, write(tmp_path, text)) == RunConfig() == load(RunConfig)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("out=2026", {"out": "2026"}),
        ("out=*.txt", {"out": "*.txt"}),
        ("out='null'", {"out": "null"}),
        ("names=one, two", {"names": ("one, two",)}),
        ("names=[one, two]", {"names": ("one", "two")}),
        ("names=null", {"names": None}),
        ("triple=[3, 4, false]", {"triple": (3, 4.0, False)}),
        ("pattern=[0, 1]", {"pattern": (0, 1)}),
        ("weights={a/b: 1, c: 2.5}", {"weights": {"a/b": 1.0, "c": 2.5}}),
        ("weights.a/b.c=3", {"weights": {"a/b.c": 3.0}}),
        ("inner={share: 1}", {"inner": Inner(number=1, share=1.0)}),
        ("inner.share=1e-3", {"inner": Inner(share=1e-3)}),
        ("maybe.number=1_000", {"maybe": Inner(number=1000)}),
        ("maybe={}", {"maybe": Inner()}),
    ],
)
def test_override_values(override: str, expected: dict[str, Any]) -> None:
    assert load(Outer, None, ["out=x", override]) == replace(Outer(out="x"), **expected)


def test_overrides_open_and_close_optional_sections() -> None:
    config = load(RunConfig, None, ["model.moe.num_experts=4", "model.moe.top_k=1"])
    assert config.model.moe == MoEConfig(num_experts=4, top_k=1)
    closed = load(RunConfig, None, ["model.moe.num_experts=4", "model.moe=null"])
    assert closed.model.moe is None


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("parallel.tpp=2", ["parallel.tpp", "did you mean parallel.tp?"]),
        ("tp=2", ["did you mean parallel.tp?"]),
        ("model.moe.num_expert=2", ["did you mean model.moe.num_experts?"]),
        ("trian.steps=2", ["did you mean train"]),
        ("parallel.zzz=2", ["known here: tp, pp"]),
        ("train.steps.more=1", ["train.steps", "no key 'more'"]),
        ("train.steps=many", ["train.steps", "'many' (str)", "an integer"]),
        ("train.steps=1.5", ["1.5 (float)", "an integer"]),
        ("train.steps=true", ["True (bool)", "an integer"]),
        ("train.steps=", ["got nothing", "an integer"]),
        ("optimizer.lr=true", ["a number"]),
        ("optimizer.lr=.nan", ["a number"]),
        ("optimizer.lr=.inf", ["a number"]),
        ("run.resume=1", ["true or false"]),
        ("parallel.zero=true", ["one of 0, 1"]),
        ("parallel.zero=3", ["one of 0, 1"]),
        ("train.dtype=fp8", ["'fp8'", "one of fp32, bf16, fp16"]),
        ("run.dir=null", ["run.dir", "got nothing", "text"]),
        ("data.split=[1, 2]", ["a list of 3"]),
        ("data.shards.web=x", ["data.shards.web", "a number"]),
        ("model.moe.layers=all", ["an integer or a list"]),
        ("model=3", ["a section with the keys from_hf"]),
        ("train.steps=[", ["train.steps", "not valid YAML"]),
        ("train.steps={a: 1, a: 2}", ["duplicate key 'a'"]),
        ("steps", ["key=value"]),
        ("=3", ["key=value"]),
    ],
)
def test_what_does_not_fit_is_named(override: str, parts: list[str]) -> None:
    message = refused(override)
    assert message.startswith("command line: ")
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("train:\n  step: 3\n", ["train.step;", "did you mean train.steps?"]),
        ("seed: 1\nseed: 2\n", ["duplicate key 'seed'", "line 2"]),
        ("train: {steps: 1, steps: 2}\n", ["duplicate key 'steps'"]),
        ("train: [1]\n", ["train: got [1]", "a section"]),
        ("- 1\n", ["a section"]),
        ("run:\n  dir: 5\n", ["run.dir: got 5 (int), expected text; quote it"]),
        ("a: b: c\n", ["not valid YAML", "line 1"]),
        ("? [1]\n: 2\n", ["not valid YAML"]),
        ("!!python/object:os.system {}\n", ["not valid YAML"]),
        ("\0", ["not valid YAML"]),
        ("1: 2\n", ["unknown key 1"]),
    ],
)
def test_errors_in_a_file_name_the_file(tmp_path: Path, text: str, parts: list[str]) -> None:
    path = write(tmp_path, text)
    message = refused(path=path)
    assert message.startswith(f"{path}: ")
    for part in parts:
        assert part in message


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "no such configuration file" in refused(path=tmp_path / "absent.yaml")
    assert "cannot be read" in refused(path=tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"run: {dir: \xe9}")
    assert "UTF-8" in refused(path=tmp_path / "latin.yaml")


def test_required_fields_may_come_from_either_side(tmp_path: Path) -> None:
    assert "out: is required" in refused(cls=Outer)
    path = write(tmp_path, "names: [a]\n")
    assert load(Outer, path, ["out=x"]) == Outer(out="x", names=("a",))


# --- Writing ------------------------------------------------------------------


def test_dump_reads_back_equal(tmp_path: Path) -> None:
    awkward = ("1e-3", "null", "2026-01-01", "12:30", "yes", "a: b", "é\n\t", "", " x ", "0x1F")
    config = load(
        RunConfig, None, [DATA, "model.moe.layers=[1, 0, 0, 1]", "model.mla.v_head_dim=8"]
    )
    config = replace(
        config,
        data=replace(config.data, corpus=None, shards={"a b/1e5": 1 / 3, "true": 1e-300}),
        sample=replace(config.sample, prompts=awkward),
        optimizer=replace(config.optimizer, lr=0.1 + 0.2, eps=5e-324),
    )
    for one in (config, RunConfig(), fill(config)):
        path = write(tmp_path, dump_yaml(one))
        assert load(RunConfig, path) == one
        assert dump_yaml(load(RunConfig, path)) == dump_yaml(one)


def test_fingerprint_follows_every_value() -> None:
    base = RunConfig()
    assert fingerprint(base) == fingerprint(RunConfig())
    assert len(fingerprint(base)) == 64
    assert fingerprint(base) != fingerprint(replace(base, seed=1))


def test_training_fingerprint_ignores_where_and_how_it_runs() -> None:
    base = resolve(load(RunConfig, None, [DATA]), 1)
    same = ["run.dir=x", "parallel.tp=2", "train.micro_batch=2", "checkpoint.every=7"]
    same += ["sample.every=1", "validation.every=1", "track.wandb=true", "data.dir=elsewhere"]
    same += ["train.steps=200", "schedule.decay_steps=100"]
    other = resolve(load(RunConfig, None, [DATA, *same]), 2)
    assert training_fingerprint(base) == training_fingerprint(other)
    for change in ("seed=2", "optimizer.lr=1", "train.global_batch=16", "data.text_key=x"):
        changed = resolve(load(RunConfig, None, [DATA, change]), 1)
        assert training_fingerprint(base) != training_fingerprint(changed)


# --- A run --------------------------------------------------------------------


def test_resolve_completes_and_is_idempotent() -> None:
    config = load(RunConfig, None, [DATA, "model.moe={}", "parallel.tp=2", "train.steps=50"])
    resolved = resolve(config, 2)
    model = resolved.model
    assert (model.head_dim, model.num_query_groups, model.max_position) == (32, 4, 256)
    assert model.ffn_hidden_size == 384  # 8/3 x 128, in multiples of 64
    assert model.moe is not None
    assert model.moe.ffn_hidden_size == 384
    assert resolved.parallel.sp is True
    assert resolved.schedule.decay_steps == 50
    assert resolved.data.dir is not None
    assert resolve(resolved, 2) == resolved
    assert fill(load(RunConfig, None, ["model.activation=gelu"])).model.ffn_hidden_size == 512


def test_a_corpus_folder_is_named_after_what_is_prepared() -> None:
    def folder(*overrides: str) -> str | None:
        return fill(load(RunConfig, None, [DATA, *overrides])).data.dir

    assert folder() == folder("data.sequence_length=64", "train.steps=3", "seed=5")
    assert len({folder(), folder("data.vocab_size=500"), folder("data.corpus=x")}) == 3
    assert folder("data.dir=mine") == "mine"
    assert fill(RunConfig(data=DataConfig(shards={"a": 1.0}))).data.dir is None


def test_every_range_names_a_key_of_the_schema() -> None:
    known = set(leaves(RunConfig))
    for _, keys in RANGES:
        assert set(keys.split()) <= known


def test_every_number_of_the_schema_has_a_range_or_a_rule() -> None:
    """A new number cannot be forgotten: it is in the table or, on purpose, here."""
    ruled = {"parallel.zero", "model.moe.layers"}
    ruled |= {"model.rope.mscale", "model.rope.mscale_all_dim"}  # any number
    ranged = {key for _, keys in RANGES for key in keys.split()}
    tree = to_dict(load(RunConfig, None, ["model.moe={}", "model.mla={}"]))
    for key in leaves(RunConfig):
        value: Any = tree
        for name in key.split("."):
            value = value[name]
        if type(value) in (int, float) and key not in ranged | ruled:
            pytest.fail(f"{key} has no range")


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["train.steps=0"], ["train.steps=0", "at least 1", "raise"]),
        (["optimizer.lr=0"], ["optimizer.lr=0", "above 0"]),
        (["optimizer.beta2=1"], ["optimizer.beta2", "at least 0 and below 1", "lower"]),
        (["sample.top_p=1.5"], ["sample.top_p", "at most 1"]),
        (["model.moe.top_k=0"], ["model.moe.top_k=0"]),
        (["data.corpus=null"], ["data.corpus, data.shards", "neither"]),
        (["data.shards.a=1"], ["both are set"]),
        (["data.corpus=[]"], ["empty"]),
        (["data.corpus=null", "data.shards.a=1"], ["data.tokenizer=bpe", "model.vocab_size"]),
        (["data.corpus=null", "model.vocab_size=9", "data.shards.a=0"], ["weight 0 of a"]),
        (["data.vocab_size=100"], ["data.vocab_size=100", "300"]),
        (["data.split=[0.5, 0.1, 0.1]"], ["data.split", "add up to 1"]),
        (["data.split=[1, 0, 0]"], ["validation.batches=0"]),
        (["train.loss_scale=8"], ["train.loss_scale=8", "fp16"]),
        (["train.ramp_up=[8, 2, 10]"], ["train.ramp_up", "below train.global_batch=8"]),
        (["train.ramp_up=[2, 4, 10]"], ["train.ramp_up", "divides 6"]),
        (["schedule.min_lr=1"], ["schedule.min_lr=1", "optimizer.lr=0.001"]),
        (["parallel.overlap_param_gather=true"], ["parallel.overlap_grad_reduce=true"]),
        (["model.num_query_groups=3"], ["model.num_query_groups=3", "use 2 or 4"]),
        (["model.hidden_size=130"], ["model.hidden_size=130", "use 128 or 132"]),
        (["model.head_dim=7"], ["=7", "even"]),
        (["model.max_position=8"], ["data.sequence_length=256", "model.max_position=8"]),
        (["model.mla={}", "model.qk_norm=true"], ["model.qk_norm"]),
        (["model.mla={}", "model.rope.scaling=llama3"], ["latent attention", "yarn"]),
        (["model.mla={}", "model.position=none"], ["model.position=none"]),
        (["model.mla={}", "model.head_dim=32"], ["model.head_dim=32", "192"]),
        (["model.moe.top_k=9"], ["model.moe.top_k=9", "num_experts=8"]),
        (["model.moe.top_k=1"], ["pre_softmax=true"]),
        (["model.moe.balance=bias"], ["model.moe.score=sigmoid"]),
        (["model.moe.shared_gate=true"], ["shared_ffn_hidden_size"]),
        (["model.moe={}", "model.linear_bias=true"], ["model.linear_bias=false"]),
        (["model.moe.layers=0"], ["model.moe.layers=0"]),
        (["model.moe.layers=[1, 0]"], ["2 entries for 4 layers"]),
        (["model.moe.layers=[0, 0, 0, 0]"], ["no layer is MoE"]),
        (["model.moe.num_groups=2"], ["set both"]),
        (["model.moe.num_groups=3", "model.moe.groups_top_k=1"], ["use 2 or 4"]),
        (["model.moe.num_groups=4", "model.moe.groups_top_k=3"], ["groups_top_k=3"]),
        (["model.moe.num_groups=8", "model.moe.groups_top_k=1"], ["do not hold that many"]),
        (["model.window=4", "model.window_layers=[1, 0]"], ["2 entries for 4 layers"]),
        (["model.window_layers=[1, 0, 1, 0]"], ["model.window_layers", "model.window"]),
        (
            ["model.window=4", "model.window_layers=[1, 0, 1, 0]", "model.mtp.num_heads=1"],
            ["model.mtp.num_heads=0"],
        ),
        (["model.rope.window_theta=10"], ["model.rope.window_theta", "model.window"]),
        (
            ["model.window=4", "model.rope={window_theta: 10, scaling: yarn}"],
            ["model.rope.window_theta", "yarn"],
        ),
        (["model.mla={}", "model.attention_scale=1"], ["model.attention_scale", "scale"]),
        (["model.qk_norm_over=all"], ["model.qk_norm=true"]),
        (
            ["model.qk_norm=true", "model.qk_norm_over=all", "model.group_multiple=3"],
            ["model.group_multiple=1"],
        ),
        (
            ["model.qk_norm=true", "model.qk_norm_over=all", "model.normalization=layernorm"],
            ["rmsnorm"],
        ),
        (["model.attention_softcap=50", "parallel.cp=2"], ["parallel.cp=2", "capped"]),
        (["model.logit_softcap=30", "train.head=chunked"], ["train.head=logits"]),
        (["model.attention_softcap=0"], ["model.attention_softcap=0", "above 0"]),
        (["model.mtp.num_heads=1", "model.position=learned"], ["model.position=learned"]),
        (["model.mtp.num_heads=9", "data.sequence_length=9"], ["model.mtp.num_heads=9"]),
    ],
)
def test_check_says_value_limit_and_remedy(overrides: list[str], parts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        check(load(RunConfig, None, [DATA, *overrides]))
    for part in parts:
        assert part in str(caught.value)


def test_nearest_numbers_in_words() -> None:
    assert nearest_divisors(12, 5) == "4 or 6"
    assert nearest_divisors(12, 99) == "12"
    assert nearest_multiples(8, 3) == "8"
    assert nearest_multiples(8, 20) == "16 or 24"
