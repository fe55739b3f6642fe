"""Draws ``docs/images/architecture.svg``: the way of the data, and the rows that imports respect.

python docs/architecture.py
"""

from __future__ import annotations

from html import escape
from pathlib import Path

FLOW = ["Picture", "model's image", "latent", "noisy latents", "raw activations", "FeatureMap"]
STEPS = ["frame", "encode", "trajectory", "denoise + taps", "reduce, join"]
#: Rows of tests/test_architecture.py, which says that all rooms are here.
ROWS = [
    (["cli", "app"], "faces: thin, no logic of their own"),
    (["report", "distributed", "reproduce"], "many pictures, many recipes, many machines"),
    (["studies", "training"], "procedures that end in a recipe"),
    (["tasks", "evaluation", "interfaces"], "uses of features, and how they are scored"),
    (["extraction"], "recipes, and the sources that run them"),
    (["techniques"], "what acts on a model while it is read"),
    (["refinement", "trajectories", "storage"], "steps on maps; noisy latents; where features rest"),
    (["activations"], "names and reads what is inside a denoiser"),
    (["backbones"], "a diffusers pipeline made ready"),
    (["features", "datasets", "zoo"], "pictures in, feature maps out; samples; embedded models"),
    (["viz", "geometry"], "tensors to pictures; pixels to pixels"),
]
BUILT = {p.name for p in (Path(__file__).parent.parent / "src" / "diffeat").iterdir() if (p / "__init__.py").exists()}
WIDTH, TOP, ROW = 900, 130, 46


def _text(x: float, y: float, words: str, size: int = 14, anchor: str = "middle", fill: str = "#1b2430") -> str:
    return (
        f'<text x="{x:.0f}" y="{y:.0f}" font-size="{size}" text-anchor="{anchor}" fill="{fill}">{escape(words)}</text>'
    )


def _box(x: float, y: float, w: float, h: float, fill: str, stroke: str, dashed: bool = False) -> str:
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return (
        f'<rect x="{x:.0f}" y="{y:.0f}" width="{w:.0f}" height="{h:.0f}" rx="7" fill="{fill}" stroke="{stroke}"{dash}/>'
    )


def draw() -> str:
    parts = [f'<rect width="{WIDTH}" height="{TOP + ROW * len(ROWS) + 40}" fill="white"/>']
    step = (WIDTH - 40) / len(FLOW)
    for i, name in enumerate(FLOW):
        x = 20 + i * step
        parts += [_box(x + 4, 36, step - 44, 40, "#eef4ff", "#5b82c4"), _text(x + 4 + (step - 44) / 2, 61, name, 12)]
        if i < len(STEPS):
            parts.append(f'<path d="M{x + step - 38:.0f} 56 h34" stroke="#5b82c4" marker-end="url(#a)" fill="none"/>')
            parts.append(_text(x + step - 20, 98, STEPS[i], 12, fill="#5b6675"))
    for i, (rooms, says) in enumerate(ROWS):
        y = TOP + i * ROW
        for j, room in enumerate(rooms):
            built = room in BUILT
            parts.append(_box(70 + j * 122, y, 114, 36, "#f3f7ee" if built else "white", "#7a9a55", not built))
            parts.append(_text(70 + j * 122 + 57, y + 23, room, 13, fill="#1b2430" if built else "#9aa3ad"))
        parts.append(_text(455, y + 23, says, 13, "start", "#5b6675"))
    bottom = TOP + ROW * len(ROWS) - 24
    parts.append(f'<path d="M40 {TOP} V{bottom}" stroke="#7a9a55" stroke-width="2" marker-end="url(#b)"/>')
    place = f"translate(26 {(TOP + bottom) / 2:.0f}) rotate(-90)"
    parts.append(f'<text transform="{place}" font-size="13" text-anchor="middle" fill="#5b6675">imports</text>')
    arrows = "".join(
        f'<marker id="{i}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0 L8 4 L0 8 z" fill="{c}"/></marker>'
        for i, c in (("a", "#5b82c4"), ("b", "#7a9a55"))
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {TOP + ROW * len(ROWS) + 10}" '
        f'font-family="Helvetica, Arial, sans-serif"><defs>{arrows}</defs>{"".join(parts)}</svg>\n'
    )


if __name__ == "__main__":
    target = Path(__file__).parent / "images" / "architecture.svg"
    target.parent.mkdir(exist_ok=True)
    target.write_text(draw(), encoding="utf-8")
    print(target)
