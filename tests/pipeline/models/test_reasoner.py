"""The config of a reasoner: what it refuses."""

import re
from dataclasses import replace

import pytest

from pipeline.models.config import ReasonerConfig

SMALL = ReasonerConfig(hidden_size=16, heads=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 18}, "hidden_size 18 must give each of 2 heads a multiple of 4"),
        ({"heads": 3}, "hidden_size 16 must give each of 3 heads a multiple of 4"),
        *(
            ({name: 0}, f"{name} must be at least 1, got 0")
            for name in ("hidden_size", "heads", "layers", "H_cycles", "L_cycles")
        ),
        *(
            ({name: -2}, f"{name} must be at least 1, got -2")
            for name in ("heads", "canvas_side", "vocabulary", "inner_multiple")
        ),
        ({"expansion": 0.0}, "expansion must be positive, got 0.0"),
        ({"mixing": "mixer"}, "a mixer has no positions: positions must be none, got '1d'"),
        ({"convolution": 2}, "convolution must be 0 or, on the grid, odd, got 2"),
        ({"convolution": -1}, "convolution must be 0 or, on the grid, odd, got -1"),
        ({"convolution": -1, "convolution_axes": "1d"}, "convolution must be 0 or, on the grid, odd, got -1"),
    ],
)
def test_settings_that_make_no_network_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        replace(SMALL, **change)
