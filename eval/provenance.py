"""What a score rests on, said with every score: votes, views, data, its version, what solutions did, what the audit found.

Beside `score`. Filled by what reads runs (`pipeline.scored`); what cannot be known is said to be unknown, never left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

UNKNOWN = "unknown"

Row = tuple[str, str]
"""(what, in words)."""


@dataclass(frozen=True)
class Kind:
    """What the parts of what is solved are called."""

    whole: str
    """What is solved."""
    question: str
    """What is asked of it."""
    output: str
    """What is scored."""
    trained: str
    """What is trained on."""
    leaking: tuple[str, str]
    """What one, or several, of these do that an audit is to find."""
    answers_audited: bool
    """Whether an audit needs the outputs, so that it reads them."""


TASKS = Kind("task", "test input", "test output", "training pair", ("equals a scored test", "equal a scored test"), True)

PUZZLES = Kind("puzzle", "puzzle", "answer", "training puzzle", ("is a view of a test", "are views of a test"), False)


@dataclass(frozen=True)
class Scored:
    """The test outputs that a score counts."""

    tasks: int
    """Or puzzles, of which each has one output."""
    outputs: int
    data_hash: str
    """SHA-256, in hex, of the ids and outputs that attempts are judged by."""
    version: str
    """Which data that is, in words: public data of which version, a selection of it, or none that is known."""

    def __post_init__(self) -> None:
        """Reject what says nothing."""
        if not self.version or not self.data_hash:
            raise ValueError("the hash and the version of what is scored must be said")


@dataclass(frozen=True)
class Audited:
    """What an audit of a dataset found: training pairs that show the answer to a scored test."""

    leaks: int
    leakage: str
    """What was done with them: refuse, drop or allow."""
    checked: int
    """Scored tests whose outputs were known, so that they could be checked."""
    unchecked: int


@dataclass(frozen=True)
class Provenance:
    """Where attempts come from. None, or no checkpoint, where that is not known."""

    why_unknown: str = "the submission has nothing beside it that says so"
    """Said where something is unknown."""
    checkpoints: tuple[str, ...] | None = None
    """Whose candidates were voted on together; empty where there were none and all attempts are fallbacks."""
    views: tuple[int, int] | None = None
    """Least and most views of a test input that voted."""
    trained_hash: str | None = None
    """Of the dataset whose tests were asked."""
    audited: Audited | None = None
    reservations: tuple[str, ...] = field(default=())
    """Why the audit does not say all, such as weights that were trained before on something else."""
    kind: Kind = TASKS


def provenance_rows(scored: Scored | None, given: Provenance) -> list[Row]:
    """Return the six facts in words, each with its name, whatever is known of them."""
    unknown = f"{UNKNOWN} ({given.why_unknown})"
    if scored is None:
        hashed = version = f"{UNKNOWN} (no {given.kind.output} is known)"
    else:
        hashed = f"scored outputs {scored.data_hash[:12]}"
        counted = _plural(scored.outputs, given.kind.output)
        version = f"{_plural(scored.tasks, given.kind.whole)}, {counted}: {scored.version}"
    hashed += f"; dataset {given.trained_hash[:12] if given.trained_hash else UNKNOWN}"
    return [
        ("votes", _votes(given.checkpoints, unknown)),
        ("views", unknown if given.views is None else f"{_range(*given.views)} of each {given.kind.question}"),
        ("data hash", hashed),
        ("data", version),
        ("solutions during the run", _solutions(given, unknown)),
        ("audit", _audit(given, unknown)),
    ]


def provenance_json(scored: Scored | None, given: Provenance) -> dict[str, object]:
    """Return the same as plain values: facts as numbers and hashes, "unknown" for what is not known, and all rows in words."""
    checkpoints, views, audited = given.checkpoints, given.views, given.audited
    return {
        "checkpoints": UNKNOWN if checkpoints is None else len(checkpoints),
        "sources": UNKNOWN if checkpoints is None else list(checkpoints),
        "views_least": UNKNOWN if views is None else views[0],
        "views_most": UNKNOWN if views is None else views[1],
        "scored_hash": UNKNOWN if scored is None else scored.data_hash,
        "scored_version": UNKNOWN if scored is None else scored.version,
        "scored_outputs": UNKNOWN if scored is None else scored.outputs,
        "dataset_hash": given.trained_hash or UNKNOWN,
        "audit": UNKNOWN
        if audited is None
        else {
            "leaks": audited.leaks,
            "leakage": audited.leakage,
            "tests_checked": audited.checked,
            "tests_unchecked": audited.unchecked,
            "reservations": list(given.reservations),
        },
        "in_words": dict(provenance_rows(scored, given)),
    }


def format_rows(rows: Sequence[Row]) -> list[str]:
    """Return the rows as lines, the names in a column."""
    width = max(len(name) for name, _ in rows)
    return [f"{name:{width}}  {words}" for name, words in rows]


def _votes(checkpoints: tuple[str, ...] | None, unknown: str) -> str:
    if checkpoints is None:
        return unknown
    if not checkpoints:
        return "none: all attempts are fallbacks"
    names = ", ".join(checkpoints)
    return f"single checkpoint: {names}" if len(checkpoints) == 1 else f"pooled({len(checkpoints)}): {names}"


def _solutions(given: Provenance, unknown: str) -> str:
    audited, kind = given.audited, given.kind
    if audited is None:
        return unknown
    if audited.leaks and audited.leakage == "allow":
        return f"trained on, as asked: {_plural(audited.leaks, kind.trained)} that show an answer"
    if not kind.answers_audited:
        return "; ".join(["not readable for training and prediction: read for the score afterwards", *given.reservations])
    if not audited.checked:
        return "; ".join(["not readable: the run knew no test output", *given.reservations])
    known = "not readable for training and prediction: read for the audit before, and for the score afterwards"
    return "; ".join([known, *given.reservations])


def _audit(given: Provenance, unknown: str) -> str:
    audited, kind = given.audited, given.kind
    if audited is None:
        return unknown
    checked = f"{_plural(audited.checked, kind.output if kind.answers_audited else kind.question)} checked"
    if audited.unchecked:
        checked += f", {audited.unchecked} not, being unknown"
    done = {"drop": "left out", "allow": "trained on all the same"}.get(audited.leakage, "found")
    pairs = f"{_plural(audited.leaks, kind.trained)} that {kind.leaking[audited.leaks != 1]} {done}"
    found = pairs if audited.leaks else f"no {kind.trained} {kind.leaking[0]}"
    if not audited.checked:
        found = "nothing could be compared"
    return "; ".join([found, checked, *given.reservations])


def _range(least: int, most: int) -> str:
    return _plural(most, "view") if least == most else f"{least} to {_plural(most, 'view')}"


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
