"""Rotary embeddings in config.json: `rope_parameters` (transformers 5), or `rope_theta` with
`rope_scaling` (4), both ways."""

from __future__ import annotations

from typing import Any

from trivium.engine.hf.fields import Fields
from trivium.engine.schema import RopeConfig

_TYPES = '"default", "linear", "llama3" or "yarn"'


def read(
    fields: Fields, max_position: int, theta: float = 10000.0, percent: float = 1.0
) -> RopeConfig:
    """The rotary embedding that `fields` describe; InputError for a type that is not built here.

    theta, percent: what a family takes where the file says nothing.
    """
    theta = float(fields.take("rope_theta", theta))
    percent = float(fields.take("partial_rotary_factor", percent))
    scaling = fields.section("rope_scaling")
    given = fields.section("rope_parameters") or scaling  # files of both styles say it twice
    if given is None:
        return RopeConfig(theta=theta, percent=percent)
    theta = float(given.take("rope_theta", theta))
    percent = float(given.take("partial_rotary_factor", percent))
    kind = given.take("rope_type", None) or given.take("type", "default")
    given.ignore(("type",))
    plain: dict[str, Any] = {"theta": theta, "percent": percent}
    if kind == "default":
        made = RopeConfig(**plain)
    elif kind == "linear":
        made = RopeConfig(scaling="linear", factor=float(given.take("factor")), **plain)
    elif kind == "llama3":
        made = RopeConfig(
            scaling="llama3",
            factor=float(given.take("factor")),
            low_freq_factor=float(given.take("low_freq_factor")),
            high_freq_factor=float(given.take("high_freq_factor")),
            original_max_position=int(given.take("original_max_position_embeddings")),
            **plain,
        )
    elif kind == "yarn":
        made = _yarn(given, max_position, plain)
    else:
        raise given.unsupported("rope_type", kind, _TYPES)
    given.finish()
    return made


def _yarn(given: Fields, max_position: int, plain: dict[str, Any]) -> RopeConfig:
    """arXiv 2309.00071. The magnitude is the library's default, or a quotient of two mscales."""
    factor = float(given.take("factor"))
    given.expect("attention_factor")
    given.expect("truncate", True)
    mscale = given.take("mscale", None)
    all_dim = given.take("mscale_all_dim", None)
    if bool(mscale) != bool(all_dim):
        raise given.unsupported("mscale", mscale, "together with mscale_all_dim")
    if not mscale:
        mscale, all_dim = 1.0, 0.0
    return RopeConfig(
        scaling="yarn",
        factor=factor,
        original_max_position=int(given.take("original_max_position_embeddings", max_position)),
        beta_fast=float(given.take("beta_fast", 32.0)),
        beta_slow=float(given.take("beta_slow", 1.0)),
        mscale=float(mscale),
        mscale_all_dim=float(all_dim),
        **plain,
    )


def write(rope: RopeConfig) -> dict[str, Any]:
    """`rope_parameters` of transformers 5."""
    made: dict[str, Any] = {"rope_type": rope.scaling, "rope_theta": rope.theta}
    if rope.percent != 1.0:
        made["partial_rotary_factor"] = rope.percent
    if rope.scaling == "none":
        return made | {"rope_type": "default"}
    made["factor"] = rope.factor
    if rope.scaling == "linear":
        return made
    made["original_max_position_embeddings"] = rope.original_max_position
    if rope.scaling == "llama3":
        made |= {
            "low_freq_factor": rope.low_freq_factor,
            "high_freq_factor": rope.high_freq_factor,
        }
        return made
    made |= {"beta_fast": rope.beta_fast, "beta_slow": rope.beta_slow}
    if rope.mscale_all_dim:
        made |= {"mscale": rope.mscale, "mscale_all_dim": rope.mscale_all_dim}
    return made
