"""Datasets: a reader for each layout, a card by which :func:`open_dataset` finds it, and the toy world.

What a reader gives is a sequence of samples with ``name``, ``split`` and ``notes``; ``limited(n)`` takes some of them.
"""

from diffeat.datasets.ade20k import read_ade20k
from diffeat.datasets.ap10k import read_ap10k
from diffeat.datasets.camvid import read_camvid
from diffeat.datasets.card import DatasetCard
from diffeat.datasets.checking import Findings, check_samples
from diffeat.datasets.cifar import read_cifar10
from diffeat.datasets.cityscapes import read_cityscapes
from diffeat.datasets.class_folders import read_class_folders
from diffeat.datasets.coco_stuff import read_coco_stuff
from diffeat.datasets.coding import Coding
from diffeat.datasets.csv_pairs import read_csv_pairs
from diffeat.datasets.cub import read_cub
from diffeat.datasets.davis import Video, VideoDataset, read_davis, write_toyworld_videos
from diffeat.datasets.geometric import read_motorcycle, read_opencv_pairs
from diffeat.datasets.hpatches import PlanarDataset, PlanarPair, read_hpatches, read_hpatches_points
from diffeat.datasets.label_scarce import read_label_scarce
from diffeat.datasets.labelled import ClassDataset, ClassSample, MaskDataset, MaskSample
from diffeat.datasets.measured import TargetDataset, TargetSample
from diffeat.datasets.nyuv2 import read_nyuv2
from diffeat.datasets.own_folder import read_folder, read_folder_targets
from diffeat.datasets.pairs import PairDataset, PointPair
from diffeat.datasets.pascal import read_pascal_context, read_voc
from diffeat.datasets.pf_pascal import read_pf_pascal
from diffeat.datasets.registry import DATASETS, get_card, open_dataset
from diffeat.datasets.samples import write_labelled_samples, write_samples
from diffeat.datasets.spair import read_pair_list, read_spair, read_spair_u
from diffeat.datasets.toyworld_labels import read_toyworld_classes, read_toyworld_parts
from diffeat.datasets.toyworld_spair import read_toyworld_pairs, write_toyworld_pairs
from diffeat.datasets.toyworld_surfaces import read_toyworld_surfaces

__all__ = [
    "DATASETS",
    "ClassDataset",
    "ClassSample",
    "Coding",
    "DatasetCard",
    "Findings",
    "MaskDataset",
    "MaskSample",
    "PairDataset",
    "PlanarDataset",
    "PlanarPair",
    "PointPair",
    "TargetDataset",
    "TargetSample",
    "Video",
    "VideoDataset",
    "check_samples",
    "get_card",
    "open_dataset",
    "read_ade20k",
    "read_ap10k",
    "read_camvid",
    "read_cifar10",
    "read_cityscapes",
    "read_class_folders",
    "read_coco_stuff",
    "read_csv_pairs",
    "read_cub",
    "read_davis",
    "read_folder",
    "read_folder_targets",
    "read_hpatches",
    "read_hpatches_points",
    "read_label_scarce",
    "read_motorcycle",
    "read_nyuv2",
    "read_opencv_pairs",
    "read_pair_list",
    "read_pascal_context",
    "read_pf_pascal",
    "read_spair",
    "read_spair_u",
    "read_toyworld_classes",
    "read_toyworld_pairs",
    "read_toyworld_parts",
    "read_toyworld_surfaces",
    "read_voc",
    "write_labelled_samples",
    "write_samples",
    "write_toyworld_pairs",
    "write_toyworld_videos",
]
