"""The search of benchmarks/search.py as Ray's documentation shows it.

A function trainable that reads its data, a DataLoader, OptunaSearch, ASHA, the MLflow callback, a process a trial. The
network, the data, the splits, the ranges and SAM's two passes are the same as those of the study.
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

FIRST = "first result after"


def train(config: dict[str, Any]) -> None:
    """Train one trial, and report each epoch with a checkpoint."""
    import torch
    from ray import tune
    from torch import nn
    from torch_geometric.data import Data
    from torch_geometric.loader import DataLoader

    from tune_sam.trainables.gcn import GCN

    torch.set_num_threads(1)
    torch.manual_seed(0)
    workload = GCN()
    setting = workload.settings["digits"]
    splits = workload.splits("digits", Path())

    def graphs(store: Any) -> list[Data]:
        found = []
        for index in range(len(store)):
            one, target = store.batch(torch.tensor([index]))
            found.append(Data(x=one.x, edge_index=one.edge_index, y=target))
        return found

    loader = DataLoader(graphs(splits.train), batch_size=config["batch_size"], shuffle=True)
    validation = DataLoader(graphs(splits.validation), batch_size=256)
    network = workload.network(setting)
    optimizer = torch.optim.Adam(network.parameters(), lr=config["lr"], weight_decay=5e-4)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    for epoch in range(config["epochs"]):
        network.train()
        for batch in loader:
            optimizer.zero_grad()
            criterion(network(batch), batch.y).backward()
            with torch.no_grad():
                gradients = [weight.grad for weight in network.parameters()]
                norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(one) for one in gradients]))
                moves = [config["rho"] * one / (norm + 1e-12) for one in gradients]
                for weight, move in zip(network.parameters(), moves, strict=True):
                    weight.add_(move)
            optimizer.zero_grad()
            criterion(network(batch), batch.y).backward()
            with torch.no_grad():
                for weight, move in zip(network.parameters(), moves, strict=True):
                    weight.sub_(move)
            optimizer.step()
        network.eval()
        with torch.no_grad():
            right = sum(int((network(batch).argmax(1) == batch.y).sum()) for batch in validation)
        with tempfile.TemporaryDirectory() as folder:
            torch.save(
                {"epoch": epoch, "network": network.state_dict(), "optimizer": optimizer.state_dict()},
                Path(folder, "checkpoint.pt"),
            )
            accuracy = right / len(splits.validation)
            tune.report({"accuracy": accuracy}, checkpoint=tune.Checkpoint.from_directory(folder))


def main(folder: str, uri: str, trials: int, epochs: int) -> None:
    """Search, and print when the first result came, and the best accuracy."""
    begun = time.time()
    import ray
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    class First(tune.Callback):
        """Prints when the first result came."""

        told = False

        def on_trial_result(self, *_: Any, **__: Any) -> None:
            if not self.told:
                print(FIRST, time.time() - begun, flush=True)
                self.told = True

    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    tuner = tune.Tuner(
        tune.with_resources(train, {"cpu": 1}),
        param_space={
            "rho": tune.loguniform(0.001, 1),
            "lr": tune.loguniform(1e-4, 1e-1),
            "batch_size": tune.choice([32, 64, 128]),
            "epochs": epochs,
        },
        tune_config=tune.TuneConfig(
            metric="accuracy",
            mode="max",
            num_samples=trials,
            search_alg=OptunaSearch(seed=0),
            scheduler=ASHAScheduler(max_t=epochs, grace_period=1),
        ),
        run_config=tune.RunConfig(
            storage_path=folder,
            callbacks=[First(), MLflowLoggerCallback(tracking_uri=uri, experiment_name="recipe")],
            verbose=0,
        ),
    )
    results = tuner.fit()
    print("trials", len(results), "errors", results.num_errors, "best", results.get_best_result().metrics["accuracy"])
    ray.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
