"""Where features rest: safetensors shards and a Parquet index, complete or absent, never half written."""

from diffeat.storage.feature_map import FeatureMap
from diffeat.storage.report import VerifyReport
from diffeat.storage.store import FeatureStore

__all__ = ["FeatureMap", "FeatureStore", "VerifyReport"]
