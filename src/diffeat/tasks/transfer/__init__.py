"""What is marked in one picture, found in others by dense matching: points, boxes and masks."""

from diffeat.tasks.transfer.annotation import Annotation, read_annotation
from diffeat.tasks.transfer.marked import Marked, marked_files
from diffeat.tasks.transfer.matches import TransferOptions, Transferred, transfer

__all__ = [
    "Annotation",
    "Marked",
    "TransferOptions",
    "Transferred",
    "marked_files",
    "read_annotation",
    "transfer",
]
