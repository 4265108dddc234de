import itertools

import pytest

from training.objectives import Objective
from training.stages import NANO, PAPER, RECIPES, TINY, Recipe, Stage
from training.trainee import Part

STAGES = [
    pytest.param(stage, id=f"{name}-{stage.name}")
    for name, recipe in RECIPES.items()
    for stage in recipe.stages
]


def stage_of(recipe: Recipe, name: str) -> Stage:
    return next(stage for stage in recipe.stages if stage.name == name)


def test_the_published_stages_train_one_part_each() -> None:
    trained = {stage.name: list(stage.trains) for stage in PAPER.stages}
    assert trained == {
        "dcp": [Part.DCP],
        "previewer": [Part.PREVIEWER],
        "aggregator": [Part.AGGREGATOR],
    }


def test_published_figures() -> None:
    figures = [
        (s.batch * s.accumulation, s.learning_rate, s.warmup, s.weight_decay) for s in PAPER.stages
    ]
    assert figures == [(96, 1e-4, 1000, 1e-2), (32, 1e-4, 1000, 1e-2), (12, 1e-4, 1000, 1e-2)]
    assert stage_of(PAPER, "previewer").guidance == (3.0, 15.0)
    drops = stage_of(PAPER, "aggregator").chances
    assert (drops.drop_vision, drops.drop_text, drops.drop_both) == (0.0, 0.85, 0.15)


def test_nano_is_trained_in_the_published_order_with_a_base_before_and_polish_after() -> None:
    names = [stage.name for stage in NANO.stages]
    assert names[0] == "base"
    assert names[1:4] == [stage.name for stage in PAPER.stages]
    assert {stage.objective for stage in NANO.stages[4:-1]} == {
        Objective.RESTORE,
        Objective.RESTORE_WITH_PREVIEWS,
    }
    assert NANO.stages[-1].objective is Objective.TONE


def test_the_tone_network_is_trained_alone_so_that_restorations_stay_as_they_are() -> None:
    tone = stage_of(NANO, "tone")
    assert list(tone.trains) == [Part.TONE]
    assert not [stage.name for stage in NANO.stages[:-1] if Part.TONE in stage.trains]


@pytest.mark.parametrize("stage", STAGES)
def test_shares_of_a_stage_can_happen(stage: Stage) -> None:
    c = stage.chances
    assert 0 <= c.drop_text + c.drop_vision + c.drop_both <= 1
    assert all(0 <= share <= 1 for share in (c.degraded_start, c.rollout, c.small_share))
    assert 0 < stage.average < 1


@pytest.mark.parametrize("stage", STAGES)
def test_crops_fit_codec_and_aggregator(stage: Stage) -> None:
    # Latents of 2 px patches (8 px for the autoencoder), halved twice on the way down.
    assert stage.crop_px % 32 == 0


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_stages_of_a_recipe_have_names_of_their_own(recipe: Recipe) -> None:
    names = [stage.name for stage in recipe.stages]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("recipe", [NANO, TINY], ids=["nano", "tiny"])
def test_polishing_never_learns_faster_than_before(recipe: Recipe) -> None:
    rates = [stage.learning_rate for stage in recipe.stages[4:-1]]
    assert all(a >= b for a, b in itertools.pairwise(rates))


def test_tiny_has_the_stages_of_nano() -> None:
    assert [s.objective for s in TINY.stages] == [s.objective for s in NANO.stages]
    assert sum(stage.iterations for stage in TINY.stages) < 100


def test_a_recipe_can_begin_with_a_later_stage() -> None:
    rest = NANO.beginning_with("refine")
    assert [stage.name for stage in rest.stages] == ["refine", "rollouts", "tone"]
    assert rest.degradation == NANO.degradation


def test_a_stage_that_the_recipe_lacks_is_refused_with_those_it_has() -> None:
    with pytest.raises(ValueError, match="no stage 'base' in this recipe: dcp, previewer"):
        PAPER.beginning_with("base")
