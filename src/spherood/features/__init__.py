"""The feature store."""

from spherood.features.store import FeatureStore, Stored

__all__ = ["FeatureStore", "Stored"]
