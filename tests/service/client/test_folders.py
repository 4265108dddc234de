"""Which pictures of a folder go where, and what is remembered of them."""

from pathlib import Path

import pytest

from service.client.folders import Memory, Task, tasks


@pytest.fixture
def album(tmp_path: Path) -> Path:
    for name in ("b.PNG", "a.jpg", "sub/c.webp", "sub/notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path


def test_results_keep_their_place_in_the_output_folder(album: Path) -> None:
    out = album / "out"
    (out / "sub").mkdir(parents=True)
    (out / "sub" / "c.png").write_bytes(b"an earlier result")
    assert tasks([album], out, "png") == [
        Task(album / "a.jpg", out / "a.png"),
        Task(album / "b.PNG", out / "b.png"),
        Task(album / "sub" / "c.webp", out / "sub" / "c.png"),
    ]


def test_without_one_they_lie_beside_their_source_and_are_not_done_again(album: Path) -> None:
    (album / "a-restored.webp").write_bytes(b"x")
    assert [task.target.name for task in tasks([album], None, "webp")] == [
        *("a-restored.webp", "b-restored.webp", "c-restored.webp")
    ]


def test_a_file_may_be_named_as_the_target(album: Path) -> None:
    assert tasks([album / "a.jpg"], album / "x.png", "png") == [
        Task(album / "a.jpg", album / "x.png")
    ]


def test_two_results_of_one_name_are_refused(album: Path) -> None:
    (album / "a.png").write_bytes(b"x")
    with pytest.raises(ValueError, match="two pictures would be written to"):
        tasks([album / "a.jpg", album / "a.png"], album / "out", "png")


def test_a_source_that_is_not_there_is_refused(album: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        tasks([album / "absent.png"], None, "png")


def test_a_folder_remembers_jobs_by_content_and_options(tmp_path: Path) -> None:
    first = Memory.of(tmp_path)
    job = first.job_of(b"picture", {"seed": "1"})
    again = Memory.of(tmp_path)
    assert again.job_of(b"picture", {"seed": "1"}) == job
    assert again.job_of(b"picture", {"seed": "2"}) != job
    assert again.job_of(b"other", {"seed": "1"}) != job
    again.forget(job)
    assert Memory.of(tmp_path).job_of(b"picture", {"seed": "1"}) != job


def test_a_damaged_memory_is_begun_anew(tmp_path: Path) -> None:
    memory = Memory.of(tmp_path)
    memory.path.write_text("{")
    assert Memory.of(tmp_path).jobs == {}
