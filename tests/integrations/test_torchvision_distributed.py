"""Converted torchvision detectors in DistributedDataParallel: two processes, gloo; one of them has no box."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from small_detectors import DETECTORS, batch
from torch.nn.parallel import DistributedDataParallel

from mlc_ext.integrations.torchvision import apply_mlc, set_epoch


def train(rank, name, rendezvous):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    torch.manual_seed(rank)  # DistributedDataParallel gives rank 0's weights to all, the new layer's included
    model = DistributedDataParallel(apply_mlc(DETECTORS[name]()))
    images, targets = batch()
    mine = slice(0, 1) if rank == 0 else slice(1, 2)  # the second image has no box
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    for epoch in (0, 12, 12):  # no find_unused_parameters: every parameter has a gradient in every phase
        set_epoch(model, epoch)
        losses = model(images[mine], targets[mine])
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    mine = torch.cat([p.detach().flatten() for p in model.state_dict().values()]).double()
    both = [torch.empty_like(mine) for _ in range(2)]
    dist.all_gather(both, mine)
    assert torch.equal(*both) and mine.isfinite().all()
    dist.destroy_process_group()


@pytest.mark.parametrize("name", DETECTORS)
def test_ranks_stay_equal(name, tmp_path):
    mp.spawn(train, (name, tmp_path / "rendezvous"), nprocs=2)
