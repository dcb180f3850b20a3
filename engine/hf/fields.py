"""A config.json read strictly: a field is taken, known to change nothing, or refused by name."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trivium.data_pipeline.errors import InputError

CONFIG = "config.json"
_REQUIRED = object()

# What no result depends on: bookkeeping of the library, and what generation_config.json repeats.
_HARMLESS = """
    architectures auto_map bos_token_id cache_implementation chunk_size_feed_forward
    cross_attention_hidden_size decoder_start_token_id diversity_penalty do_sample dtype
    early_stopping eos_token_id
    exponential_decay_length_penalty finetuning_task forced_bos_token_id forced_eos_token_id
    gradient_checkpointing id2label initializer_range is_llama_config label2id length_penalty
    max_length min_length model_type no_repeat_ngram_size num_beam_groups num_beams
    num_return_sequences output_attentions output_hidden_states output_router_logits
    output_scores pad_token_id prefix pretraining_tp problem_type repetition_penalty
    return_dict return_dict_in_generate sep_token_id task_specific_params temperature
    tokenizer_class top_k top_p torch_dtype torchscript transformers.js_config
    transformers_version typical_p unk_token_id unsloth_fixed unsloth_version use_bfloat16
    use_cache
"""
HARMLESS = frozenset(_HARMLESS.split())
# Of PretrainedConfig in older versions: written out, and refused unless they say "no".
_OFF = (
    "add_cross_attention is_decoder is_encoder_decoder tie_encoder_decoder pruned_heads "
    "remove_invalid_values suppress_tokens begin_suppress_tokens bad_words_ids tf_legacy_loss"
)


class Fields:
    """The fields of one config.json (or of a section of it) that have yet to be accounted for."""

    def __init__(self, raw: dict[str, Any], where: str) -> None:
        self._left = dict(raw)
        self.where = where

    def has(self, name: str) -> bool:
        """Is it there, with a value?"""
        return self._left.get(name) is not None

    def set(self, name: str, value: Any) -> None:
        """Put a value there, for what comes after."""
        self._left[name] = value

    def take(self, name: str, default: Any = _REQUIRED) -> Any:
        """The value of `name`; without one, or null, the default. InputError if one is needed."""
        value = self._left.pop(name, None)
        if value is not None:
            return value
        if default is _REQUIRED:
            raise InputError(f"{self.where}: {name} is missing; the folder is not complete")
        return default

    def nullable(self, name: str, default: Any) -> Any:
        """The value of `name`, null where the file says so; the default where it says nothing."""
        return self._left.pop(name) if name in self._left else default

    def expect(self, name: str, *allowed: Any, default: Any = None) -> None:
        """`name`, if given, must be one of `allowed`: only those are built here."""
        value = self.take(name, default)
        if value is not None and value not in allowed:
            choice = " or ".join(json.dumps(one) for one in allowed)
            raise self.unsupported(name, value, choice)

    def unsupported(self, name: str, value: Any, choice: str) -> InputError:
        """The error for a value that cannot be had."""
        return InputError(
            f"{self.where}: {name}={json.dumps(value)} is not supported, only {choice}"
        )

    def ignore(self, names: Iterable[str]) -> None:
        """These change nothing here."""
        for name in names:
            self._left.pop(name, None)

    def section(self, name: str) -> Fields | None:
        """A nested mapping, or None."""
        value = self._left.pop(name, None)
        return None if value is None else Fields(value, f"{self.where}: {name}")

    def finish(self) -> None:
        """Raise InputError for the first field that nobody asked for."""
        self.ignore(HARMLESS)
        for name in _OFF.split():
            if not self._left.get(name):
                self._left.pop(name, None)
        for name, value in self._left.items():
            if not name.startswith("_"):
                raise InputError(
                    f"{self.where}: {name}={json.dumps(value)[:60]} is not known for this family; "
                    "if it changes nothing, remove it from the file"
                )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds a mapping; InputError otherwise."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise InputError(f"{path}: is not JSON ({error}); download it again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds no mapping; download it again")
    return content
