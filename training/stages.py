"""The stages of training as rows of one table for each size of model.

The published recipe is `PAPER`: three stages on SDXL, with the figures of the official training
scripts; these leave the number of iterations open, which is ours. Nano has no pretrained base, so
that `NANO` begins with one and ends with polishing all parts together and teaching what words say
of tones; `TINY` is the same on a model that tests can train.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from training import nano
from training.degrade import DegradationConfig
from training.draws import Chances
from training.objectives import Objective, Setting, huber, log_error, mse
from training.trainee import Part, Trainee


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage. `trains` names the parts with a gradient and their share of the learning rate."""

    name: str
    objective: Objective
    trains: Mapping[Part, float]
    iterations: int
    batch: int  # per process
    crop_px: int
    chances: Chances
    edit_share: float = 0.0  # above 0: no damage, and this share is edited as the caption says
    loss: Callable[[Tensor, Tensor], Tensor] = mse
    accumulation: int = 1  # batches per optimizer step
    learning_rate: float = 1e-4
    final_rate: float = 0.0  # share of the learning rate at the end of its half cosine
    warmup: int = 1000
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-2
    average: float = 0.9999  # decay of the running average (EMA) that the next stage begins with
    guidance: tuple[float, float] = (0.0, 0.0)  # range of the teacher's scale
    prepare: Callable[[Trainee], None] | None = None  # once, before the stage's first iteration

    def setting(self, size_px: float) -> Setting:
        """What the objective needs to know of the stage."""
        return Setting(self.loss, size_px, self.guidance, rollouts=self.chances.rollout > 0)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Stages in order, and what they share."""

    stages: tuple[Stage, ...]
    rank: int  # of the previewer's LoRA
    alpha: float
    size_px: float  # size conditioning
    degradation: DegradationConfig = field(default_factory=DegradationConfig)
    configure: Callable[[Path], None] | None = None  # writes a new model's configuration

    def beginning_with(self, name: str) -> "Recipe":
        """The recipe without the stages before the named one. Raises ValueError."""
        names = [stage.name for stage in self.stages]
        if name not in names:
            raise ValueError(f"no stage {name!r} in this recipe: {', '.join(names)}")
        return replace(self, stages=self.stages[names.index(name) :])


_DCP = {Part.DCP: 1.0}
_AGGREGATOR = {Part.AGGREGATOR: 1.0}
_PREVIEWER = {Part.PREVIEWER: 1.0}

PAPER = Recipe(
    stages=(
        Stage(
            "dcp",
            Objective.DENOISE,
            _DCP,
            iterations=200_000,
            batch=96,
            crop_px=512,
            chances=Chances(drop_text=0.05, drop_vision=0.05, drop_both=0.05),
        ),
        Stage(
            "previewer",
            Objective.DISTILL,
            _PREVIEWER,
            iterations=30_000,
            batch=32,
            crop_px=512,
            chances=Chances(),
            loss=huber,
            guidance=(3.0, 15.0),
        ),
        Stage(
            "aggregator",
            Objective.AGGREGATE,
            _AGGREGATOR,
            iterations=200_000,
            batch=6,
            accumulation=2,
            crop_px=512,
            chances=Chances(drop_text=0.85, drop_both=0.15),
            prepare=Trainee.copy_unet_to_aggregator,
        ),
    ),
    rank=64,
    alpha=1.0,
    size_px=512.0,
)

# What nano meets when it samples: mostly noised inputs, at small time steps.
_SAMPLING = Chances(
    drop_text=0.5,  # most restorations have no prompt
    drop_vision=0.05,
    drop_residuals=0.05,
    degraded_start=0.95,
    small_share=0.6,  # the last step decides what the result looks like
    small_steps=8,
    steps=100,
)
_ALL = {part: 1.0 for part in Part if part not in (Part.PREVIEWER, Part.TONE, Part.CODEC)}
_POLISH = Stage(
    "polish",
    Objective.RESTORE,
    _ALL,
    iterations=2000,
    batch=24,
    crop_px=64,
    chances=_SAMPLING,
    loss=huber,
    learning_rate=1e-3,
    final_rate=0.2,
    warmup=100,
    betas=(0.9, 0.99),
    weight_decay=1e-4,
    average=0.99,
    prepare=Trainee.open_merges,
)
# Crops so large that their borders matter little; every picture weighs alike (`log_error`).
_REFINE = replace(
    _POLISH,
    name="refine",
    objective=Objective.RESTORE_WITH_PREVIEWS,
    trains={**_ALL, Part.PREVIEWER: 1.0},
    iterations=1200,
    batch=10,
    crop_px=96,
    chances=replace(_SAMPLING, drop_text=0.85),
    loss=log_error,
    learning_rate=2e-4,
    final_rate=0.01,
    average=0.995,
    prepare=None,
)
_BASE = replace(
    _POLISH,
    name="base",
    objective=Objective.DENOISE,
    trains={Part.UNET: 1.0, Part.HEAD: 1.0, Part.TEXT: 1.0},
    iterations=300,
    chances=Chances(drop_text=0.1, drop_vision=0.9, degraded_start=0.5),
    final_rate=0.1,
    prepare=None,
)

NANO = Recipe(
    stages=(
        _BASE,
        replace(
            _BASE,
            name="dcp",
            trains={Part.DCP: 1.0, Part.VISION: 1.0},
            chances=Chances(drop_text=0.05, drop_vision=0.05, drop_both=0.05, degraded_start=0.5),
        ),
        replace(
            _BASE,
            name="previewer",
            objective=Objective.DISTILL,
            trains=_PREVIEWER,
            iterations=200,
            chances=Chances(),
        ),
        replace(
            _BASE,
            name="aggregator",
            objective=Objective.AGGREGATE,
            trains=_AGGREGATOR,
            chances=Chances(drop_text=0.85, drop_both=0.15),
            prepare=Trainee.copy_unet_to_aggregator,
        ),
        _POLISH,
        _REFINE,
        replace(
            _REFINE,
            name="rollouts",
            iterations=200,
            chances=replace(_REFINE.chances, rollout=0.5),
            learning_rate=5e-5,
        ),
        # Prompts edit the tones of the reference; last, as it needs the text encoder as it stays.
        Stage(
            "tone",
            Objective.TONE,
            {Part.TONE: 1.0},
            iterations=1500,
            batch=32,
            crop_px=64,
            chances=Chances(drop_text=0.1),
            edit_share=0.7,
            learning_rate=3e-3,
            final_rate=0.01,
            warmup=50,
            weight_decay=0.0,
            average=0.99,
        ),
    ),
    rank=16,
    alpha=16.0,
    size_px=256.0,
    degradation=DegradationConfig(
        strength_shape=(1.0, 1.1), shuffle_share=0.25, second_round_share=0.25
    ),
    configure=nano.write_configs,
)


def _tiny(stage: Stage) -> Stage:
    """A row of nano's table, cut down to seconds."""
    return replace(stage, iterations=6, batch=4, crop_px=32, warmup=2)


TINY = replace(
    NANO,
    stages=tuple(_tiny(stage) for stage in NANO.stages),
    rank=4,
    alpha=4.0,
    configure=nano.write_tiny_configs,
)
RECIPES: Mapping[str, Recipe] = {"paper": PAPER, "nano": NANO, "tiny": TINY}
