"""What an index knows of the people found in its photos and videos, besides where they are."""

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from model.protocol import JsonObject  # which imports torch


@dataclass(frozen=True)
class Sighting:
    """How an entry of an index of people came about.

    Attributes:
        of: how many entries its file has.
        score: of the box, by the detector or the user; None: the whole image, or a box without one.
        first, last: of a track, seconds of the video at which the person is seen; None: a photo.
        seen: of a track, number of frames in which the person was found.
        crops: of a track, the paths of other good crops relative to the image root, best first.
        boxes: digest of the boxes that the user gave for the file; "": a detector found them.
    """

    of: int = 1
    score: float | None = None
    first: float | None = None
    last: float | None = None
    seen: int = 0
    crops: tuple[str, ...] = ()
    boxes: str = ""

    @property
    def text(self) -> str:
        """As the index stores it."""
        default = asdict(Sighting())
        return json.dumps({key: value for key, value in asdict(self).items() if value != default[key]})

    @staticmethod
    def of_text(text: str | None) -> "Sighting":
        """What `text` returned; raises ValueError if it is none."""
        content: JsonObject = json.loads(text or "{}")
        if not isinstance(content, dict) or content.keys() - asdict(Sighting()).keys():
            raise ValueError(f"{text!r:.60} is no sighting")
        return Sighting(**content | {"crops": tuple(content.get("crops", ()))})
