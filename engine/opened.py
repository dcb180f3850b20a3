"""A trained model, opened to be used: to generate, serve, score or convert, under any layout.

`open_model` takes what users have (a run's folder, a checkpoint, a Hugging Face folder) and gives
this rank's part of it, with the tokenizer and what the model says of how it wants to be talked to.
Nothing of an optimizer is made.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch.distributed as dist

from trivium.data_pipeline.config_tree import load
from trivium.data_pipeline.errors import InputError
from trivium.data_pipeline.tokenizer import Tokenizer
from trivium.engine import checkpoint_folder, hf
from trivium.engine.agreement import everywhere, on_first
from trivium.engine.checkpoint import load_weights
from trivium.engine.config import fill
from trivium.engine.corpus import tokenizer_of
from trivium.engine.dialogue import Dialogue
from trivium.engine.hf import load as hf_load
from trivium.engine.layout import ParallelLayout, check_layout
from trivium.engine.mesh import Mesh, create_mesh
from trivium.engine.model.gpt import DecoderModel, assemble
from trivium.engine.schema import DataConfig, Dtype, ParallelConfig, RunConfig


@dataclass(frozen=True)
class Opened:
    """This rank's part of a model, in evaluation mode, and what belongs to it."""

    source: Path  # the folder that was asked for
    config: RunConfig
    mesh: Mesh
    chunks: list[DecoderModel]
    tokenizer: Tokenizer
    dialogue: Dialogue

    @property
    def vocab_size(self) -> int:
        """Ids that may be drawn: those of model and tokenizer both."""
        assert self.config.model.vocab_size is not None
        return min(self.config.model.vocab_size, self.tokenizer.vocab_size)


def open_model(
    source: str, parallel: ParallelConfig, dtype: Dtype | None = None, mesh: Mesh | None = None
) -> Opened:
    """Open `source` over the ranks of the world, which must be joined. Collective.

    source: a Hugging Face folder, a checkpoint (`step-...`), or a run's folder, whose newest
    checkpoint is taken. dtype: of the weights; None keeps that of the source (a run's own, or what
    the Hugging Face folder names). mesh: of a model that is open already, for one beside it.
    Raises AgreedError, on every rank, for what cannot be opened.
    """
    found = everywhere(partial(_find, Path(source)))
    config = everywhere(partial(_configuration, found, parallel, dtype))
    tokenizer, dialogue = on_first(partial(_speech, found, config))
    if config.model.vocab_size is None:
        model = replace(config.model, vocab_size=tokenizer.vocab_size)
        config = replace(config, model=model)
    layout = ParallelLayout.of(config.parallel, dist.get_world_size())
    if mesh is None:
        mesh = create_mesh(layout, config.seed, config.parallel.timeout_minutes)
    chunks = assemble(config, mesh)
    if hf.is_folder(found):
        hf_load.load_weights(found, chunks, mesh, config)
    else:
        load_weights(found, chunks, mesh)
    for chunk in chunks:
        chunk.eval()
    return Opened(Path(source), config, mesh, chunks, tokenizer, dialogue)


def _find(source: Path) -> Path:
    """The Hugging Face folder, or the complete checkpoint, that `source` means."""
    if not source.is_dir():
        raise InputError(
            f"{source}: no such folder; give a run's folder, a checkpoint or a Hugging Face folder"
        )
    return source if hf.is_folder(source) else checkpoint_folder.find(source)


def _configuration(found: Path, parallel: ParallelConfig, dtype: Dtype | None) -> RunConfig:
    """The configuration under which `found` is opened: its model, this layout."""
    if parallel.cp > 1:
        raise InputError(
            f"parallel.cp={parallel.cp}: only training splits rows; set parallel.cp=1 and raise "
            "parallel.tp or parallel.pp"
        )
    if hf.is_folder(found):
        model, own = hf.model_config(found), hf.dtype(found)
        data = DataConfig(tokenizer=str(found), sequence_length=32)
        config = RunConfig(model=model, data=data)
    else:
        checkpoint_folder.read(found)  # refuses a damaged one
        config = load(RunConfig, found / "config.yaml")
        own = config.train.dtype
    world = dist.get_world_size()
    train = replace(
        config.train, dtype=dtype or own, global_batch=world, micro_batch=1, ramp_up=None
    )
    config = replace(config, parallel=replace(parallel, sp=None), train=train)
    config = fill(hf.fit_groups(config))
    check_layout(config, world)
    # a batch of a few tokens is not split over tp
    return replace(config, parallel=replace(config.parallel, sp=False))


def _speech(found: Path, config: RunConfig) -> tuple[Tokenizer, Dialogue]:
    """The tokenizer of what was found, and its ids and template."""
    tokenizer = tokenizer_of(config.data, found)
    if hf.has_tokenizer(found):  # as a checkpoint made of a Hugging Face folder has it too
        return tokenizer, hf.dialogue(found)
    return tokenizer, Dialogue(stop_ids=frozenset({tokenizer.eod_id}))
