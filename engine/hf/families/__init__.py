"""One file a family: what its config.json says about the model, and what its tensors are called."""

from __future__ import annotations

from trivium.engine.hf.families.deepseek import DEEPSEEK_V2, DEEPSEEK_V3
from trivium.engine.hf.families.family import Family
from trivium.engine.hf.families.gemma import GEMMA2, GEMMA3
from trivium.engine.hf.families.glm import GLM, GLM4, GLM4_MOE
from trivium.engine.hf.families.llama import LLAMA, MISTRAL
from trivium.engine.hf.families.mixtral import MIXTRAL
from trivium.engine.hf.families.olmo2 import OLMO2
from trivium.engine.hf.families.qwen import QWEN2, QWEN3, QWEN3_MOE

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        LLAMA,
        MISTRAL,
        QWEN2,
        QWEN3,
        QWEN3_MOE,
        MIXTRAL,
        DEEPSEEK_V2,
        DEEPSEEK_V3,
        GLM,
        GLM4,
        GLM4_MOE,
        OLMO2,
        GEMMA2,
        GEMMA3,
    )
}
