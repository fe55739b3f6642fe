"""Where features rest: safetensors shards and an index, complete or absent, never half written."""

from diffeat.storage.browse import Page
from diffeat.storage.dataset import StoredFeatures
from diffeat.storage.exports import export
from diffeat.storage.reader import Identity
from diffeat.storage.report import VerifyReport
from diffeat.storage.rows import stamp_of
from diffeat.storage.similar import Pooled, Similar
from diffeat.storage.store import FeatureStore
from diffeat.storage.upkeep import Compacted, compact, merge

__all__ = [
    "Compacted",
    "FeatureStore",
    "Identity",
    "Page",
    "Pooled",
    "Similar",
    "StoredFeatures",
    "VerifyReport",
    "compact",
    "export",
    "merge",
    "stamp_of",
]
