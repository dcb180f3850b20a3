"""The HTTP side: routes, limits, streams. Knows a `Worker` and a tokenizer, nothing of models."""

from __future__ import annotations

import asyncio
import hmac
import json
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import orjson
from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse

from trivium.data_pipeline.chat import ChatTemplate
from trivium.data_pipeline.errors import InputError
from trivium.data_pipeline.tokenizer import Tokenizer
from trivium.engine.dialogue import Dialogue
from trivium.engine.generation import request as wanted
from trivium.engine.serve.config import ServeConfig
from trivium.engine.serve.protocol import (
    ChatRequest,
    CompletionRequest,
    Pieces,
    Problem,
    envelope,
    finish_reason,
    read,
    usage,
)
from trivium.engine.serve.worker import Worker

_DISCARDED = 32 << 20  # bytes of a body that is too large which are read before it is refused
_BODY_SECONDS = 30.0
_PAGE = Path(__file__).parent / "page"
_SECURITY = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


@dataclass(frozen=True)
class Served:
    """What is behind the routes."""

    config: ServeConfig
    name: str
    tokenizer: Tokenizer
    vocab_size: int
    dialogue: Dialogue
    template: ChatTemplate | None
    max_length: int
    worker: Worker


def create_app(served: Served) -> FastAPI:
    """The application; `served.worker` must have been started."""
    app = FastAPI(title="Trivium", docs_url=None, redoc_url=None, openapi_url=None)
    routes = _Routes(served)
    app.post("/v1/chat/completions")(routes.chat)
    app.post("/v1/completions")(routes.completion)
    app.get("/v1/models")(routes.models)
    app.get("/v1/models/{name:path}")(routes.model)
    app.get("/health")(routes.health)
    for path, file in (("/", "index.html"), ("/chat.css", "chat.css"), ("/chat.js", "chat.js")):
        app.get(path)(_static(file))

    @app.exception_handler(Problem)
    async def refused(request: Request, problem: Problem) -> Response:
        headers = {"Retry-After": "1"} if problem.status in (429, 503) else None
        return JSONResponse(problem.body(), problem.status, headers)

    @app.exception_handler(404)
    async def nowhere(request: Request, error: Exception) -> Response:
        return JSONResponse(Problem(404, f"{request.url.path}: nothing is here").body(), 404)

    @app.exception_handler(405)
    async def not_so(request: Request, error: Exception) -> Response:
        problem = Problem(405, f"{request.method} {request.url.path}: not allowed")
        return JSONResponse(problem.body(), 405)

    return app


def _static(file: str) -> Any:
    async def page() -> Response:
        return FileResponse(_PAGE / file, headers=_SECURITY)

    return page


class _Answering:
    """One choice of an answer while its events come."""

    def __init__(self, index: int, number: int, queue: asyncio.Queue[Any]) -> None:
        self.index, self.number, self.queue = index, number, queue
        self.tokens: list[wanted.Token] = []
        self.text = ""
        self.finish: wanted.Finish | None = None

    async def events(self) -> AsyncIterator[wanted.Event]:
        """Until the last one; Problem 503 where the generator is gone."""
        while self.finish is None:
            event = await self.queue.get()
            if isinstance(event, BaseException):
                self.finish = "cancelled"
                raise Problem(503, "the generator has failed; see the server's log")
            self.tokens += event.tokens
            self.text += _text(event)
            self.finish = event.finish
            yield event


def _text(event: wanted.Event) -> str:
    return "".join(token.text for token in event.tokens) + event.late


class _Routes:
    def __init__(self, served: Served) -> None:
        self.served = served
        self.pieces = Pieces(served.tokenizer.decode)

    async def health(self) -> Response:
        """200 while requests are served."""
        failed = self.served.worker.failure is not None
        status = "failed" if failed else "ok"
        return JSONResponse(
            {"status": status, "requests": self.served.worker.load}, 503 if failed else 200
        )

    async def models(self, request: Request) -> Any:
        """The one there is."""
        self._authorize(request)
        return {"object": "list", "data": [self._model()]}

    async def model(self, request: Request, name: str) -> Any:
        """Facts of the one there is."""
        self._authorize(request)
        self._known(name)
        return self._model()

    def _model(self) -> dict[str, Any]:
        served = self.served
        made = {"id": served.name, "object": "model", "created": 0, "owned_by": "trivium"}
        return made | {"max_model_len": served.max_length, "chat": served.template is not None}

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        asked: ChatRequest = read(ChatRequest, await self._body(request))
        self._known(asked.model)
        served = self.served
        if served.template is None:
            raise Problem(
                400,
                "the model brings no chat template; use /v1/completions, or start the server with "
                "template=chatml",
                "messages",
            )
        try:
            messages = [message.plain() for message in asked.messages]
            ids = served.template.encode(
                served.tokenizer, messages, add_generation_prompt=True, tools=asked.tools
            )
        except InputError as error:
            raise Problem(400, str(error), "messages") from error
        tops = (asked.top_logprobs or 0) if asked.logprobs else 0
        choices = await self._submit(asked, [ids], tops)
        id, kind = f"chatcmpl-{secrets.token_hex(12)}", "chat.completion"
        if asked.stream:
            lines = self._chat_stream(asked, choices, id, len(ids))
            return self._stream(lines)
        await self._wait(request, choices)
        made = [
            {
                "index": choice.index,
                "message": {"role": "assistant", "content": choice.text, "refusal": None},
                "logprobs": self.pieces.chat(choice.tokens) if asked.logprobs else None,
                "finish_reason": finish_reason(choice.finish),
            }
            for choice in choices
        ]
        counted = usage(len(ids), sum(len(choice.tokens) for choice in choices))
        return JSONResponse(envelope(kind, id, served.name, made) | {"usage": counted})

    async def completion(self, request: Request) -> Response:
        """POST /v1/completions."""
        asked: CompletionRequest = read(CompletionRequest, await self._body(request))
        self._known(asked.model)
        prompts = self._prompts(asked.prompt)
        tops = asked.logprobs or 0
        choices = await self._submit(asked, prompts, tops)
        echoes = [self.served.tokenizer.decode(ids) if asked.echo else "" for ids in prompts]
        id, kind = f"cmpl-{secrets.token_hex(12)}", "text_completion"
        read_tokens = sum(map(len, prompts))
        if asked.stream:
            lines = self._text_stream(asked, choices, id, read_tokens, echoes)
            return self._stream(lines)
        await self._wait(request, choices)
        made = []
        for choice in choices:
            given = asked.logprobs is not None
            made.append(
                {
                    "index": choice.index,
                    "text": echoes[choice.index // asked.n] + choice.text,
                    "logprobs": self.pieces.text(choice.tokens, 0) if given else None,
                    "finish_reason": finish_reason(choice.finish),
                }
            )
        counted = usage(read_tokens, sum(len(choice.tokens) for choice in choices))
        return JSONResponse(envelope(kind, id, self.served.name, made) | {"usage": counted})

    # What is asked

    def _authorize(self, request: Request) -> None:
        key = self.served.config.api_key
        if key is None:
            return
        given = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        if not hmac.compare_digest(given.encode(), key.encode()):
            raise Problem(401, "the API key is missing or wrong", None, "invalid_api_key")

    async def _body(self, request: Request) -> Any:
        """The JSON of a request, bounded in size and depth."""
        self._authorize(request)
        most = int(self.served.config.max_body_mb * 1e6)
        body = bytearray()
        size = 0
        try:
            with anyio.fail_after(_BODY_SECONDS):
                async for part in request.stream():
                    size += len(part)
                    if size <= most:
                        body += part
                    elif size > most + _DISCARDED:
                        break
        except TimeoutError as error:
            raise Problem(408, f"the body did not come within {_BODY_SECONDS:g} s") from error
        if (
            size > most
        ):  # read to its end where that is near: a client that still sends sees a reset
            raise Problem(413, f"the body is larger than {most:,} bytes")
        try:
            return orjson.loads(bytes(body))
        except ValueError as error:
            raise Problem(400, f"the body is not JSON: {error}") from error

    def _known(self, name: str) -> None:
        if name != self.served.name:
            raise Problem(
                404,
                f"the model {name[:200]!r} is not here; this server has {self.served.name!r}",
                "model",
                "model_not_found",
            )

    def _prompts(self, given: Any) -> list[list[int]]:
        """Prompts as ids: one text, one list of ids, or a list of either."""
        served = self.served
        if isinstance(given, list) and not given:
            raise Problem(400, "prompt: is empty", "prompt")
        several = given if isinstance(given, list) and not isinstance(given[0], int) else [given]
        if len(several) > served.config.max_choices:
            raise Problem(400, f"prompt: at most {served.config.max_choices} at a time", "prompt")
        begin = list(served.dialogue.begin_ids)
        made = []
        for one in several:
            ids = begin + served.tokenizer.encode(one) if isinstance(one, str) else list(one)
            if isinstance(one, str) and not ids:
                ids = [served.tokenizer.eod_id]  # what stands before a text
            made.append(ids)
        return made

    async def _submit(
        self, asked: Any, prompts: Sequence[list[int]], tops: int
    ) -> list[_Answering]:
        """Every choice of every prompt to the worker; all of them, or a Problem and none."""
        served, worker = self.served, self.served.worker
        if worker.failure is not None:
            raise Problem(503, "the generator has failed; see the server's log")
        count = len(prompts) * asked.n
        if asked.n > served.config.max_choices:
            raise Problem(400, f"n: at most {served.config.max_choices}", "n")
        requests = []
        for ids in prompts:
            limit = asked.limit() or min(served.config.max_tokens, served.max_length - len(ids))
            if limit < 1 or len(ids) + limit > served.max_length:
                raise Problem(
                    400,
                    f"the model takes {served.max_length} tokens: the prompt has {len(ids)} and "
                    f"{max(limit, 1)} are asked for; shorten it or ask for fewer",
                    "messages" if isinstance(asked, ChatRequest) else "prompt",
                    "context_length_exceeded",
                )
            seed = secrets.randbits(63) if asked.seed is None else asked.seed % 2**63
            for choice in range(asked.n):
                requests.append(
                    wanted.Request(
                        prompt=tuple(ids),
                        max_new_tokens=limit,
                        sampling=asked.sampling(),
                        seed=seed + choice,
                        stop_ids=served.dialogue.stop_ids,
                        stop=asked.stops(),
                        top_logprobs=tops,
                    )
                )
        if not worker.reserve(count):
            raise Problem(429, "too many requests are waiting; try again", None, "queue_full")
        return await self._all(requests)

    async def _all(self, requests: Sequence[wanted.Request]) -> list[_Answering]:
        worker = self.served.worker
        choices: list[_Answering] = []
        try:
            for request in requests:
                number, queue = await worker.submit(request)
                choices.append(_Answering(len(choices), number, queue))
        except BaseException as error:
            worker.give_back(len(requests) - len(choices))
            self._give_up(choices)
            if isinstance(error, InputError):
                raise Problem(400, str(error), "prompt") from error
            raise
        return choices

    def _give_up(self, choices: Sequence[_Answering]) -> None:
        for choice in choices:
            if choice.finish is None:
                self.served.worker.cancel(choice.number)

    async def _wait(self, request: Request, choices: Sequence[_Answering]) -> None:
        """Until all are written; if the client goes away, they are given up."""

        async def collect(choice: _Answering) -> None:
            async for _ in choice.events():
                pass

        tasks = [asyncio.ensure_future(collect(choice)) for choice in choices]
        try:
            waiting: set[asyncio.Future[None]] = set(tasks)
            while waiting:
                done, waiting = await asyncio.wait(waiting, timeout=0.5)
                for task in done:
                    task.result()
                if waiting and await request.is_disconnected():
                    raise Problem(499, "the client has gone away")
        finally:
            for task in tasks:
                task.cancel()
            self._give_up(choices)

    # Streams

    def _stream(self, lines: AsyncIterator[dict[str, Any]]) -> Response:
        async def body() -> AsyncIterator[bytes]:
            async with aclosing(lines) as source:  # type: ignore[type-var]
                try:
                    async for line in source:
                        yield b"data: " + json.dumps(line, ensure_ascii=False).encode() + b"\n\n"
                except Problem as problem:
                    yield b"data: " + json.dumps(problem.body()).encode() + b"\n\n"
            yield b"data: [DONE]\n\n"

        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        return StreamingResponse(body(), media_type="text/event-stream", headers=headers)

    async def _merged(
        self, choices: Sequence[_Answering]
    ) -> AsyncIterator[tuple[_Answering, wanted.Event]]:
        """Events of all choices as they come; given up if nobody reads on."""
        merged: asyncio.Queue[Any] = asyncio.Queue()

        async def pass_on(choice: _Answering) -> None:
            try:
                async for event in choice.events():
                    merged.put_nowait((choice, event))
            except Problem as problem:
                merged.put_nowait(problem)

        tasks = [asyncio.ensure_future(pass_on(choice)) for choice in choices]
        try:
            open_choices = len(choices)
            while open_choices:
                item = await merged.get()
                if isinstance(item, Problem):
                    raise item
                yield item
                open_choices -= item[1].finish is not None
        finally:
            for task in tasks:
                task.cancel()
            self._give_up(choices)

    async def _chat_stream(
        self, asked: ChatRequest, choices: list[_Answering], id: str, prompt: int
    ) -> AsyncIterator[dict[str, Any]]:
        kind, name = "chat.completion.chunk", self.served.name

        def chunk(
            index: int, delta: dict[str, Any], reason: Any = None, logprobs: Any = None
        ) -> Any:
            choice = {"index": index, "delta": delta, "logprobs": logprobs}
            return envelope(kind, id, name, [choice | {"finish_reason": reason}])

        for choice in choices:
            yield chunk(choice.index, {"role": "assistant", "content": ""})
        async with aclosing(self._merged(choices)) as events:  # type: ignore[type-var]
            async for choice, event in events:
                logprobs = self.pieces.chat(list(event.tokens)) if asked.logprobs else None
                if event.tokens or event.late:
                    yield chunk(choice.index, {"content": _text(event)}, None, logprobs)
                if event.finish is not None:
                    yield chunk(choice.index, {}, finish_reason(event.finish))
        if asked.usage_in_stream():
            counted = usage(prompt, sum(len(choice.tokens) for choice in choices))
            yield envelope(kind, id, name, []) | {"usage": counted}

    async def _text_stream(
        self,
        asked: CompletionRequest,
        choices: list[_Answering],
        id: str,
        prompt: int,
        echoes: Sequence[str],
    ) -> AsyncIterator[dict[str, Any]]:
        kind, name = "text_completion", self.served.name

        def chunk(index: int, text: str, reason: Any = None, logprobs: Any = None) -> Any:
            choice = {"index": index, "text": text, "logprobs": logprobs}
            return envelope(kind, id, name, [choice | {"finish_reason": reason}])

        if asked.echo:
            for choice in choices:
                yield chunk(choice.index, echoes[choice.index // asked.n])
        async with aclosing(self._merged(choices)) as events:  # type: ignore[type-var]
            async for choice, event in events:
                logprobs = None
                if asked.logprobs is not None:
                    logprobs = self.pieces.text(list(event.tokens), len(choice.text))
                reason = finish_reason(event.finish)
                if event.tokens or event.late or reason:
                    yield chunk(choice.index, _text(event), reason, logprobs)
        if asked.usage_in_stream():
            counted = usage(prompt, sum(len(choice.tokens) for choice in choices))
            yield envelope(kind, id, name, []) | {"usage": counted}
