"""One rank of a peer in a process of its own: `python -m tools.benchmarks PEER WORKLOAD`.

WORKLOAD is JSON: the fields of `Workload` that differ from their defaults.
"""

from __future__ import annotations

import importlib
import json
import sys

import torch

from tools.benchmarks.workload import Workload

work = Workload(**json.loads(sys.argv[2]))
peer = importlib.import_module(f"tools.benchmarks.{sys.argv[1]}")
torch.set_num_threads(work.threads)  # a peer may choose its own when it is imported
peer.run(work)
