"""How one kind of run is trained: every field with its options."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Training settings of a run; the defaults are the paper's where it states or implies them.

    Every run minimises `alpha * adversarial + (1 - alpha) * distance`, where the distance is taken
    to the teacher's image of the same latent.  With `alpha=1` it is a plain GAN (teacher and
    baseline), with `alpha=0` pure distillation, and in between the paper's joint loss.
    """

    alpha: float = 1.0  # weight of the adversarial term, 0 to 1
    steps: int = 20_000  # generator steps
    batch_size: int = 64  # images
    optimizer: str = "adam"  # of generator and critic: adam, adamw, rmsprop, sgd, muon
    # The paper's 2e-4 starves small generators in short training: students of d <= 8 learn best
    # near 2e-2, baselines near 5e-3.  These are Adam's rates, and muon's; sgd needs larger ones.
    generator_lr: float = 2e-4
    # The learning rate at width d is generator_lr * d ** -lr_width_exponent.  0.5 suits students.
    lr_width_exponent: float = 0.0
    # Adam's betas: 0.0 and 0.999 for wgan_gp, b1 0.9 without a critic.  In rmsprop, sgd and muon b1
    # is the momentum; in rmsprop b2 is the decay.
    b1: float = 0.5
    b2: float = 0.999
    # Of adamw and muon, decoupled from the gradient; in the others it is added to the gradient, as
    # in PyTorch.  PyTorch's default for adamw is 0.01.
    weight_decay: float = 0.0
    gradient_clip: float = 0.0  # largest norm of all of a network's gradients together; 0: none
    schedule: str = "constant"  # constant, cosine (to 0 at the last step), linear (likewise)
    warmup: int = 0  # steps over which both learning rates rise linearly from 0
    ema: float = 0.0  # decay of the generator's moving average, which is then evaluated; 0: none

    # Adversarial term (alpha > 0).
    # bce (non-saturating), bce_saturating, hinge, wgan (clipping), wgan_gp; rpgan: the relativistic
    # pairing loss with R1 and R2 penalties (arXiv 2501.05441).
    loss: str = "bce"
    critic: str = "fresh"  # fresh; teacher: starts from the teacher's critic (students only)
    real_source: str = "data"  # its real images: data; teacher: the teacher's (students only)
    critic_width: int = 0  # of a fresh critic; 0: the run's own width
    # Of a fresh critic: batch (not with wgan_gp or rpgan), layer, spectral, none.
    critic_norm: str = "batch"
    train_critic: bool = True  # False: frozen, which misleads the student on MNIST
    critic_lr: float = 2e-4
    critic_steps: int = 1  # critic steps for each generator step
    # Weight of the critic's penalty.  wgan_gp: lambda of (|slope| - 1)^2 between real and fake
    # images.  rpgan: gamma of (R1 + R2) / 2, the squared slopes at real and at fake images; its
    # authors use 0.05 on CIFAR-10 and 1 to 150 on larger images.
    gradient_penalty: float = 10.0
    clip: float = 0.01  # wgan: critic weights are clipped to +-clip

    # Distance term (alpha < 1).
    distance: str = "mse"  # mse, l1, huber, pyramid: between pixels
    # Over the values of an image: mean, sum.  It scales the distance, and so decides what alpha
    # means: alpha on the sum is about 1 / (values of an image) of alpha on the mean.
    reduction: str = "mean"
    features: str = "none"  # none; in hidden layers of a frozen network: l1, energy
    # Which network that is: critic (the teacher's), classifier (the study's, for data with labels),
    # inception (the FID network, all of whose layers count that its weights serve).  Scores by the
    # features of the network that students are compared in say less than those of another one.
    feature_network: str = "critic"
    # Weight of the feature distance within the distance at the last step; it rises linearly from 0.
    # 0.9 gives back most of the sharpness that mse loses.
    feature_weight: float = 0.5
    feature_batch: int = 16  # images of a batch whose features are compared, at most batch_size
    warm_start: bool = False  # True: start from the teacher's largest channels (students only)
