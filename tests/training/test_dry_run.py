from dataclasses import replace

import pytest

from training.dry_run import FROZEN_BYTES, TRAINED_BYTES, Need, needs, table
from training.stages import PAPER, TINY


def test_memory_is_weights_optimizer_and_activations() -> None:
    need = Need("dcp", trained=10, frozen=100, saved_bytes=7)
    assert need.memory_bytes == 10 * TRAINED_BYTES + 100 * FROZEN_BYTES + 7


def test_the_table_has_a_row_a_stage() -> None:
    found = [Need("one", 1_500_000, 0, 2**30), Need("two", 0, 2_000_000, 0)]
    rows = table(found).splitlines()
    assert len(rows) == 4
    assert "| one | 1.5 M | 0.0 M | 1.0 GiB |" in rows[2]


@pytest.mark.slow
def test_every_tiny_stage_passes_with_shapes_alone() -> None:
    found = needs(TINY, checkpointing=False)
    assert [need.stage for need in found] == [stage.name for stage in TINY.stages]
    assert len({need.trained + need.frozen for need in found}) == 1
    assert all(need.trained > 0 and need.saved_bytes > 0 for need in found)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_published_stages_fit_the_full_size() -> None:
    dcp, previewer, aggregator = needs(PAPER, checkpointing=True)
    total = {need.trained + need.frozen for need in (dcp, previewer, aggregator)}
    assert len(total) == 1
    # SDXL's UNet (2.57 B), text encoders, autoencoder and DINOv2-large stay frozen in each.
    assert min(need.frozen for need in (dcp, previewer, aggregator)) > 2_567_463_684
    assert dcp.trained == pytest.approx(850e6, rel=0.01)


def test_checkpointing_keeps_less() -> None:
    first = replace(TINY, stages=TINY.stages[:1])
    [plain], [checkpointed] = (needs(first, checkpointing=on) for on in (False, True))
    assert checkpointed.saved_bytes < plain.saved_bytes
