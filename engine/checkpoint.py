"""Checkpoints: atomic, checked, and independent of the layout that wrote them.

Tensors go through megatron-core's dist_checkpointing, keyed by global name and sliced by global
offset, so any layout reads what any other wrote, optimizer moments included. A checkpoint is
written under a hidden temporary name and renamed when every file and the manifest are on disk: what
is named `step-...` is complete. The manifest carries the counters, the data cursor, versions and a
checksum of every file.

megatron-core's own optimizer state dicts depend on the layout in their *common* part (how many
optimizers are chained, which group holds what). Only tensors are taken from them; what is common is
one step count, kept in the manifest.
"""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing, tensor_parallel
from megatron.core.dist_checkpointing.dict_utils import dict_list_map_outplace, merge, nested_values
from megatron.core.dist_checkpointing.mapping import (
    LocalNonpersistentObject,
    ShardedObject,
    ShardedStateDict,
    is_main_replica,
)
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncCallsQueue
from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy
from megatron.core.dist_checkpointing.utils import apply_prefix_mapping, extract_sharded_base
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

from trivium.data_pipeline.config_tree import dump_yaml, to_dict
from trivium.data_pipeline.errors import InputError
from trivium.data_pipeline.files import sync_path
from trivium.engine import checkpoint_folder
from trivium.engine.agreement import AgreedError, everywhere, on_first
from trivium.engine.config import training_fingerprint
from trivium.engine.mesh import Mesh
from trivium.engine.schema import RunConfig
from trivium.engine.state import TrainState
from trivium.engine.units import format_bytes

_RESHARDABLE = "fully_reshardable"


class Checkpointer:
    """Saves and loads the state of one run."""

    def __init__(
        self,
        config: RunConfig,
        mesh: Mesh,
        chunks: Sequence[Any],
        optimizer: MegatronOptimizer,
        data_fingerprint: str,
    ) -> None:
        self.config = config
        self.mesh = mesh
        self.chunks = chunks
        self.optimizer = optimizer
        self.data_fingerprint = data_fingerprint
        self.folder = Path(config.run.dir) / "checkpoints"
        self.metadata = _metadata(mesh)
        self._queue = AsyncCallsQueue() if config.checkpoint.asynchronous else None

    # Saving

    def save(self, state: TrainState) -> Path:
        """Write a checkpoint of `state`; with `checkpoint.asynchronous`, start writing it.

        Collective. Raises InputError, on every rank and with nothing left behind, when it does not
        fit on the disk.
        """
        self.finish()
        final = checkpoint_folder.path_of(self.folder, state.step)
        if on_first(final.exists):
            return final
        partial_folder = self.folder / f".{final.name}.partial"
        tree = self._tree(loading=False)
        tree["rng"] = ShardedObject(
            f"rng.{_layout_name(self.mesh)}",
            _rng_state(),
            (dist.get_world_size(),),
            (self.mesh.rank,),
        )
        self._make_room(partial_folder, tree)
        publish = partial(self._publish, partial_folder, final, dataclasses.replace(state))
        try:
            request = dist_checkpointing.save(
                tree,
                str(partial_folder),
                TorchDistSaveShardedStrategy("torch_dist", 1, thread_count=1),
                async_sharded_save=True,
            )
            assert request is not None
            request.add_finalize_fn(publish)
            if self._queue is None:
                request.execute_sync()
            else:
                self._queue.schedule_async_request(request)
        except (OSError, RuntimeError, dist_checkpointing.core.CheckpointingException) as error:
            raise self._failed(partial_folder, error) from error
        return final

    def poll(self) -> None:
        """Finish an asynchronous save that is done; call once a step, on every rank."""
        if self._queue is not None:
            self._queue.maybe_finalize_async_calls(blocking=False)

    def finish(self) -> None:
        """Wait until no save is in flight. Collective."""
        if self._queue is not None and self._queue.get_num_unfinalized_calls():
            self._queue.maybe_finalize_async_calls(blocking=True)

    def _make_room(self, folder: Path, tree: ShardedStateDict) -> None:
        """Create the empty folder, having asked the disk first; every rank learns of a refusal."""
        size = torch.tensor(_local_bytes(tree), device=torch.cuda.current_device())
        dist.all_reduce(size)
        on_first(partial(self._create, folder, int(size)))

    def _create(self, folder: Path, size: int) -> None:
        try:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            free = shutil.disk_usage(folder).free
        except OSError as error:
            raise InputError(
                f"checkpoint {folder.parent}: cannot be written ({error.strerror}); "
                "give another run.dir or free space"
            ) from error
        if free < size:
            folder.rmdir()
            raise InputError(
                f"checkpoint {folder.parent}: needs {format_bytes(size)}, the disk has "
                f"{format_bytes(free)} free; free space or lower checkpoint.keep "
                f"(now {self.config.checkpoint.keep}), and start again to resume"
            )

    def _failed(self, folder: Path, error: Exception) -> AgreedError:
        if self.mesh.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)
        reason = getattr(error, "strerror", None) or str(error).splitlines()[-1]
        return AgreedError(
            f"checkpoint {folder.parent}: writing failed ({reason}); earlier checkpoints are "
            "intact: free space and start again to resume"
        )

    def _publish(self, folder: Path, final: Path, state: TrainState) -> None:
        """Checksums, manifest, rename; then drop what is past `checkpoint.keep`. Collective."""
        files = checkpoint_folder.checksums(folder)
        if self.mesh.rank == 0:
            (folder / "config.yaml").write_text(dump_yaml(self.config))
            files["config.yaml"] = checkpoint_folder.describe(folder / "config.yaml")
            checkpoint_folder.write_manifest(
                folder,
                state,
                files,
                data_fingerprint=self.data_fingerprint,
                config_fingerprint=training_fingerprint(self.config),
                layout=_layout_name(self.mesh),
                grad_scaler=self._scaler_state(),
            )
            for path in folder.iterdir():
                sync_path(path)
            sync_path(folder)
            folder.rename(final)
            sync_path(final.parent)
            self._retire()
        dist.barrier()

    def _retire(self) -> None:
        keep = self.config.checkpoint.keep
        for old in checkpoint_folder.complete(self.folder)[:-keep] if keep else []:
            doomed = old.with_name(f".{old.name}.partial")
            old.rename(doomed)  # so that a kill half-way leaves nothing that looks complete
            shutil.rmtree(doomed)

    # Loading

    def load(self, path: Path, weights_only: bool = False) -> TrainState:
        """Restore the model, and unless `weights_only` optimizer, counters and random streams.

        Collective. Raises InputError, on every rank, for a checkpoint that is damaged, of another
        model, or of other data.
        """
        manifest = everywhere(partial(checkpoint_folder.read, path))
        everywhere(partial(self._check_model, path))
        if manifest.get("weights_only") and not weights_only:
            raise AgreedError(
                f"checkpoint {path}: holds weights only, no optimizer; set "
                "checkpoint.load_optimizer=false to start from them"
            )
        if not weights_only and manifest["data_fingerprint"] != self.data_fingerprint:
            raise AgreedError(
                f"checkpoint {path}: was trained on other data or another tokenizer "
                f"(fingerprint {manifest['data_fingerprint'][:12]}, "
                f"this run's is {self.data_fingerprint[:12]}); "
                "restore data.*, or give checkpoint.load with checkpoint.load_optimizer=false and "
                "another run.dir to start from its weights"
            )
        if weights_only:
            load_weights(path, [chunk.module for chunk in self.chunks], self.mesh)
            self.optimizer.reload_model_params()
            return TrainState()
        tree = self._tree(loading=True)
        same_layout = manifest["layout"] == _layout_name(self.mesh)
        if same_layout:
            world = (dist.get_world_size(),)
            tree["rng"] = ShardedObject(f"rng.{manifest['layout']}", None, world, (self.mesh.rank,))
        sharded, _ = extract_sharded_base(tree)
        loaded = dist_checkpointing.load(sharded, str(path), validate_access_integrity=False)
        for index, chunk in enumerate(self.chunks):
            chunk.module.load_state_dict(loaded["model"][index], strict=True)
        self._load_optimizer(tree, loaded, manifest)
        if same_layout:
            _set_rng_state(loaded["rng"])
        return TrainState(**manifest["state"])

    def _check_model(self, path: Path) -> None:
        """The checkpoint's model must be this run's; name the fields that differ."""
        import yaml

        saved = yaml.safe_load((path / "config.yaml").read_text())["model"]
        ours = to_dict(self.config.model)
        free = {"attention_dropout", "hidden_dropout", "init_std", "max_position", "from_hf"}
        if ours["position"] == "learned":
            free.discard("max_position")
        different = [
            f"model.{name} {saved.get(name)!r} there, {value!r} here"
            for name, value in ours.items()
            if name not in free and _plain(saved.get(name)) != _plain(value)
        ]
        if different:
            raise InputError(
                f"checkpoint {path}: is of another model ({'; '.join(different[:3])}); "
                "give the same model.* or another run.dir"
            )

    def _load_optimizer(self, tree: Any, loaded: Any, manifest: dict[str, Any]) -> None:
        """Give each optimizer its tensors, with the common part of *this* layout around them."""
        for index, part in self._parts():
            state = tree["optimizer"][index]
            _, common = extract_sharded_base(state)
            tensors = loaded["optimizer"][index]
            if isinstance(part, DistributedOptimizer) and self._fp32:
                _fill_main_params(part, tensors["param_state"])
            full = merge(dict_list_map_outplace(_unwrapped, common), tensors)
            groups = full.get("optimizer", full)
            for group in groups["param_groups"]:
                group["step"] = manifest["state"]["updates"]
            if "grad_scaler" in full and manifest["grad_scaler"] is not None:
                saved = dict(manifest["grad_scaler"])
                saved["scale"] = torch.tensor([saved["scale"]], device=torch.cuda.current_device())
                full["grad_scaler"] = saved
            part.load_state_dict(full)

    # The tree of tensors

    @property
    def _fp32(self) -> bool:
        return self.config.train.dtype == "fp32"

    def _parts(self) -> list[tuple[int, Any]]:
        """The optimizers that hold parameters on this rank, with their place in the chain."""
        parts = getattr(self.optimizer, "chained_optimizers", [self.optimizer])
        return [(i, part) for i, part in enumerate(parts) if not part.is_stub_optimizer]

    def _tree(self, loading: bool) -> dict[str, Any]:
        """Sharded state of model and optimizer under names that do not depend on the layout.

        When saving, only tensors: when loading, the local common part stays, to be merged later.
        """
        model = _model_tree([chunk.module for chunk in self.chunks], self.metadata)
        tree: dict[str, Any] = {"model": model, "optimizer": {}}
        for index, part in self._parts():
            part.init_state_fn(part.optimizer, part.config)  # no update may have been applied yet
            state = part.sharded_state_dict(model, is_loading=loading, metadata=self.metadata)
            if isinstance(part, DistributedOptimizer):
                for tensors in state["param_state"].values():
                    if self._fp32:
                        del tensors["param"]  # the model's own
                apply_prefix_mapping(
                    state, {"optimizer.state.param.": "optimizer.state.fp32_param."}
                )
            tree["optimizer"][index] = state if loading else extract_sharded_base(state)[0]
        return tree

    def _scaler_state(self) -> dict[str, float] | None:
        for _, part in self._parts():
            scaler = getattr(part, "grad_scaler", None)
            if scaler is not None and scaler.state_dict():
                return {name: float(value) for name, value in scaler.state_dict().items()}
        return None


def load_weights(path: Path, chunks: Sequence[Any], mesh: Mesh) -> None:
    """Fill this rank's model `chunks` (unwrapped) from the checkpoint at `path`. Collective.

    The checkpoint must be complete (`checkpoint_folder.read`) and of the same model.
    """
    tree = {"model": _model_tree(chunks, _metadata(mesh))}
    # what modules keep beside weights (scales of FP8) is of training; converted files have none
    extra = {name: None for state in tree["model"].values() for name in _objects(state)}
    for state in tree["model"].values():
        for name in _objects(state):
            del state[name]
    sharded, _ = extract_sharded_base(tree)
    loaded = dist_checkpointing.load(sharded, str(path), validate_access_integrity=False)
    for index, chunk in enumerate(chunks):
        wanted = {name: None for name in extra if name in chunk.state_dict()}
        chunk.load_state_dict(loaded["model"][index] | wanted, strict=True)


def _objects(state: dict[str, Any]) -> list[str]:
    return [name for name, value in state.items() if isinstance(value, ShardedObject)]


def _metadata(mesh: Mesh) -> dict[str, Any]:
    return {
        "distrib_optim_sharding_type": _RESHARDABLE,
        "chained_optim_avoid_prefix": True,
        "dp_cp_group": mesh.groups.dp_cp,
    }


def _model_tree(chunks: Sequence[Any], metadata: dict[str, Any]) -> dict[int, Any]:
    """Sharded state of the chunks, by their place."""
    return {
        index: chunk.sharded_state_dict(prefix="", metadata=metadata)
        for index, chunk in enumerate(chunks)
    }


def _unwrapped(value: Any) -> Any:
    return value.unwrap() if isinstance(value, LocalNonpersistentObject) else value


def _fill_main_params(part: DistributedOptimizer, param_state: dict[int, Any]) -> None:
    """fp32: the main parameters are the model's, which have been loaded already."""
    index = 0
    for buffer in part.buffers:
        for parameter in buffer.param_index_map:
            param_state[index]["param"] = parameter.detach()
            index += 1


def _local_bytes(tree: Any) -> int:
    """Bytes of the tensors that this rank will write (its main replicas)."""
    total = 0
    for leaf in nested_values(tree):
        data = getattr(leaf, "data", None)
        if isinstance(data, torch.Tensor) and is_main_replica(leaf.replica_id):
            total += data.numel() * data.element_size()
    return total


def _layout_name(mesh: Mesh) -> str:
    layout = mesh.layout
    names = ("world_size", "tp", "pp", "vpp", "cp", "ep", "etp")
    return "-".join(f"{name}{getattr(layout, name)}" for name in names)


def _plain(value: Any) -> Any:
    """YAML has lists where dataclasses have tuples."""
    return json.loads(json.dumps(value))


def _rng_state() -> dict[str, Any]:
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "device": torch.cuda.get_rng_state(),
        "tracker": tensor_parallel.get_cuda_rng_tracker().get_states(),
    }


def _set_rng_state(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["device"].shape == torch.cuda.get_rng_state().shape:
        torch.cuda.set_rng_state(state["device"])
        tensor_parallel.get_cuda_rng_tracker().set_states(state["tracker"])
    # else it was saved on the other kind of device, whose dropout streams mean nothing to this one
