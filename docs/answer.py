"""Draws answer.png, the picture of README.md, from the files in results/gcn and gcn-rho: python docs/answer.py."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from tune_sam.evaluation.statistics import Mean
from tune_sam.reporting.style import GREY, style_of

ROOT = Path(__file__).parents[1]
OPTIMIZERS = ["base", "sam", "asam", "asam-all"]
QUESTIONS = {
    "use": "best against best",
    "compute": "against Adam at equal compute",
    "rho": "what ρ does: against the matched control",
}

differences = pd.read_csv(ROOT / "results/gcn/figures/refit-differences.csv")
radii = pd.read_csv(ROOT / "results/gcn-rho/sam-flatness.csv")
figure, (forest, curvature) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")

place = 0.0
ticks, labels = [], []
for question, words in QUESTIONS.items():
    forest.text(
        0.01, place, words, color=GREY, va="center", transform=forest.get_yaxis_transform(), backgroundcolor="white"
    )
    for row in differences[differences["question"] == question].itertuples():
        place += 1
        style = style_of(row.optimizer, OPTIMIZERS)
        forest.plot([100 * row.low, 100 * row.high], [place, place], color=style.colour)
        fill = style.colour if row.shown else "white"
        forest.plot([100 * row.difference], [place], style.marker, color=style.colour, markerfacecolor=fill)
        ticks, labels = [*ticks, place], [*labels, row.label]
    place += 1.4
forest.axvline(0, color="black", linewidth=0.8)
forest.set(xlabel="difference in test accuracy (points)", ylim=(place - 0.8, -0.7), title="Does it help?")
forest.set_yticks(ticks, labels)

style = style_of("sam", OPTIMIZERS)
for rho, rows in radii.groupby("rho"):
    mean = Mean.of(rows["lambda_max"].tolist())
    curvature.plot([rho, rho], [mean.low, mean.high], color=style.colour)
    curvature.plot([rho], [mean.value], style.marker, color=style.colour)
base = Mean.of(radii.loc[radii["optimizer"] == "base", "lambda_max"].tolist())
curvature.axhspan(base.low, base.high, color=GREY, alpha=0.12)
curvature.text(0.99, base.value, "Adam", color=GREY, ha="right", va="center", transform=curvature.get_yaxis_transform())
curvature.set(xscale="log", ylim=(0, None), xlabel="radius ρ of SAM", ylabel="λ_max", title="Is the minimum flatter?")
ticks = sorted(radii["rho"].dropna().unique())
curvature.set_xticks(ticks, [f"{rho:g}" for rho in ticks])
curvature.set_xticks([], minor=True)
for axis in (forest, curvature):
    axis.spines[["top", "right"]].set_visible(False)
figure.savefig(ROOT / "docs/answer.png", dpi=110)
