"""The published numbers that a page shows beside ours."""

AS_REPORTED = {
    "cifar10": (("SGD", 0.0367, 98.57, 0.1095, 95.43, 21.7), ("SAM", 0.0459, 98.64, 0.0961, 95.97, 4.8)),
    "mitbih": (("SGD", 0.0770, 96.31, 0.1204, 94.64, 16.8), ("SAM", 0.0836, 95.94, 0.1223, 94.26, 12.2)),
    "mutagenicity": (("Adam", 0.1754, 86.46, 0.2406, 80.41, 289), ("SAM", 0.1719, 87.05, 0.2457, 81.11, 65)),
}
"""Table I of the study that this system follows: optimizer, training loss, training accuracy in %, test loss, test
accuracy in %, |λ_max/λ_min|; one seed, the final epoch. Its SAM is what we call asam-all."""

TABLE_ONE = (
    ("train/loss", 1, 4),
    ("train/accuracy", 100, 2),
    ("test/loss", 1, 4),
    ("test/accuracy", 100, 2),
    ("gap/loss", 1, 4),
)
"""Its columns: name, unit and decimals."""
