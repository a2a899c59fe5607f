"""The build phase: everything a job needs that outlives it, made once and cached by content.

Up to four artifacts, each in need of one before: the weights (trained where there are real labels), the
fp32 baseline's logits on the test part (what the accuracy pass compares with), the weights that the recipe's
compression makes of the first (pruned, distilled, fine-tuned), and what its runtime loads (traced, compiled,
exported). Asking what is missing imports no torch.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from farm import (
    allocator,
    catalogue,
    checkpoint,
    compression,
    datasets,
    devices,
    environment,
    models,
    requirement,
    runtimes,
    training,
    weights,
)
from farm.artifacts import Artifact, ArtifactCache, key_of
from farm.datasets import Split
from farm.errors import BadInput, Unsupported, memory_errors
from farm.measurement import Environment
from farm.passes import accuracy
from farm.recipe import DEFAULTS
from farm.runtimes import Workload
from farm.settings import Settings
from farm.spec import JobSpec

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

LOGITS = "logits.npy"
REFERENCE_BATCH = 32
SEED = 0
#: Training images that a quantization is calibrated with.
CALIBRATION_SAMPLES = 128

#: Packages whose version changes what an artifact holds.
_MAKERS = (
    "torch",
    "torchvision",
    "torch-pruning",
    "torchao",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "openvino",
    "nncf",
    "tensorrt",
)


@dataclass(frozen=True, kw_only=True)
class Materials:
    """All that a measurement loads."""

    weights: Artifact
    reference: Artifact
    #: The weights that the recipe's compression made; None without one.
    compressed: Artifact | None
    #: None for a runtime that has nothing to build.
    artifact: Artifact | None
    workload: Workload

    @property
    def model_size_bytes(self) -> int:
        """Size of all files that running this recipe takes."""
        return (self.artifact or self.compressed or self.weights).size_bytes

    @property
    def built(self) -> tuple[Artifact, ...]:
        """All of them."""
        found = (self.weights, self.reference, self.compressed, self.artifact)
        return tuple(artifact for artifact in found if artifact is not None)

    @property
    def build_s(self) -> float | None:
        """What making the recipe's own artifacts took, whenever that was; None where it has none."""
        own = [artifact.build_s for artifact in (self.compressed, self.artifact) if artifact is not None]
        return sum(own) if own else None

    @property
    def cost(self) -> Mapping[str, Any]:
        """Parameters, MACs and channels of what runs."""
        facts: Mapping[str, Any] = (self.compressed or self.weights).facts["cost"]
        return facts

    @property
    def reference_logits(self) -> np.ndarray:
        """The fp32 baseline's logits on the test part, (samples, classes)."""
        logits: np.ndarray = np.load(self.reference.folder / LOGITS, allow_pickle=False)
        return logits


def needs_build(spec: JobSpec, settings: Settings, here: Environment) -> bool:
    """Whether a build phase has anything to do for this job in this environment."""
    cache = ArtifactCache(settings.artifacts)
    return any(not cache.has(key) for key in _Plan(spec, settings, here).needed())


def build(spec: JobSpec, settings: Settings) -> float:
    """Builds what is missing, in this process.

    Returns:
        Seconds spent; 0.0 when everything was there.

    Raises:
        Unsupported, OutOfMemory: this host or device cannot run the recipe.
        BadInput: the dataset is not there or not what was submitted.
    """
    # Training with glibc untouched can take 20 times as long: a page fault for every tensor, every step.
    allocator.apply("pinned_malloc")
    here = environment_of(spec, settings)
    devices.open_device(spec.device_kind, here.threads, here.device_uuid)
    plan = _Plan(spec, settings, here)
    with memory_errors():
        made = (plan.weights(), plan.reference(), plan.compressed(), plan.artifact())
    return sum(spent for _, spent in made)


def materials(spec: JobSpec, settings: Settings, here: Environment) -> Materials:
    """What the build phase made, every file checked.

    Raises:
        CorruptArtifact: something is missing or not what was built.
    """
    plan, cache = _Plan(spec, settings, here), ArtifactCache(settings.artifacts)
    return Materials(
        weights=cache.get(plan.weights_key),
        reference=cache.get(plan.reference_key),
        compressed=None if plan.compressed_key is None else cache.get(plan.compressed_key),
        artifact=None if plan.artifact_key is None else cache.get(plan.artifact_key),
        workload=plan.workload(),
    )


def environment_of(spec: JobSpec, settings: Settings) -> Environment:
    """The environment in which this process would build or measure the job."""
    catalogue.require_device(spec.recipe, spec.device_kind)
    catalogue.require_installed(spec.recipe)
    here = environment.available_processors()
    if spec.threads is not None and spec.threads > here:
        raise BadInput(
            f"{spec.threads} threads are asked for; this process may use {here}. Possible: 1 to {here}."
        )
    threads = spec.threads or here
    found = environment.describe(spec.device_kind, threads, settings.visible_gpu)
    wanted = requirement.of(spec)
    if wanted is not None and (lacking := wanted.lacking_of_device(found)):
        raise Unsupported(f"{spec.recipe} needs {lacking}")
    return found


def test_part(spec: JobSpec, settings: Settings, classes: Sequence[str] | None = None) -> Split:
    """The test images of the accuracy pass: all, or as many as the protocol says, drawn from a fixed seed.

    Their labels count these classes, the model's, where they are given.
    """
    test = datasets.load(spec.dataset, "test", spec.image_size, settings.datasets)
    test = test if classes is None else datasets.relabelled(test, classes)
    wanted = spec.protocol.accuracy_samples
    if wanted is None or wanted >= len(test.images):
        return test
    return datasets.drawn(test, np.sort(np.random.default_rng(SEED).permutation(len(test.images))[:wanted]))


class _Plan:
    """The artifacts of one job: their keys, and how each is made."""

    def __init__(self, spec: JobSpec, settings: Settings, here: Environment) -> None:
        self.spec = spec
        self.settings = settings
        self.here = here
        self.cache = ArtifactCache(settings.artifacts)

    def needed(self) -> list[str]:
        """The keys of all artifacts the job needs."""
        keys = (self.weights_key, self.reference_key, self.compressed_key, self.artifact_key)
        return [key for key in keys if key is not None]

    @functools.cached_property
    def weights_key(self) -> str:
        """Decided by model, data and training."""
        return key_of("weights", self._weights_content())

    def _weights_content(self) -> Mapping[str, Any]:
        given = self.spec.weights
        # Trained weights are decided by the training, given ones by what they are.
        made: Mapping[str, Any] = {"training": asdict(training.Schedule()) | {"version": training.VERSION}}
        return {
            "model": self.spec.model,
            "source": dict(models.fingerprint(self.spec.model)),
            "dataset": self.spec.dataset,
            "digest": datasets.digest(self.spec.dataset, self.settings.datasets),
            "image_size": self.spec.image_size,
            "torch": self.here.packages.get("torch"),
            **(made if given is None else {"given": given}),
        }

    @functools.cached_property
    def reference_key(self) -> str:
        """Decided by the weights and the number of test images."""
        return key_of("reference", {"weights": self.weights_key, "samples": self.spec.protocol.accuracy_samples})

    @functools.cached_property
    def compressed_key(self) -> str | None:
        """Decided by the weights and the compression with its number."""
        recipe = self.spec.recipe
        if recipe.compression == DEFAULTS["compression"]:
            return None
        plugin = compression.module(recipe.compression)
        return key_of(
            recipe.compression,
            {
                "weights": self.weights_key,
                "share": recipe.share,
                "training": asdict(plugin.SCHEDULE) if hasattr(plugin, "SCHEDULE") else None,
                "version": training.VERSION,
                "packages": self._packages,
            },
        )

    @functools.cached_property
    def artifact_key(self) -> str | None:
        """Decided by everything that changes compiled code: processor and versions too (else SIGILL elsewhere)."""
        if not runtimes.is_built(self.spec.recipe):
            return None
        return key_of(
            self.spec.recipe.runtime,
            {
                "weights": self.compressed_key or self.weights_key,
                "recipe": str(self.spec.recipe.without("allocator")),
                "batch_size": self.spec.batch_size,
                "threads": self._threads,
                "device": (self.here.device_model, self.here.features, self.here.driver),
                "calibration": CALIBRATION_SAMPLES,
                "packages": self._packages,
                "python": self.here.python,
            },
        )

    @property
    def _packages(self) -> Mapping[str, str | None]:
        return {name: self.here.packages.get(name) for name in _MAKERS}

    @property
    def _threads(self) -> int:
        return self.spec.threads or self.here.threads

    def weights(self) -> tuple[Artifact, float]:
        """The weights: given or trained where there are real labels, else random from a fixed seed."""
        return self.cache.ensure(self.weights_key, self._make_weights)

    def _make_weights(self, folder: Path) -> Mapping[str, Any]:
        found = datasets.digest(self.spec.dataset, self.settings.datasets)
        if self.spec.dataset_digest not in (None, found):
            raise BadInput(
                f"Dataset {self.spec.dataset!r} here is not the one that was submitted: its files differ. "
                f"Copy it again, or submit the matrix anew."
            )
        if self.spec.model_digest not in (None, models.digest(self.spec.model)):
            raise BadInput(
                f"The model {self.spec.model!r} here is not the one that was submitted: its package has another "
                f"version or source. Install the same on every host, or submit the matrix anew."
            )
        model, classes, facts = self._trained() if self.spec.weights is None else self._given(self.spec.weights)
        checkpoint.save(model, folder)
        return {**facts, "classes": list(classes), "cost": checkpoint.cost(model, self.spec.image_size)}

    def _trained(self) -> tuple[torch.nn.Module, Sequence[str], Mapping[str, Any]]:
        """Trained here where there are labels; else as they are initialized."""
        import torch

        data = datasets.load(self.spec.dataset, "train", self.spec.image_size, self.settings.datasets)
        torch.manual_seed(SEED)
        model = models.create(self.spec.model, len(data.classes), self.spec.image_size)
        models.try_out(self.spec.model, model, len(data.classes), self.spec.image_size)
        if data.labels is None:
            return model, data.classes, {"origin": f"random, seed {SEED}"}
        log.info("training %s on %s, once: about a minute on 2 processors", self.spec.model, self.spec.dataset)
        return model, data.classes, {"origin": "trained here", **self._train(model, data)}

    def _given(self, given: str) -> tuple[torch.nn.Module, Sequence[str], Mapping[str, Any]]:
        """The weights that the spec names; nothing is trained."""
        size = self.spec.image_size
        data = datasets.load(self.spec.dataset, "test", size, self.settings.datasets)
        model, classes, origin = weights.load(
            given, self.spec.model, size, data, self.spec.dataset, self.settings.weights
        )
        models.try_out(self.spec.model, model, len(classes), size)
        return model, classes, {"origin": origin}

    def _train(self, model: torch.nn.Module, data: Split) -> Mapping[str, Any]:
        return training.train(model, data, training.Schedule(), self.spec.device_kind)

    def reference(self) -> tuple[Artifact, float]:
        """The fp32 baseline's logits."""
        return self.cache.ensure(self.reference_key, self._make_reference)

    def _make_reference(self, folder: Path) -> Mapping[str, Any]:
        import torch

        log.info("asking the fp32 baseline for its answers, once")
        model, test = self._original(), test_part(self.spec, self.settings, self.weights()[0].facts["classes"])
        starts = range(0, len(test.images), REFERENCE_BATCH)
        with torch.inference_mode():
            parts = [model(torch.from_numpy(test.images[i : i + REFERENCE_BATCH])).numpy() for i in starts]
        logits = np.concatenate(parts)
        np.save(folder / LOGITS, logits, allow_pickle=False)
        right = None if test.labels is None else int((logits.argmax(axis=1) == test.labels).sum())
        return {"samples": len(logits), "top1_correct": right}

    def compressed(self) -> tuple[Artifact | None, float]:
        """The weights that the recipe's compression makes of the first."""
        if self.compressed_key is None:
            return None, 0.0
        return self.cache.ensure(self.compressed_key, self._compress)

    def _compress(self, folder: Path) -> Mapping[str, Any]:
        recipe = self.spec.recipe
        log.info("%s of %s, once: it may take minutes", recipe.compression, self.spec.model)
        original, classes = self._original(), self.weights()[0].facts["classes"]
        train = datasets.load(self.spec.dataset, "train", self.spec.image_size, self.settings.datasets)
        task = compression.Task(
            train=datasets.relabelled(train, classes),
            image_size=self.spec.image_size,
            device=self.spec.device_kind,
            share=recipe.share,
        )
        model, facts = compression.module(recipe.compression).compress(self._original(), task)
        checkpoint.save(model, folder, original)
        cost = checkpoint.cost(model, self.spec.image_size)
        return {**facts, "cost": cost, "cost_before": self.weights()[0].facts["cost"]}

    def artifact(self) -> tuple[Artifact | None, float]:
        """What the recipe's runtime loads."""
        if self.artifact_key is None:
            return None, 0.0
        return self.cache.ensure(self.artifact_key, self._make_artifact)

    def _make_artifact(self, folder: Path) -> Mapping[str, Any]:
        log.info("building %s batch %d, once", self.spec.variant, self.spec.batch_size)
        facts: Mapping[str, Any] = runtimes.module(self.spec.recipe.runtime).build(self.workload(), folder)
        return facts

    def workload(self) -> Workload:
        """What the runtime is asked to run."""
        return Workload(
            recipe=self.spec.recipe,
            device=self.spec.device_kind,
            shape=(self.spec.batch_size, 3, self.spec.image_size, self.spec.image_size),
            threads=self._threads,
            model=self._model,
            calibration=self._calibration,
            weights=self.settings.artifacts / (self.compressed_key or self.weights_key) / checkpoint.WEIGHTS,
        )

    def _calibration(self) -> np.ndarray:
        """Training images, drawn from a fixed seed; whole batches of the job's size."""
        train = datasets.load(self.spec.dataset, "train", self.spec.image_size, self.settings.datasets)
        count = max(self.spec.batch_size, CALIBRATION_SAMPLES // self.spec.batch_size * self.spec.batch_size)
        chosen = np.random.default_rng(SEED).permutation(len(train.images))[:count]
        return accuracy.filled(train.images[np.sort(chosen)], count)

    def _model(self) -> torch.nn.Module:
        """The fp32 model that the recipe's runtime gets, on the CPU, in evaluation mode."""
        compressed, _ = self.compressed()
        return self._original() if compressed is None else self._filled(compressed)

    def _original(self) -> torch.nn.Module:
        """The same without the recipe's compression."""
        return self._filled(self.weights()[0])

    def _filled(self, made: Artifact) -> torch.nn.Module:
        facts = self.weights()[0].facts
        model: torch.nn.Module = models.create(self.spec.model, len(facts["classes"]), self.spec.image_size)
        return checkpoint.restore(model, made.folder)
