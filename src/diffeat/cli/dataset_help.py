"""Names of datasets in the help of commands, from the registry."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand


class NamesDatasets(TyperCommand):
    """A command in whose help ``{datasets}`` and ``{pairs}`` stand for names, looked up when the help is asked for."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        from diffeat.datasets.registry import dataset_names

        for parameter in self.get_params(ctx):
            text = getattr(parameter, "help", None)
            if text:
                names = text.replace("{datasets}", dataset_names()).replace("{pairs}", dataset_names("pairs"))
                setattr(parameter, "help", names)  # noqa: B010 (arguments and options share no class that has it)
        super().format_help(ctx, formatter)
