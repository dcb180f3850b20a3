"""The command line that the scripts share."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tools.command import parse, parser, read
from trivium.data_pipeline.errors import InputError

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Form:
    size: int = 1
    names: tuple[str, ...] = ()


def test_keys_go_over_a_file_and_anything_goes_in_any_order(tmp_path):
    config = tmp_path / "form.yaml"
    config.write_text("size: 2\nnames: [a]\n")
    assert read(Form, "doc", []) == Form()
    assert read(Form, "doc", ["size=3", "--config", str(config)]) == Form(size=3, names=("a",))
    given = parser("doc")
    given.add_argument("what", choices=["this", "that"])
    arguments, form = parse(given, Form, ["that", "names=[b]", "--config", str(config), "size=5"])
    assert (arguments.what, form) == ("that", Form(size=5, names=("b",)))
    with pytest.raises(InputError, match="sise"):
        read(Form, "doc", ["sise=3"])


@pytest.mark.parametrize("script", ["prepare_corpus", "train_tokenizer", "inspect_shards"])
def test_scripts_are_run_by_their_path_from_anywhere(script, tmp_path):
    path = ROOT / "tools" / f"{script}.py"
    done = subprocess.run(
        [sys.executable, str(path), "--help"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert f"python tools/{script}.py" in done.stdout
    assert "--config" in done.stdout
