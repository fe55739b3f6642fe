"""Few-label segmentation: training and prediction from native maps against features enlarged to label size.

    python benchmarks/segmentation_memory.py [--pictures 20] [--side 256] [--channels 960]

Both train the same linear probe on the same pixels of synthetic pictures (features at a quarter and an eighth of the
side, labels that follow them). Each runs in a fresh process; memory is the resident peak above the native features.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F

from diffeat.geometry import FrameSpec
from diffeat.tasks.ridge import RidgeSums
from diffeat.tasks.segmentation import Confusion, LinearProbe, PictureMaps, TrainingPixels

CLASSES = 8


def resident() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def pictures(count: int, side: int, channels: int) -> tuple[list[PictureMaps], list[np.ndarray]]:
    frame = FrameSpec(mode="squash", size=side).frame((side, side))
    mixing = torch.randn(CLASSES, channels // 2, generator=torch.Generator().manual_seed(0)) * 0.3
    maps, labels = [], []
    for k in range(count):
        generator = torch.Generator().manual_seed(k + 1)
        field = F.interpolate(torch.randn(1, CLASSES, 6, 6, generator=generator), size=side, mode="bicubic")[0]
        truth = field.argmax(0)
        code = F.avg_pool2d(F.one_hot(truth, CLASSES).permute(2, 0, 1).float(), 4)
        fine = torch.einsum("kc,khw->chw", mixing, code)
        fine = fine + torch.randn(fine.shape, generator=generator)
        coarse = F.avg_pool2d(torch.einsum("kc,khw->chw", mixing, code), 2)
        coarse = coarse + torch.randn(coarse.shape, generator=generator)
        maps.append(PictureMaps.over((fine, coarse), frame))
        labels.append(truth.numpy())
    return maps, labels


def native(train, labels, test) -> list[torch.Tensor]:
    probe = LinearProbe(CLASSES, strengths=(1e-2,)).fit(TrainingPixels(train, labels, rare=0))
    return [probe.predict(p).labels for p in test]


def enlarged(train, labels, test) -> list[torch.Tensor]:
    def whole(p: PictureMaps) -> torch.Tensor:
        sized = (F.interpolate(m.values[None], size=p.size, mode="bilinear", align_corners=False)[0] for m in p.maps)
        return torch.cat(list(sized))

    everything = torch.stack([whole(p) for p in train])
    sums = RidgeSums(everything.shape[1], CLASSES)
    for features, truth in zip(everything, labels, strict=True):
        for rows, some in zip(features.split(32, 1), torch.from_numpy(truth).split(32), strict=True):
            sums.add(rows.flatten(1).T.contiguous(), some.flatten())
    weight, bias = sums.solve(1e-2)
    return [(torch.einsum("kc,chw->khw", weight, whole(p)) + bias[:, None, None]).argmax(0) for p in test]


def run(way: str, count: int, side: int, channels: int) -> dict[str, float]:
    maps, labels = pictures(count + 4, side, channels)
    held = resident()
    start = time.perf_counter()
    found = {"native": native, "enlarged": enlarged}[way](maps[:count], labels[:count], maps[count:])
    confusion = Confusion(CLASSES)
    for truth, predicted in zip(labels[count:], found, strict=True):
        confusion.add(truth, predicted.numpy())
    seconds = time.perf_counter() - start
    return {"mib": round(resident() - held, 1), "s": round(seconds, 1), "miou": round(100 * confusion.miou, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=20)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--channels", type=int, default=960)
    parser.add_argument("--way", choices=["native", "enlarged"])
    options = parser.parse_args()
    sizes = (options.pictures, options.side, options.channels)
    if options.way:
        print(json.dumps(run(options.way, *sizes)))
        return
    for way in ("enlarged", "native"):
        arguments = [sys.executable, __file__, "--way", way, *sys.argv[1:]]
        done = subprocess.run(arguments, capture_output=True, text=True, check=True)
        print(way, done.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    main()
