"""Picture of one run: the input, some of its previews, and the result, side by side.

`python -m evals.strip IN OUT [--model nano] [--preset balanced] [--previews 3]`
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

if TYPE_CHECKING:
    import engines

GAP_PX = 8
LABEL_PX = 16


def run_frames(
    restorer: engines.Restorer, image: Image.Image, params: engines.RestoreParams
) -> list[Image.Image]:
    """The preview after every step, then the result."""
    restoration = restorer.begin(image, params)
    frames: list[Image.Image] = []
    while not restoration.done:
        restorer.step([restoration])
        preview = restorer.preview(restoration)
        if preview is not None:
            frames.append(preview)
    return [*frames, restorer.finish(restoration)]


def spread(count: int, wanted: int) -> list[int]:
    """Up to `wanted` indices spread evenly over range(count), first and last among them."""
    if wanted >= count:
        return list(range(count))
    if wanted == 1:
        return [0]
    return [round(i * (count - 1) / (wanted - 1)) for i in range(wanted)]


def strip(frames: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """Named pictures of one size in a row, each with its name below."""
    width, height = frames[0][1].size
    size = (len(frames) * (width + GAP_PX) - GAP_PX, height + LABEL_PX)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for column, (name, frame) in enumerate(frames):
        left = column * (width + GAP_PX)
        sheet.paste(frame, (left, 0))
        draw.text((left + 2, height + 2), name, fill="black")
    return sheet


def main(argv: Sequence[str] | None = None) -> None:
    """Restore one picture and write its strip."""
    import engines  # only a run needs the engine

    options = _parser().parse_args(argv)
    restorer = engines.load(options.model)
    params = restorer.params(options.preset, {"seed": options.seed})
    with Image.open(options.source) as opened:
        image = opened.convert("RGB")
    *previews, result = run_frames(restorer, image, params)
    shown = [
        (f"preview at step {index + 1} of {len(previews)}", previews[index])
        for index in spread(len(previews), options.previews)
    ]
    strip([("input", image), *shown, ("result", result)]).save(options.target)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m evals.strip", description=__doc__)
    parser.add_argument("source", type=Path, metavar="IN")
    parser.add_argument("target", type=Path, metavar="OUT")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--preset")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--previews", type=int, default=3)
    return parser


if __name__ == "__main__":
    main()
