"""The raw batch on its way to several models: nobody writes into it, and each model prepares its own copy."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmengine.model import BaseDataPreprocessor
from torch import Tensor


@dataclass(frozen=True)
class RawBatch:
    """What the data loader made. An object, not a dict, so that DDP hands it over as it is.

    Attributes:
        data: Usually ``dict(inputs=..., data_samples=[...])``.
        training: What a preprocessor is told.
    """

    data: Any
    training: bool


class RawBatchPreprocessor(BaseDataPreprocessor):
    """Leaves the batch alone: MMEngine's loops preprocess before ``forward``, but here every model does that itself."""

    def forward(self, data: Any, training: bool = False) -> dict[str, Any]:
        """Wrap the batch as keyword arguments of ``DistillModel.forward``."""
        return {"inputs": RawBatch(data, training)}


def data_samples(data: Any) -> Any:
    """The samples of a preprocessed batch, or None."""
    if isinstance(data, Mapping):
        return data.get("data_samples")
    return data[1] if isinstance(data, list | tuple) and len(data) > 1 else None


def batch_size(data: Any) -> int:
    """Samples in a preprocessed batch; -1 where it does not say."""
    samples = data_samples(data)
    return len(samples) if hasattr(samples, "__len__") else -1


def input_size(data: Any) -> tuple[int, int] | None:
    """(height, width) of the padded image batch, None where there is no image."""
    samples = data_samples(data)
    if isinstance(samples, list | tuple) and samples:
        size = getattr(samples[0], "metainfo", {}).get("batch_input_shape")
        if size is not None:
            return int(size[0]), int(size[1])
    inputs = data.get("inputs") if isinstance(data, Mapping) else data[0]
    if isinstance(inputs, Tensor) and inputs.ndim == 4:
        return int(inputs.shape[2]), int(inputs.shape[3])
    return None
