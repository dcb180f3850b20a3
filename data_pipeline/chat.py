"""Chat templates: messages to the text, and to the ids, that a model was trained on.

Templates are Jinja, as Hugging Face's folders carry them, rendered in Jinja's sandbox: a template
is a file from the net, and must not run code. Control tokens (`<|im_start|>` and the like) become
single ids where the template wrote them, and nowhere else: what a message says is ordinary text,
even if it spells out a control token. So no user can end a turn, or speak as the system.

Shapes: ids are lists of token ids.
"""

from __future__ import annotations

import datetime
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from .errors import InputError
from .tokenizer import JsonTokenizer, Tokenizer

Message = Mapping[str, Any]

# A template of our own for models that bring none: turns between control tokens, named roles.
CHATML = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)
TEMPLATES = {"chatml": CHATML}

_MOST = 1_000_000  # characters of a rendered dialogue: a template's loop may not fill the memory
_RANGE = 100_000


@dataclass(frozen=True)
class ChatTemplate:
    """A template with the control tokens it may name.

    source: Jinja. tokens: name in the template (`bos_token`, `eos_token`, ...) -> text.
    """

    source: str
    tokens: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def _template(self) -> Any:
        from jinja2 import TemplateError
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        class Sandbox(ImmutableSandboxedEnvironment):
            """Jinja's sandbox, in which products stay small."""

            intercepted_binops = frozenset(("*", "**"))

            def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
                return _bounded_product(operator, left, right)

        environment = Sandbox(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _generation()]
        )
        environment.filters["tojson"] = _to_json
        environment.globals |= {
            "raise_exception": _refuse,
            "strftime_now": lambda form: datetime.datetime.now().strftime(form),
            "range": _bounded_range,
        }
        try:
            return environment.from_string(self.source)
        except TemplateError as error:
            raise InputError(f"chat template: is not valid Jinja ({error})") from error

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **more: Any,
    ) -> str:
        """The text of a dialogue. InputError where the template refuses it."""
        from jinja2 import TemplateError

        given = {
            "messages": [dict(message) for message in messages],
            "tools": tools,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            **self.tokens,
            **more,
        }
        try:
            pieces, length = [], 0
            for piece in self._template.generate(**given):
                length += len(piece)
                if length > _MOST:
                    raise InputError(f"chat template: writes more than {_MOST:,} characters")
                pieces.append(piece)
            return "".join(pieces)
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise InputError(f"chat template: refuses these messages ({error})") from error

    def encode(
        self,
        tokenizer: Tokenizer,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **more: Any,
    ) -> list[int]:
        """Token ids of a dialogue.

        Control tokens in what messages say are taken apart first, by a mark that no message has,
        and put together again as ordinary text.
        """
        control = control_tokens(tokenizer)
        said: Any = {"messages": list(messages), "tools": tools, **more}
        mark = _mark(said)
        guarded = _guarded(said, control, mark)
        text = self.render(**guarded, add_generation_prompt=add_generation_prompt)
        return encode_text(tokenizer, text, control, mark)


def encode_text(
    tokenizer: Tokenizer, text: str, control: Mapping[str, int], mark: str | None = None
) -> list[int]:
    """Ids of `text`, in which each control token is one id; what `mark` takes apart is text."""
    if not control:
        return tokenizer.encode(text)
    pattern = "|".join(re.escape(token) for token in sorted(control, key=len, reverse=True))
    ids: list[int] = []
    at = 0
    for found in re.finditer(pattern, text):
        ids += _plain(tokenizer, text[at : found.start()], mark)
        ids.append(control[found[0]])
        at = found.end()
    return ids + _plain(tokenizer, text[at:], mark)


def _plain(tokenizer: Tokenizer, text: str, mark: str | None) -> list[int]:
    if mark is not None:
        text = text.replace(mark, "")
    return tokenizer.encode(text) if text else []


def control_tokens(tokenizer: Tokenizer) -> dict[str, int]:
    """Text -> id of the tokens that stand for no text of their own."""
    if not isinstance(tokenizer, JsonTokenizer):
        names = ("<s>", "</s>", "<unk>", "<pad>")
        found = {name: tokenizer.token_id(name) for name in names}
        return {name: id for name, id in found.items() if id is not None}
    added = tokenizer.json().get("added_tokens", [])
    return {token["content"]: token["id"] for token in added if token.get("special")}


def named_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """`bos_token` and the like of a tokenizer_config.json, as templates name them."""
    found = {}
    for name, value in config.items():
        if name.endswith("_token"):
            text = value.get("content") if isinstance(value, Mapping) else value
            if isinstance(text, str):
                found[name] = text
    return found


def _mark(said: Any) -> str:
    """Letters that stand in nothing that is said: drawn anew until they do not.

    Letters, which no filter of a template escapes.
    """
    whole = json.dumps(said, ensure_ascii=False, default=str)
    while True:
        mark = f"mark{secrets.token_hex(8)}"
        if mark not in whole:
            return mark


def _guarded(value: Any, control: Mapping[str, int], mark: str) -> Any:
    """`value`, its texts with a mark inside every control token that they spell out."""
    if isinstance(value, str):
        for token in control:
            if token in value:
                value = value.replace(token, token[0] + mark + token[1:])
        return value
    if isinstance(value, Mapping):
        return {
            _guarded(key, control, mark): _guarded(one, control, mark) for key, one in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_guarded(one, control, mark) for one in value]
    return value


# --- What templates expect of their environment ---------------------------------------------------


def _to_json(value: Any, ensure_ascii: bool = False, indent: Any = None, **more: Any) -> str:
    """Jinja's own filter escapes for HTML; templates want plain JSON."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **more)


def _refuse(message: str) -> Any:
    from jinja2 import TemplateError

    raise TemplateError(message)


def _bounded_range(*limits: int) -> range:
    made = range(*limits)
    if len(made) > _RANGE:
        raise ValueError(f"a range of {len(made):,}; at most {_RANGE:,}")
    return made


def _bounded_product(operator: str, left: Any, right: Any) -> Any:
    """A product or power that fits into a template's limits; ValueError for others."""
    sizes = [len(side) if hasattr(side, "__len__") else abs(side) for side in (left, right)]
    if operator == "**" and (sizes[0] > _MOST or sizes[1] > 64):
        raise ValueError("a power that is too large")
    if operator == "*" and sizes[0] * sizes[1] > _MOST and any(map(_is_sized, (left, right))):
        raise ValueError("a product that is too large")
    return left**right if operator == "**" else left * right


def _is_sized(side: Any) -> bool:
    return hasattr(side, "__len__")


def _generation() -> Any:
    """The tag {% generation %} ... {% endgeneration %}, around what an assistant says."""
    from jinja2 import nodes
    from jinja2.ext import Extension

    class Generation(Extension):
        """Renders what it encloses."""

        tags = {"generation"}  # noqa: RUF012  (Jinja's interface)

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("_same"), [], [], body).set_lineno(line)

        def _same(self, caller: Any) -> str:
            return str(caller())

    return Generation
