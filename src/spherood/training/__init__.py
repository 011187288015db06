"""Recipe, schedule, loop, checkpoint."""

from spherood.training.checkpoint import Checkpoint
from spherood.training.engine import train
from spherood.training.head import train_head
from spherood.training.recipe import Recipe, load_recipe

__all__ = ["Checkpoint", "Recipe", "load_recipe", "train", "train_head"]
