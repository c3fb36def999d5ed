"""Prices of devices, and the budget: `[prices]` of the project file."""

from pydantic import Field

from alchemist_core.config import Section


class Prices(Section):
    """Prices per hour and the daily budget, all in one currency."""

    gpu_hour: float | None = Field(None, ge=0, description="Price of one GPU hour; unset: costs are unknown")
    core_hour: float | None = Field(None, ge=0, description="Price of one CPU core hour; unset: costs are unknown")
    budget_per_day: float | None = Field(None, ge=0, description="Budget per day; unset: no alert about costs")
    currency: str = Field(
        "", max_length=12, description="Currency of all prices, such as EUR; it is printed after costs"
    )

    def of_device(self, device: str, *, n_devices: int, n_cores: int) -> float | None:
        """Return the price of an hour on GPUs, or on the cores of a `cpu`; None without a price.

        >>> Prices(core_hour=0.1).of_device("cpu", n_devices=1, n_cores=8)
        0.8
        """
        price, n = (self.core_hour, n_cores) if device == "cpu" else (self.gpu_hour, n_devices)
        return None if price is None else price * n


def cost_at(seconds: float, price_per_hour: float) -> float:
    """Return the cost of working time; the run ledger and the cost plans use this formula.

    >>> cost_at(1800.0, price_per_hour=4.0)
    2.0
    """
    return seconds / 3600 * price_per_hour
