"""Training of what joins features: one loop (:mod:`~diffeat.training.loop`), and what is trained in it.

:func:`train_hyperfeatures` trains the aggregation network of Diffusion Hyperfeatures, :func:`train_convolution` the
convolution of Generic Diffusion Feature; :func:`train_on_pairs` and :func:`train_on_labels` train amalgamations,
:func:`train_dense` heads for segmentation, depth and normals; :func:`train_clean` a denoiser whose features need no
noise. A training that was stopped goes on with the same call.
"""

from diffeat.training.amalgamated import Amalgamated, AmalgamateSettings
from diffeat.training.amalgamation import train_on_labels, train_on_pairs
from diffeat.training.clean import Cleaned, CleanSettings, clean_recipe, train_clean
from diffeat.training.convolution import ConvolutionSettings, Convolved, train_convolution
from diffeat.training.heads.train import Trained, train_dense
from diffeat.training.hyperfeatures.run import Outcome, Storage, TrainingData, train_hyperfeatures
from diffeat.training.hyperfeatures.train import DescribedPair, PairLoss, TrainSettings
from diffeat.training.loop import Loop, Schedule

__all__ = [
    "AmalgamateSettings",
    "Amalgamated",
    "CleanSettings",
    "Cleaned",
    "ConvolutionSettings",
    "Convolved",
    "DescribedPair",
    "Loop",
    "Outcome",
    "PairLoss",
    "Schedule",
    "Storage",
    "TrainSettings",
    "Trained",
    "TrainingData",
    "clean_recipe",
    "train_clean",
    "train_convolution",
    "train_dense",
    "train_hyperfeatures",
    "train_on_labels",
    "train_on_pairs",
]
