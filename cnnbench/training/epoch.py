"""The division of an epoch into batches and steps."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Epoch:
    """How an epoch's images are divided into batches, and batches into steps."""

    images: int
    """Training images."""
    batch_size: int
    """Images in a batch; the last one of an epoch may be smaller."""
    accumulate: int
    """Batches whose gradients make one step; the last step of an epoch may have fewer."""
    reduction: str = "mean"
    """`mean` or `sum`, as in `schema.Update`."""
    summed: bool = False
    """Whether the loss is summed over images, as with `loss.reduction=sum`."""

    @property
    def batches(self) -> int:
        """Batches in an epoch."""
        return -(-self.images // self.batch_size)

    @property
    def steps(self) -> int:
        """Steps in an epoch."""
        return -(-self.batches // self.accumulate)

    def size(self, index: int) -> int:
        """Images of batch `index`."""
        return min(self.batch_size, self.images - index * self.batch_size)

    def weight(self, index: int, size: int) -> float:
        """The factor of the mean loss of `size` images of batch `index` in the gradient of its step.

        With `mean` every image of the step counts the same, so that the step is that of one large batch; with `sum`
        full batches count 1 each (document 1: the sum of the g_j), smaller ones less. If the loss is summed, each image
        counts 1.
        """
        if self.summed:
            return size
        if self.reduction == "sum":
            return size / self.batch_size
        together = self.batch_size * self.accumulate
        earlier = index // self.accumulate * together
        return size / min(together, self.images - earlier)

    def is_first(self, index: int) -> bool:
        """Whether a step begins with batch `index`."""
        return index % self.accumulate == 0

    def is_last(self, index: int) -> bool:
        """Whether a step ends with batch `index`."""
        return (index + 1) % self.accumulate == 0 or index + 1 == self.batches
