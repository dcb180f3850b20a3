"""`trivium serve`: a model opened on every rank, HTTP on the first."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trivium.data_pipeline.chat import TEMPLATES, ChatTemplate
from trivium.data_pipeline.errors import InputError
from trivium.engine.serve.config import ServeConfig

if TYPE_CHECKING:
    from trivium.engine.opened import Opened


def main(config: ServeConfig) -> int:
    """Serve until SIGINT or SIGTERM; gives the exit status. In torchrun's environment, or none.

    Raises InputError for what the user can put right.
    """
    check(config)
    from trivium.engine.world import world

    with world(config.parallel.timeout_minutes):
        import torch.distributed as dist

        from trivium.engine.opened import open_model

        opened = open_model(config.model, config.parallel, config.dtype)
        generator = generator_of(config, opened)
        if dist.get_rank() == 0:
            _listen(config, opened, generator)
        else:
            # torchrun passes a ctrl-C to every process; the first tells the others when to go
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            with generator:
                generator.follow()
    return 0


def check(config: ServeConfig) -> None:
    """Raise InputError for what can be seen without torch."""
    if not config.model:
        raise InputError("model: is missing; give a Hugging Face folder, a checkpoint or a run")
    if config.template is not None and config.template not in TEMPLATES:
        raise InputError(f"template={config.template}: known are {', '.join(TEMPLATES)}")
    if find_uvicorn() is None:
        raise InputError("serve: needs fastapi and uvicorn: pip install 'trivium[serve]'")


def find_uvicorn() -> Any:
    """The modules that listen, or None."""
    try:
        import fastapi  # noqa: F401
        import uvicorn

        return uvicorn
    except ImportError:
        return None


def generator_of(config: ServeConfig, opened: Opened) -> Any:
    """The generator that `config` asks for, with its proposer."""
    from trivium.engine.generation.generator import Generator, Limits
    from trivium.engine.generation.speculation import DraftProposer, MTPProposer, Proposer
    from trivium.engine.opened import open_model

    proposer: Proposer | None = None
    if config.draft is not None:
        draft = open_model(config.draft, config.parallel, config.dtype, opened.mesh)
        proposer = DraftProposer(config.speculate, draft)
    elif config.speculate:
        proposer = MTPProposer(config.speculate, opened.config.model.mtp.num_heads)
    limits = Limits(max_requests=config.max_requests, max_length=config.max_length)
    return Generator.of(opened, limits, proposer)


def template_of(config: ServeConfig, opened: Opened) -> ChatTemplate | None:
    """The named template, else the model's own."""
    source = opened.dialogue.chat_template
    if config.template is not None:
        source = TEMPLATES[config.template]
    return None if source is None else ChatTemplate(source, opened.dialogue.named_tokens)


def _listen(config: ServeConfig, opened: Opened, generator: Any) -> None:
    from trivium.engine.serve.app import Served, create_app
    from trivium.engine.serve.worker import Worker

    uvicorn = find_uvicorn()
    worker = Worker(generator, config.max_requests + config.queue)
    name = config.name or Path(config.model).resolve().name
    served = Served(
        config,
        name,
        opened.tokenizer,
        opened.vocab_size,
        opened.dialogue,
        template_of(config, opened),
        generator.limits.max_length,
        worker,
    )
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(served),
            host=config.host,
            port=config.port,
            log_level="warning",
            timeout_keep_alive=30,
            timeout_graceful_shutdown=max(1, int(config.drain_seconds)),
            limit_concurrency=4 * (config.max_requests + config.queue),
        )
    )
    # uvicorn raises the signal again once it has stopped; there is still something to finish then
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    worker.start()
    threading.Thread(target=_announce, args=(server, name), daemon=True).start()
    try:
        server.run()
    except SystemExit as error:  # uvicorn's way to say that it cannot bind
        raise InputError(
            f"{config.host}:{config.port}: cannot listen there; give another host or port"
        ) from error
    finally:
        worker.stop(config.drain_seconds)


def _announce(server: Any, name: str) -> None:
    """One line when it listens, with the port that was chosen."""
    while not server.started:
        time.sleep(0.05)
    host, port = server.servers[0].sockets[0].getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{port}"
    print(f"serving {name} at {url}/v1; a page to talk to it: {url}/", flush=True)
