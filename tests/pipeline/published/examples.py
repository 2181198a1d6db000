"""The files of a small published training, made from the reference vectors in tests/golden."""

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import safe_open
from torch import Tensor

from pipeline.published.checkpoint import import_checkpoint
from pipeline.weights.files import Weights, load_weights
from tests.pipeline.tiny import refusal

ATTENTION, MIXER, HRM, URM = "trm_attention", "trm_mixer", "hrm", "urm"
PREFIX = "_orig_mod.model."
NAMES = ["<blank>", "b", "b|||t3|||0463582197", "a|||t1|||0123456798", "a", "b|||t0|||0213456789", "a|||t6|||0689137425"]
VIEWS = [("a", "0.123456789", 4), ("a", "1.123456798", 3), ("a", "6.689137425", 6)]
VIEWS += [("b", "0.123456789", 1), ("b", "3.463582197", 2), ("b", "0.213456789", 5)]
"""Tasks and transforms of NAMES in our order, with their published rows."""
TRAINING = {
    "lr": 2e-4, "weight_decay": 0.2, "puzzle_emb_lr": 0.03, "puzzle_emb_weight_decay": 0.4, "beta1": 0.8, "beta2": 0.96,
    "lr_warmup_steps": 700, "ema": True, "ema_rate": 0.99, "global_batch_size": 768, "epochs": 10, "data_paths": ["data/arc"],
}  # fmt: skip


def read_golden(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with safe_open(str(Path(__file__).parents[2] / "golden" / f"{name}.safetensors"), "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, json.loads(file.metadata()["config"])  # noqa: SIM118


class Published:
    """The three files of a published training, to be changed before they are written."""

    def __init__(self, folder: Path, name: str = ATTENTION, prefix: str = PREFIX) -> None:
        tensors, arch = read_golden(name)
        for key in ("vocab_size", "num_puzzle_identifiers", *(["seq_len"] if name == MIXER else [])):
            del arch[key]  # training takes these from its dataset
        arch = {"name": "trm@TinyRecursiveReasoningModel_ACTV1", "loss": {"loss_type": "stablemax_cross_entropy"}} | arch
        self.state: dict[Any, Any] = {
            prefix + key.removeprefix("param."): tensor for key, tensor in tensors.items() if key.startswith("param.")
        }
        self.config: Any = {"arch": arch, **TRAINING}
        self.names: Any = [each.replace("|||", "_") for each in NAMES] if name == HRM else list(NAMES)
        self.out = folder / "out" / "deep"
        self.checkpoint, self.yaml, self.identifiers = folder / "step_1", folder / "all_config.yaml", folder / "ids.json"

    def write(self) -> None:
        torch.save(self.state, self.checkpoint)
        self.yaml.write_text(yaml.dump(self.config))
        self.identifiers.write_text(json.dumps(self.names))

    def run(self) -> str:
        """Import the files as they are on disk."""
        return import_checkpoint(self.checkpoint, self.yaml, self.identifiers, self.out)

    def imported(self) -> Weights:
        self.write()
        self.run()
        return load_weights(self.out / "weights.safetensors")

    def refused(self, path: Path) -> str:
        """The line that refuses the files on disk and names `path`; nothing is written."""
        message = refusal(self.run)
        assert message.startswith(f"{path}: ")
        assert not self.out.exists()
        return message
