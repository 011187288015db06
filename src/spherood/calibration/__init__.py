"""From scores to promises: thresholds with a false-alarm rate, and p-values. Numbers in, numbers out."""

from spherood.calibration.exceedances import allowed_exceedances, least_held_out
from spherood.calibration.p_value import p_values
from spherood.calibration.thresholds import exceedances_or_refuse, threshold

__all__ = ["allowed_exceedances", "exceedances_or_refuse", "least_held_out", "p_values", "threshold"]
