from .extraction import extract as extract
from .registry import (
    DEFAULTS as DEFAULTS,
)
from .registry import (
    EXTRACTORS as EXTRACTORS,
)
from .registry import (
    Extractor as Extractor,
)
from .registry import (
    extractor as extractor,
)
from .registry import (
    versions as versions,
)
