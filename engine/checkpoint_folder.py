"""What makes a folder a checkpoint: its name, its manifest, and a checksum of every file.

`manifest.json` is written last and the folder renamed after it, so a folder named `step-...` with a
manifest is complete. Nothing here touches a tensor.
"""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch.distributed as dist

from trivium.data_pipeline.errors import InputError
from trivium.data_pipeline.files import sha256_of
from trivium.engine.state import TrainState

FORMAT = 1
MANIFEST = "manifest.json"
_PREFIX = "step-"


def path_of(checkpoints: Path, step: int) -> Path:
    """Where the checkpoint of a step belongs."""
    return checkpoints / f"{_PREFIX}{step:08d}"


def complete(folder: Path) -> list[Path]:
    """Complete checkpoints of a `checkpoints` folder, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.glob(f"{_PREFIX}*") if (path / MANIFEST).is_file())


def find(path: str | Path) -> Path:
    """The checkpoint that `path` means: itself, or the newest of a run or checkpoints folder."""
    path = Path(path)
    if (path / MANIFEST).is_file():
        return path
    for folder in (path, path / "checkpoints"):
        found = complete(folder)
        if found:
            return found[-1]
    raise InputError(
        f"checkpoint {path}: holds no complete checkpoint (a {MANIFEST} beside its tensors); "
        "give a step-... folder or a run folder"
    )


def read(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint whose files are all there and unchanged.

    Where processes work together, each checks a share of the files.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        files, version = manifest["files"], manifest["format"]
    except (OSError, ValueError, KeyError) as error:
        raise _damaged(path, f"{MANIFEST} cannot be read: {error}") from error
    if version != FORMAT:
        raise InputError(
            f"checkpoint {path}: format {version}, this version reads {FORMAT}; "
            "load it with the Trivium that wrote it"
        )
    rank, world = _share()
    for name, expected in sorted(files.items())[rank::world]:
        try:
            found = describe(path / name)
        except OSError as error:
            raise _damaged(path, f"{name}: {error.strerror}") from error
        if found["bytes"] != expected["bytes"]:
            raise _damaged(path, f"{name} has {found['bytes']} bytes, not {expected['bytes']}")
        if found != expected:
            raise _damaged(path, f"{name} does not match its checksum")
    return manifest


def _damaged(path: Path, what: str) -> InputError:
    others = [other.name for other in complete(path.parent) if other != path]
    instead = f"to resume from {others[-1]}" if others else "to start again"
    return InputError(f"checkpoint {path}: damaged ({what}); remove this folder {instead}")


def checksums(folder: Path) -> dict[str, dict[str, Any]]:
    """name -> {bytes, sha256} of every file, each rank hashing a share. Collective."""
    rank, world = _share()
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    mine = {name: describe(folder / name) for name in names[rank::world]}
    gathered: list[dict[str, Any]] = [{} for _ in range(world)]
    dist.all_gather_object(gathered, mine)
    return {name: entry for share in gathered for name, entry in share.items()}


def write_manifest(
    folder: Path, state: TrainState, files: dict[str, dict[str, Any]], **more: Any
) -> None:
    """Write the manifest of a checkpoint of `files`; more: what a resumed run looks at."""
    manifest = {
        "format": FORMAT,
        "state": asdict(state),
        "step": state.step,
        "tokens": state.tokens,
        "data_cursor": state.sequences,
        **more,
        "versions": versions(),
        "files": files,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))


def describe(path: Path) -> dict[str, Any]:
    """Size and checksum of a file."""
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


def _share() -> tuple[int, int]:
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def versions() -> dict[str, str]:
    """Of what wrote the checkpoint."""
    packages = ("torch", "megatron-core")
    return {"python": platform.python_version(), **{p: metadata.version(p) for p in packages}}
