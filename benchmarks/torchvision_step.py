"""Time of a training step of torchvision's detectors, converted by apply_mlc over plain: same process, alternating.

Both are trained on the same batch, the converted model with everything on. The figure is the median of the rounds'
ratios; the order within a round alternates.

usage: torchvision_step.py [--rounds 9] [--threads 1] [--size 256] [--device cpu]
"""

import argparse
import copy
import statistics
import time

import torch
import torchvision.models.detection as detection

from mlc_ext.integrations.torchvision import apply_mlc, set_epoch

MODELS = ("fcos_resnet50_fpn", "retinanet_resnet50_fpn", "fasterrcnn_resnet50_fpn")


def batch(size, device):
    generator = torch.Generator().manual_seed(0)
    images, targets = [], []
    for count in (3, 8):
        corner = torch.rand(count, 2, generator=generator) * size * 0.6
        boxes = torch.cat([corner, corner + size * (0.1 + 0.3 * torch.rand(count, 2, generator=generator))], dim=1)
        labels = torch.randint(1, 91, (count,), generator=generator)
        images.append(torch.rand(3, size, size, generator=generator).to(device))
        targets.append({"boxes": boxes.to(device), "labels": labels.to(device)})
    return images, targets


def step(model, images, targets, optimizer):
    if images[0].is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    loss = sum(model(images, [dict(target) for target in targets]).values())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if images[0].is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--size", type=int, default=256, help="side of the two images in pixels")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    images, targets = batch(args.size, args.device)
    for name in MODELS:
        torch.manual_seed(0)
        plain = getattr(detection, name)(
            weights=None, weights_backbone=None, num_classes=91, min_size=args.size, max_size=args.size
        )
        converted = apply_mlc(copy.deepcopy(plain))
        set_epoch(converted, 12)
        pair = []
        for model in (plain, converted):
            model.train().to(args.device)
            pair.append((model, torch.optim.SGD(model.parameters(), 1e-6)))
        seconds = ([], [])
        for i in range(args.rounds + 1):
            for which in (0, 1) if i % 2 else (1, 0):
                taken = step(pair[which][0], images, targets, pair[which][1])
                if i > 0:  # the first round warms up
                    seconds[which].append(taken)
        ratios = sorted(b / a for a, b in zip(*seconds, strict=True))
        print(
            f"{name}: plain {statistics.median(seconds[0]):.3f} s, converted {statistics.median(seconds[1]):.3f} s, "
            f"ratio {statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f}, {args.rounds} rounds)",
            flush=True,
        )


if __name__ == "__main__":
    main()
