"""Pictures through CLIP image towers, which open_clip builds."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

from graphrec.core.errors import ConfigError, FeatureError, missing_dependency, nearest
from graphrec.core.files import sha256_file
from graphrec.core.random import torch_rng
from graphrec.features.extract.registry import versions
from graphrec.features.extract.weights import hub_file, refuse_pickle

if TYPE_CHECKING:
    import torch

SAFE_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "model.safetensors")


class OpenClip:
    """The image tower of a contrastive image-text model, frozen.

    Source: Radford et al. 2021, https://arxiv.org/abs/2103.00020; weights through
        https://github.com/mlfoundations/open_clip.

    Args:
        model: an open_clip model name.
        pretrained: a tag of that model (its weights come from the Hugging Face cache or hub), the path of a
            ``.safetensors`` file, or a directory that holds one (with ``open_clip_config.json``, ``model`` is
            ignored).
        normalize: scale vectors to length 1.
        precision: ``"auto"`` is float16 autocast on a GPU and float32 elsewhere.
        batch_size: pictures per forward pass.
        device: ``"auto"`` takes a GPU where there is one.
        random_init: random weights, for tests; needs ``pretrained=None``.
        seed: of the random weights.

    Raises:
        ConfigError: unknown model, tag or option.
        FeatureError: pickled weights, or weights that are out of reach.
    """

    name = "open_clip"
    kind: Literal["image", "text"] = "image"

    def __init__(
        self,
        model: str = "ViT-B-32",
        pretrained: str | Path | None = "laion2b_s34b_b79k",
        *,
        normalize: bool = False,
        precision: Literal["auto", "float32", "float16", "bfloat16"] = "auto",
        batch_size: int = 32,
        device: str = "auto",
        random_init: bool = False,
        seed: int = 0,
    ) -> None:
        if (pretrained is None) != random_init:
            raise ConfigError(
                "open_clip: pretrained=None means random weights, which describe nothing; give a tag or a "
                "path "
                "(random_init=True with pretrained=None is for tests)"
            )
        if precision not in ("auto", "float32", "float16", "bfloat16"):
            raise ConfigError(f"precision {precision!r}; expected auto, float32, float16 or bfloat16")
        if batch_size < 1:
            raise ConfigError(f"batch_size {batch_size}; expected at least 1")
        import torch

        self.model, self.pretrained, self.normalize = model, pretrained, normalize
        self.batch_size, self.seed = batch_size, seed
        self.device = device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        on_gpu = self.device.startswith("cuda")
        if precision in ("float16", "bfloat16") and not on_gpu:
            raise ConfigError(f"precision {precision!r} on {self.device}; autocast is for GPUs, take float32")
        self.precision = precision if precision != "auto" else "float16" if on_gpu else "float32"
        self._weights, self._tag = self._resolve()

    def _resolve(self) -> tuple[Path | None, dict[str, Any]]:
        """The weight file and what its tag says about preprocessing and activation."""
        open_clip = _import_open_clip()
        path = Path(self.pretrained) if self.pretrained is not None else None
        config_in_directory = path is not None and (path / "open_clip_config.json").is_file()
        if not config_in_directory:
            config = open_clip.get_model_config(self.model)
            if config is None:
                known = open_clip.list_models()
                raise ConfigError(f"open_clip has no model {self.model!r}.{nearest(self.model, known)}")
            text_tower = config.get("text_cfg", {}).get("hf_model_name")
            if text_tower:  # building the model reads this file; better to miss it here, quickly
                hub_file(text_tower, ["config.json"], "hog-hsv")
        if path is None:
            return None, {}
        if path.is_dir():
            files = sorted(path.glob("*.safetensors"), key=lambda f: (f.name not in SAFE_WEIGHTS, f.name))
            if not files:
                for file in sorted(path.iterdir()):
                    refuse_pickle(file)
                raise FeatureError(f"{path}: no .safetensors file in it; give a checkpoint")
            return files[0], {}
        if path.is_file():
            refuse_pickle(path)
            if path.suffix != ".safetensors":
                raise FeatureError(f"{path}: expected a .safetensors file or a directory that holds one")
            return path, {}
        tag = open_clip.get_pretrained_cfg(self.model, str(self.pretrained))
        if not tag:
            refuse_pickle(path)
            tags = open_clip.list_pretrained_tags_by_model(self.model)
            raise ConfigError(
                f"{str(self.pretrained)!r} is neither a file nor a pretrained tag of {self.model!r}; its "
                f"tags are {tags}."
                f"{nearest(str(self.pretrained), tags)}"
            )
        if open_clip.get_model_config(self.model).get("quick_gelu") and not tag.get("quick_gelu"):
            plain = self.model.removesuffix("-quickgelu")
            raise ConfigError(
                f"{self.pretrained!r} was trained without QuickGELU, {self.model!r} has it; take the model "
                f"{plain!r}"
            )
        repository, _, named = str(tag.get("hf_hub") or "").rpartition("/")
        if not repository:
            raise FeatureError(
                f"open_clip offers {self.model!r} {self.pretrained!r} as a pickled download only; give the "
                f"path of a "
                ".safetensors checkpoint, or choose another tag"
            )
        own = [Path(named).with_suffix(".safetensors").name] if named else []
        return hub_file(repository, [*own, *SAFE_WEIGHTS], "hog-hsv"), dict(tag)

    @cached_property
    def _loaded(self) -> tuple[Any, Any, Any]:
        """The frozen model and both halves of its preprocessing, made when first used."""
        import torch

        open_clip = _import_open_clip()
        options: dict[str, Any] = {"device": self.device, "pretrained_text": False}
        name = self.model
        if (
            self._weights is not None
            and (self._weights.parent / "open_clip_config.json").is_file()
            and not self._tag
        ):
            name = f"local-dir:{self._weights.parent}"
            options["load_weights"] = False  # open_clip would prefer some pickles in it; loaded below
        if self._tag:
            keys = ("mean", "std", "interpolation", "resize_mode", "fill_color")
            options["force_preprocess_cfg"] = {k: self._tag[k] for k in keys if k in self._tag}
            options["force_quick_gelu"] = bool(self._tag.get("quick_gelu"))
        devices = [torch.device(self.device)] if self.device.startswith("cuda") else []
        with torch.random.fork_rng(devices), _without_weight_warning():  # building draws numbers, which are replaced below
            try:
                model = open_clip.create_model(name, **options)
            except Exception as cause:
                raise FeatureError(f"open_clip cannot build {self.model!r}: {cause}") from cause
        if self._weights is not None:
            try:
                open_clip.load_checkpoint(model, str(self._weights), strict=True)
            except Exception as cause:
                first = str(cause).splitlines()[0]
                raise FeatureError(f"{self._weights}: not weights of {self.model!r} ({first})") from cause
        else:
            _draw_weights(model, self.seed)
        model.requires_grad_(False).eval()
        steps = dict(open_clip.get_model_preprocess_cfg(model))
        size = steps.pop("size")
        steps.pop("mode", None)
        return model, *_split_transform(open_clip.image_transform(size, is_train=False, **steps))

    def __getstate__(self) -> dict[str, Any]:
        """Without the model, which each process loads itself."""
        return {k: v for k, v in self.__dict__.items() if k != "_loaded"}

    @cached_property
    def dim(self) -> int:
        """Length of a vector."""
        return int(self.encode([Image.new("RGB", (8, 8))]).shape[1])

    def describe(self) -> dict[str, Any]:
        """Model, weights, preprocessing, precision, batch size and library versions."""
        if self._weights is None:
            weights = f"random, seed {self.seed}"
            tag = None
        else:
            weights = sha256_file(self._weights)
            tag = str(self.pretrained) if self._tag else self._weights.name
        config = self._weights.parent / "open_clip_config.json" if self._weights is not None else None
        return {
            "name": self.name,
            "model": self.model,
            "pretrained": tag,
            "weights": weights,
            "config": sha256_file(config) if config is not None and config.is_file() else None,
            "preprocessing": {k: self._tag.get(k) for k in ("mean", "std", "interpolation", "resize_mode")},
            "quick_gelu": bool(self._tag.get("quick_gelu")),
            "normalize": self.normalize,
            "precision": self.precision,
            "batch_size": self.batch_size,
            "versions": versions("open_clip_torch", "pillow", "torch"),
        }

    def prepare(self, picture: Image.Image) -> np.ndarray:
        """One picture resized, cropped and scaled ``(3, s, s) float32``."""
        _, resize, table = self._loaded
        pixels = np.asarray(resize(picture))  # (s, s, 3) uint8
        scaled = np.empty((3, *pixels.shape[:2]), dtype=np.float32)
        for channel in range(3):
            np.take(table[channel], pixels[..., channel], out=scaled[channel], mode="clip")
        return scaled

    def stacked(self, prepared: list[np.ndarray]) -> torch.Tensor:
        """The batch ``(B, 3, s, s) float32`` that the model gets, on its device, of prepared pictures."""
        import torch

        return torch.from_numpy(np.stack(prepared)).to(self.device)

    def encode(self, batch: list[Any]) -> np.ndarray:
        """Vectors ``(B, dim) float32`` of pictures, prepared or not."""
        pictures = self.stacked([self.prepare(x) if isinstance(x, Image.Image) else x for x in batch])
        vectors = self.forward(pictures)
        return np.asarray(vectors.float().cpu().numpy())

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Vectors ``(B, dim)`` of a batch as :meth:`stacked` gives it, on its device."""
        import torch

        half = self.precision != "float32"
        with torch.inference_mode(), torch.autocast("cuda", getattr(torch, self.precision), enabled=half):
            vectors: torch.Tensor = self._loaded[0].encode_image(pictures)
            return torch.nn.functional.normalize(vectors.float(), dim=1) if self.normalize else vectors


def _split_transform(transform: Any) -> tuple[Any, np.ndarray]:
    """What a transform does to a picture, and what it then makes of each byte of a channel ``(3, 256)``.

    Looking numbers up takes a third of the time of computing them, keeps off torch's own threads, and gives
    the same bits.

    Raises:
        FeatureError: it does not end in scaling to 0..1 and normalizing.
    """
    *picture_steps, to_tensor, normalize = transform.transforms
    if type(to_tensor).__name__ != "MaybeToTensor" or type(normalize).__name__ != "Normalize":
        raise FeatureError(
            f"open_clip's preprocessing ends in {type(to_tensor).__name__}, {type(normalize).__name__}; "
            "expected MaybeToTensor, Normalize; install an open_clip_torch that pyproject.toml allows"
        )
    every = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)  # (1, 256, 3)
    return type(transform)(picture_steps), normalize(to_tensor(every)).numpy()[:, 0]


def _draw_weights(model: torch.nn.Module, seed: int) -> None:
    """Draws every parameter that is not a constant from this object's own stream."""
    import torch

    stream = torch_rng(seed, "open_clip/random_init")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() > 1 and bool((parameter != parameter.flatten()[0]).any()):
                parameter.copy_(torch.randn(parameter.shape, generator=stream) * 0.05)


@contextmanager
def _without_weight_warning() -> Iterator[None]:
    """Holds back open_clip's warning that no weights were loaded: that comes after, or is not wanted."""

    def wanted(record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith("No pretrained weights loaded")

    logging.getLogger().addFilter(wanted)
    try:
        yield
    finally:
        logging.getLogger().removeFilter(wanted)


def _import_open_clip() -> Any:
    try:
        import open_clip
    except ImportError as cause:
        raise missing_dependency("open_clip_torch", "features") from cause
    return open_clip
