"""Hugging Face folders at the two ends of a run: where it starts from, and what it leaves."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

from trivium.data_pipeline.errors import InputError
from trivium.data_pipeline.tokenizer import Tokenizer, load_tokenizer
from trivium.engine.agreement import on_first
from trivium.engine.dialogue import Dialogue
from trivium.engine.hf.folder import dialogue, has_tokenizer
from trivium.engine.hf.load import load_weights
from trivium.engine.hf.save import Export, card, exported
from trivium.engine.hf.save_model import save
from trivium.engine.schema import RunConfig
from trivium.engine.trainer import Trainer

_MARK = ".trivium"  # in a folder that a run has written, which its next export may replace


def start_from_folder(config: RunConfig, trainer: Trainer) -> None:
    """Give the model of `trainer` the weights of `model.from_hf`. Collective.

    MTP heads that the folder does not have keep their initial weights, and a line says so.
    """
    assert config.model.from_hf is not None
    folder = Path(config.model.from_hf)
    missing = load_weights(folder, trainer.modules, trainer.mesh, config)
    trainer.optimizer.reload_model_params()
    if missing and trainer.mesh.rank == 0:
        heads = sorted({name.split(".")[2] for name in missing}, key=int)
        print(f"{folder}: has no MTP head {', '.join(heads)}: begun anew", flush=True)


def export_folder(config: RunConfig, trainer: Trainer, tokenizer: Tokenizer) -> None:
    """Write the model as a Hugging Face folder, as `export` says. Collective.

    Raises AgreedError where the folder holds something that no run has written.
    """
    out = Path(config.export.dir or Path(config.run.dir) / "hf")
    on_first(partial(_make_way, out))
    source = _source(config, tokenizer)
    state, layout = trainer.state, trainer.mesh.layout
    facts = {
        "steps": f"{state.step:,}",
        "tokens": f"{state.tokens:,}",
        "data": ", ".join(config.data.corpus or config.data.shards or ()),
        "started from": config.model.from_hf or "random weights",
        "layout": f"tp {layout.tp}, pp {layout.pp}, ep {layout.ep}, dp {layout.dp}",
    }
    export = Export(
        tokenizer=tokenizer,
        dialogue=Dialogue(stop_ids=frozenset({tokenizer.eod_id}))
        if source is None
        else dialogue(source),
        source=source,
        card=card(config, Path(config.run.dir), facts),
        family=config.export.family,
    )
    dtype = config.export.dtype or config.train.dtype
    model = exported(config.model, config.export.mtp)
    save(out, trainer.modules, trainer.mesh, model, dtype, export)
    on_first(partial((out / _MARK).write_text, f"step {state.step}\n"))
    if trainer.mesh.rank == 0:
        print(f"exported to {out}", flush=True)


def _make_way(out: Path) -> None:
    """Remove what an earlier export of a run has left."""
    if (out / _MARK).is_file():
        shutil.rmtree(out)
    if out.exists() and any(out.iterdir()):
        raise InputError(f"export.dir {out}: holds other files; give another folder")


def _source(config: RunConfig, tokenizer: Tokenizer) -> Path | None:
    """The folder the run began with, if its tokenizer is still the run's."""
    if config.model.from_hf is None:
        return None
    folder = Path(config.model.from_hf)
    if not has_tokenizer(folder):
        return None
    return folder if load_tokenizer(folder).fingerprint == tokenizer.fingerprint else None
