"""What every test starts from."""

import hypothesis
import torch

torch.set_num_threads(1)  # threads that wait for each other make small tests many times slower
# A busy machine is no failure, and what failed once must fail again.
hypothesis.settings.register_profile("steady", deadline=None, derandomize=True)
hypothesis.settings.load_profile("steady")
