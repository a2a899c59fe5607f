"""Quantization-aware fine-tuning by NNCF: the model learns with its weights and activations rounded to 8 bits.

What is kept is the weights; the recipe's runtime then quantizes them as it quantizes others, and finds values
that have learnt to be rounded.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from farm import training
from farm.compression import Support, Task
from farm.datasets import Split
from farm.errors import Unsupported
from farm.precision import PRECISIONS, Tolerance

if TYPE_CHECKING:
    import torch

SUPPORT = Support(
    summary="fine-tuned with weights and activations rounded to 8 bits, for int8_static",
    tolerance=Tolerance(top1_drop=0.0, agreement=1.0, logits_error=None),
    precisions=("int8_static",),
    reasons=dict.fromkeys(PRECISIONS, "its weights are tuned for calibrated 8 bits"),
    requires=("nncf",),
)

SCHEDULE = training.Schedule(epochs=2, max_learning_rate=2e-4, autocast=False)
#: Images that the roundings' ranges begin from.
_SAMPLES = 128


def compress(model: torch.nn.Module, task: Task) -> tuple[torch.nn.Module, Mapping[str, Any]]:
    """The model with weights that have learnt to be rounded."""
    if task.train.labels is None:
        raise Unsupported("qat is fine-tuning with real labels, and this dataset has none")
    rounding = _rounding(model, task.train)
    names = set(model.state_dict())
    facts = training.train(rounding, task.train, SCHEDULE, _where(task.device))
    model.load_state_dict({name: value for name, value in rounding.state_dict().items() if name in names})
    rounded = sum(name.endswith("._num_bits") for name in rounding.state_dict())
    return model.eval(), {"fine_tuned": dict(facts), "rounded_tensors": rounded}


def _where(device: str) -> str:
    """Where to fine-tune: for a GPU NNCF compiles its rounding, with the compiler of a CUDA toolkit."""
    return device if shutil.which("nvcc") else "cpu"


def _rounding(model: torch.nn.Module, train: Split) -> Any:
    """A copy of the model that rounds."""
    import nncf
    import torch
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters

    chosen = np.random.default_rng(SCHEDULE.seed).permutation(len(train.images))[:_SAMPLES]
    batches = [torch.from_numpy(train.images[part]) for part in np.array_split(np.sort(chosen), 4) if len(part)]
    return nncf.quantize(
        model,
        nncf.Dataset(batches),
        subset_size=len(batches),
        # Its corrections would lie beside the weights and be lost with the rounding.
        advanced_parameters=AdvancedQuantizationParameters(disable_bias_correction=True),
    )
