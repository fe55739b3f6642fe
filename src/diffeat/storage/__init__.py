"""Where features rest: safetensors shards and a Parquet index, complete or absent, never half written."""

from diffeat.storage.report import VerifyReport
from diffeat.storage.rows import stamp_of
from diffeat.storage.store import FeatureStore
from diffeat.storage.upkeep import Compacted, compact, merge

__all__ = ["Compacted", "FeatureStore", "VerifyReport", "compact", "merge", "stamp_of"]
