"""The list of all studies."""

from __future__ import annotations

import importlib

import pytest

from evals.studies.__main__ import STUDIES
from evals.studies.command import parser


def test_every_study_lives_in_the_module_of_its_name() -> None:
    for study in STUDIES:
        module = importlib.import_module(f"evals.studies.{study.name}")
        assert module.STUDY is study
        assert study.question.endswith("?")


def test_an_unknown_option_ends_with_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["--colour", "red"])
    assert "--redraw" in capsys.readouterr().err
