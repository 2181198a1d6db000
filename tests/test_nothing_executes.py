"""Nothing that comes from outside is executed: no pickle is loaded without care, nothing is evaluated, no shell is asked.

Nor does anything depend on the wall clock, which may jump. Read from the sources of the program with `ast`, so that it holds
for what no test runs.
"""

import ast

from tests.test_layers import modules

UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "shelve", "marshal"}
FORBIDDEN = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"),
    *("yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "yaml.unsafe_load_all", "joblib.load", "runpy.run_path"),
    *("runpy.run_module", "os.execl", "os.spawnl", "pty.spawn", "code.interact", "numpy.fromregex", "torch.jit.load"),
    *("torch.hub.load", "importlib.import_module"),
}
WALL_CLOCK = {
    *("time.time", "time.time_ns", "time.localtime", "time.gmtime", "datetime.date.today"),
    *(f"datetime.datetime.{name}" for name in ("now", "utcnow", "today")),
}
SHELLS = {"subprocess.run", "subprocess.Popen", "subprocess.call", "subprocess.check_call", "subprocess.check_output"}


def dotted(node: ast.AST, names: dict[str, str]) -> str:
    """Return the full name of what is called, by the imports of its module; nothing where it has none."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        head = dotted(node.value, names)
        return f"{head}.{node.attr}" if head else ""
    return ""


def imported(tree: ast.AST) -> dict[str, str]:
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.split(".")[0]] = alias.name if alias.asname else alias.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {(alias.asname or alias.name): f"{node.module}.{alias.name}" for alias in node.names}
    return names


def faults(tree: ast.Module) -> list[str]:
    """Return what in a module may execute what it reads, or reads the wall clock."""
    names, found = imported(tree), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            name = dotted(node, names)
            if name.split(".")[0] in UNPICKLERS or name in WALL_CLOCK:
                found.append(name)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in UNPICKLERS:
            found.append(f"from {node.module}")
        if isinstance(node, ast.Call):
            found += faults_of_call(node, dotted(node.func, names))
    return found


def faults_of_call(call: ast.Call, name: str) -> list[str]:
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    first = call.args[0] if call.args else None
    loader = ast.unparse(call.args[1]) if len(call.args) > 1 else ""
    wrong = {
        "options that are not seen here": None in keywords and name in SHELLS | {"torch.load", "numpy.load"},
        "executes what it is given": name in FORBIDDEN,
        "unpickles": name == "torch.load" and not is_constant(keywords.get("weights_only"), True),
        "may unpickle": name == "numpy.load" and not is_constant(keywords.get("allow_pickle"), False),
        "makes objects": name == "yaml.load" and loader != "_PlainLoader",
        "asks a shell": name in SHELLS and "shell" in keywords and not is_constant(keywords["shell"], False),
        "runs one text": name in SHELLS and isinstance(first, ast.Constant | ast.JoinedStr),
    }
    return [f"{name} {what}" for what, holds in wrong.items() if holds]


def is_constant(node: ast.AST | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def test_no_module_executes_what_it_reads_and_only_the_date_of_a_run_is_of_the_wall_clock() -> None:
    found = {name: faults(tree) for name, tree in modules().items()}
    assert len(found) > 100
    assert {name: each for name, each in found.items() if each} == {"pipeline.jobs.run_record": ["datetime.datetime.now"]}


HARMFUL = """
import pickle; pickle.load(f)
from pickle import loads
import torch; torch.load(f)
import torch; torch.load(f, weights_only=False)
import torch as t; t.load(f, weights_only=w)
import torch; torch.load(f, **options)
from torch import load; load(f)
eval(x)
exec(x)
import os; os.system(x)
import numpy as np; np.load(f)
import numpy as np; np.load(f, allow_pickle=True)
import yaml; yaml.load(f, yaml.Loader)
import subprocess; subprocess.run(x, shell=True)
import subprocess as s; s.Popen(f'ls {x}')
from subprocess import run; run('ls')
import joblib; joblib.load(f)
import time; time.time()
from datetime import datetime as d; d.now()
"""
HARMLESS = """
import torch; torch.load(f, weights_only=True)
import numpy as np; np.load(f, allow_pickle=False)
network.eval()
import re; re.compile(x)
import subprocess; subprocess.run(['ls', x])
import time; time.monotonic()
"""


def test_what_would_execute_is_found_and_what_executes_nothing_is_left_alone() -> None:
    assert [text for text in HARMFUL.strip().splitlines() if not faults(ast.parse(text))] == []
    assert [text for text in HARMLESS.strip().splitlines() if faults(ast.parse(text))] == []
