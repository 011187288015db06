"""From scores to promises: thresholds with a false-alarm rate, p-values, bands, decisions. Numbers in, numbers out."""

from spherood.calibration.abstention import two_thresholds
from spherood.calibration.band import Band, false_alarm_band, simultaneous
from spherood.calibration.exceedances import Expected, allowed_exceedances, expected_rate, least_held_out
from spherood.calibration.false_discovery import discoveries, least_discoveries, null_share
from spherood.calibration.groups import GroupThresholds, group_p_values, group_thresholds
from spherood.calibration.p_value import p_values
from spherood.calibration.thresholds import exceedances_or_refuse, threshold
from spherood.calibration.weighted import effective_sample_size, weighted_p_values

__all__ = [
    "Band",
    "Expected",
    "GroupThresholds",
    "allowed_exceedances",
    "discoveries",
    "effective_sample_size",
    "exceedances_or_refuse",
    "expected_rate",
    "false_alarm_band",
    "group_p_values",
    "group_thresholds",
    "least_discoveries",
    "least_held_out",
    "null_share",
    "p_values",
    "simultaneous",
    "threshold",
    "two_thresholds",
    "weighted_p_values",
]
