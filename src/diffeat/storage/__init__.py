"""Where features rest: safetensors shards and a Parquet index, complete or absent, never half written."""

from diffeat.storage.report import VerifyReport
from diffeat.storage.store import FeatureStore

__all__ = ["FeatureStore", "VerifyReport"]
