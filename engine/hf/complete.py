"""Does a folder hold the tensors that its model needs, and no others?"""

from __future__ import annotations

from trivium.data_pipeline.errors import InputError
from trivium.engine.hf.layout import Tensors
from trivium.engine.hf.safetensors_files import Folder
from trivium.engine.schema import ModelConfig

# Buffers that older versions of the library saved.
_DERIVED = ("rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias")


def check(source: Folder, table: Tensors, model: ModelConfig) -> set[str]:
    """Are all tensors there, in their shapes, and none that nobody asked for?

    Gives our names of MTP heads' tensors that are not. Raises InputError for anything else.
    """
    left = set(source.entries)
    missing = set()
    for name, layout in table.items():
        for theirs, shape in layout.sources().items():
            if theirs not in left and name.startswith("mtp."):
                missing.add(name)
                continue
            source.expect(theirs, shape)
            left.discard(theirs)
    left = {name for name in left if not _harmless(name, model, table)}
    if left:
        raise InputError(
            f"{source.path}: tensor {min(left)} has no place in the model that config.json "
            f"describes ({len(left)} such); the folder is of another model"
        )
    return missing


def _harmless(name: str, model: ModelConfig, table: Tensors) -> bool:
    """Buffers, a tied head written out, and what an MTP head shares with the trunk."""
    if name.endswith(_DERIVED):
        return True
    if model.tie_embeddings and name == "lm_head.weight":
        return True
    head = name.startswith(tuple(f"model.layers.{model.num_layers + i}." for i in range(8)))
    # the trunk's embedding and output layer once more; or heads that this model leaves out
    shared = name.endswith(("embed_tokens.weight", "shared_head.head.weight"))
    return head and (shared or model.mtp.num_heads == 0)
