"""Known failures at Kaggle: recognises them in the output of its client and says what to do next, in one line."""

import re

from submission.settings import KaggleSettings

_CAUSES = (
    (r"Authentication required|\b401\b|[Uu]nauthori[sz]ed|[Uu]nauthenticated|Could not find kaggle\.json|Missing username",
     "not authenticated: save a token (kaggle.com, Settings, API) to ~/.kaggle/access_token or set KAGGLE_API_TOKEN"),
    (r"(?i)accept\w* .*\brules|\brules\b.*accept|not (yet )?(accepted|joined)|must (join|accept)",
     "join the competition and accept its rules at https://www.kaggle.com/competitions/{competition}/rules, then try again"),
    (r"(?i)phone|verif(y|ied) your (account|identity)",
     "verify your phone number at https://www.kaggle.com/settings, which Kaggle requires for GPUs, then try again"),
    (r"(?i)(gpu|accelerator|tpu|session)[^\n]*(quota|limit|maximum)|(quota|limit|maximum)[^\n]*(gpu|accelerator|tpu|session)",
     "the GPU quota is used up: wait until it is renewed, end other sessions, or set accelerator = \"none\" in the settings"),
    (r"(?i)(daily|today|per day|maximum number of)[^\n]*submission|submission[^\n]*(daily|today|per day|limit)",
     "no submission is left today; the count starts anew at midnight UTC"),
    (r"(?i)already (in use|taken)[^\n]*notebook",
     "a notebook of this title exists already: choose another notebook_title in the settings and make the folder anew"),
    (r"(?i)already (in use|taken)",
     "a dataset of this name exists already: choose another code_dataset in the settings and make the folder anew"),
    (r"(?i)not allowed to create[^\n]*owner",
     "user = \"{user}\" in the settings is not the owner of your token"),
    (r"Kernel push error: Notebook not found",
     "a notebook with this id and another title is there: choose another notebook_title in the settings"),
    (r"(?i)does not resolve to the specified id",
     "the notebook's title does not lead to its id: make the folder anew from the settings, and do not edit its metadata"),
    (r"(?i)no (file|output)|not (found|produce)[^\n]*submission\.json|submission\.json[^\n]*(not|missing)",
     "this version of the notebook left no submission.json: look at its log with `kaggle kernels output {notebook}`"),
    (r"(?i)still running|not (finished|completed|complete)\b|in progress",
     "this version of the notebook has not finished: wait with `python -m pipeline kaggle status --wait`"),
    (r"\b404\b|(?i:not found|could not find)",
     "Kaggle does not know the competition {competition}, or notebook {notebook} or that version of it; check the settings"),
    (r"\b403\b|(?i:forbidden|permission)",
     "Kaggle denies it: is the token that of {user}, are the rules of {competition} accepted?"),
    (r"\b429\b|(?i:too many requests)", "too many requests: wait some minutes, then try again"),
    (r"\b5\d\d (Server )?Error|(?i:internal server error|bad gateway|service unavailable|problem on Kaggle's side)",
     "Kaggle has a problem of its own: try again in some minutes"),
    (r"Connection(Error| refused| reset)|NameResolution|Max retries|Failed to establish|Temporary failure in name|timed out",
     "Kaggle cannot be reached: check the network, then try again"),
    (r"No module named '?kaggle", "the kaggle client is not installed: pip install -r requirements.txt"),
)  # fmt: skip
"""(pattern in the output of the client, what to do), the most specific first."""


_NOISE = re.compile(
    r"%\||^(Upload successful|Starting|Warning|If this is a competition|You don't have access|To search for|You have been)"
    r"|^\d+ submissions remaining|^  "
)
"""Lines of progress and of general advice, which say nothing about a failure."""

LOST = re.compile(r"\b5\d\d (Server )?Error|Connection|Max retries|timed out|Kaggle's side|(?i:internal server error)")
"""Matches the output of the client when a request may have arrived and its answer was lost."""


class KaggleError(Exception):
    """A failure at Kaggle: one line that says what failed and what to do next."""


def explain(what: str, text: str, settings: KaggleSettings) -> KaggleError:
    """Return the error for the client's output `text` about `what`: the known cause, and Kaggle's own words.

    `text` must hold no token.
    """
    values = {"user": settings.user, "competition": settings.competition, "notebook": settings.notebook}
    lines = [line.strip() for line in text.splitlines() if line.strip() and not _NOISE.search(line)]
    about = text if "Authentication required" in text else "\n".join(lines)
    said = ([line for line in lines if "error" in line.lower()] or lines or ["nothing"])[-1][:300]
    for pattern, advice in _CAUSES:
        if re.search(pattern, about):
            own_words = "" if "Authentication required" in text else f" (Kaggle says: {said})"
            return KaggleError(f"{what}: {advice.format(**values)}{own_words}")
    return KaggleError(f"{what}: Kaggle did not confirm it; it says: {said}")
