"""The step as calls of the table's graphs: what all compiled backends share."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from torch import Tensor

from engines.graphs import Graph
from engines.models.adapter import Hoisted


class GraphBackend(ABC):
    """An `engines.backends.eager.Backend` that runs the graphs of a table."""

    def __init__(self, table: Mapping[str, Graph], name: str) -> None:
        self.name = name
        self._table = table

    def preview(self, sample: Tensor, emb: Tensor, hoisted: Hoisted) -> Tensor:
        """See `Backend`."""
        return self.run("previewer", [sample, emb, *hoisted.tensors()])[0]

    def aggregate(self, degraded: Tensor, reference: Tensor, emb: Tensor) -> list[Tensor]:
        """See `Backend`."""
        return self.run("aggregator", [degraded, reference, emb])

    def predict(
        self,
        sample: Tensor,
        emb: Tensor,
        hoisted: Hoisted,
        residuals: Sequence[Tensor] | None,
    ) -> Tensor:
        """See `Backend`."""
        given = residuals or self._table["aggregator"].zeros(sample)
        return self.run("unet", [sample, emb, *hoisted.tensors(), *given])[0]

    @abstractmethod
    def run(self, name: str, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Outputs of a graph, in memory of their own."""
