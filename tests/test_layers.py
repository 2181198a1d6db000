"""The layers of the program, read from its imports: each module imports from lower layers only, and none in a circle."""

import ast
import importlib
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = (
    ("augment",),
    ("eval",),
    ("submission",),
    ("pipeline.array_files",),
    ("pipeline.system", "pipeline.device_limits", "pipeline.tensor_files"),
    ("pipeline.models",),
    ("pipeline.config",),
    ("pipeline.presets", "pipeline.data"),
    ("pipeline.device", "pipeline.weights"),
    ("pipeline.training", "pipeline.inference", "pipeline.published"),
    ("pipeline.jobs",),
    ("pipeline.run", "pipeline.reports", "pipeline.kaggle", "pipeline.bench"),
    ("pipeline.cli",),
    ("pipeline.__main__",),
)
"""From the lowest. Packages of one layer do not know each other; modules of one package do."""
TORCH = {"torch", "accelerate"}
MAY_USE = {
    "augment": {"numpy"},
    "eval": {"numpy", "orjson", "matplotlib", "PIL"},
    "submission": {"numpy", "orjson", "kaggle"},
    "pipeline.models": {"numpy", "torch", "triton"},
}
"""What a package may import from outside the project and the standard library; others may use all that is installed."""
WITHOUT_TORCH = (
    "pipeline.__main__",
    "pipeline.cli.main",
    "pipeline.kaggle.kernel",
)
"""Modules whose import does not load torch: it takes seconds, and the first submission is written without it."""
MOST_IN_A_CHAIN = 14


@cache
def modules() -> dict[str, ast.Module]:
    """Return the syntax trees of all modules by dotted name."""
    paths = [
        path for package in ("augment", "eval", "submission", "pipeline") for path in sorted((ROOT / package).rglob("*.py"))
    ]
    names = (".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths)
    return {name: ast.parse(path.read_bytes()) for name, path in zip(names, paths, strict=True)}


@cache
def imports(module: str, lazy: bool = True) -> frozenset[str]:
    """Return what a module imports: modules of the project in full, others by their first part.

    Without `lazy` only what is imported when the module is: nothing in functions, nothing for type checking.
    """
    tree = modules()[module]
    found = set()
    for node in ast.walk(tree) if lazy else tree.body:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            prefixes = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
            found.add(next((prefix for prefix in prefixes if prefix in modules()), parts[0]))
    return frozenset(found - {module})


def place(module: str) -> tuple[int, str]:
    """Return the layer of a module, and the entry of `LAYERS` that it belongs to."""
    fitting = [
        (len(entry), layer, entry)
        for layer, entries in enumerate(LAYERS)
        for entry in entries
        if module == entry or module.startswith(f"{entry}.")
    ]
    assert fitting, f"{module} belongs to no layer"
    return max(fitting)[1:]


def own(module: str) -> set[str]:
    """Return the modules of the project that a module imports, anywhere in it."""
    return {name for name in imports(module) if name in modules() and name != "pipeline"}


def checked() -> list[str]:
    return [module for module in modules() if module != "pipeline"]


def test_a_module_imports_from_lower_layers_only() -> None:
    for module in checked():
        layer, entry = place(module)
        wrong = {name for name in own(module) if place(name)[1] != entry and place(name)[0] >= layer}
        assert not wrong, f"{module} imports {sorted(wrong)}"


@pytest.mark.parametrize("package", MAY_USE)
def test_a_package_uses_the_libraries_that_it_may(package: str) -> None:
    allowed = MAY_USE[package] | set(sys.stdlib_module_names)
    for module in modules():
        if module == package or module.startswith(f"{package}."):
            outside = {name for name in imports(module) if name not in modules()} - allowed
            assert not outside, f"{module} imports {sorted(outside)}"


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_what_is_imported_first_does_without_torch(module: str) -> None:
    seen, queue = {module}, [module]
    while queue:
        current = queue.pop()
        found = imports(current, lazy=False)
        assert not found & TORCH, f"{module} loads {current}, which imports {sorted(found & TORCH)}"
        new = {name for name in found if name in modules()} - seen
        seen |= new
        queue.extend(new)


def test_no_module_imports_itself_in_a_circle() -> None:
    left = {module: own(module) for module in checked()}
    while free := [module for module, needed in left.items() if not needed & left.keys()]:
        for module in free:
            del left[module]
    assert not left, f"a circle among {sorted(left)}"


def test_no_chain_of_imports_is_long() -> None:
    @cache
    def chain(module: str) -> tuple[str, ...]:
        return (module, *max((chain(name) for name in sorted(own(module))), key=len, default=()))

    longest = max((chain(module) for module in checked()), key=len)
    assert len(longest) <= MOST_IN_A_CHAIN, " > ".join(longest)


def test_the_layers_name_what_is_there() -> None:
    assert {entry for entries in LAYERS for entry in entries} <= modules().keys()
    assert {"torch", "pipeline.training.state"} <= imports("pipeline.training.trainer")
    assert "pipeline.inference.predictor" in imports("pipeline.jobs.arc")  # in a function
    assert "pipeline.inference.predictor" not in imports("pipeline.jobs.arc", lazy=False)


def test_what_is_installed_is_the_program_with_its_files_and_a_command() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    module, _, name = project["project"]["scripts"]["arc-trm"].partition(":")
    assert callable(getattr(importlib.import_module(module), name))
    packages = [pattern.removesuffix("*") for pattern in project["tool"]["setuptools"]["packages"]["find"]["include"]]
    assert {part.partition(".")[0] for layer in LAYERS for part in layer} == set(packages)
    files = {path for package in packages for path in (ROOT / package).rglob("*.*") if path.suffix not in (".py", ".pyc")}
    assert {f"*{path.suffix}" for path in files} == set(project["tool"]["setuptools"]["package-data"]["*"])
