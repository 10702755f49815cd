"""Optimizers as a user's own module has them, and some that are wrong."""

from tune_sam.optim import SAM
from tune_sam.optimizers import OptimizerEntry
from tune_sam.space import LogRange


class Half(OptimizerEntry):
    name = "half"
    label = "Half of SAM"
    description = "SAM with half its radius"
    source = "nobody"
    rho = LogRange(0.02, 1)
    gradients = 2

    def build(self, network, base, configuration):
        return SAM(network.parameters(), base, configuration.rho / 2)


class Plain(Half):
    """One without a ρ, that is stepped as torch's are."""

    rho = None
    gradients = 1

    def build(self, network, base, configuration):
        return base(network.named_parameters())


class Dear(Plain):
    """One that says of itself that a step takes three gradients."""

    gradients = 3


class Free(Half):
    gradients = 0


class Written(Half):
    rho = "0.1:1"


class Incomplete(OptimizerEntry):
    name = "incomplete"


class Bare(Incomplete):
    def build(self, network, base, configuration):
        return base(network.parameters())
