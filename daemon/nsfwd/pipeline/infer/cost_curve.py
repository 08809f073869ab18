"""The cost of a batch as a line over its size, fitted while batches are scored."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class CostCurve:
    """The cost of a batch: the line ``seconds = a + b * size`` of least squares over all batches."""

    count: int = 0
    sizes: float = 0.0
    seconds: float = 0.0
    squares: float = 0.0
    products: float = 0.0

    def add(self, size: int, seconds: float) -> None:
        """One batch of ``size`` images took ``seconds``."""
        self.count += 1
        self.sizes += size
        self.seconds += seconds
        self.squares += size * size
        self.products += size * seconds

    def fit(self) -> tuple[float, float] | None:
        """Return a and b, both in seconds; None until batches of two sizes were seen."""
        spread = self.count * self.squares - self.sizes**2
        if spread <= 0:
            return None
        slope = (self.count * self.products - self.sizes * self.seconds) / spread
        return (self.seconds - slope * self.sizes) / self.count, slope
