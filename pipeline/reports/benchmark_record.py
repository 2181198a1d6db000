"""The command `record`: a folder of records/ from the run folders of its seeds, from which every seed can be started again."""

import math
import shlex
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

from augment.errors import InputError
from eval.files import replace_file, write_json
from eval.formatting import parse_duration
from eval.provenance import NetworkName
from eval.score import RULES as SCORE_RULES
from pipeline.config import CONFIG_FILE, read_config, with_seed
from pipeline.inference.facts import SCORE_FILE
from pipeline.jobs.networks import NETWORKS_FOLDER
from pipeline.jobs.run_record import RunRecord, as_option
from pipeline.reports.run_folder import RunFolder
from pipeline.training.metrics import METRICS_FILE, read_metrics

RULES = tuple(field for field, *_ in SCORE_RULES)
PLACES = {"pass_at_2": RULES, "pass_at_1": RULES[:1]}
"""What a record says of every seed on ARC tasks."""
ACCURACIES = ("exact_accuracy", "shortest_path_accuracy", "cell_accuracy")
"""The same on puzzles, as far as their score.json has it."""
Rates = Mapping[str, Mapping[str, float]]
LEAST_SEEDS = 3
"""Fewer are a first measurement, without a median."""


@dataclass(frozen=True)
class About:
    """What no run folder knows."""

    benchmark: str
    machine: str
    commit: str
    load: str


def write_record(folders: Sequence[RunFolder], about: About, out: Path) -> dict[str, Any]:
    """Write the record of runs that differ in their seeds alone; return what `result.json` says.

    `out` gets config.json, result.json, the metrics, submission or predictions, and score of every seed, with the seed in their
    names, and, unless there is one, a README.md to be completed. Raises InputError for runs that have no score, were told to
    train on answers, or differ in more than the seed.
    """
    records = [_record(folder) for folder in folders]
    configs = [read_config(folder.path / CONFIG_FILE) for folder in folders]
    for folder, record, config in zip(folders, records, configs, strict=True):
        if _seedless(record) != _seedless(records[0]) or with_seed(config, 0) != with_seed(configs[0], 0):
            raise InputError(f"{folder.path}: not the run of {folders[0].path} with another seed")
    if len({record.seed for record in records}) < len(records):
        raise InputError("two of the runs have the same seed")
    runs = [_run(folder, record, about) for folder, record in zip(folders, records, strict=True)]
    found: dict[str, Any] = {
        "benchmark": about.benchmark,
        "command": command(replace(records[0], seed=0), "runs/record").replace("--seed 0", "--seed {seed}"),
        "date": records[0].started[:10],
        "machine": about.machine,
        "limit_seconds": parse_duration(records[0].time_limit) if records[0].time_limit else None,
        "views": 1 if folders[0].is_puzzles else configs[0].predict.views,
        "checkpoints": records[0].networks,
        "runs": runs,
    }
    if len(runs) >= LEAST_SEEDS:
        places = {place: tuple(runs[0][place]) for place in (*PLACES, "accuracy") if place in runs[0]}
        found["median"] = {
            place: {rule: median(run[place][rule] for run in runs) for rule in rules} for place, rules in places.items()
        }
    out.mkdir(parents=True, exist_ok=True)
    for folder, record in zip(folders, records, strict=True):
        for name in map(Path, (METRICS_FILE, folder.result_path.name, SCORE_FILE)):
            shutil.copyfile(folder.path / name, out / f"{name.stem}-{record.seed}{name.suffix}")
    write_json(out / CONFIG_FILE, configs[0].to_json())
    write_json(out / "result.json", found)
    if not (out / "README.md").exists():
        replace_file(out / "README.md", _page(found, Path(folders[0].result_path.name)).encode())
    return found


def headline(found: Mapping[str, Any]) -> tuple[str, float]:
    """Return what the score of a record is called, and the score, 0..1: its median, or that of its only seed."""
    rates: Rates = found.get("median", found["runs"][0])
    if "accuracy" in rates:
        return "exact accuracy", rates["accuracy"]["exact_accuracy"]
    return "pass@2, mean over tasks,", rates["pass_at_2"]["mean_over_tasks"]


def command(record: RunRecord, out: str) -> str:
    """Return the command that starts a run like that of `record`."""
    processes, _, device = record.device.removesuffix(", tcmalloc").partition(" x ")
    several_gpus = device not in ("", "cpu") and processes != "1"
    words = ["accelerate", "launch", "--num_processes", processes] if several_gpus else ["python"]
    words += ["-m", "pipeline", "run"]
    options: dict[str, object] = {
        "source": record.sources,
        "train_source": record.train_sources,
        "max_side": record.max_side,
        "hold_out": record.hold_out,
        "limit": record.limit,
        "test_limit": record.test_limit,
        "preset": record.preset,
        "seed": record.seed,
        "set": record.settings,
        "time_limit": record.time_limit,
        "reserve": record.reserve,
        "processes": processes if device == "cpu" and processes != "1" else None,
        "networks": record.networks if record.networks > 1 else None,
        "weights": record.weights,
        "out": out,
    }
    return shlex.join([*words, *chain.from_iterable(as_option(name, value) for name, value in options.items())])


def _record(folder: RunFolder) -> RunRecord:
    if folder.record is None:
        raise InputError(f"{folder.path}: no run, which leaves a run.json")
    return folder.record


def _seedless(record: RunRecord) -> RunRecord:
    """Return what two seeds of one record have in common."""
    return replace(record, seed=0, started="", starts=1, device="", fallbacks=(), seconds={})


def _run(folder: RunFolder, record: RunRecord, about: About) -> Mapping[str, Any]:
    """Return what a record says of one run. Raises InputError for a run without a score, or one that was told to cheat."""
    audit, score = folder.read_json("dataset/manifest.json").get("audit"), folder.read_json(SCORE_FILE)
    metrics, rates = read_metrics(folder.path / METRICS_FILE), _rates(score)
    networks = score.get("sources") if folder.is_puzzles else folder.votes.sources if folder.votes else None
    step = NetworkName.parse(networks[0]).step if networks else None
    exact = metrics[-1].get("exact") if metrics else None
    if not rates or not isinstance(exact, int | float) or step is None:
        raise InputError(f"{folder.path}: no score.json with all rules, no votes.json or no metrics.jsonl: it has not ended")
    if not isinstance(audit, dict) or (audit.get("leakage") == "allow" and audit.get("leaks")):
        raise InputError(f"{folder.path}: trained on pairs that show the answer to a scored test")
    logs = [metrics, *(read_metrics(path) for path in sorted(folder.path.glob(f"{NETWORKS_FOLDER}/*/metrics.jsonl")))]
    spent = [lines[-1].get("processor_seconds", math.nan) for lines in logs if lines]  # runs of earlier versions do not know
    return {
        "seed": record.seed,
        "commit": about.commit,
        "settings": list(record.settings),
        "load": about.load,
        "steps": step,
        "train_exact": round(exact, 2),
        "seconds": round(sum(record.seconds.values())),
        "starts": record.starts,
        "processor_hours": None if math.isnan(sum(spent)) else round(sum(spent) / 3600, 2),
        **rates,
    }


def _rates(score: Mapping[str, Any]) -> Rates:
    """Return the rates of a score.json, each 0..1; none where it has not those of ARC tasks or of puzzles, or is damaged."""
    with suppress(KeyError, TypeError):
        if isinstance(rules := score.get("rules"), dict):
            return {place: {rule: round(rules[rule][place], 4) for rule in rules_of} for place, rules_of in PLACES.items()}
        accuracies = {name: round(score[name], 4) for name in ACCURACIES if score.get(name) is not None}
        return {"accuracy": accuracies} if accuracies else {}
    return {}


def _page(found: Mapping[str, Any], result: Path) -> str:
    """Return a README.md that has the facts, and names what a person has to add; `result` is the result file of a run."""
    name, shown = headline(found)
    seeds = ", ".join(str(run["seed"]) for run in found["runs"])
    first = found["runs"][0]
    hours = "unknown" if first["processor_hours"] is None else f"{first['processor_hours']:g} hours"
    starts = f", in {first['starts']} starts, of which the command is the last" if first["starts"] > 1 else ""
    single = "a **single seed**: not a median" if len(found["runs"]) == 1 else f"seed {first['seed']}: two make no median"
    kind = "the median of all seeds" if "median" in found else single
    return f"""# {found["benchmark"]}

```
{found["command"]}
```

{name.capitalize()} {shown:.1%}, {kind}; seeds {seeds} are in [result.json](result.json), with further rates.

- **Machine**: {found["machine"]}.
- **Processor time** of training, all processes: {hours}{starts}.
- **Date**: {found["date"]}. **Commit**: {first["commit"]}. **Load**: {first["load"]}.
- **Runs**: how many were made in all, and how the settings were chosen.
- **What is new**: add it here.

`config.json` is that of the first seed; `train.seed` and `build.seed` are the seed. `metrics-SEED.jsonl` are the logs of
training; `python -m pipeline score {result.stem}-SEED{result.suffix}` with the `--source` and selection above gives the score
again.
"""
