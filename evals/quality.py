"""Quality of a model on a folder of photographs: ``python -m evals.quality --model nano``.

The folder holds ``lq/*.png`` (degraded) and ``hq/*.png`` (clean) of the same names and sizes, and
optionally ``meta.json``, a list of {"file", "severity", ...}. The model and its peers restore the
same pictures at the same sizes, and every metric that is present measures all of them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from evals.compare import Case, Method, compare, load_cases
from evals.optional import NotPresentError
from evals.panel import Panel, load_panel
from evals.peers import PEERS, Restore
from evals.table import Run, contact_sheet, to_json, to_markdown, worst

INPUT = "input"
SHEET_PEER = "real_esrgan"  # beside the model on the sheet, where present
FAILURES = 4  # pictures on the sheet of failures
DEFAULT_PHOTOS = Path("../shared/photos/test")


class Restorer(Protocol):
    """The part of engines.Restorer that is used here."""

    name: str
    fingerprint: str

    def params(self, preset: str | None, overrides: dict[str, Any]) -> Any:
        """Resolve a preset and what overrides it."""
        ...

    def begin(self, image: Image.Image, params: Any) -> Any:
        """Start a restoration, which has a `done`."""
        ...

    def step(self, restorations: list[Any]) -> Sequence[Any]:
        """Do one denoising step for each."""
        ...

    def finish(self, restoration: Any) -> Image.Image:
        """Return the result, of the input's size."""
        ...


def restore_together(
    restorer: Restorer, pictures: Sequence[Image.Image], params: Any
) -> list[Image.Image]:
    """Step all the pictures together until each is done."""
    restorations = [restorer.begin(picture, params) for picture in pictures]
    while waiting := [r for r in restorations if not r.done]:
        restorer.step(waiting)
    return [restorer.finish(r) for r in restorations]


def model_method(restorer: Restorer, params: Any) -> Method:
    """Return the model as a method of a comparison."""
    how = f"the model {restorer.name} ({restorer.fingerprint}), pictures stepped together"
    return Method(how, lambda pictures: restore_together(restorer, pictures, params))


def load_peers(names: Iterable[str]) -> tuple[dict[str, Method], dict[str, str]]:
    """Return the peers that are present, and why the others are not."""
    present: dict[str, Method] = {}
    missing: dict[str, str] = {}
    for name in names:
        peer = PEERS[name]
        try:
            present[name] = Method(peer.how, _one_by_one(peer.load()))
        except NotPresentError as error:
            missing[name] = str(error)
    return present, missing


def evaluate(
    restorer: Restorer, params: Any, cases: Sequence[Case], panel: Panel, peers: Iterable[str]
) -> Run:
    """Compare a model with the peers of these names; ValueError if it has the name of one."""
    if restorer.name in {INPUT, *PEERS}:
        raise ValueError(f"a model cannot be called {restorer.name!r}, as another method is")
    others, missing = load_peers(peers)
    methods = {
        INPUT: Method("the degraded picture as it came", list),
        restorer.name: model_method(restorer, params),
        **others,
    }
    return Run(
        model=restorer.name,
        fingerprint=restorer.fingerprint,
        params=params.as_dict(),
        how={name: method.how for name, method in methods.items()},
        missing={**panel.missing, **missing},
        metrics=panel.names,
        outcomes=compare(methods, cases, panel, show_progress=True),
    )


def sheet_of(run: Run) -> Image.Image:
    """Draw input, model, the peer of the sheet where it is present, and original."""
    names = [INPUT, run.model, SHEET_PEER]
    return contact_sheet(run.outcomes, [name for name in names if name in run.how])


def failures_of(run: Run) -> Image.Image:
    """Draw the pictures that the model restored worst: the least PSNR over their input."""
    found = worst(run.outcomes, run.model, INPUT, FAILURES)
    return contact_sheet(found, [INPUT, run.model])


def main(argv: Sequence[str] | None = None) -> None:
    """Evaluate the model named on the command line."""
    options = _parser().parse_args(argv)
    import engines  # only a run needs the engine: tables and sheets are usable without one

    cases = load_cases(options.photos, options.limit)
    restorer: Restorer = engines.load(options.model, memory=options.memory)
    params = restorer.params(options.preset, {"seed": options.seed})
    run = evaluate(restorer, params, cases, load_panel(), options.peers)
    table = to_markdown(run)
    sys.stdout.write(table)
    for path in (options.json, options.markdown, options.sheet, options.failures):
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
    if options.json:
        report = json.dumps(to_json(run), indent=1, allow_nan=False)
        options.json.write_text(report + "\n", encoding="utf-8")
    if options.markdown:
        options.markdown.write_text(f"# Quality of {run.model}\n\n{table}", encoding="utf-8")
    if options.sheet:
        sheet_of(run).save(options.sheet)
    if options.failures:
        failures_of(run).save(options.failures)


def _one_by_one(restore: Restore) -> Callable[[Sequence[Image.Image]], list[Image.Image]]:
    return lambda pictures: [restore(picture) for picture in pictures]


def _peer_names(text: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    unknown = [name for name in names if name not in PEERS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no peer {unknown[0]!r}; there are {', '.join(PEERS)}")
    return names


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m evals.quality", description=__doc__)
    parser.add_argument("--model", required=True, help="name of a packaged model, or a folder")
    parser.add_argument("--photos", type=Path, default=DEFAULT_PHOTOS, help="with lq/ and hq/")
    parser.add_argument("--preset", help="preset of the model; its default without")
    parser.add_argument("--memory", default="auto", help="plan of memory, see engines.load")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, help="only the first N pictures")
    parser.add_argument(
        "--peers",
        type=_peer_names,
        default=list(PEERS),
        help=f"names with commas between, '' for none; all without: {', '.join(PEERS)}",
    )
    parser.add_argument("--json", type=Path, help="write the report there")
    parser.add_argument("--markdown", type=Path, help="write the table there")
    parser.add_argument("--sheet", type=Path, help="write a picture of all results there")
    parser.add_argument("--failures", type=Path, help="write a picture of the worst results there")
    return parser


if __name__ == "__main__":
    main()
