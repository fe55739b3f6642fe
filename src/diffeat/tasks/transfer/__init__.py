"""What is marked in one picture, found in others by dense matching: points, boxes and masks."""

from diffeat.tasks.transfer.annotation import Annotation, read_annotation
from diffeat.tasks.transfer.matches import TransferOptions, Transferred, transfer

__all__ = ["Annotation", "TransferOptions", "Transferred", "read_annotation", "transfer"]
