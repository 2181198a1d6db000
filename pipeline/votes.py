"""From candidates on disk to attempts: votes counted file by file, submission.json and, beside it, where it comes from."""

from collections.abc import Sequence
from pathlib import Path

from augment.task import Task
from eval.vote import Ballot, pool_ballots
from pipeline.candidates import Candidates, read_candidates
from pipeline.checkpoint import write_json
from pipeline.data.store import Store
from submission.format import FilledSubmission, fill_submission, write_submission


def count_votes(ballot: Ballot, candidates: Candidates, store: Store) -> None:
    """Add `candidates` to `ballot`, under the ids of the tasks of `store`."""
    names = [
        (store.task_ids[task], index) for task, index in zip(store.test_task.tolist(), store.test_index.tolist(), strict=True)
    ]
    for test, grid, probability in candidates.grids():
        if not 0 <= test < len(names):
            raise ValueError(f"candidates of test input {test}, but the dataset has {len(names)}")
        ballot.add(*names[test], grid, probability)


def tally(folders: Sequence[Path], store: Store) -> Ballot:
    """Return the votes of all candidates in `folders`: a ballot of one checkpoint, or one that says it is pooled.

    Raises FileNotFoundError for a folder without candidates, ValueError for candidates of other tests or damaged files.
    """
    ballots: dict[str, Ballot] = {}
    for folder in folders:
        paths = sorted(folder.glob("round-*.safetensors")) if folder.is_dir() else []
        if not paths:
            raise FileNotFoundError(f"{folder}: no candidates here (round-*.safetensors)")
        for path in paths:
            candidates, origin = read_candidates(path)
            if origin.tests_hash != store.tests_hash:
                raise ValueError(f"{path}: candidates for other tests than those of the dataset")
            name = f"{folder}: {origin.source}"
            count_votes(ballots.setdefault(name, Ballot(name)), candidates, store)
    return pool_ballots(list(ballots.values()))


def write_attempts(path: Path, ballot: Ballot, tasks: Sequence[Task], ranking: str) -> FilledSubmission:
    """Put the attempts that `ballot` chooses at `path`, complete; `votes.json` beside it says where they come from."""
    filled = fill_submission(tasks, ballot.predictions(tasks, ranking))
    write_submission(path, filled.submission, tasks)
    tallies = [ballot.tally(task.id, index) for task in tasks for index in range(len(task.test))]
    counts = [tally.candidates for tally in tallies]
    report = {
        "sources": list(ballot.sources),
        "ranking": ranking,
        "views_least": min(counts, default=0),
        "views_most": max(counts, default=0),
        "empty_candidates": sum(tally.empty for tally in tallies),
        "without_prediction": [list(place) for place in filled.without_prediction],
        "with_one_prediction": [list(place) for place in filled.with_one_prediction],
    }
    write_json(path.with_name("votes.json"), report)
    return filled
