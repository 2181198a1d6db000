"""The time of a run is split between training and prediction by what this machine measured."""

from pathlib import Path

import pytest

from pipeline.jobs.time_split import Speed, split_time
from pipeline.system.time_limit import Budget
from tests.pipeline.tiny import tiny_config, tiny_dataset
from tests.pipeline.tinyrun import write_weights

SPEED = Speed(tokens_per_second=1000.0, view_tokens=10, learned_share=0.0)


@pytest.mark.parametrize(
    ("tokens", "steps", "packs", "told"),
    [
        (2000, 0, 1800, ["a step would take 2.0 s here; packs of "]),  # 50 of them in 90 s
        (2000, 40, 2000, []),
        (8000, 4, 8000, []),
        (1000, 100, 1000, []),  # nearly
        (1000, 200, 1000, ["of the 200 steps of this recipe about 89 "]),
        (4000, 200, 1800, ["a step would take 4.0 s here; packs of ", "of the 200 steps of this recipe about 50 "]),
    ],
)
def test_packs_are_cut_only_where_the_steps_of_a_run_do_not_fit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, tokens: int, steps: int, packs: int, told: list[str]
) -> None:
    config = tiny_config("train.packs=1", f"train.pack_tokens={tokens}", f"train.steps={steps}", "predict.time_share=0.1")
    given, seconds = split_time(config, Budget.lasting(90.0 + 2.0 + 0.015), tmp_path, SPEED, 1, 1)
    assert seconds == pytest.approx(90, abs=0.5)
    assert given.train.pack_tokens == pytest.approx(packs, rel=0.01)
    assert [message[: len(start)] for message, start in zip(caplog.messages, told, strict=True)] == told


def test_a_run_that_has_trained_predicts_at_once_where_no_further_step_fits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny_config("train.packs=1", "train.pack_tokens=60000")
    for step, seconds in ((0, 18.0), (3, 0.0)):
        write_weights(tmp_path / "checkpoints" / f"step-{step:08d}", tiny_dataset(), config)
        given, training = split_time(config, Budget.lasting(20.0), tmp_path, SPEED, 1, 1)
        assert training == pytest.approx(seconds, abs=0.1)
        assert (given.train.pack_tokens < 60000) == (step == 0)
    assert "no step fits into the time for training; predictions follow at once" in caplog.messages
