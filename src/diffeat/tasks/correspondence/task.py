"""Correspondence as a task with options."""

from __future__ import annotations

from pydantic import Field, field_validator

from diffeat.ambient import neutral
from diffeat.datasets.pairs import PairDataset
from diffeat.datasets.registry import DATASETS
from diffeat.errors import InvalidValueError
from diffeat.evaluation.features import Store
from diffeat.evaluation.task import Task, TaskOptions
from diffeat.features import FeatureMap, Source
from diffeat.progress import Progress, silent
from diffeat.tasks.correspondence.evaluate import Evaluation, evaluate
from diffeat.tasks.correspondence.protocol import AVERAGES, PROTOCOLS, Protocol, get_protocol


class CorrespondenceOptions(TaskOptions):
    """How pairs are matched and scored."""

    protocol: str | None = Field(
        default=None,
        description=f"How pairs are matched and scored: {', '.join(PROTOCOLS)}. The dataset's usual one if not given.",
    )
    threshold: tuple[float, ...] = Field(default=(), description="Replaces the protocol's thresholds α; repeatable.")
    average: str | None = Field(default=None, description=f"Replaces the protocol's average: {', '.join(AVERAGES)}.")
    flip: bool = Field(default=False, description="Also match from the mirrored source, and take the better.")
    joint_pca: int | None = Field(
        default=None, ge=1, description="Project each pair's features on so many joint principal components."
    )

    @field_validator("protocol")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        return name if name is None else get_protocol(name).name

    def model_post_init(self, _: object) -> None:
        self.protocol_for("spair")  # refuses thresholds and averages before anything is read
        if self.flip and self.joint_pca:
            raise InvalidValueError("Mirrored sources and a joint PCA cannot be combined; leave one of them out.")

    def protocol_for(self, usual: str) -> Protocol:
        """The protocol, with what replaces parts of it.

        Args:
            usual: Name of the dataset's own.
        """
        protocol = get_protocol(self.protocol or usual)
        if self.threshold:
            protocol = protocol.replace(alphas=self.threshold)
        return protocol.replace(average=self.average) if self.average else protocol


@neutral()
def evaluate_pairs(
    data: PairDataset,
    source: Source[FeatureMap],
    options: CorrespondenceOptions | None = None,
    *,
    store: Store = None,
    progress: Progress = silent,
) -> Evaluation:
    """:func:`~diffeat.tasks.correspondence.evaluate.evaluate` with options in place of a protocol."""
    options = options or CorrespondenceOptions()
    usual = DATASETS[data.name].protocol if data.name in DATASETS else "spair"
    return evaluate(
        data,
        source,
        options.protocol_for(usual),
        prompts=options.prompts,
        flip=options.flip,
        joint_pca=options.joint_pca,
        store=store,
        progress=progress,
    )


TASK = Task("correspondence", "pairs", CorrespondenceOptions, evaluate_pairs)
