"""Draws answer.png, the picture of README.md, from the files in results/gcn: python docs/answer.py."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from tune_sam.optimizers import label_of
from tune_sam.reporting.style import GREY, style_of

ROOT = Path(__file__).parents[1]
OPTIMIZERS = ["base", "sam", "asam", "asam-all"]
QUESTIONS = {
    "use": "best against best",
    "compute": "against Adam at equal compute",
    "rho": "what ρ does: against the matched control",
}

differences = pd.read_csv(ROOT / "results/gcn/figures/refit-differences.csv")
trials = pd.read_csv(ROOT / "results/gcn/flatness.csv")
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

for name in OPTIMIZERS[1:]:
    rows = trials[(trials["optimizer"] == name) & trials["lambda_max_resolved"]]
    style = style_of(name, OPTIMIZERS)
    curvature.plot(rows["rho"], rows["lambda_max"], style.marker, color=style.colour, label=label_of(name), alpha=0.8)
base = trials.loc[(trials["optimizer"] == "base") & trials["lambda_max_resolved"], "lambda_max"]
curvature.axhspan(base.min(), base.max(), color=GREY, alpha=0.12, label="Adam's trials")
curvature.set(xscale="log", yscale="log", xlabel="radius ρ", ylabel="λ_max", title="Is the minimum flatter?")
curvature.set_yticks([20, 50, 100, 200], ["20", "50", "100", "200"])
curvature.set_yticks([], minor=True)
curvature.legend(fontsize="small")
for axis in (forest, curvature):
    axis.spines[["top", "right"]].set_visible(False)
figure.savefig(ROOT / "docs/answer.png", dpi=110)
