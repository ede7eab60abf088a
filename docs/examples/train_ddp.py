"""A learned resizer under DistributedDataParallel, with batch statistics over the images of all processes.

torchrun starts the processes, on GPUs with NCCL and elsewhere with gloo. At the end they compare their weights, which
must be the same bits.

    torchrun --standalone --nproc-per-node 2 docs/examples/train_ddp.py --epochs 6
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from stand_ins import small_network, write_images  # in place of your network and, without --data, of your images
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, Subset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from learned_resizer_cuda import FusedResizer
from learned_resizer_cuda.sync_batch_norm import synchronise

SIZE, INPUT_SIZE = 24, 96  # what the network sees, and what the resizer sees


def train(data: Path, epochs: int, batch_size: int, device: torch.device) -> None:
    """Train on this process's share of the images."""
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    to_float = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.25] * 3)]
    transform = v2.Compose([v2.Resize(INPUT_SIZE), v2.CenterCrop(INPUT_SIZE), *to_float])
    train_set, val_set = (ImageFolder(data / split, transform) for split in ("train", "val"))
    sampler: DistributedSampler = DistributedSampler(train_set, drop_last=True)
    train_loader = DataLoader(train_set, batch_size // world, sampler=sampler, drop_last=True)
    val_loader = DataLoader(Subset(val_set, range(rank, len(val_set), world)), batch_size)

    network = small_network(len(train_set.classes))
    model: nn.Module = nn.Sequential(FusedResizer(SIZE), network).to(device)
    # On GPUs this is nn.SyncBatchNorm.convert_sync_batchnorm, which FusedResizer takes; torch's own refuses CPUs.
    model = synchronise(model, device)
    parallel = DistributedDataParallel(model, [device.index] if device.type == "cuda" else None)
    optimiser = torch.optim.AdamW(parallel.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=epochs * len(train_loader))
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        for images, labels in train_loader:
            loss = F.cross_entropy(parallel(images.to(device)), labels.to(device))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()

    model.eval()
    hits = torch.zeros((), device=device)
    with torch.inference_mode():
        for images, labels in val_loader:
            hits += (model(images.to(device)).argmax(1) == labels.to(device)).sum()
    dist.all_reduce(hits)
    weights = torch.cat([value.double().flatten() for value in model.state_dict().values()])
    every = [torch.empty_like(weights) for _ in range(world)]
    dist.all_gather(every, weights)
    if rank == 0:
        same = all(torch.equal(other, weights) for other in every)
        print(
            f"{world} processes, {dist.get_backend()}: validation accuracy {hits.item() / len(val_set):.1%}, "
            f"chance {1 / len(train_set.classes):.1%}; weights {'the same' if same else 'DIFFERENT'} in all",
            flush=True,
        )


def main() -> None:
    """Join the other processes and train."""
    parser = argparse.ArgumentParser(description="Train a learned resizer in several processes.")
    parser.add_argument("--data", type=Path, help="folder of train/CLASS and val/CLASS; default: synthetic images")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=32, help="of all processes together")
    args = parser.parse_args()
    device = torch.device("cpu")
    if torch.cuda.device_count() >= int(os.environ["LOCAL_WORLD_SIZE"]):
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    with tempfile.TemporaryDirectory() as temporary:
        # Each process writes the same synthetic images for itself.
        train(args.data or write_images(Path(temporary)), args.epochs, args.batch_size, device)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
