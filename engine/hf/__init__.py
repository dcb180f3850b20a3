"""Hugging Face folders, in and out: families as tables, weights as slices.

is_folder, model_config, dtype, dialogue      what a folder says; without torch's distributed part
load_weights                                  into the shards of a model
save                                          out of them
fit_groups                                    key/value groups that tp divides
"""

from __future__ import annotations

from trivium.engine.hf.folder import dialogue, dtype, has_tokenizer, is_folder, model_config
from trivium.engine.hf.groups import fit_groups
