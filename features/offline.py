"""Extractors without pretrained weights: TF-IDF with SVD for texts, HOG with color histograms for images."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from PIL import Image

from graphrec.core.errors import ConfigError, FeatureError, missing_dependency
from graphrec.core.random import derive_seed
from graphrec.features.extract.decoding import check_truncated
from graphrec.features.extract.registry import versions


class TfidfSvd:
    """Latent semantic analysis: TF-IDF over word (and character) n-grams, reduced by truncated SVD, length 1.

    Source: Deerwester et al. 1990,
        https://doi.org/10.1002/(SICI)1097-4571(199009)41:6<391::AID-ASI1>3.0.CO;2-9.
    The vectors depend on the corpus: when a text changes, all vectors are computed again.

    Args:
        size: length of a vector; smaller if the corpus has fewer texts or terms.
        words: minimum and maximum length of word n-grams.
        characters: minimum and maximum length of character n-grams within words; default: none.
        min_texts: minimum number of texts with a term; 1 for a corpus of fewer than 20 texts.
        max_terms: maximum number of terms of each kind; the most frequent are kept.
        seed: seed of the randomized SVD.

    Raises:
        ConfigError: a size out of range.
    """

    name = "tfidf-svd"
    kind: Literal["image", "text"] = "text"
    batch_size: int | None = None
    empty_reason = "no word of the text is in the vocabulary"

    def __init__(
        self,
        size: int = 256,
        *,
        words: tuple[int, int] = (1, 2),
        characters: tuple[int, int] | None = None,
        min_texts: int = 2,
        max_terms: int = 50_000,
        seed: int = 0,
    ) -> None:
        spans = [tuple(words)] + ([tuple(characters)] if characters else [])
        if min(size, min_texts, max_terms) < 1 or any(len(s) != 2 or not 1 <= s[0] <= s[1] for s in spans):
            raise ConfigError(
                f"tfidf-svd: size {size}, words {words}, characters {characters}, min_texts {min_texts}, "
                f"max_terms {max_terms}; expected at least 1, and n-gram lengths as (from, to)"
            )
        self.size = size
        self.words = (words[0], words[1])
        self.characters = characters
        self.min_texts = min_texts
        self.max_terms = max_terms
        self.seed = seed
        self._vectorizers: list[Any] = []
        self._axes = np.zeros((0, 0))  # (n_terms, dim)

    @property
    def dim(self) -> int:
        """Length of a vector; 0 before :meth:`fit`."""
        return int(self._axes.shape[1])

    def describe(self) -> dict[str, Any]:
        """Options and library versions."""
        return {
            "name": self.name,
            "size": self.size,
            "words": list(self.words),
            "characters": list(self.characters) if self.characters else None,
            "min_texts": self.min_texts,
            "max_terms": self.max_terms,
            "seed": self.seed,
            "versions": versions("scikit-learn", "scipy", "numpy"),
        }

    def fit(self, contents: list[str]) -> TfidfSvd:
        """Fits vocabulary and axes to all texts.

        Raises:
            FeatureError: no term occurs in enough texts.
        """
        from scipy.sparse import hstack
        from sklearn.decomposition import TruncatedSVD
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        self._vectorizers = self._new_vectorizers(
            min_df=self.min_texts if len(contents) >= 20 else 1, max_features=self.max_terms
        )
        try:
            terms = hstack([v.fit_transform(contents) for v in self._vectorizers]).tocsr()  # (n, n_terms)
        except ValueError as cause:
            raise FeatureError(
                f"tfidf-svd: the {len(contents):,} texts share no term ({cause}); lower min_texts"
            ) from cause
        dim = min(self.size, *terms.shape)
        svd = TruncatedSVD(
            dim, algorithm="randomized", n_iter=5, random_state=derive_seed(self.seed, "tfidf-svd") % 2**32
        )
        # The last bits of a threaded product depend on the number of threads. Identical texts make SVD divide
        # by zero in a value that is not used here. A single term is its own axis.
        with threadpool_limits(1), np.errstate(invalid="ignore", divide="ignore"):
            axes = svd.fit(terms).components_.T if terms.shape[1] > 1 else np.ones((1, 1))  # (n_terms, dim)
        largest = axes[np.abs(axes).argmax(axis=0), np.arange(dim)]
        self._axes = axes * np.where(largest < 0, -1.0, 1.0)
        return self

    def _new_vectorizers(self, **options: Any) -> list[Any]:
        """Vectorizers of words and, if chosen, of characters."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        options |= {"sublinear_tf": True, "strip_accents": "unicode", "dtype": np.float64}
        created = [TfidfVectorizer(ngram_range=self.words, token_pattern=r"(?u)\b\w+\b", **options)]
        if self.characters:
            created.append(TfidfVectorizer(analyzer="char_wb", ngram_range=tuple(self.characters), **options))
        return created

    def get_fitted(self) -> dict[str, np.ndarray]:
        """Terms (JSON in UTF-8), their weights, and axes ``(n_terms, dim) float32``: enough for 1e-6."""
        arrays = {"axes": self._axes.astype(np.float32)}
        for i, vectorizer in enumerate(self._vectorizers):
            terms = json.dumps(vectorizer.get_feature_names_out().tolist()).encode()
            arrays |= {f"terms_{i}": np.frombuffer(terms, np.uint8), f"weights_{i}": vectorizer.idf_}
        return arrays

    def set_fitted(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Restores what :meth:`get_fitted` gave."""
        self._vectorizers = self._new_vectorizers()
        for i, vectorizer in enumerate(self._vectorizers):
            terms = json.loads(arrays[f"terms_{i}"].tobytes())
            vectorizer.set_params(vocabulary={term: column for column, term in enumerate(terms)})
            vectorizer.idf_ = np.array(arrays[f"weights_{i}"])
        self._axes = np.array(arrays["axes"], dtype=np.float64)

    def encode(self, batch: list[Any]) -> np.ndarray:
        """Vectors ``(B, dim) float32`` of length 1, zero for a text without known terms.

        Raises:
            FeatureError: the extractor is not fitted.
        """
        from scipy.sparse import hstack

        if not self._vectorizers:
            raise FeatureError(
                "tfidf-svd: encode() was called before fit(); fit the extractor to all texts first"
            )
        terms = hstack([v.transform(batch) for v in self._vectorizers]).tocsr()
        vectors = np.asarray(terms @ self._axes)
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        # Texts outside the kept axes have rounding errors only, which must not be scaled to length 1.
        nonzero = length > 1e-9
        return np.where(nonzero, vectors / np.where(nonzero, length, 1), 0).astype(np.float32)


class HogHsv:
    """Shape and color of an image: gradient histograms, a color histogram and a color layout.

    Each part is scaled to length 1 and weighted, and the result is scaled to length 1: cosines compare shape,
    palette and layout in fixed proportions. Source of HOG: Dalal and Triggs 2005, https://doi.org/10.1109/CVPR.2005.177.

    Args:
        side: images are resized to ``side x side`` whatever their aspect ratio; a multiple of 12.
        weights: weights of shape, palette and layout.
        truncated: ``"accept"`` takes what is there of a picture whose file was cut off; such a picture is
            unreadable otherwise.

    Raises:
        ConfigError: a side, weight or choice out of range.
    """

    name = "hog-hsv"
    kind: Literal["image", "text"] = "image"
    batch_size: int | None = None
    empty_reason = "the picture has no gradient and no color"

    def __init__(
        self,
        side: int = 96,
        *,
        weights: tuple[float, float, float] = (1.0, 0.7, 0.7),
        truncated: Literal["refuse", "accept"] = "refuse",
    ) -> None:
        if side < 48 or side % 12 or len(weights) != 3 or min(weights) < 0 or not any(weights):
            raise ConfigError(
                f"hog-hsv: side {side}, weights {weights}; expected a multiple of 12 of at least 48, and "
                "three non-negative weights"
            )
        try:
            import skimage  # noqa: F401
        except ImportError as cause:
            raise missing_dependency("scikit-image", "features") from cause
        self.side = side
        self.weights = tuple(float(w) for w in weights)
        self.truncated = check_truncated(self.name, truncated)

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return 5 * 5 * 4 * 8 + 128 + 4 * 4 * 3

    def describe(self) -> dict[str, Any]:
        """Options and library versions."""
        return {
            "name": self.name,
            "side": self.side,
            "resize": "to a square, bilinear",
            "weights": list(self.weights),
            "parts": {"hog": [6, 2, 8], "hsv": [8, 4, 4], "layout": [4, 4]},
            **({"truncated": self.truncated} if self.truncated != "refuse" else {}),
            "versions": versions("pillow", "scikit-image", "numpy"),
        }

    def prepare(self, picture: Image.Image) -> np.ndarray:
        """Hue, saturation, value and gray of the resized image ``(side, side, 4) uint8``."""
        small = picture.convert("RGB").resize(
            (self.side, self.side), Image.Resampling.BILINEAR, reducing_gap=2.0
        )
        return np.dstack([np.asarray(small.convert("HSV")), np.asarray(small.convert("L"))])

    def encode(self, batch: list[Any]) -> np.ndarray:
        """Vectors ``(B, dim) float32`` of length 1 of images, prepared or not."""
        prepared = np.stack([self.prepare(x) if isinstance(x, Image.Image) else x for x in batch])
        parts = (self._shape(prepared[..., 3]), _palette(prepared[..., :3]), _layout(prepared[..., :3]))
        joined = np.concatenate([w * _unit_rows(p) for w, p in zip(self.weights, parts, strict=True)], axis=1)
        return _unit_rows(joined).astype(np.float32)

    def _shape(self, gray: np.ndarray) -> np.ndarray:
        """HOG of 6 x 6 cells, 2 x 2 cells per block, 8 directions ``(B, 800)``."""
        from skimage.feature import hog

        # scikit-image processes one image per call.
        cell = self.side // 6
        return np.stack(
            [
                hog(
                    picture,
                    orientations=8,
                    pixels_per_cell=(cell, cell),
                    cells_per_block=(2, 2),
                    block_norm="L2-Hys",
                )
                for picture in gray
            ]
        )


def _palette(hsv: np.ndarray) -> np.ndarray:
    """Square root of the histogram over 8 hues, 4 saturations and 4 values ``(B, 128)``."""
    n = len(hsv)
    bins = (hsv[..., 0] >> 5).astype(np.int64) * 16 + (hsv[..., 1] >> 6) * 4 + (hsv[..., 2] >> 6)
    bins += np.arange(n).reshape(-1, 1, 1) * 128
    # Without the square root, one large plain area would dominate all other colors.
    return np.asarray(np.sqrt(np.bincount(bins.ravel(), minlength=n * 128).reshape(n, 128)))


def _layout(hsv: np.ndarray) -> np.ndarray:
    """Mean color of 4 x 4 areas; hue is an angle, its length saturation times value ``(B, 48)``."""
    n, side = hsv.shape[:2]
    hue = hsv[..., 0] * (2 * np.pi / 256)
    value = hsv[..., 2] / 255.0
    strength = hsv[..., 1] / 255.0 * value
    color = np.stack([np.cos(hue) * strength, np.sin(hue) * strength, value - 0.5], axis=-1)
    areas = color.reshape(n, 4, side // 4, 4, side // 4, 3)
    return np.asarray(areas.mean(axis=(2, 4)).reshape(n, 48))


def _unit_rows(rows: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(length > 0, length, 1))
