"""Searches as the API takes them, answered by the ranking; those that wait are encoded together."""

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np

from data.types import NOBODY
from misc.search.encoder import Encoder
from misc.search.index import Index
from misc.search.ranking.answer import Answer, Result, rank
from misc.search.ranking.filters import Filters
from misc.search.ranking.queries import Query, query_features
from misc.search.ranking.warnings import text_warnings
from misc.search.truth import GroundTruth
from misc.search.web.generations import Generation
from misc.search.web.refusals import RefusedError
from misc.search.web.schema import (
    FoundImage,
    Named,
    QueryImage,
    SearchAnswer,
    SearchRequest,
    Whereabouts,
)
from options import UserError

MIN_RANKED = 10  # so that R@10 can be computed
MAX_NAMED = 100  # images that share the place of a result, of each kind

Outcome = SearchAnswer | Exception


class Searcher:
    """Answers searches.

    Args:
        model: held while the model is used.
        uploads: (E,) features of images, by name.
    """

    def __init__(
        self, encoder: Encoder, model: threading.Lock, uploads: "OrderedDict[str, np.ndarray]"
    ) -> None:
        self._encoder, self._model, self._uploads = encoder, model, uploads

    def search_all(self, generation: Generation, requests: Sequence[SearchRequest]) -> list[Outcome]:
        """The answer to each search, or the UserError to raise. The texts of all that are valid are encoded
        together.
        """
        outcomes: dict[int, Outcome] = {}
        valid: list[tuple[int, SearchRequest, Query]] = []
        for number, request in enumerate(requests):
            try:
                valid.append((number, request, self._query(generation, request)))
            except UserError as error:
                outcomes[number] = error
        numbers = [number for number, _, _ in valid]
        try:
            outcomes |= zip(numbers, self._search_together(generation, valid), strict=True)
        except UserError as error:
            outcomes |= dict.fromkeys(numbers, error)
        return [outcomes[number] for number in range(len(requests))]

    def _search_together(
        self, generation: Generation, valid: Sequence[tuple[int, SearchRequest, Query]]
    ) -> list[SearchAnswer]:
        if not valid:
            return []
        started = time.perf_counter()
        index = generation.index
        _, requests, queries = zip(*valid, strict=True)
        with self._model:
            features = query_features(self._encoder, queries, index)
        answers: dict[int, SearchAnswer] = {}
        for numbers in _alike(requests, queries):
            first = requests[numbers[0]]
            filters = _filters(first)
            settings = {"offset": first.offset, "filters": filters, "min_score": first.min_score}
            settings |= {"group": first.group, "per_file": first.per_file}
            chosen = [queries[number] for number in numbers]
            ranked = rank(index, features[numbers], chosen, k=first.k, **settings)
            for number, found in zip(numbers, ranked, strict=True):
                answers[number] = self._answer(generation, requests[number], queries[number], found)
        for number, answer in answers.items():
            truth, request = generation.truth, requests[number]
            if truth and truth.persons(request.text) and _is_of_protocol(request):
                answer.first_right = _first_right(index, truth, request, features[number])
            answer.seconds = time.perf_counter() - started
        return [answers[number] for number in range(len(requests))]

    def _query(self, generation: Generation, request: SearchRequest) -> Query:
        if not (request.text.strip() or request.texts or request.images or request.more):
            raise UserError("Describe a person first: the search field is empty")
        ids = [image.id for image in request.images if image.id is not None]
        generation.check_ids([*ids, *request.more, *request.less])
        texts = [(request.text, 1.0)] if request.text.strip() else []
        generation.index.select(_filters(request))
        parts = (*request.texts, *request.images)
        if parts and not texts and not any(part.weight for part in parts):
            raise UserError("weight: expected one above 0, found only 0")
        query = Query(
            texts=(*texts, *((part.text, part.weight) for part in request.texts)),
            images=tuple((self._source(image), image.weight) for image in request.images),
            without=tuple(request.without),
            more=tuple(request.more),
            less=tuple(request.less),
        )
        empty = [text for text in query.all_texts if not self._encoder.tokenizer.clean(text)]
        if empty:
            raise UserError(f"Expected words that describe a person, found {empty[0][:40]!r}")
        return query

    def _source(self, image: QueryImage) -> int | np.ndarray:
        if image.id is not None:
            return image.id
        if image.upload not in self._uploads:
            raise RefusedError(404, "This image is no longer known: upload it again")
        return self._uploads[image.upload]

    def _answer(
        self, generation: Generation, request: SearchRequest, query: Query, found: Answer
    ) -> SearchAnswer:
        rows = [result.row for result in found.results]
        image = next((source for source, _ in query.images if isinstance(source, int)), None)
        right = _correct(generation, request.text, image, rows)
        named = [
            number
            for result in found.results
            for numbers in (result.duplicates, result.others)
            for number in numbers[:MAX_NAMED]
        ]
        sharing = generation.named(named) if named else {}
        pairs = zip(found.results, right, strict=True)
        return SearchAnswer(
            generation=generation.index.header.generation,
            results=[_found_image(result, sharing, is_right) for result, is_right in pairs],
            total=found.total,
            matching=found.matching,
            passing=found.passing,
            has_more=found.has_more,
            seconds=0.0,
            warnings=[
                *generation.warnings,
                *text_warnings(self._encoder, query.all_texts),
                *found.warnings,
            ],
        )


def _filters(request: SearchRequest) -> Filters:
    asked = dict(request.filters)
    sizes = {name: tuple(size) if (size := asked.pop(name)) else None for name in ("min_size", "max_size")}
    return Filters(**asked, **sizes)


def _alike(requests: Sequence[SearchRequest], queries: Sequence[Query]) -> list[list[int]]:
    """The numbers of the searches that can be ranked by one call; images of a query are left out of all."""
    groups: dict[object, list[int]] = {}
    for number, (request, query) in enumerate(zip(requests, queries, strict=True)):
        settings = (request.filters.model_dump_json(), request.min_score, request.k, request.offset)
        key = number if query.ids else (*settings, request.group, request.per_file)
        groups.setdefault(key, []).append(number)
    return list(groups.values())


def _found_image(result: Result, named: Mapping[int, Named], is_right: bool | None) -> FoundImage:
    duplicates, others = (
        [named[number] for number in numbers[:MAX_NAMED] if number in named]
        for numbers in (result.duplicates, result.others)
    )
    return FoundImage(
        **dict(Whereabouts.of(result.place, result.sighting)),
        rank=result.rank,
        id=result.id,
        score=result.score,
        path=result.path,
        width=result.width,
        height=result.height,
        taken=result.taken,
        count=1 + len(result.duplicates),
        duplicates=duplicates,
        num_others=len(result.others),
        others=others,
        right=is_right,
    )


def _is_of_protocol(request: SearchRequest) -> bool:
    """Whether it is a caption alone, as in evaluation."""
    others = request.texts or request.images or request.without or request.more or request.less
    return not others and _filters(request) == Filters()


def _first_right(index: Index, truth: GroundTruth, request: SearchRequest, feature: np.ndarray) -> int | None:
    """The rank of the first image that shows the described person, if it is among the first ones."""
    wanted = truth.persons(request.text)
    _, rows = index.search(feature[None], max(MIN_RANKED, request.k))
    found = [truth.person_ids[row] in wanted for row in rows[0].tolist()]
    return found.index(True) + 1 if True in found else None


def _correct(generation: Generation, text: str, image: int | None, rows: Sequence[int]) -> list[bool | None]:
    """Whether each row shows the person that the caption, or else the image, describes; None: unknown."""
    truth = generation.truth
    if truth is None:
        return [None] * len(rows)
    ids = truth.person_ids
    if text:
        wanted = truth.persons(text)
    else:
        wanted = set() if image is None else {ids[generation.index.row_of(image)]} - {None, NOBODY}
    return [ids[found] in wanted if wanted and ids[found] is not None else None for found in rows]
