"""The one import rule, read from the source: augment <- eval <- submission <- pipeline, and who may know whom in `pipeline`."""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("augment", "eval", "submission", "pipeline")
TRAINING = "pipeline.train"
PREDICTIONS = {"pipeline.arc_job": "pipeline.predict", "pipeline.puzzle_job": "pipeline.predict_puzzles"}
"""The prediction stage that each job knows."""
STAGES = {TRAINING, *PREDICTIONS.values()}
CALLERS = {*PREDICTIONS, "pipeline.run", "pipeline.commands", "pipeline.__main__"}
"""What calls stages; no stage knows one of them."""


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def modules() -> dict[str, ast.Module]:
    """The syntax trees of all modules of the project, by dotted name."""
    paths = (path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")))
    return {module_name(path): ast.parse(path.read_bytes()) for path in paths}


def absolute_imports(tree: ast.AST) -> Iterator[str]:
    """Every dotted name that is imported anywhere in a module, in functions and for type checking too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def imports_of(module: str) -> frozenset[str]:
    """What a module imports: modules of the project by their full name, of others by their first part."""
    found = set()
    for name in absolute_imports(modules()[module]):
        parts = name.split(".")
        if parts[0] not in PACKAGES:
            found.add(parts[0])
            continue
        known = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
        found.add(next(candidate for candidate in known if candidate in modules()))
    return frozenset(found)


@cache
def reachable(module: str) -> frozenset[str]:
    """The modules of the project that are imported with a module, directly or not."""
    seen, queue = set(), [module]
    while queue:
        for imported in imports_of(queue.pop()):
            if imported in modules() and imported not in seen:
                seen.add(imported)
                queue.append(imported)
    return frozenset(seen)


def in_package(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def test_the_modules_are_found() -> None:
    assert {"augment.grid", "eval.vote", "submission.format", "pipeline.train", "pipeline.reasoner.trm"} <= modules().keys()
    assert "pipeline.resume" in imports_of("pipeline.train")
    assert "torch" in imports_of("pipeline.train")
    assert "pipeline.data.store" in reachable("pipeline.run")
    assert "pipeline.predict" in imports_of("pipeline.commands")  # within a function


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_from_those_on_its_left(package: str) -> None:
    allowed = PACKAGES[: PACKAGES.index(package) + 1]
    for module in modules():
        if in_package(module, package):
            wrong = {name for name in imports_of(module) if name in modules() and name.split(".")[0] not in allowed}
            assert not wrong, f"{module} imports {sorted(wrong)}"


def test_torch_and_accelerate_stay_in_the_pipeline() -> None:
    for module in modules():
        if not in_package(module, "pipeline"):
            assert not imports_of(module) & {"torch", "accelerate", "safetensors"}, module


def test_grids_and_symmetries_need_numpy_alone() -> None:
    for module in modules():
        if in_package(module, "augment"):
            outside = {name for name in imports_of(module) if name not in modules()} - set(sys.stdlib_module_names)
            assert outside <= {"numpy"}, f"{module} imports {sorted(outside)}"


def test_reasoners_know_themselves_torch_numpy_and_the_standard_library() -> None:
    for module in modules():
        if in_package(module, "pipeline.reasoner"):
            foreign = {
                name
                for name in imports_of(module)
                if not in_package(name, "pipeline.reasoner") and name not in {"torch", "numpy", *sys.stdlib_module_names}
            }
            assert not foreign, f"{module} imports {sorted(foreign)}"


def test_the_data_stage_knows_no_network_and_no_torch() -> None:
    for module in modules():
        if in_package(module, "pipeline.data"):
            assert "torch" not in imports_of(module), module
            later = {name for name in reachable(module) if in_package(name, "pipeline")} - {"pipeline"}
            assert all(in_package(name, "pipeline.data") for name in later), f"{module} reaches {sorted(later)}"


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_a_stage_knows_no_other_and_nothing_that_calls_stages(stage: str) -> None:
    assert not reachable(stage) & (STAGES | CALLERS) - {stage}


@pytest.mark.parametrize("job", sorted(PREDICTIONS))
def test_a_job_knows_one_prediction_and_no_training(job: str) -> None:
    assert reachable(job) & (STAGES | CALLERS) == {PREDICTIONS[job]}


def test_the_run_knows_training_and_leaves_prediction_to_its_job() -> None:
    assert TRAINING in imports_of("pipeline.run")
    assert reachable("pipeline.run") & (STAGES | CALLERS) == {TRAINING}


def test_only_the_commands_know_training_and_prediction() -> None:
    predictions = set(PREDICTIONS.values())
    knowing = {module for module in modules() if TRAINING in reachable(module) and predictions & reachable(module)}
    assert knowing == {"pipeline.commands", "pipeline.__main__"}
    assert reachable("pipeline.commands") >= STAGES | {*PREDICTIONS, "pipeline.run"}
    assert not imports_of("pipeline.__main__") & (STAGES | CALLERS) - {"pipeline.commands"}


def test_no_module_imports_itself_in_a_circle_when_it_runs() -> None:
    for module in modules():
        if in_package(module, "augment") or in_package(module, "pipeline.reasoner"):
            assert module not in reachable(module)
