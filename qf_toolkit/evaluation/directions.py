"""Which scores are better the lower they are, which the higher, and which the nearer they are to a value."""

from .distribution_scores import LEVELS

LOWER = ("mse", "mse_ratio", "mae", "crps", "energy", "pit", "smape", "paper_mse", "paper_mae", "paper_smape", "brier")
HIT_SCORES = ("balanced_accuracy", "auroc", "average_precision", "precision", "recall", "f1")  # scores of classifiers, from 0 to 1
DIFFERENCES = ("ratio_lower", "mse_lower", "r_higher")  # columns of `compare`: by how much a forecaster is better
HIGHER = ("r", "E", "poco", "paper_corr", "paper_ssim", *HIT_SCORES, *DIFFERENCES)
NEAREST = {**{f"coverage_{round(100 * level)}": level for level in LEVELS}, "sd_ratio": 1.0, "jump": 1.0}
