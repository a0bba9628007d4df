"""The simulated comparison of the README: one seed a call, everything chosen on validation, the test block touched once.

    python benchmarks/simulation.py --seed 0 --out results/simulation

writes seed_0.csv (the table), seed_0.json (bootstrap over neurons against every naive row, classifier, code usage).
"""

import argparse
import json
import time
import warnings
from pathlib import Path

import torch

import qf_toolkit as qf

PRETRAIN = {"width": 64, "layers": 3, "heads": 4, "epochs": 15, "lr": 1e-3, "schedule": "cosine"}
FORECAST = {"epochs": 16, "lr": 1e-3, "schedule": "cosine", "batch_size": 64, "expectation_weight": 5.0}
CLASSIFY = {"epochs": 8, "lr": 1e-3, "schedule": "cosine", "batch_size": 64}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/simulation"))
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")
    args.out.mkdir(parents=True, exist_ok=True)
    path, started = args.out / f"store_{args.seed}", time.time()
    store = qf.open_store(path) if path.exists() else qf.simulate(path, seed=args.seed)
    split = qf.split_blocks(store.trials(stimulus="drifting_gratings", f0_s=1.0))
    common = {"seed": args.seed, "progress": False}
    autoencoder = qf.pretrain(split, **PRETRAIN, **common)
    forecaster = qf.fit_forecaster(autoencoder, split, **FORECAST, **common)
    classifier = qf.fit_classifier(autoencoder, split, **CLASSIFY, **common)
    for model, name in ((autoencoder, "pretrained"), (forecaster, "forecaster"), (classifier, "classifier")):
        model.save(args.out / f"{name}_{args.seed}")
    table = qf.evaluate([forecaster], split, ceiling=True, n_samples=50)
    differences = qf.compare(forecaster, split).loc[forecaster.name]
    usage = autoencoder.code_usage(split.test)
    found = {
        "seed": args.seed,
        "minutes": (time.time() - started) / 60,
        "decoding": [forecaster.decode, forecaster.temperature],
        "validation": forecaster.chosen,
        "codes_used": usage.attrs["codes_used"],
        "perplexity": usage.attrs["perplexity"],
        "classification": json.loads(qf.evaluate_classifier(classifier, split).to_json(orient="index")),
        "differences": json.loads(differences.to_json(orient="index")),
    }
    table.to_csv(args.out / f"seed_{args.seed}.csv")
    (args.out / f"seed_{args.seed}.json").write_text(json.dumps(found, indent=1, default=float))
    print(qf.show(table))
    print(json.dumps(found, indent=1, default=float))


if __name__ == "__main__":
    main()
