"""Settings of the tests of `pipeline`: one thread, because tiny tensors do not gain by more, and no deadline."""

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("no deadline", deadline=None)  # a busy machine is no failure
settings.load_profile("no deadline")
