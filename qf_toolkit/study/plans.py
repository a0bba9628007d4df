"""Settings of the demo at each size, and the choice of the trials of a Visual Coding container for its tables."""

# full takes at most 5 minutes on 2 CPU cores; small, which .ci/run takes, under 2 minutes; tiny is for the tests
SIZES = {
    "full": {
        "simulate": {"n_neurons": 40, "repeats": 15, "directions": 8, "temporal_frequencies": 2},
        "config": {"width": 64, "layers": 2, "heads": 4, "patch_frames": 10, "replace_below": 0.003},
        "pretrain": {"epochs": 20, "batch_size": 128, "lr": 1e-3, "schedule": "cosine"},
        "forecaster": {"epochs": 40, "batch_size": 64, "schedule": "cosine", "expectation_weight": 5.0, "hide": 0.5, "dropout": 0.1},
        "classifier": {"epochs": 20, "batch_size": 64, "schedule": "cosine", "gain_weight": 3.0, "hide": 1.0, "dropout": 0.1},
    },
    "small": {
        "simulate": {"n_neurons": 20, "repeats": 12, "directions": 4, "temporal_frequencies": 2},
        "config": {"width": 32, "layers": 2, "heads": 4, "patch_frames": 10, "replace_below": 0.003},
        "pretrain": {"epochs": 30, "batch_size": 64, "lr": 1e-3, "schedule": "cosine"},
        "forecaster": {"epochs": 50, "batch_size": 64, "schedule": "cosine", "expectation_weight": 5.0, "hide": 0.5, "dropout": 0.1},
        "classifier": {"epochs": 20, "batch_size": 64, "schedule": "cosine", "gain_weight": 3.0, "hide": 1.0, "dropout": 0.1},
    },
    "tiny": {
        "simulate": {"n_neurons": 5, "repeats": 15, "directions": 2, "temporal_frequencies": 1, "gap_s": 6.0},
        "config": {"width": 16, "layers": 1, "heads": 2, "patch_frames": 15, "codes": 8},
        "pretrain": {"epochs": 1},
        "forecaster": {"epochs": 1},
        "classifier": {"epochs": 1},
    },
}


# size of a container of Visual Coding files, and steps of each stage of training; the stimuli differ tenfold in their number of trials
ALLEN = {
    "full": {
        "simulate": {"n_neurons": 16, "repeats": 15, "directions": 8, "temporal_frequencies": 2, "images": 6, "orientations": 4,
                     "spatial_frequencies": 1, "phases": 2, "image_repeats": 120, "noise_frames": 960},
        "config": {"width": 48, "layers": 2, "heads": 4, "patch_frames": 10, "replace_below": 0.003},
        "pretrain": {"steps": 2500, "batch_size": 128, "lr": 1e-3, "schedule": "cosine"},
        "forecaster": {"steps": 2500, "batch_size": 64, "schedule": "cosine", "expectation_weight": 5.0, "hide": 0.5, "dropout": 0.1},
        "classifier": {"steps": 1000, "batch_size": 64, "schedule": "cosine", "gain_weight": 3.0, "hide": 1.0, "dropout": 0.1},
    },
    "small": {
        "simulate": {"n_neurons": 10, "repeats": 15, "directions": 4, "temporal_frequencies": 1, "images": 4, "orientations": 2,
                     "spatial_frequencies": 1, "phases": 2, "image_repeats": 120, "noise_frames": 480},
        "config": {"width": 32, "layers": 1, "heads": 4, "patch_frames": 10, "replace_below": 0.003},
        "pretrain": {"steps": 800, "batch_size": 64, "lr": 1e-3, "schedule": "cosine"},
        "forecaster": {"steps": 800, "batch_size": 64, "schedule": "cosine", "expectation_weight": 5.0, "hide": 0.5, "dropout": 0.1},
        "classifier": {"steps": 400, "batch_size": 64, "schedule": "cosine", "gain_weight": 3.0, "hide": 1.0, "dropout": 0.1},
    },
    "tiny": {
        "simulate": {"n_neurons": 3, "repeats": 15, "directions": 2, "temporal_frequencies": 1, "images": 2, "orientations": 1,
                     "spatial_frequencies": 1, "phases": 1, "image_repeats": 150, "noise_frames": 300},
        "config": {"width": 16, "layers": 1, "heads": 2, "patch_frames": 15, "codes": 8},
        "pretrain": {"steps": 10, "batch_size": 64},
        "forecaster": {"steps": 10, "batch_size": 64},
        "classifier": {"steps": 10, "batch_size": 64},
    },
}  # fmt: skip


STIMULI = ("drifting_gratings", "static_gratings", "natural_scenes", "locally_sparse_noise")


def epochs_of(plan, split):
    """Replace the steps of a plan by the number of epochs that makes about as many steps on a split.

    Parameters
    ----------
    plan : dict
        Options of a training, among them steps and batch_size (observations).
    split : Split

    Returns
    -------
    dict
        The options with epochs, at least 1, instead of steps.
    """
    observations = sum(len(part) * len(part.neurons) for part in split.train.by_session())
    return {**{k: v for k, v in plan.items() if k != "steps"}, "epochs": max(1, round(plan["steps"] * plan["batch_size"] / observations))}
