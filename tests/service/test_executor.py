"""The step loop, driven over a real pipe in this process, and the whole child process once."""

from __future__ import annotations

import io
import multiprocessing
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import pytest
from PIL import Image, ImageOps

from service.executor import Executor, LoadError, load_restorer
from service.jobs import RestoreOptions
from service.messages import (
    Begin,
    Cancel,
    Canceled,
    Ending,
    Failed,
    Finished,
    FromExecutor,
    Preview,
    Progress,
    Shutdown,
    Started,
    Stepped,
    ToExecutor,
)
from service.settings import ENGINE, Settings
from tests.faults import fake
from tests.faults.fake import diary

M = TypeVar("M")


def png(mode: str = "RGB", size: tuple[int, int] = (40, 24)) -> bytes:
    out = io.BytesIO()
    Image.new(mode, size, "#00808080" if mode == "RGBA" else "teal").save(out, "PNG")
    return out.getvalue()


def begin(run: int, **options: Any) -> Begin:
    return Begin(run, f"job-{run}", png(), RestoreOptions(**options))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(engine="tests.faults.fake:load", model=str(tmp_path))


def drive(settings: Settings, messages: Sequence[ToExecutor]) -> list[FromExecutor]:
    """Queue all messages, run the loop until the pipe closes, and return what it said."""
    ours, theirs = multiprocessing.Pipe()
    with ours, theirs:
        for message in messages:
            ours.send(message)
        loop = Executor(_LeavesWhenIdle(theirs), load_restorer(settings), settings)  # pyright: ignore[reportArgumentType]
        loop.serve()
        said: list[FromExecutor] = []
        while ours.poll():
            said.append(ours.recv())
        return said


class _LeavesWhenIdle:
    """A pipe end that hands out a Shutdown when the loop would wait for ever."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._idle = False

    def poll(self, timeout: float | None = 0.0) -> bool:
        self._idle = timeout is None and not self._connection.poll()
        return self._idle or self._connection.poll()

    def recv(self) -> Any:
        return Shutdown() if self._idle else self._connection.recv()

    def send(self, message: Any) -> None:
        self._connection.send(message)


def of(said: Sequence[FromExecutor], kind: type[M]) -> list[M]:
    return [message for message in said if isinstance(message, kind)]


def test_a_job_is_told_from_its_parameters_to_its_result(settings: Settings) -> None:
    said = drive(settings, [begin(1, steps=2, seed=7)])
    kinds = [type(message).__name__ for message in said]
    assert kinds == [
        "Started",
        "Progress",
        *("Stepped", "Progress", "Preview"),
        *("Stepped", "Progress", "Preview"),
        "Progress",
        "Finished",
    ]
    assert of(said, Started) == [Started(1, {"prompt": "", "steps": 2, "seed": 7})]
    stages = [(progress.step, progress.stage) for progress in of(said, Progress)]
    assert stages == [(0, "encoding"), (1, "restoring"), (2, "restoring"), (2, "decoding")]
    (result,) = of(said, Finished)
    assert (result.content_type, result.width, result.height) == ("image/png", 40, 24)
    picture = Image.open(io.BytesIO(result.image))
    expected = ImageOps.invert(Image.new("RGB", (40, 24), "teal"))
    assert picture.tobytes() == expected.tobytes()


def test_jobs_submitted_together_are_stepped_together(settings: Settings) -> None:
    said = drive(settings, [begin(1, steps=2), begin(2, steps=4), begin(3, steps=4)])
    assert [stepped.batch for stepped in of(said, Stepped)] == [3, 3, 2, 2]
    assert [finished.run for finished in of(said, Finished)] == [1, 2, 3]


def test_a_cancel_drops_the_run_before_its_next_step(settings: Settings) -> None:
    said = drive(settings, [begin(1), begin(2), Cancel(1), Cancel(99)])
    assert of(said, Canceled) == [Canceled(1)]
    assert {stepped.batch for stepped in of(said, Stepped)} == {1}
    assert [finished.run for finished in of(said, Finished)] == [2]


def test_a_cancel_after_the_last_step_saves_the_decoding(settings: Settings) -> None:
    ours, theirs = multiprocessing.Pipe()
    with ours, theirs:
        restorer = load_restorer(settings)
        step = restorer.step

        def step_then_cancel(restorations: Sequence[Any]) -> Sequence[Any]:
            ours.send(Cancel(1))
            ours.send(Shutdown())
            return step(restorations)

        restorer.step = step_then_cancel
        ours.send(begin(1, steps=1))
        Executor(theirs, restorer, settings).serve()
        said: list[Any] = []
        while ours.poll():
            said.append(ours.recv())
    assert of(said, Canceled) == [Canceled(1)]
    assert of(said, Finished) == []
    assert diary(Path(settings.model), "finish") == []


def test_figures_that_json_cannot_hold_are_left_out(settings: Settings) -> None:
    engine = "tests.faults.diverges_in_step:load"
    said = drive(settings.model_copy(update={"engine": engine}), [begin(1, steps=1)])
    (progress,) = [p for p in of(said, Progress) if p.stage == "restoring"]
    assert (progress.reference_variance, progress.adaptive_factor) == (None, None)


def test_previews_are_throttled_but_the_first_and_the_last_step_are_shown(
    settings: Settings,
) -> None:
    slow = settings.model_copy(update={"previews_per_s": 1e-6})
    said = drive(slow, [begin(1, steps=8)])
    assert [preview.step for preview in of(said, Preview)] == [1, 8]
    fast = settings.model_copy(update={"previews_per_s": 1e9})
    said = drive(fast, [begin(1, steps=8)])
    assert [preview.step for preview in of(said, Preview)] == list(range(1, 9))
    assert of(said, Preview)[0].image.startswith(b"\xff\xd8\xff")


def test_a_job_without_previews_gets_none(settings: Settings) -> None:
    said = drive(settings, [begin(1, previews=False)])
    assert of(said, Preview) == []
    assert len(of(said, Finished)) == 1


def test_transparency_of_the_source_is_on_the_result(settings: Settings) -> None:
    source = Begin(1, "job", png("RGBA"), RestoreOptions(output_format="webp"))
    (result,) = of(drive(settings, [source]), Finished)
    assert result.content_type == "image/webp"
    assert Image.open(io.BytesIO(result.image)).mode == "RGBA"


def test_a_bad_upload_fails_its_own_job_with_the_code_of_the_image_check(
    settings: Settings,
) -> None:
    said = drive(settings, [Begin(1, "job", b"not a picture", RestoreOptions()), begin(2)])
    (failed,) = of(said, Failed)
    assert (failed.run, failed.code, failed.retryable) == (1, "unsupported_image", False)
    assert [finished.run for finished in of(said, Finished)] == [2]


def test_a_parameter_the_engine_does_not_know_is_an_invalid_request(settings: Settings) -> None:
    (failed,) = of(drive(settings, [begin(1, adaptive=True)]), Failed)
    assert (failed.code, failed.retryable) == ("invalid_request", False)
    assert "adaptive" in failed.message


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("raises_in_begin", "invalid_request"),
        ("raises_in_step", "engine_error"),
        ("out_of_memory_in_finish", "engine_error"),
    ],
)
def test_a_job_that_raises_fails_alone(settings: Settings, fault: str, code: str) -> None:
    faulty = settings.model_copy(update={"engine": f"tests.faults.{fault}:load"})
    said = drive(faulty, [begin(1), begin(2, prompt="fault"), begin(3)])
    endings = {message.run: message for message in said if isinstance(message, Ending)}
    assert isinstance(endings[1], Finished)
    assert isinstance(endings[3], Finished)
    failed = endings[2]
    assert isinstance(failed, Failed)
    assert (failed.code, failed.retryable) == (code, code == "engine_error")


def test_the_culprit_of_a_raising_batch_is_found_by_stepping_each_alone(
    settings: Settings,
) -> None:
    faulty = settings.model_copy(update={"engine": "tests.faults.raises_in_step:load"})
    said = drive(faulty, [begin(1, steps=3), begin(2, steps=3, prompt="fault")])
    assert [stepped.batch for stepped in of(said, Stepped)] == [2, 2, 1, 1, 1]
    steps = [p.step for p in of(said, Progress) if p.run == 1 and p.stage == "restoring"]
    assert steps == [1, 2, 3]


def test_a_model_that_does_not_load_is_named_with_its_reason(settings: Settings) -> None:
    broken = settings.model_copy(update={"engine": "tests.faults.raises_in_load:load"})
    with pytest.raises(LoadError, match="the weights are damaged"):
        load_restorer(broken)
    missing = settings.model_copy(update={"engine": "no_such_module:load"})
    with pytest.raises(LoadError, match="no_such_module"):
        load_restorer(missing)


def test_loading_gives_torch_its_threads(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the model is loaded: engines are compiled for so many."""

    class Torch:
        threads = 0

        def set_num_threads(self, threads: int) -> None:
            self.threads = threads

    torch = Torch()
    monkeypatch.setitem(sys.modules, "torch", torch)
    told: list[int] = []
    load = fake.load

    def spy(model: str) -> fake.FakeRestorer:
        told.append(torch.threads)
        return load(model)

    monkeypatch.setattr(fake, "load", spy)
    load_restorer(settings.model_copy(update={"threads": 3}))
    load_restorer(settings)
    assert told[0] == 3
    assert told[1] >= 1


def test_our_own_engine_is_told_its_backend_and_where_engines_are_kept(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[object] = []

    def load(*given: object, **options: object) -> fake.FakeRestorer:
        told.append((given, options))
        return fake.load(settings.model)

    monkeypatch.setattr("engines.load", load)
    own = settings.model_copy(update={"engine": ENGINE, "model": "nano"})
    load_restorer(own)
    other = {"backend": "torch", "device": "cpu", "memory": "begin"}
    load_restorer(own.model_copy(update={**other, "engine_cache": Path("/engines")}))
    assert told == [
        (("nano",), {**own.engine_options, "cache": settings.data_dir / "engines"}),
        (("nano",), {**other, "cache": Path("/engines")}),
    ]
