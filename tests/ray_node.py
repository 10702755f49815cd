"""A node of a Ray cluster by Ray's own command line. Its workers are forks of one process that has their imports."""

from ray.scripts.scripts import main

from tune_sam.cluster.forks import served
from tune_sam.cluster.ray_internals import workers_started_by

if __name__ == "__main__":
    with served() as words, workers_started_by(words):
        main()
