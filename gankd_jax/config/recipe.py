"""How one kind of run is trained: every field with its options."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The settings of a run; the defaults are the paper's, where it states or implies them.

    Every run minimises `alpha * adversarial + (1 - alpha) * distance to the teacher`: alpha 1 is a
    plain GAN (teacher and baseline), 0 is pure distillation, in between is the paper's joint loss.
    """

    alpha: float = 1.0  # 0 to 1: share of the adversarial term
    steps: int = 20_000  # generator steps
    batch_size: int = 64  # images
    late_batch: int = 0  # images, in the last quarter of the steps; 0: batch_size
    generator_lr: float = 2e-4  # Adam; at width 1 where it falls with the width
    lr_power: float = 0.0  # the generator's rate at width d is generator_lr * d ** -lr_power
    b1: float = 0.5  # of both Adams
    b2: float = 0.999
    schedule: str = "constant"  # constant, cosine (to 0 at the last step), linear (likewise)
    warmup: int = 0  # steps over which both learning rates rise from 0
    ema: float = 0.0  # decay of the average of the generator's weights that is kept; 0: none

    # The adversarial term (alpha > 0)
    loss: str = "bce"  # bce (non-saturating), bce_saturating, hinge, wgan (clipping), wgan_gp
    critic: str = "fresh"  # fresh; teacher: goes on from the teacher's (students only)
    critic_sees: str = "data"  # as real images: data; teacher: the teacher's (students only)
    critic_width: int = 0  # of a fresh critic; 0: the run's own width
    critic_norm: str = "batch"  # of a fresh critic: batch (not with wgan_gp), layer, none
    train_critic: bool = True  # False: frozen
    critic_lr: float = 2e-4  # Adam
    critic_steps: int = 1  # critic steps for each generator step
    gradient_penalty: float = 10.0  # wgan_gp: weight of the penalty
    clip: float = 0.01  # wgan: critic weights are kept within +-clip

    # The distance term (alpha < 1)
    distance: str = "mse"  # mse, l1, huber, pyramid: between pixels
    reduction: str = "mean"  # mean, sum: over the numbers of an image; decides what alpha means
    features: str = "none"  # none; in the frozen features of the teacher's critic: l1, energy
    # The share of the features in the distance at the last step; it rises from 0 in a line.
    feature_share: float = 0.5
    feature_batch: int = 16  # images of a batch whose features are compared, at most its size
    warm_start: bool = False  # True: from the teacher's weightiest channels (students only)

    def batch_at(self, step: int) -> int:
        """Images of a batch at a step, the first being 0."""
        late = self.late_batch > 0 and 4 * step >= 3 * self.steps
        return self.late_batch if late else self.batch_size
