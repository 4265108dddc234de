"""`instantir engines ...` and `instantir export`: engines on disk, and the plan of GPU memory."""

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import torch

from engines import loader, memory
from engines.backends import openvino, tensorrt
from engines.cache import BuildCanceledError, Canceled, EngineCache, EngineKey, Entry
from engines.choice import processor_precision, sides_of
from engines.errors import EngineError
from engines.graphs import STEP_GRAPHS, Graph, all_graphs, step_graphs
from engines.memory import EXACT, GIB, OPTIONS, ModelSizes, Picture, Plan, Work
from engines.random_weights import published_step_graphs
from engines.tensorrt.builder import Flavour
from engines.tensorrt.stored import Target, stored

INTERRUPTED: Final = 130
SHAPE: Final = "sdxl-shape"
GPUS_GB: Final = (8, 12, 16, 24, 40, 80)
PICTURES: Final[tuple[Picture, ...]] = ((768, 768), (768, 1024), (1024, 1024))
_MB: Final = 1e6
_DAY_S: Final = 86_400.0
_PRECISIONS: Final = {"float32": torch.float32, "float16": torch.float16}
_BACKENDS: Final = ("openvino", *Flavour)


def run(argv: Sequence[str], folder: Path) -> int:
    """`instantir engines ...` on the engines in `folder`; returns the exit status."""
    args = _parser().parse_args(argv)
    return _told(lambda: args.command(args, EngineCache(folder)))


def export_command(argv: Sequence[str]) -> int:
    """`instantir export`: a model's graphs as ONNX files; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="instantir export", description="write a model's graphs as ONNX files"
    )
    parser.add_argument(
        "--model",
        default="nano",
        help=f"name or folder (default: nano); {SHAPE}: step graphs of full size, random weights",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--precision", choices=tuple(_PRECISIONS), default="float32")
    parser.add_argument("--graphs", metavar="A,B", help="only these (default: all)")
    args = parser.parse_args(argv)
    return _told(lambda: _export(args))


def _told(command: Callable[[], int]) -> int:
    """The status of a command; what went wrong is one line on stderr."""
    try:
        return command()
    except (EngineError, ValueError) as error:
        sys.stderr.write(f"instantir: error: {error}\n")
        return INTERRUPTED if isinstance(error, BuildCanceledError) else 2
    except OSError as error:
        sys.stderr.write(f"instantir: error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("instantir: canceled\n")
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="instantir engines", description="compiled engines, and the plan of GPU memory"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str, run_it: Callable[[argparse.Namespace, EngineCache], int], text: str
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=run_it)
        return sub

    build = command("build", _build, "build the engines of a model's step graphs")
    build.add_argument("--model", default="nano", help="name or folder (default: nano)")
    build.add_argument("--backend", choices=_BACKENDS, default=_BACKENDS[0])
    build.add_argument(
        "--sm",
        type=int,
        nargs="+",
        metavar="N",
        help="compute capabilities, as 89, to build for with tensorrt-rtx (default: of this GPU)",
    )
    for name, run_it, text in (
        ("list", _list, "list the engines, those used last first"),
        ("verify", _verify, "check every engine's files; status 1 where one is damaged"),
    ):
        command(name, run_it, text).add_argument("--json", action="store_true")
    prune = command("prune", _prune, "remove what is damaged, unused or too much")
    prune.add_argument("--keep-gb", type=_number, metavar="N", help="leave at most that many GB")
    prune.add_argument("--unused-days", type=_number, metavar="N", default=0.0)
    plan = command("plan", _plan, "say what fits into a GPU's memory; needs no GPU and no weights")
    plan.add_argument(
        "--model", default=memory.PUBLISHED, help="sdxl (default), nano, or a model's folder"
    )
    plan.add_argument(
        "--gpu-memory", type=_number, metavar="GB", help="of 2**30 bytes (default: a table)"
    )
    plan.add_argument("--json", action="store_true")
    return parser


def _number(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"it is {text}, it must be 0 or more")
    return value


class _ToldCache(EngineCache):
    """A cache that says what it builds: graph, seconds, size."""

    def built(
        self, key: EngineKey, make: Callable[[Path], None], canceled: Canceled = lambda: False
    ) -> Path:
        """See `EngineCache`."""
        start, made = time.perf_counter(), False

        def told(folder: Path) -> None:
            nonlocal made
            made = True
            make(folder)

        folder = super().built(key, told, canceled)
        size = sum(path.stat().st_size for path in folder.iterdir())
        how = f"{time.perf_counter() - start:7.1f} s" if made else "was there"
        _say(f"{key.graph:12} {key.backend:9} {how:9} {size / _MB:9.1f} MB")
        return folder


def _build(args: argparse.Namespace, cache: EngineCache) -> int:
    told = _ToldCache(cache.folder)
    restorer = loader.load(args.model)
    table = step_graphs(restorer.networks, restorer.previewer)
    if args.backend == "openvino":
        if not openvino.available():
            raise EngineError("backend is 'openvino': install the packages openvino and onnx")
        precision = processor_precision(restorer.settings)
        built = openvino.OpenVinoBackend(table, restorer.fingerprint, told, precision)
        _say(f"{len(STEP_GRAPHS)} engines of {args.model} for {built.name}")
        return 0
    flavour, count = Flavour(args.backend), 0
    sides = sides_of(restorer.settings.tiling, restorer.networks.codec.factor)
    for capability in args.sm or [tensorrt.capability(flavour)]:
        for graph in table.values():
            target = Target(flavour, capability, tensorrt.range_of(graph, *sides))
            _, facts = stored(graph, restorer.fingerprint, told, target)
            _say(f"{'':12} {facts.layers} layers, {facts.fused_attention} fused attentions")
            count += 1
    _say(f"{count} engines of {args.model} for {flavour}")
    return 0


def _list(args: argparse.Namespace, cache: EngineCache) -> int:
    entries = cache.entries()
    if args.json:
        _say(json.dumps([_described(entry) for entry in entries], indent=1))
        return 0
    for entry in entries:
        key = entry.key
        _say(f"{entry.folder.name}  {entry.bytes / _MB:.1f} MB")
        _say(f"  {key.graph}, {key.backend} {key.version}, {key.precision}, for {key.target}")
        _say(f"  made {_at(entry.made_at)}, last used {_at(entry.used_at)}")
    total = sum(entry.bytes for entry in entries)
    _say(f"{len(entries)} engines, {total / _MB:.1f} MB in {cache.folder}")
    return 0


def _described(entry: Entry) -> dict[str, str | float]:
    return {
        "name": entry.folder.name,
        **asdict(entry.key),
        "bytes": entry.bytes,
        "made_at": entry.made_at,
        "used_at": entry.used_at,
    }


def _verify(args: argparse.Namespace, cache: EngineCache) -> int:
    found = dict(_faults(cache))
    damaged = {name: fault for name, fault in found.items() if fault is not None}
    if args.json:
        _say(json.dumps({"engines": len(found), "damaged": damaged}, indent=1))
    else:
        for name, fault in damaged.items():
            _say(f"{name}: {fault}")
        _say(f"{len(found)} engines, {len(damaged)} damaged")
    return 1 if damaged else 0


def _faults(cache: EngineCache) -> Iterator[tuple[str, str | None]]:
    """Name and fault of every engine, of those too that cannot say what they are."""
    told: set[str] = set()
    for entry in cache.entries():
        told.add(entry.folder.name)
        other = entry.folder.name != entry.key.name
        yield entry.folder.name, "it was made from something else" if other else entry.fault()
    for path in sorted(cache.folder.glob("*-" + "[0-9a-f]" * 24)):
        if path.is_dir() and path.name not in told:
            yield path.name, "its manifest cannot be read"


def _prune(args: argparse.Namespace, cache: EngineCache) -> int:
    keep = sys.maxsize if args.keep_gb is None else int(args.keep_gb * 1e9)
    removed = cache.prune(keep, unused_s=args.unused_days * _DAY_S)
    for entry in removed:
        _say(f"removed {entry.folder.name}, {entry.bytes / _MB:.1f} MB")
    left = cache.entries()
    freed, kept = (sum(entry.bytes for entry in some) / _MB for some in (removed, left))
    _say(f"{len(removed)} removed, {freed:.1f} MB; {len(left)} left, {kept:.1f} MB")
    return 0


def _plan(args: argparse.Namespace, cache: EngineCache) -> int:
    del cache
    whole = args.gpu_memory is None
    work = Work()
    sizes = memory.measure(args.model, PICTURES if whole else (work.picture,))
    gpus = GPUS_GB if whole else (args.gpu_memory,)
    plans = [memory.plan(sizes, int(gb * GIB), work) for gb in gpus]
    if args.json:
        said = [_plan_described(one) for one in plans]
        _say(json.dumps({"model": args.model, "graphs": _graphs(sizes), "plans": said}, indent=1))
        return 0
    if whole:
        _say_sizes(sizes)
        _say("")
    width, height = work.picture
    _say(f"GB of 2**30 bytes; pictures of {width}x{height}, {work.rows} rows each (guidance)")
    _say(f"{'GPU':>4}  {'plan':10}  {'batch':>5}  {'needs':>6}  largest phase")
    for one in plans:
        _say(_plan_line(one))
    if not whole:
        for fit in plans[0].fits:
            how = f"batch {fit.batch:2}" if fit.batch else "not one "
            _say(f"  {fit.option:10} {how}  {fit.need.total / GIB:6.2f} GB")
    _say("")
    for name, text in OPTIONS.items():
        _say(f"{name:10} {text}")
    _say(f"Estimated, not measured; {work.reserve_bytes / GIB:.0f} GB is set aside for the driver.")
    _say(f"INSTANTIR_MEMORY takes one of them, or auto; only {', '.join(EXACT)} change no result.")
    return 0


def _plan_line(one: Plan) -> str:
    gpu, best = one.gpu_bytes / GIB, one.best
    line = f"{gpu:4.0f}  {best.option:10}  {best.batch:5}  {best.need.total / GIB:6.2f}"
    short = f", {one.short_bytes / GIB:.2f} GB too little" if one.short_bytes else ""
    return f"{line}  {best.need.phase}{short}"


def _say_sizes(sizes: ModelSizes) -> None:
    """Weights of every graph, and bytes of one row of those that see pictures."""
    heads = "  ".join(f"{f'{width}x{height}':>9}" for width, height in PICTURES)
    _say(f"{'graph':22}  {'M values':>8}  {'weights':>8}    MB a row at {heads}")
    for graph in sizes.graphs.values():
        flows = [graph.flows[picture].bytes for picture in PICTURES]
        columns = "  ".join(f"{flow / _MB:9.1f}" for flow in flows)
        weights = f"{graph.weight_bytes() / GIB:5.2f} GB"
        _say(f"{graph.name:22}  {graph.values / 1e6:8.1f}  {weights:>8}  {' ' * 12}{columns}")
    total = sum(graph.weight_bytes() for graph in sizes.graphs.values()) + sizes.other_bytes
    _say(f"{'all':32}  {total / GIB:5.2f} GB")


def _plan_described(one: Plan) -> dict[str, object]:
    def fit(option: memory.Fit) -> dict[str, object]:
        return {**asdict(option), "total_bytes": option.need.total}

    return {
        "gpu_bytes": one.gpu_bytes,
        "short_bytes": one.short_bytes,
        "best": fit(one.best),
        "options": [fit(option) for option in one.fits],
    }


def _graphs(sizes: ModelSizes) -> dict[str, object]:
    return {
        graph.name: {
            "values": graph.values,
            "weight_bytes": graph.weight_bytes(),
            "row_bytes": {f"{w}x{h}": flow.bytes for (w, h), flow in graph.flows.items()},
        }
        for graph in sizes.graphs.values()
    }


def _export(args: argparse.Namespace) -> int:
    # What only exports needs the package that they are written with.
    from engines.export import export

    out, dtype = Path(args.out), _PRECISIONS[args.precision]
    if args.model == SHAPE:
        table = published_step_graphs(dtype=dtype)
    else:
        restorer = loader.load(args.model)
        table = all_graphs(restorer.networks, restorer.previewer)
    chosen = _chosen(table, args.graphs)
    out.mkdir(parents=True, exist_ok=True)
    for graph in chosen:
        start, size = time.perf_counter(), 0
        with TemporaryDirectory(dir=out, prefix=".part-") as part:
            export(graph, Path(part) / f"{graph.name}.onnx", dtype)
            for file in sorted(Path(part).iterdir(), reverse=True):  # weights before their graph
                size += file.stat().st_size
                file.replace(out / file.name)
        own = str(graph.precision(dtype)).removeprefix("torch.")
        took = time.perf_counter() - start
        _say(f"{graph.name:22}  {own}  {took:7.1f} s  {size / _MB:9.1f} MB")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
    _say(f"{len(chosen)} graphs in {out}; peak memory {peak / _MB:.0f} MB")
    return 0


def _chosen(table: dict[str, Graph], names: str | None) -> list[Graph]:
    if names is None:
        return list(table.values())
    asked = [name.strip() for name in names.split(",")]
    if unknown := [name for name in asked if name not in table]:
        raise EngineError(f"graphs: {', '.join(unknown)} is unknown, known: {', '.join(table)}")
    return [table[name] for name in asked]


def _at(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
