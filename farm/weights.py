"""Weights that are given and not trained here: published ones, or a file that is known by its digest.

A spec says `pretrained` or `sha256:…` and never a path. A file is kept as `<sha256>.safetensors` or
`<sha256>.pth` in the folder of `FARM_WEIGHTS_DIR`, on every host that builds.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from farm import datasets, models
from farm.datasets import Split
from farm.errors import BadInput, FarmError, shorten
from farm.inside import inside

if TYPE_CHECKING:
    import torch

PRETRAINED = "pretrained"

#: The endings that a file of weights may have, and the one under which it is kept.
ENDINGS: Mapping[str, str] = {".safetensors": ".safetensors", ".pt": ".pth", ".pth": ".pth"}

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_HEX = re.compile(r"[0-9a-f]{64}")
#: Where checkpoints of training scripts have the state among other things.
_WITHIN = ("state_dict", "model_state_dict", "model")
_CHUNK_BYTES = 1 << 20
_SHOWN = 4


def check(value: Any) -> str | None:
    """The field of a spec as given.

    Raises:
        BadInput: it is neither None nor a word nor a digest.
    """
    if value is None or value == PRETRAINED or _DIGEST.fullmatch(str(value)):
        return None if value is None else str(value)
    raise BadInput(
        f"Unknown weights {str(value)!r}. Possible: {PRETRAINED}, or sha256: and 64 hexadecimal digits; a file is "
        f"named with --weights FILE on the command line."
    )


def named(text: str | None, expected: str | None) -> tuple[str | None, Path | None]:
    """What `--weights` and `--sha256` mean: the field of the spec and, where one is named, the file.

    Raises:
        BadInput: no such file, not one of weights, or not the one that was expected.
    """
    if text is None or text == PRETRAINED or text.startswith("sha256:"):
        if expected is not None:
            raise BadInput("--sha256 belongs to a file: name one with --weights FILE.")
        return check(text), None
    file = _expanded(text)
    _require_file(file)
    wanted = None if expected is None else expected.strip().lower().removeprefix("sha256:")
    if wanted is not None and not _HEX.fullmatch(wanted):
        raise BadInput(f"--sha256 {expected}: 64 hexadecimal digits are needed, as sha256sum prints them.")
    found = _sha256(file)
    if wanted not in (None, found):
        raise BadInput(
            f"--weights {file}: its sha256 is {found}, not {wanted} as --sha256 says. Is it the right file?"
        )
    return f"sha256:{found}", file


def keep(value: str, file: Path, folder: Path) -> Path:
    """The copy of a file in the folder, whole or not at all, its digest checked once more.

    Raises:
        BadInput: the file changed meanwhile, or the folder cannot be written to.
    """
    digest = value.removeprefix("sha256:")
    kept = inside(folder, f"{digest}{_ending(file)}")
    if kept.is_file() and _sha256(kept) == digest:
        return kept
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _copy(file, kept, digest)
    except OSError as error:
        raise BadInput(
            f"--weights {file}: it cannot be copied to {folder} ({(error.strerror or str(error)).lower()}). "
            f"Set FARM_WEIGHTS_DIR to a folder that can be written to."
        ) from None
    return kept


def locate(value: str, folder: Path) -> Path:
    """The kept file of this digest.

    Raises:
        BadInput: it is not on this host.
    """
    digest = value.removeprefix("sha256:")
    for ending in dict.fromkeys(ENDINGS.values()):
        kept = inside(folder, f"{digest}{ending}")
        if kept.is_file():
            return kept
    raise BadInput(
        f"No weights {value} on this host: {folder} has no {digest}.safetensors and no {digest}.pth. Copy it "
        f"there from the host that submitted the matrix, or set FARM_WEIGHTS_DIR to the folder that has it."
    )


def load(
    value: str, model: str, image_size: int, data: Split, dataset: str, folder: Path
) -> tuple[torch.nn.Module, tuple[str, ...], str]:
    """The model with the weights that a spec names, the names of its outputs, and where they come from.

    Args:
        value: `pretrained` or `sha256:…`.
        model: its name.
        image_size: side in pixels.
        data: any part of the dataset; its classes are what the outputs must mean.
        dataset: its name.
        folder: where files of weights are kept.

    Raises:
        FarmError: the weights are not there, damaged, or not those of this model and dataset.
    """
    if value == PRETRAINED:
        models.require_pretrained(model)
        classes = imagenet_classes(dataset, data)
        made = models.create(model, len(classes), image_size)
        state, origin = models.pretrained(model)
    else:
        file = locate(value, folder)
        state, origin = models.adapted(model, read(file)), f"file {value}"
        classes = _classes(outputs(model, state, image_size), data, dataset, origin)
        made = models.create(model, len(classes), image_size)
    put(made, state, f"{model} at {image_size}×{image_size}", origin)
    return made, classes, origin


def imagenet_classes(dataset: str, data: Split) -> tuple[str, ...]:
    """ImageNet's 1,000 classes, where the dataset's are among them.

    Raises:
        BadInput: they are not.
    """
    known = datasets.imagenet_wnids()
    strange = sorted(set(data.classes) - set(known))
    if data.labels is not None and strange:
        raise BadInput(
            f"Pretrained weights know ImageNet's 1,000 classes, and dataset {dataset!r} has others: "
            f"{shorten(strange, 6)}. Its class folders must be WordNet ids such as {known[0]}. Or leave --weights "
            f"out (trained here), name a file of weights for these classes, or take --dataset synthetic."
        )
    return known


def read(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a kept file by their names, its content checked against the digest in its name.

    Raises:
        FarmError: it is damaged.
        BadInput: it is no file of weights.
    """
    found = _sha256(file)
    if found != file.stem:
        raise FarmError(f"{file} is damaged: its sha256 is {found}. Delete it, and copy it there again.")
    try:
        return _tensors(_parsed(file), file)
    except BadInput:
        raise
    except Exception as error:
        # Broad: unpickling and both libraries raise whatever the bytes make them.
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise BadInput(
            f"{file} cannot be read as weights: {reason} Expected: a .safetensors file, or a state_dict saved "
            f"with torch.save."
        ) from None


def outputs(model: str, state: Mapping[str, torch.Tensor], image_size: int) -> int | None:
    """How many classes the state has; None where its output layer cannot be found.

    That layer is where two models differ which were made for different numbers of classes.
    """
    one, other = (models.create(model, classes, image_size).state_dict() for classes in (2, 3))
    for key, tensor in one.items():
        axes = [
            axis for axis, pair in enumerate(zip(tensor.shape, other[key].shape, strict=True)) if len({*pair}) > 1
        ]
        if axes and key in state and state[key].dim() == tensor.dim():
            return int(state[key].shape[axes[0]])
    return None


def put(model: torch.nn.Module, state: Mapping[str, torch.Tensor], what: str, origin: str) -> None:
    """Loads a state, every tensor of it and no other, into a model.

    Raises:
        BadInput: names or shapes differ; names the first few.
    """
    wanted = model.state_dict()
    # Files older than these counters lack them; nothing but training reads them.
    counters = {key: value for key, value in wanted.items() if key.endswith("num_batches_tracked")}
    given = {**counters, **state}
    problems = [
        *_listed("it lacks", [key for key in wanted if key not in given]),
        *_listed("it has what the model has not", [key for key in given if key not in wanted]),
        *_listed(
            "other shapes", [_shapes(k, given[k], wanted[k]) for k in wanted if _differs(given.get(k), wanted[k])]
        ),
    ]
    if problems:
        raise BadInput(f"The weights ({origin}) are not those of {what}: {'; '.join(problems)}.{_hint(problems)}")
    # A file has tensors and no versions of modules; what is here was made to fit the present ones.
    given_now = type(wanted)(given)
    given_now._metadata = wanted._metadata
    model.load_state_dict(given_now)


def _classes(count: int | None, data: Split, dataset: str, origin: str) -> tuple[str, ...]:
    """What the outputs of a file of weights mean."""
    known = datasets.imagenet_wnids()
    if count in (None, len(data.classes)):
        return data.classes
    assert count is not None
    if data.labels is None:
        return tuple(f"output{i}" for i in range(count))
    if count == len(known) and set(data.classes) < set(known):
        return known
    raise BadInput(
        f"The weights ({origin}) do not belong to dataset {dataset!r}: the file has {count:,} classes, the "
        f"dataset {len(data.classes):,}. Name weights for these classes, or leave --weights out to train here."
    )


def _parsed(file: Path) -> Any:
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(file)
    import torch

    return torch.load(file, map_location="cpu", weights_only=True)


def _tensors(found: Any, file: Path) -> dict[str, torch.Tensor]:
    """The state within what was read, without the prefix that DataParallel adds."""
    import torch

    for name in _WITHIN:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
            break
    if not isinstance(found, Mapping) or not found or not all(isinstance(v, torch.Tensor) for v in found.values()):
        raise BadInput(
            f"{file} holds no state_dict but {_described(found)}. Save one: torch.save(model.state_dict(), FILE)."
        )
    prefix = "module." if all(str(key).startswith("module.") for key in found) else ""
    return {str(key).removeprefix(prefix): value for key, value in found.items()}


def _described(found: Any) -> str:
    if isinstance(found, Mapping):
        return f"a mapping of {shorten([str(key) for key in found], _SHOWN)}"
    return type(found).__name__


def _differs(given: torch.Tensor | None, wanted: torch.Tensor) -> bool:
    return given is not None and given.shape != wanted.shape


def _shapes(key: str, given: torch.Tensor, wanted: torch.Tensor) -> str:
    return f"{key} {tuple(given.shape)} instead of {tuple(wanted.shape)}"


def _listed(kind: str, names: list[str]) -> list[str]:
    return [f"{kind}: {shorten(names, _SHOWN)}"] if names else []


def _hint(problems: list[str]) -> str:
    if len(problems) == 1 and "pos_embedding" in problems[0]:
        return " Its position embedding was made for another image size: choose that with --image-size."
    return ""


def _expanded(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:  # the home of somebody who is not there
        return Path(text)


def _require_file(file: Path) -> None:
    try:
        why = "" if file.is_file() else "is no file" if file.exists() else "is not there"
    except OSError as error:  # such as a name that is too long
        why = f"cannot be looked at ({(error.strerror or str(error)).lower()})"
    if why:
        raise BadInput(f"--weights {file}: {file.absolute()} {why}. Possible: {PRETRAINED}, or a file.")
    if file.suffix.lower() not in ENDINGS:
        raise BadInput(f"--weights {file}: a file of weights ends in {', '.join(ENDINGS)}.")


def _ending(file: Path) -> str:
    """The ending under which a file is kept: by what is in it, for a wrong one would stay wrong for good."""
    with file.open("rb") as stream:
        head = stream.read(9)
    if head[8:9] == b"{":  # safetensors: eight bytes of length, then JSON
        return ".safetensors"
    if head.startswith((b"PK", b"\x80")):  # torch.save: an archive, or a pickle
        return ".pth"
    return ENDINGS[file.suffix.lower()]


def _sha256(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise BadInput(f"{file} cannot be read: {(error.strerror or str(error)).lower()}.") from None


def _copy(file: Path, kept: Path, digest: str) -> None:
    descriptor, name = tempfile.mkstemp(prefix=".", suffix=".part", dir=kept.parent)
    try:
        seen = hashlib.sha256()
        with os.fdopen(descriptor, "wb") as target, file.open("rb") as source:
            while chunk := source.read(_CHUNK_BYTES):
                seen.update(chunk)
                target.write(chunk)
            target.flush()
            os.fsync(target.fileno())
        if seen.hexdigest() != digest:
            raise BadInput(f"--weights {file}: it changed while it was copied. Submit again when it is complete.")
        # Workers may run as another user than the one who submits.
        Path(name).chmod(0o644)
        Path(name).replace(kept)
    finally:
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()
