"""What every test starts from."""

import torch

torch.set_num_threads(1)  # threads that wait for each other make small tests many times slower
