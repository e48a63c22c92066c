"""Image extractor: CLIP image towers from open_clip."""

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
from graphrec.features.extract.decoding import check_truncated
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
        pretrained: a pretrained tag of the model (weights come from the Hugging Face cache or hub), a
            ``.safetensors`` file, or a directory that contains one (with ``open_clip_config.json``, ``model``
            is ignored).
        normalize: scale vectors to length 1.
        precision: ``"auto"`` is float16 autocast on a GPU and float32 elsewhere.
        batch_size: images per forward pass.
        device: ``"auto"`` uses a GPU if available.
        truncated: ``"accept"`` takes what is there of a picture whose file was cut off; such a picture is
            unreadable otherwise.
        random_init: random weights, for tests; needs ``pretrained=None``.
        seed: seed of the random weights.

    Raises:
        ConfigError: unknown model, tag or option.
        FeatureError: pickled or unavailable weights.
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
        truncated: Literal["refuse", "accept"] = "refuse",
        random_init: bool = False,
        seed: int = 0,
    ) -> None:
        if (pretrained is None) != random_init:
            raise ConfigError(
                f"open_clip: pretrained={pretrained!r}, random_init={random_init}; expected a pretrained "
                "tag or path (for tests, pretrained=None with random_init=True)"
            )
        if precision not in ("auto", "float32", "float16", "bfloat16"):
            raise ConfigError(f"precision {precision!r}; expected auto, float32, float16 or bfloat16")
        if batch_size < 1:
            raise ConfigError(f"batch_size {batch_size}; expected at least 1")
        self.truncated = check_truncated(self.name, truncated)
        import torch

        self.model = model
        self.pretrained = pretrained
        self.normalize = normalize
        self.batch_size = batch_size
        self.seed = seed
        self.device = device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        on_gpu = self.device.startswith("cuda")
        if precision in ("float16", "bfloat16") and not on_gpu:
            raise ConfigError(f"precision {precision!r} on {self.device}; autocast needs a GPU, use float32")
        self.precision = precision if precision != "auto" else "float16" if on_gpu else "float32"
        self._weights, self._tag = self._resolve()

    def _resolve(self) -> tuple[Path | None, dict[str, Any]]:
        """The weight file, and the preprocessing and activation of its tag."""
        open_clip = _import_open_clip()
        path = Path(self.pretrained) if self.pretrained is not None else None
        config_in_directory = path is not None and (path / "open_clip_config.json").is_file()
        if not config_in_directory:
            config = open_clip.get_model_config(self.model)
            if config is None:
                known = open_clip.list_models()
                raise ConfigError(f"open_clip has no model {self.model!r}.{nearest(self.model, known)}")
            text_tower = config.get("text_cfg", {}).get("hf_model_name")
            if text_tower:  # needed to build the model; fail early if missing
                hub_file(text_tower, ["config.json"], "hog-hsv")
        if path is None:
            return None, {}
        if path.is_dir():
            files = sorted(path.glob("*.safetensors"), key=lambda f: (f.name not in SAFE_WEIGHTS, f.name))
            if not files:
                for file in sorted(path.iterdir()):
                    refuse_pickle(file)
                raise FeatureError(f"{path}: no .safetensors file in it; expected a checkpoint")
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
                f"tags are {tags}.{nearest(str(self.pretrained), tags)}"
            )
        if open_clip.get_model_config(self.model).get("quick_gelu") and not tag.get("quick_gelu"):
            plain = self.model.removesuffix("-quickgelu")
            raise ConfigError(
                f"{self.pretrained!r} was trained without QuickGELU, {self.model!r} uses it; use the model "
                f"{plain!r}"
            )
        repository, _, named = str(tag.get("hf_hub") or "").rpartition("/")
        if not repository:
            raise FeatureError(
                f"open_clip offers {self.model!r} {self.pretrained!r} only as a pickled download; pass a "
                ".safetensors checkpoint, or choose another tag"
            )
        converted = [Path(named).with_suffix(".safetensors").name] if named else []
        return hub_file(repository, [*converted, *SAFE_WEIGHTS], "hog-hsv"), dict(tag)

    @cached_property
    def _loaded(self) -> tuple[Any, Any, Any]:
        """The frozen model and the two parts of its preprocessing, loaded on first use."""
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
            options["load_weights"] = False  # open_clip prefers pickles; loaded below
        if self._tag:
            keys = ("mean", "std", "interpolation", "resize_mode", "fill_color")
            options["force_preprocess_cfg"] = {k: self._tag[k] for k in keys if k in self._tag}
            options["force_quick_gelu"] = bool(self._tag.get("quick_gelu"))
        devices = [torch.device(self.device)] if self.device.startswith("cuda") else []
        # Building draws random weights, replaced below.
        with torch.random.fork_rng(devices), _without_weight_warning():
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
        """The state without the model, which each process loads itself."""
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
            **({"truncated": self.truncated} if self.truncated != "refuse" else {}),
            "versions": versions("open_clip_torch", "pillow", "torch"),
        }

    def prepare(self, picture: Image.Image) -> np.ndarray:
        """One image resized, cropped and normalized ``(3, s, s) float32``."""
        _, resize, table = self._loaded
        pixels = np.asarray(resize(picture))  # (s, s, 3) uint8
        scaled = np.empty((3, *pixels.shape[:2]), dtype=np.float32)
        for channel in range(3):
            np.take(table[channel], pixels[..., channel], out=scaled[channel], mode="clip")
        return scaled

    def to_tensor(self, prepared: list[np.ndarray]) -> torch.Tensor:
        """The batch of prepared images ``(B, 3, s, s) float32`` on the model's device."""
        import torch

        return torch.from_numpy(np.stack(prepared)).to(self.device)

    def encode(self, batch: list[Any]) -> np.ndarray:
        """Vectors ``(B, dim) float32`` of images, prepared or not."""
        pictures = self.to_tensor([self.prepare(x) if isinstance(x, Image.Image) else x for x in batch])
        vectors = self.forward(pictures)
        return np.asarray(vectors.float().cpu().numpy())

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Vectors ``(B, dim)`` of a batch as :meth:`to_tensor` returns it, on its device."""
        import torch

        half = self.precision != "float32"
        with torch.inference_mode(), torch.autocast("cuda", getattr(torch, self.precision), enabled=half):
            vectors: torch.Tensor = self._loaded[0].encode_image(pictures)
            return torch.nn.functional.normalize(vectors.float(), dim=1) if self.normalize else vectors


def _split_transform(transform: Any) -> tuple[Any, np.ndarray]:
    """Splits a transform into its image steps and a table of the normalized value of each byte ``(3, 256)``.

    A table lookup takes a third of the time of the computation, does not use torch's threads, and gives the
    same bits.
    """
    *picture_steps, to_tensor, normalize = transform.transforms
    if type(to_tensor).__name__ != "MaybeToTensor" or type(normalize).__name__ != "Normalize":
        raise FeatureError(
            f"open_clip's preprocessing ends in {type(to_tensor).__name__}, {type(normalize).__name__}; "
            "expected MaybeToTensor, Normalize; install a version of open_clip_torch that pyproject.toml "
            "allows"
        )
    all_bytes = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)  # (1, 256, 3)
    return type(transform)(picture_steps), normalize(to_tensor(all_bytes)).numpy()[:, 0]


def _draw_weights(model: torch.nn.Module, seed: int) -> None:
    """Draws every non-constant parameter from a seeded generator."""
    import torch

    rng = torch_rng(seed, "open_clip/random_init")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() > 1 and bool((parameter != parameter.flatten()[0]).any()):
                parameter.copy_(torch.randn(parameter.shape, generator=rng) * 0.05)


@contextmanager
def _without_weight_warning() -> Iterator[None]:
    """Suppresses open_clip's warning that no weights are loaded; they are loaded later or not wanted."""

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
    except Exception as cause:  # a torchvision of another build than torch raises a RuntimeError
        raise missing_dependency("open_clip_torch", "features", cause) from cause
    return open_clip
