"""Provenance of a score: votes, views, data and its version, whether solutions were read, the leakage audit.

It is printed with every score, and what is not known is printed as unknown. `Basis` is stored in a file beside the attempts;
`Provenance` adds what is scored and makes the printed rows and the JSON of score.json.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TypeGuard

from augment.errors import InputError
from eval.formatting import plural, plural_range, show_name, show_path, show_value

UNKNOWN = "unknown"
HASH_DIGITS = 12
MOST_NAME = 20_000
"""Characters of a network's name, which may have the longest path of a system in it, escaped."""
NO_NETWORK = "none"
"""Among the names of networks: all attempts are fallbacks."""
_NETWORK = re.compile(rf"(.*?)(?:, step (\d+))?(?:, trained on (?:([0-9a-f]{{{HASH_DIGITS}}})|imported))?", re.DOTALL)
"""Of a network that was imported it is not known what it was trained on."""
Row = tuple[str, str]
"""(what, in words)."""


@dataclass(frozen=True)
class NetworkName:
    """What votes call a network."""

    weights: str
    """The file of its weights."""
    step: int | None = None
    data: str = ""
    """First digits of the hash of the dataset that it was trained on; empty where that is not known."""

    def __str__(self) -> str:
        return self.label + (f", trained on {self.data}" if self.data else "")

    @property
    def label(self) -> str:
        """The name without the data."""
        return self.weights if self.step is None else f"{self.weights}, step {self.step}"

    @classmethod
    def parse(cls, text: str) -> "NetworkName":
        """Return the name that `str` made, or another one as a whole."""
        match = _NETWORK.fullmatch(text)
        assert match, "the pattern matches any text"
        return cls(match[1], int(match[2]) if match[2] else None, match[3] or "")


@dataclass(frozen=True)
class Kind:
    """The words for what is solved and its parts."""

    whole: str
    question: str
    output: str
    trained: str
    leaking: tuple[str, str]
    """What one, or several, of these do that an audit looks for."""
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
    """Which data this is, in words: a version of public data, a selection of it, or none that is known."""


@dataclass(frozen=True)
class Audited:
    """What an audit of a dataset found."""

    leaks: int
    """Training pairs that show the answer to a scored test."""
    leakage: str
    """What was done with them: refuse, drop or allow."""
    tests_checked: int
    """Scored tests whose outputs were known, so that they could be checked."""
    tests_unchecked: int
    generators: int = 0
    """That make pairs of scored tasks."""


def audited_in(values: object) -> Audited | None:
    """Return the audit in a manifest, which lists the leaks of tasks and counts those of puzzles; None where there is none."""
    if not isinstance(values, dict):
        return None
    leaks, leakage, checked, unchecked = (values.get(name) for name in ("leaks", "leakage", "tests_checked", "tests_unchecked"))
    leaks, generators = values.get("pairs", len(leaks)) if isinstance(leaks, list) else leaks, values.get("generators", 0)
    if not isinstance(leakage, str) or not is_count(leaks) or not is_count(generators):
        return None
    if not is_count(checked) or not is_count(unchecked):
        return None
    return Audited(leaks, show_name(leakage), checked, unchecked, generators)


@dataclass(frozen=True)
class Judging:
    """How other networks have judged the best candidates."""

    names: tuple[str, ...]
    """Of the networks."""
    weight: float
    """0..1, of the judges against the votes."""
    views: int
    """That each judge has seen of a test input, at most."""
    candidates: int
    """Of a test input that were judged, at most."""

    def __post_init__(self) -> None:
        if not _are_names(self.names):
            raise InputError(f"the names of judges must be a list of names, got {show_value(self.names)}")
        if not 0 <= self.weight <= 1:
            raise InputError(f"the weight of judges must be in 0..1, got {show_value(self.weight)}")
        if not (is_count(self.views) and is_count(self.candidates) and self.views and self.candidates):
            raise InputError(f"judges need at least one view and candidate, got {self.views} and {self.candidates}")


@dataclass(frozen=True)
class Basis:
    """What attempts rest on, as stored beside them."""

    sources: tuple[str, ...]
    """Checkpoints whose candidates were counted together, or NO_NETWORK where all attempts are fallbacks."""
    views_least: int
    """Least views of a test input that voted."""
    views_most: int
    dataset: str = ""
    """Hash of the dataset whose tests were predicted; empty where it is not known."""
    audit: Audited | None = None
    judging: Judging | None = None
    """By other networks; None where votes alone have chosen."""

    def __post_init__(self) -> None:
        if not _are_names(self.sources):
            raise InputError(f"sources must be a list of names, got {show_value(self.sources)}")
        if not is_count(self.views_least) or not is_count(self.views_most):
            raise InputError(f"views_least and views_most must be counts, got {self.views_least} and {self.views_most}")


def _are_names(names: Sequence[str]) -> bool:
    return bool(names) and all(0 < len(name) <= MOST_NAME and name.isprintable() for name in names)


def is_count(value: object) -> TypeGuard[int]:
    """Return whether `value` is a number of things."""
    return type(value) is int and 0 <= value < 1 << 53


@dataclass(frozen=True)
class Provenance:
    """What is scored, and what the attempts rest on as far as that is known."""

    why_unknown: str = "the submission has nothing beside it that says so"
    """Given wherever something is unknown."""
    basis: Basis | None = None
    weights: str = ""
    """Weights from elsewhere that the run started from; empty for none."""
    kind: Kind = TASKS
    scored: Scored | None = None
    """None where no output is known."""

    @property
    def checkpoints(self) -> tuple[str, ...] | None:
        """Checkpoints whose candidates were counted; empty where all attempts are fallbacks, None where unknown."""
        if self.basis is None:
            return None
        return () if self.basis.sources == (NO_NETWORK,) else self.basis.sources

    @property
    def reservations(self) -> tuple[str, ...]:
        """What the audit does not cover, such as weights that were trained on other data before."""
        found = []
        if self.weights:
            found.append(f"the run started from {show_path(self.weights)}, whose training data is not recorded")
        for source in (*(self.checkpoints or ()), *(self.basis.judging.names if self.basis and self.basis.judging else ())):
            network = NetworkName.parse(source)
            if not network.data:
                found.append(f"what {source} was trained on is unknown")
            elif self.basis and network.data != self.basis.dataset[:HASH_DIGITS]:
                found.append(f"{network.label} was trained on other data, {network.data}, not audited here")
        return tuple(dict.fromkeys(found))

    def rows(self) -> list[Row]:
        """Return the six facts in words, each with its name; "unknown" where one is not known."""
        votes = views = solutions = audit = f"{UNKNOWN} ({self.why_unknown})"
        dataset = UNKNOWN
        if self.basis:
            names = self.checkpoints or ()
            votes = f"{'single checkpoint' if len(names) == 1 else f'pooled({len(names)})'}: {', '.join(names)}"
            votes = votes if names else "none: all attempts are fallbacks"
            if judging := self.basis.judging:
                votes += f"; judged with weight {judging.weight:g} by {', '.join(judging.names)}"
            counted = plural_range(self.basis.views_least, self.basis.views_most, "view")
            views = f"{counted} of each {self.kind.question}"
            dataset = self.basis.dataset[:HASH_DIGITS] or UNKNOWN
            if self.basis.audit:
                solutions, audit = map("; ".join, self._audit(self.basis.audit))
        hashed = data = f"{UNKNOWN} (no {self.kind.output} is known)"
        if self.scored:
            hashed = f"scored outputs {self.scored.data_hash[:HASH_DIGITS]}"
            counted = f"{plural(self.scored.tasks, self.kind.whole)}, {plural(self.scored.outputs, self.kind.output)}"
            data = f"{counted}: {self.scored.version}"
        return [
            ("votes", votes),
            ("views", views),
            ("data hash", f"{hashed}; dataset {dataset}"),
            ("data", data),
            ("solutions during the run", solutions),
            ("audit", audit),
        ]

    def _audit(self, audit: Audited) -> tuple[list[str], list[str]]:
        """Return how solutions were used during the run, and what the audit found, in parts of a sentence."""
        kind = self.kind
        leaks, generators = plural(audit.leaks, kind.trained), plural(audit.generators, "generator")
        several, leaking = audit.leaks != 1, bool(audit.leaks or audit.generators)
        made = [f"{generators} of scored tasks"] if audit.generators else []
        used = "not readable for training and prediction: read for the audit before, and for the score afterwards"
        if not kind.answers_audited:
            used = "not readable for training and prediction: read for the score afterwards"
        elif not audit.tests_checked:
            used = "not readable: the run knew no test output"
        solutions = [used, *self.reservations]
        if leaking and audit.leakage == "allow":
            shown = [f"{leaks} that {'show' if several else 'shows'} an answer"] if audit.leaks else []
            solutions = [f"trained on, as asked: {' and '.join([*shown, *made])}"]
        done = {"drop": "left out", "allow": "trained on all the same"}.get(audit.leakage, "found")
        equal = [f"{leaks} that {kind.leaking[several]}"] if audit.leaks else []
        found = f"{' and '.join([*equal, *made])} {done}"
        if not leaking:
            found = f"no {kind.trained} {kind.leaking[0]}"
            if not audit.tests_checked:
                found = "nothing could be compared"
        checked = f"{plural(audit.tests_checked, kind.output if kind.answers_audited else kind.question)} checked"
        if audit.tests_unchecked:
            checked += f", {audit.tests_unchecked} not, being unknown"
        return solutions, [found, checked, *self.reservations]

    def to_json(self) -> dict[str, object]:
        """Return numbers and hashes, "unknown" for what is not known, and all rows in words."""
        basis, scored, checkpoints = self.basis, self.scored, self.checkpoints
        audit = basis.audit if basis else None
        return {
            "checkpoints": UNKNOWN if checkpoints is None else len(checkpoints),
            "sources": UNKNOWN if checkpoints is None else list(checkpoints),
            "views_least": basis.views_least if basis else UNKNOWN,
            "views_most": basis.views_most if basis else UNKNOWN,
            "scored_hash": scored.data_hash if scored else UNKNOWN,
            "scored_version": scored.version if scored else UNKNOWN,
            "scored_outputs": scored.outputs if scored else UNKNOWN,
            "dataset_hash": (basis.dataset if basis else "") or UNKNOWN,
            "audit": {**asdict(audit), "reservations": list(self.reservations)} if audit else UNKNOWN,
            "in_words": dict(self.rows()),
        }


def scored_in(told: object) -> Scored | None:
    """Return which answers of puzzles were scored, from what `Provenance.to_json` wrote; None where it does not say so."""
    if not isinstance(told, dict):
        return None
    digest, version, outputs = (told.get(name) for name in ("scored_hash", "scored_version", "scored_outputs"))
    if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest) or not isinstance(version, str):
        return None
    return Scored(outputs, outputs, digest, show_path(version) or UNKNOWN) if is_count(outputs) else None


def format_rows(rows: Sequence[Row]) -> list[str]:
    """Return the rows as lines, the names in a column."""
    width = max(len(name) for name, _ in rows)
    return [f"{name:{width}}  {words}" for name, words in rows]
