"""Two processes over gloo: rank 0 decides, both train alike, and resume alike."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

WORKER = """
import json, math, sys
from datetime import timedelta
from pathlib import Path
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from control.controllers import RuleController
from metalr.config import ControlConfig, ProbeConfig
from metalr.control import MetaLR

rank, folder, probes = int(sys.argv[1]), sys.argv[2], sys.argv[3] == "probe"
torch.set_num_threads(1)
dist.init_process_group(
    "gloo", init_method=Path(folder, "meet").as_uri(), rank=rank, world_size=2, timeout=timedelta(seconds=60)
)
torch.manual_seed(0)
model = DistributedDataParallel(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05 if rank == 0 else 0.07, momentum=0.9)
optimizer.param_groups[0]["lr"] = 0.05
# the ranks' controllers and metrics disagree: only rank 0's may count
rule = RuleController(lambda t, _: (2 * t + 1) % 5 if rank == 0 else 4)
generator = torch.Generator().manual_seed(rank)
batches = [(torch.randn(8, 4, generator=generator), torch.randn(8, 1, generator=generator)) for _ in range(4)]
probe = {"batches": batches, "loss_fn": nn.MSELoss()} if probes else {}
config = ControlConfig(probe=ProbeConfig(num_steps=8))

def make():
    return MetaLR(optimizer, rule, total_epochs=6, steps_per_epoch=2, model=model, config=config, **probe)

scheduler = make()
lrs = []
for epoch in range(5):
    for step in range(2):
        inputs, targets = batches[2 * (epoch % 2) + step]
        optimizer.zero_grad()
        nn.functional.mse_loss(model(inputs), targets).backward()
        lrs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if rank == 0 and step == 1 and epoch != 3:  # rank 1 sees nothing, or nonsense
            scheduler.observe({"train_loss": [1.0, 0.9, 50.0, 0.8, 0.7][epoch]})
        if rank == 1 and epoch in (1, 3):
            scheduler.observe({"train_loss": math.nan})
        scheduler.step()
    if epoch == 2:
        state = scheduler.state_dict()
        scheduler.close()
        scheduler = make()
        scheduler.load_state_dict(state)
        optimizer.param_groups[0]["lr"] = state["last_lr"][0]
state = scheduler.state_dict()
state.pop("statistics")
weights = [p.tolist() for p in model.parameters()]
with open(f"{folder}/{rank}.json", "w") as file:
    hooks = len(optimizer._optimizer_step_pre_hooks)
    json.dump({"lrs": lrs, "weights": weights, "state": state, "hooks": hooks}, file)
dist.destroy_process_group()
"""


def run_two(folder: Path, mode: str) -> list[dict[str, Any]]:
    script = folder / "worker.py"
    script.write_text(WORKER)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    workers = [
        subprocess.Popen(
            [sys.executable, script, str(rank), str(folder), mode],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=100)
        assert worker.returncode == 0, errors
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("mode", ["probe", pytest.param("plain", marks=pytest.mark.slow)])
def test_rank_0_decides_for_both(tmp_path: Path, mode: str) -> None:
    first, second = run_two(tmp_path, mode)
    assert first["lrs"] == second["lrs"]
    assert first["weights"] == second["weights"]
    assert len(set(first["lrs"])) == 5
    assert all(math.isfinite(lr) for lr in first["lrs"])
    shared = [
        {key: value for key, value in rank["state"].items() if key != "history"} for rank in (first, second)
    ]
    assert shared[0] == shared[1]
    assert first["state"]["num_rollbacks"] == 1  # its own explosion, not rank 1's nonsense
    assert [row["epoch"] for row in first["state"]["trace"]] == [0, 1, 2, 5]
    assert (first["hooks"], second["hooks"]) == (1, 0)
    assert (first["state"]["probe"] is not None) == (mode == "probe")
