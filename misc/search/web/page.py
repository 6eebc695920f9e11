"""What the page shows: answers to searches from the latest generation of an index, and explanations."""

import hashlib
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from data.images.decode import BadImageError
from data.images.regions import Place, place_of
from data.types import language_name
from misc.search.encoder import Encoder
from misc.search.explain import explain, overlay
from misc.search.index import Index
from misc.search.storage.facts import Detail
from misc.search.storage.sightings import Sighting
from misc.search.truth import GroundTruth
from misc.search.web.export import Exported
from misc.search.web.generations import Generations
from misc.search.web.pictures import Pictures, Source, encode_jpeg
from misc.search.web.refusals import RefusedError
from misc.search.web.schema import MAX_RESULTS, About, Crop, Details, SearchRequest, Whereabouts
from misc.search.web.searching import Outcome, Searcher
from options import UserError

MAX_UPLOADS = 200  # whose features are kept
LARGEST_UPLOAD = (2000, 2000)  # pixels: larger ones are encoded at this size
EXAMPLES = {
    "en": (
        "a woman in a red coat with a black backpack",
        "a man in a blue jacket and grey trousers, with a beard",
    ),
    "ch": ("一名穿红色外套、背黑色双肩包的女子",),
    "fr": ("une femme en manteau rouge avec un sac à dos noir",),
    "de": ("eine Frau mit rotem Mantel und schwarzem Rucksack",),
}


class Page:
    """The page of an index; `misc.search.web.api` serves it."""

    def __init__(self, index: Index, encoder: Encoder, truth: GroundTruth | None = None) -> None:
        self.encoder = encoder
        self._generations = Generations(index, encoder, truth)
        self._model = threading.Lock()
        self._uploads: OrderedDict[str, np.ndarray] = OrderedDict()
        self._searcher = Searcher(encoder, self._model, self._uploads)

    @property
    def index(self) -> Index:
        """The generation of the index that the latest search used."""
        return self._generations.current.index

    @property
    def truth(self) -> GroundTruth | None:
        """What is known of its images."""
        return self._generations.current.truth

    def about(self, is_protected: bool) -> About:
        """What is known before the first search."""
        generation = self._generations.latest()
        index, truth = generation.index, generation.truth
        return About(
            total=len(index.paths),
            missing=index.num_missing,
            complete=index.header.complete,
            generation=index.header.generation,
            checkpoint="/".join(self.encoder.checkpoint.parts[-2:]),
            max_results=MAX_RESULTS,
            examples=self._examples(truth),
            folders=generation.folders,
            has_people=index.has_people,
            has_videos=generation.has_videos,
            has_truth=truth is not None,
            has_times=True,
            protected=is_protected,
        )

    def _examples(self, truth: GroundTruth | None) -> list[str]:
        examples = truth.examples if truth else EXAMPLES
        is_multilingual = self.encoder.model.clip.is_multilingual
        learned = examples if is_multilingual else self.encoder.options.data.languages
        known = {language_name(name) for name in learned} & set(examples) or examples
        return [text for name in examples if name in known for text in examples[name]]

    def source(self, number: int, crop: int = 0) -> Source:
        """What a picture of the image of this id is of: 0 is the image, or the person; else one of the other
        crops of the track, from 1. Raises RefusedError if there is none.
        """
        generation = self._generations.having(number)
        if crop == 0:
            return generation.source(generation.paths_of([number])[number])
        sighting = generation.sightings_of([number]).get(number, Sighting())
        if crop > len(sighting.crops):
            raise RefusedError(404, f"There is no crop {crop} of image {number}")
        return generation.source(sighting.crops[crop - 1])

    def details(self, number: int, pictures: Pictures) -> Details:
        """What is known of the image of this id; raises RefusedError if there is none."""
        generation = self._generations.having(number)
        path = generation.paths_of([number])[number]
        source, sighting = generation.source(path), generation.sightings_of([number]).get(number)
        facts = generation.index.facts.of([number]).get(number, Detail())
        crops = [place_of(crop) for crop in sighting.crops] if sighting else []
        return Details(
            **dict(Whereabouts.of(source.place, sighting)),
            id=number,
            path=path,
            width=facts.width,
            height=facts.height,
            taken=facts.taken,
            scene=pictures.scene_size(source),
            crops=[Crop(time=crop.time, box=crop.box) for crop in crops],
        )

    def exported(self, ids: Sequence[int]) -> list[Exported]:
        """What is exported of these images, each once; raises RefusedError if one of them is unknown."""
        generation = self._generations.latest()
        generation.check_ids(ids)
        paths, sightings = generation.paths_of(ids), generation.sightings_of(ids)
        return [
            Exported(number, paths[number], generation.source(paths[number]), sightings.get(number))
            for number in dict.fromkeys(ids)
        ]

    def search_all(self, requests: Sequence[SearchRequest]) -> list[Outcome]:
        """The answer to each search, from the latest generation, or the UserError to raise."""
        return self._searcher.search_all(self._generations.latest(), requests)

    def read_upload(self, content: bytes, pictures: Pictures) -> Image.Image:
        """The image that was uploaded; raises UserError if it is none."""
        with tempfile.NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            try:
                path = Path(file.name)
                return pictures.load(Source(path.parent, Place(path.name)), LARGEST_UPLOAD)
            except BadImageError as error:
                raise UserError(f"The file cannot be read as an image: {error.reason}") from error

    def keep_upload(self, content: bytes, image: Image.Image) -> str:
        """Encode an uploaded image; returns its name, for searches."""
        name = hashlib.blake2b(content, digest_size=16).hexdigest()
        with self._model:
            self._uploads[name] = self.encoder.encode_images([image])[0].numpy()
        self._uploads.move_to_end(name)
        if len(self._uploads) > MAX_UPLOADS:
            self._uploads.popitem(last=False)
        return name

    def explain(self, image: Image.Image, text: str) -> bytes:
        """The image as JPEG, overlaid with the regions that its score depends on."""
        with self._model:
            heat = explain(self.encoder, image, text)
        return encode_jpeg(overlay(image, heat))
