"""Peak memory of reading one cross-attention map, two chosen tokens, from a real-size UNet at 512 px.

    python benchmarks/attention_memory.py

Three fresh processes: the plain forward, the forward with the map read, and the forward with every layer's
probabilities materialised, which is what systems that swap all attention processors pay.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys

import torch

LAYER = "up_blocks.3.attentions.1.transformer_blocks.0.attn2"
TOKENS = [2, 5]


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def _probabilities(attention, hidden, context) -> torch.Tensor:
    query = attention.head_to_batch_dim(attention.to_q(hidden))
    key = attention.head_to_batch_dim(attention.to_k(hidden if context is None else context))
    return attention.get_attention_scores(query, key).unflatten(0, (-1, attention.heads))


@torch.no_grad()
def measure(which: str) -> dict:
    from real_models import sd15_unet

    import diffeat

    unet = sd15_unet()
    generator = torch.Generator().manual_seed(0)
    inputs = {
        "sample": torch.randn(1, 4, 64, 64, generator=generator),
        "timestep": torch.tensor([261]),
        "encoder_hidden_states": torch.randn(1, 77, 768, generator=generator),
    }
    result = torch.zeros(1)
    if which == "plain":
        unet(**inputs)
    elif which == "ours":
        request = diffeat.MapRequest(f"{LAYER}.map", heads="mean", tokens=TOKENS)
        with diffeat.tap(unet, [request]) as taps:
            unet(**inputs)
        result = next(iter(next(iter(taps.values())).values()))
    else:
        kept = {}

        def hook(name):
            def keep(module, args, kwargs):
                hidden = args[0] if args else kwargs["hidden_states"]
                kept[name] = _probabilities(module, hidden, kwargs.get("encoder_hidden_states"))

            return keep

        for name, module in unet.named_modules():
            if name.endswith((".attn1", ".attn2")):
                module.register_forward_pre_hook(hook(name), with_kwargs=True)
        unet(**inputs)
        whole = kept[LAYER].mean(1)[..., TOKENS]
        result = whole.transpose(1, 2).unflatten(-1, (64, 64))
    return {"peak_mb": _peak(), "map": result.flatten()[:4096].tolist()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure)))
        return
    peaks, maps = {}, {}
    for which in ("plain", "ours", "materialised"):
        call = [sys.executable, __file__, "--measure", which]
        done = subprocess.run(call, stdout=subprocess.PIPE, text=True, check=True)
        row = json.loads(done.stdout.splitlines()[-1])
        peaks[which], maps[which] = row["peak_mb"], torch.tensor(row["map"])
        print(f"{which:13s} peak {row['peak_mb']:.0f} MB")
    error = (maps["ours"] - maps["materialised"]).abs().max() / maps["materialised"].abs().max()
    extra, cost = peaks["ours"] - peaks["plain"], peaks["materialised"] - peaks["plain"]
    print(f"relative max error of the map {error:.1e}")
    print(f"extra peak memory {extra:.0f} MB of {cost:.0f} MB: {100 * extra / cost:.1f} %")


if __name__ == "__main__":
    main()
