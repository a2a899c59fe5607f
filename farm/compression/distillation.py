"""Knowledge distillation: a thinner student of the same architecture learns the teacher's answers.

The student begins with the teacher's most important channels and is trained on softened logits: Hinton et al.,
"Distilling the Knowledge in a Neural Network", 2015. No labels are needed for that; where there are real ones,
they take part.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from farm import training
from farm.compression import Support, Task, _channels
from farm.errors import BadInput
from farm.precision import Tolerance
from farm.recipe import Share

if TYPE_CHECKING:
    import torch

SUPPORT = Support(
    summary="a thinner student with at most this share of the parameters, trained on the model's answers",
    tolerance=Tolerance(top1_drop=0.03, agreement=0.9, logits_error=None),
    share=Share(low=0.05, high=0.9, default=0.5, of="the share of the parameters that the student may have"),
    requires=("torch_pruning",),
)

SCHEDULE = training.Schedule(epochs=4, max_learning_rate=1e-3)
#: Softens both sides' answers, so that the teacher's second choices count.
TEMPERATURE = 2.0
#: Weight of the real labels beside the teacher's answers.
LABELS = 0.3
#: Halvings of the interval in which the student's width is looked for.
_SEARCH = 7


def compress(model: torch.nn.Module, task: Task) -> tuple[torch.nn.Module, Mapping[str, Any]]:
    """The student, trained."""
    import torch
    from torch.nn import functional

    assert task.share is not None
    student, removed = _student(model, task.image_size, task.share)
    teacher = copy.deepcopy(model).to(device=task.device, memory_format=torch.channels_last).eval()

    def loss_of(logits: torch.Tensor, images: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        with torch.no_grad():
            wanted = functional.log_softmax(teacher(images).float() / TEMPERATURE, dim=1)
        given = functional.log_softmax(logits.float() / TEMPERATURE, dim=1)
        taught = functional.kl_div(given, wanted, reduction="batchmean", log_target=True) * TEMPERATURE**2
        if labels is None:
            return taught
        return (1 - LABELS) * taught + LABELS * training.to_labels(logits, images, labels)

    facts = training.train(student, task.train, SCHEDULE, task.device, loss_of)
    allowed = int(task.share * sum(parameter.numel() for parameter in model.parameters()))
    return student, {
        "distilled": {**facts, "temperature": TEMPERATURE},
        "channels_removed_share": removed,
        "parameters_allowed": allowed,
    }


def _student(model: torch.nn.Module, image_size: int, share: float) -> tuple[torch.nn.Module, float]:
    """The widest thinner model that has at most this share of the parameters, and what was removed for it."""
    wanted = share * sum(parameter.numel() for parameter in model.parameters())
    low, high, found = 0.0, 0.95, None
    for _ in range(_SEARCH):
        removed = (low + high) / 2
        student = copy.deepcopy(model)
        _channels.remove(student, image_size, removed)
        if sum(parameter.numel() for parameter in student.parameters()) <= wanted:
            found, high = (student, removed), removed
        else:
            low = removed
    if found is None:
        raise BadInput(
            f"distillation({share:g}): this model cannot be made so thin; its smallest student has more than "
            f"{wanted:,.0f} parameters. Take a larger share, such as distillation(0.5)."
        )
    return found
