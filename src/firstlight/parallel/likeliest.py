"""The likeliest next tokens, from the evaluation pass of an engine: so in every layout that evaluates.

Shapes: b rows of a micro-batch, s positions of this rank, d model width, v vocabulary, n rows that are asked about.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor

from firstlight.models.decoder import Decoder, TokenLoss, TokenSums


@dataclass(kw_only=True)
class Likeliest:
    """Stands in for the loss of the next token, and notes the `count` likeliest ones at the one position of a row that
    the mask counts. A rank that has not that position notes nothing of the row."""

    loss: TokenLoss
    count: int
    found: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Scores and ids of tokens by row, the rows of all micro-batches counted on; the likeliest first."""
    _num_rows: int = 0

    def __call__(self, hidden_bsd: Tensor, weight_vd: Tensor, _labels_bs: Tensor, mask_bs: Tensor) -> TokenSums:
        """See TokenLoss. The loss is none."""
        scores_nv = self.scores(hidden_bsd, weight_vd, mask_bs)
        scores, ids = (top.cpu() for top in scores_nv.topk(min(self.count, scores_nv.shape[1])))
        rows = (mask_bs != 0).any(1).nonzero().flatten().tolist()
        for place, row in enumerate(rows):
            self.found[self._num_rows + row] = scores[place], ids[place]
        self._num_rows += mask_bs.shape[0]
        none = hidden_bsd.new_zeros(())
        return TokenSums(none, none)

    def scores(self, hidden_bsd: Tensor, weight_vd: Tensor, mask_bs: Tensor) -> Tensor:
        """See TokenLoss."""
        return self.loss.scores(hidden_bsd, weight_vd, mask_bs)


@contextmanager
def likeliest_noted(stages: Sequence[Decoder], count: int) -> Iterator[Mapping[int, tuple[Tensor, Tensor]]]:
    """What the evaluation inside of the block finds on this rank, by row: scores and ids of the `count` likeliest."""
    lasts = [stage for stage in stages if stage.stage.is_last]
    if not lasts:
        yield {}
        return
    (last,) = lasts
    loss = last.token_loss
    noted = Likeliest(loss=loss, count=count)
    last.token_loss = noted
    try:
        yield noted.found
    finally:
        last.token_loss = loss
