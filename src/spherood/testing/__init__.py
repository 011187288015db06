"""One line that proves an own loss or score keeps the contract: ``so.testing.check_loss(Mine)`` in a test of yours."""

from spherood.testing.detector import check_detector
from spherood.testing.loss import check_loss

__all__ = ["check_detector", "check_loss"]
