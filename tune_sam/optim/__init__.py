"""SAM, ASAM and what came of them, around any ``torch.optim`` optimizer.

Sharpness-aware minimization looks at a batch twice. With g the gradient at the weights w, it climbs to
w + ε̂,

    ε̂ = ρ T² g / ‖T g‖₂        (the norm over all parameters of all groups),

and the base optimizer steps from w with the gradient taken at w + ε̂. Three optimizers differ only in the
elementwise scale T:

- `SAM`: T = 1 (Foret et al. 2021, arXiv 2010.01412);
- `ASAM`: T = |w| + η on parameters named *weight*, T = 1 on all others (Kwon et al. 2021, arXiv 2102.11600);
- `ASAMAll`: T = |w| on every parameter, the form that most public code calls ASAM.

The others go on from `SAM`: `FisherSAM` has a T of the gradient, `SAMON` perturbs normalization layers only, `GSAM`
also steps against the gap between both losses, and `LookSAM` makes the second pass in one step of k.

Their ρ do not transfer: it is a length in weight space for `SAM` and relative to the weights for `ASAMAll`,
so it has no default. For convolutional nets under SGD public results support 0.01 to 0.5 (`SAM`), 0.05 to 2
(`ASAM`) and 0.1 to 5 (`ASAMAll`).

The simple way is one call; the closure runs forward and backward of one batch and is called twice::

    optimizer = SAM(model.parameters(), torch.optim.SGD, rho=0.05, lr=0.1, momentum=0.9)

    def closure() -> Tensor:
        loss = criterion(model(x), y)
        loss.backward()
        return loss

    loss = optimizer.step(closure)

Several micro-batches in one closure accumulate their gradients. To clip what the base optimizer steps with::

    def clip(*_: Any) -> None:
        clip_grad_norm_(model.parameters(), 1.0)

    optimizer.base_optimizer.register_step_pre_hook(clip)

By hand, with a `torch.amp.GradScaler`. ε̂ does not depend on the gradient's scale, so the first pass needs no
unscaling; an overflow there gives ε̂ = 0, comes again, and `scaler.step` skips the batch, weights at w::

    rng = random_state(device)
    scaler.scale(loss_of(batch)).backward()
    optimizer.first_step(zero_grad=True)
    try:
        with second_pass(model, rng):
            scaler.scale(loss_of(batch)).backward()
    finally:
        optimizer.restore()
    scaler.unscale_(optimizer.base_optimizer)
    clip_grad_norm_(model.parameters(), 1.0)
    scaler.step(optimizer.base_optimizer)
    scaler.update()
    optimizer.zero_grad()

Under `DistributedDataParallel` both passes average their gradients over the ranks, so a step is that of one process
with the whole batch, and the weights stay the same on all ranks. Without that in the first pass, each rank climbs by
its own part's gradient: m-sharpness (Foret et al. 2021, §4.1), with one reduction less and the same step on all::

    rng = random_state(device)
    with ddp.no_sync():
        loss_of(batch).backward()
    optimizer.first_step(zero_grad=True)
    try:
        with second_pass(ddp, rng):
            loss_of(batch).backward()
    finally:
        optimizer.restore()
    optimizer.base_optimizer.step()
    optimizer.zero_grad()

Under `maximize=True` the perturbed point is the lowest of the ball, not the highest: the worst case of what is
maximized. A complex weight moves as its real and its imaginary part do, and |w| is its modulus.

Limits: dense gradients (not `nn.Embedding(sparse=True)`, nor SparseAdam), whole parameters (DDP, not FSDP2's shards) on
one device, base optimizers whose `step` needs no closure (not LBFGS) and that have no `rho` (not Adadelta).
"""

from tune_sam.optim.fisher_sam import FisherSAM
from tune_sam.optim.gsam import GSAM
from tune_sam.optim.look_sam import LookSAM
from tune_sam.optim.passes import RandomState, random_state, second_pass
from tune_sam.optim.sam import ASAM, SAM, ASAMAll
from tune_sam.optim.sam_on import SAMON, norm_parameters
from tune_sam.optim.sharpness_aware import SharpnessAware, Unperturbed

__all__ = [
    "ASAM",
    "GSAM",
    "SAM",
    "SAMON",
    "ASAMAll",
    "FisherSAM",
    "LookSAM",
    "RandomState",
    "SharpnessAware",
    "Unperturbed",
    "norm_parameters",
    "random_state",
    "second_pass",
]
