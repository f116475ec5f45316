"""Two processes train one network (DDP over gloo): rank 0 decides, and both have its LR.

Each process validates on its own half, so each sees another loss. The first one's counts.
"""

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from problem import EPOCHS, IMAGES, LABELS, LR, VALID, Training, batches, log_lrs, make_model, run
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from metalr import MetaLR

NUM_PROCESSES = 2


def train(folder: Path, controller: Any = "default", stop_after: int = EPOCHS) -> Training:
    """Train to epoch `stop_after`, from the checkpoint in `folder` where there is one. What rank 0 saw."""
    (folder / "meeting_point").unlink(missing_ok=True)
    torch.multiprocessing.spawn(work, args=(folder, controller, stop_after), nprocs=NUM_PROCESSES)
    return trainings(folder)[0]


def trainings(folder: Path) -> list[Training]:
    """What each process saw of the training last run in `folder`."""
    paths = [folder / f"rank{rank}.pt" for rank in range(NUM_PROCESSES)]
    return [Training(**torch.load(path, weights_only=True)) for path in paths]


def work(rank: int, folder: Path, controller: Any, stop_after: int) -> None:
    """One process."""
    torch.set_num_threads(1)
    meeting_point = (folder / "meeting_point").as_uri()
    dist.init_process_group("gloo", init_method=meeting_point, rank=rank, world_size=NUM_PROCESSES)
    model = DistributedDataParallel(make_model())
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9)
    scheduler = MetaLR(optimizer, controller, total_epochs=EPOCHS)
    lrs = log_lrs(optimizer)
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    first_epoch = 0
    if (folder / "checkpoint.pt").exists():
        saved = torch.load(folder / "checkpoint.pt", weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        first_epoch = saved["epoch"]
    for epoch in range(first_epoch, stop_after):
        for images, labels in batches()[rank::NUM_PROCESSES]:
            optimizer.zero_grad()
            cross_entropy(model(images), labels).backward()
            optimizer.step()
        scheduler.step(validation_loss_of(rank, model))
        if rank == 0:
            states = {name: part.state_dict() for name, part in parts.items()}
            torch.save({"epoch": epoch + 1} | states, folder / "checkpoint.pt")
        dist.barrier()
    found = {
        "state": scheduler.state_dict(),
        "explanation": scheduler.explain(),
        "weights": model.module.state_dict(),
        "lrs": lrs,
        "observations": stop_after - first_epoch,
        "first_epoch": first_epoch,
    }
    torch.save(found, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


def validation_loss_of(rank: int, model: DistributedDataParallel) -> float:
    """Mean cross-entropy on this process's part of the validation set."""
    images, labels = IMAGES[VALID][rank::NUM_PROCESSES], LABELS[VALID][rank::NUM_PROCESSES]
    with torch.no_grad():
        return cross_entropy(model.module(images), labels).item()


if __name__ == "__main__":
    run(train)
