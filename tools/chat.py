"""Talk to a model in the terminal.

    python tools/chat.py model=FOLDER [parallel.tp=2 ...]     a Hugging Face folder, checkpoint, run
    python tools/chat.py url=http://127.0.0.1:8000/v1         a server: `trivium serve`, or another
    python tools/chat.py model=FOLDER prompt='Two and two?'   one answer, and out

While it runs: /reset forgets the conversation, /system TEXT sets what stands before it, /save FILE
writes it as JSON, /quit leaves; ctrl-C stops an answer. A model without a chat template goes on
from what it is given, unless template=chatml names one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.command import read
from trivium.data_pipeline.errors import InputError, fail_clean
from trivium.engine.schema import Dtype, ParallelConfig


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Whom to talk to, and how."""

    model: str = ""  # a folder; with url, the name of one of the server's models
    url: str | None = None
    api_key: str = "none"  # of the server
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    dtype: Dtype | None = None
    template: str | None = None
    system: str = ""
    prompt: str | None = None  # ask this and leave
    temperature: float = 0.7
    top_p: float = 0.95
    max_tokens: int = 512
    seed: int | None = None
    speculate: int = 0  # tokens proposed ahead by MTP heads


Say = Callable[[list[dict[str, str]]], Iterator[str]]


def main() -> int:
    """Talk; gives the exit status."""
    asked = read(Asked, __doc__)
    if asked.url is not None:
        return _talk(asked, _remote(asked))
    if not asked.model:
        raise InputError("model: is missing; give a folder, or url=... of a server")
    return _local(asked)


def _talk(asked: Asked, say: Say) -> int:
    from rich.console import Console

    console = Console(highlight=False)
    messages = [{"role": "system", "content": asked.system}] if asked.system else []
    if asked.prompt is not None:
        for text in say([*messages, {"role": "user", "content": asked.prompt}]):
            print(text, end="", flush=True)
        print()
        return 0
    console.print("[dim]/reset  /system TEXT  /save FILE  /quit; ctrl-C stops an answer[/dim]")
    while True:
        try:
            line = console.input("[bold]> [/bold]").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return 0
        if line.startswith("/"):
            if _command(line, messages, console):
                return 0
            continue
        if line:
            _turn(line, messages, say)


def _command(line: str, messages: list[dict[str, str]], console: Any) -> bool:
    """Do what the line says; whether to leave."""
    name, _, rest = line.partition(" ")
    if name in ("/quit", "/exit"):
        return True
    if name == "/reset":
        messages[:] = [message for message in messages if message["role"] == "system"]
    elif name == "/system":
        kept = [message for message in messages if message["role"] != "system"]
        messages[:] = ([{"role": "system", "content": rest}] if rest else []) + kept
    elif name == "/save" and rest:
        try:
            Path(rest).write_text(json.dumps(messages, indent=1, ensure_ascii=False) + "\n")
        except OSError as error:
            console.print(f"[red]{rest}: {error.strerror}[/red]")
    else:
        console.print("[dim]/reset  /system TEXT  /save FILE  /quit[/dim]")
    return False


def _turn(line: str, messages: list[dict[str, str]], say: Say) -> None:
    messages.append({"role": "user", "content": line})
    said: list[str] = []
    source = say(messages)
    try:
        for text in source:
            said.append(text)
            print(text, end="", flush=True)
    except KeyboardInterrupt:
        close = getattr(source, "close", None)
        if close is not None:
            close()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
    print()
    if said:
        messages.append({"role": "assistant", "content": "".join(said)})
    else:
        messages.pop()


def _remote(asked: Asked) -> Say:
    try:
        from openai import OpenAI, OpenAIError
    except ImportError as error:
        raise InputError("url: needs OpenAI's client: pip install openai") from error
    client = OpenAI(base_url=asked.url, api_key=asked.api_key)
    try:
        name = asked.model or client.models.list().data[0].id
    except OpenAIError as error:
        raise InputError(f"{asked.url}: {error}") from error

    def say(messages: list[dict[str, str]]) -> Iterator[str]:
        given: Any = messages
        try:
            stream = client.chat.completions.create(
                model=name,
                messages=given,
                stream=True,
                temperature=asked.temperature,
                top_p=asked.top_p,
                max_tokens=asked.max_tokens,
                seed=asked.seed,
            )
            with stream:
                for chunk in stream:
                    if chunk.choices and chunk.choices[0].delta.content:
                        yield chunk.choices[0].delta.content
        except OpenAIError as error:
            raise InputError(f"{asked.url}: {error}") from error

    return say


def _local(asked: Asked) -> int:
    """With the model in this process; under torchrun, the other ranks follow."""
    from trivium.engine.serve import serve
    from trivium.engine.serve.config import ServeConfig
    from trivium.engine.world import world

    settings = ServeConfig(
        model=asked.model,
        parallel=asked.parallel,
        dtype=asked.dtype,
        template=asked.template,
        max_requests=1,
        speculate=asked.speculate,
    )
    with world(asked.parallel.timeout_minutes):
        import torch.distributed as dist

        from trivium.engine.opened import open_model

        opened = open_model(asked.model, asked.parallel, asked.dtype)
        generator = serve.generator_of(settings, opened)
        template = serve.template_of(settings, opened)
        with generator:
            if dist.get_rank() != 0:
                generator.follow()
                return 0
            try:
                return _talk(asked, _writer(asked, opened, generator, template))
            finally:
                generator.close()


def _writer(asked: Asked, opened: Any, generator: Any, template: Any) -> Say:
    import secrets

    from trivium.engine.generation.request import Request, Sampling

    def say(messages: list[dict[str, str]]) -> Iterator[str]:
        if template is None:
            text = "".join(message["content"] for message in messages)
            ids = [*opened.dialogue.begin_ids, *opened.tokenizer.encode(text)]
        else:
            ids = template.encode(opened.tokenizer, messages, add_generation_prompt=True)
        room = generator.limits.max_length - len(ids)
        number = generator.submit(
            Request(
                prompt=tuple(ids),
                max_new_tokens=max(1, min(asked.max_tokens, room)),
                sampling=Sampling(temperature=asked.temperature, top_p=asked.top_p),
                seed=secrets.randbits(63) if asked.seed is None else asked.seed,
                stop_ids=opened.dialogue.stop_ids,
            )
        )
        try:
            while generator.busy:
                for event in generator.step():
                    yield "".join(token.text for token in event.tokens) + event.late
        finally:
            if generator.busy:
                generator.cancel(number)
                generator.step()

    return say


if __name__ == "__main__":
    sys.exit(fail_clean(main))
