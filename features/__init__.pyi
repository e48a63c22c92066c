from .extraction import extract as extract
from .registry import (
    DEFAULTS as DEFAULTS,
    EXTRACTORS as EXTRACTORS,
    Extractor as Extractor,
    extractor as extractor,
    versions as versions,
)
