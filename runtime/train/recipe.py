"""The recipe: every number of a training run, as one frozen value."""

from dataclasses import dataclass, field

from nldc.runtime.checkpoint.config import ModelConfig
from nldc.runtime.train.geometry import Geometry, model_config
from nldc.runtime.train.noise import NoiseLaw
from nldc.runtime.train.optimizer import OptimizerSettings


@dataclass(frozen=True)
class Stage:
    """A run of steps with one objective.

    Attributes:
        name: What the log calls it.
        steps: Optimizer steps.
        diffusion_weight: λ of L = L_AR + λ · L_diff; 0 trains the causal forward alone.
        rates: The learning rate at the stage's first step and at its end; linear between.
        rollout_share: The share of a batch that is the model's own greedy continuations of training
            text rather than training text. They carry the diffusion loss alone: a drafter has to
            guess what the causal forward will say, not what a person wrote. Drawn once, when
            the stage begins.
        noise: The law of the noisy stream.
    """

    name: str
    steps: int
    diffusion_weight: float
    rates: tuple[float, float]
    rollout_share: float = 0.0
    noise: NoiseLaw = field(default_factory=NoiseLaw)


DRAFTING = NoiseLaw(kind_weights=(0.5, 1.5, 1.0))
"""Late in the run, mostly the blocks that self-speculation drafts."""

DEMO_STAGES = (
    Stage("ar", 1800, 0.0, (3e-3, 3e-3)),
    Stage("joint", 400, 0.3, (3e-3, 3e-3)),
    Stage("own-text", 500, 1.0, (3e-3, 1.2e-3), rollout_share=0.5, noise=DRAFTING),
    Stage("own-text-again", 500, 1.0, (1.2e-3, 0.0), rollout_share=0.5, noise=DRAFTING),
)


@dataclass(frozen=True)
class Rollouts:
    """The model's own continuations: how many, and the lengths of the prompts, one a batch."""

    count: int = 3072
    prompt_lengths: tuple[int, ...] = (96, 128, 160, 192)
    batch: int = 256


@dataclass(frozen=True)
class Recipe:
    """One training run, from text to checkpoint.

    Attributes:
        geometry: The sizes of the model.
        optimizer: Rates other than the learning rate.
        stages: In order.
        rollouts: What stages with a rollout share train on.
        sequence_length: Clean tokens a sequence.
        batch: Sequences an optimizer step.
        micro_batch: Sequences a forward; it divides `batch`.
        warmup_steps: Steps of linear warm-up at the very beginning.
        seed: Of the parameters, the windows and the noise.
        precision: The compute dtype, "bfloat16" or "float32"; masters are float32 in both.
        block_size: The block length that the checkpoint's config.json recommends.
        prompts: Held-out prompts laid beside the checkpoint, at most.
        prompt_tokens: Their length.
        evaluate_every: Steps between held-out losses.
        save_every: Steps between resumable states.
        threads: Threads of the matrix products, 0 to leave them alone.
    """

    geometry: Geometry = field(default_factory=Geometry)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    stages: tuple[Stage, ...] = DEMO_STAGES
    rollouts: Rollouts = field(default_factory=Rollouts)
    sequence_length: int = 288
    batch: int = 24
    micro_batch: int = 8
    warmup_steps: int = 100
    seed: int = 20
    precision: str = "bfloat16"
    block_size: int = 16
    prompts: int = 160
    prompt_tokens: int = 128
    evaluate_every: int = 100
    save_every: int = 100
    threads: int = 2

    @property
    def config(self) -> ModelConfig:
        """The config of the model."""
        return model_config(self.geometry, self.block_size)

    @property
    def steps(self) -> int:
        """All optimizer steps of the run."""
        return sum(stage.steps for stage in self.stages)

    def stage_at(self, step: int) -> tuple[Stage, int]:
        """Return the stage that step number `step`, from 0, belongs to, and its first step.

        Raises:
            IndexError: if the run has no such step.
        """
        first = 0
        for stage in self.stages:
            if first <= step < first + stage.steps:
                return stage, first
            first += stage.steps
        raise IndexError(f"the recipe has {self.steps} steps, there is no step {step}")

    def rate_at(self, step: int) -> float:
        """Return the learning rate of step number `step`."""
        stage, first = self.stage_at(step)
        begin, end = stage.rates
        rate = begin + (end - begin) * (step - first) / stage.steps
        return rate * min(1.0, (step + 1) / max(1, self.warmup_steps))
