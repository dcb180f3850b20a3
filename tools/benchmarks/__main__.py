"""One peer in a fresh process: `python -m tools.benchmarks PEER '{"steps": 3}'`."""

from __future__ import annotations

import importlib
import json
import sys

import torch

from tools.benchmarks.workload import Workload

work = Workload(**json.loads(sys.argv[2]))
torch.set_num_threads(work.threads)
peer = importlib.import_module(f"tools.benchmarks.{sys.argv[1]}")
torch.set_num_threads(work.threads)  # a peer may choose its own on import
peer.run(work)
