"""Command line of the replay: one line per case, exit status 1 on any failure."""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import engines
from engines.loader import BACKENDS
from engines.verify.components import verify_components
from engines.verify.pipeline import verify_main, verify_pipeline
from engines.verify.recorded import Case


def verify(folder: Path, backend: str = "torch", precision: str | None = None) -> Iterator[Case]:
    """Replay everything in `folder`: `models`, `components`, `pipeline`, `infer_main`.

    Components are torch's whatever the backend, which runs the networks of the steps.
    """
    restorer = engines.load(folder / "models", backend=backend, precision=precision)
    if (folder / "components").is_dir():
        yield from verify_components(folder / "components", restorer)
    if (folder / "pipeline").is_dir():
        yield from verify_pipeline(folder / "pipeline", restorer)
    yield from verify_main(folder / "infer_main", restorer)


def line(case: Case) -> str:
    """One line about a case: its worst field, or what failed."""
    verdict = "ok" if case.ok else "FAIL"
    worst = max(case.compared, key=lambda compared: compared.badness, default=None)
    text = f"{verdict:4}  {case.name:44} {len(case.compared):4} fields"
    if worst is not None:
        text += f"  worst {worst.field}: rel {worst.relative:.1e} abs {worst.absolute:.1e}"
        text += f"  (allowed {worst.tolerance})"
    if case.differs:
        text += f"  differs on purpose: {case.differs}"
    for note in case.notes:
        text += f"\n      {note}"
    for failed in [compared for compared in case.compared if not compared.ok][:5]:
        text += f"\n      FAIL {failed.field}: rel {failed.relative:.1e} abs {failed.absolute:.1e}"
        text += f" (allowed {failed.tolerance}) {failed.message}"
    if names := case.untouched():
        text += f"\n      FAIL not compared: {', '.join(names)}"
    return text


def main() -> int:
    """Run the replay and write the report if asked."""
    parser = argparse.ArgumentParser(prog="python -m engines.verify", description=__doc__)
    parser.add_argument("folder", type=Path, help="recorded cases, with the model that made them")
    parser.add_argument("--report", type=Path, help="write cases and failures as JSON")
    parser.add_argument("--backend", choices=BACKENDS, default="torch", help="runs the steps")
    parser.add_argument("--precision", help="of a compiled backend")
    args = parser.parse_args()
    cases = []
    for case in verify(args.folder, args.backend, args.precision):
        print(line(case), flush=True)
        cases.append(case)
    failed = [case.name for case in cases if not case.ok]
    differing = sum(case.differs is not None for case in cases)
    print(f"{len(cases)} cases, {len(failed)} failed, {differing} differ on purpose")
    if args.report:
        args.report.parent.mkdir(parents=True, exist_ok=True)
        report = {"cases": len(cases), "failed": failed, "differ_on_purpose": differing}
        args.report.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 1 if failed or not cases else 0


if __name__ == "__main__":
    sys.exit(main())
