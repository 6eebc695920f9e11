"""What the JSON API takes and returns; its limits bound the work that one request can cause."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from data.images.regions import Place
from misc.search.ranking.queries import descriptions
from misc.search.storage.sightings import Sighting

MAX_RESULTS = 200
MAX_PARTS = 32  # texts, images ... of one query, of each kind
MAX_MARKED = 200  # images of one query that results should resemble or differ from
MAX_EXPORTED = 1000
MAX_ID = 2**63 - 1  # of SQLite


def encodable(text: object) -> object:
    """Replace unpaired surrogates, which file names and JSON may contain but UTF-8 cannot encode."""
    return text.encode(errors="replace").decode() if isinstance(text, str) else text


Text = Annotated[str, Field(max_length=2000), BeforeValidator(encodable)]
Line = Annotated[str, BeforeValidator(encodable)]  # of an answer


def _separate(texts: list[str]) -> list[str]:
    """The descriptions in texts, in which commas separate several."""
    separate = list(descriptions(texts))
    if len(separate) > MAX_PARTS:
        raise ValueError(f"expected at most {MAX_PARTS} descriptions, found {len(separate)}")
    return separate


Id = Annotated[int, Field(ge=0, le=MAX_ID)]
Weight = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Size = Annotated[list[Annotated[int, Field(ge=0, le=10**6)]], Field(min_length=2, max_length=2)]


class Asked(BaseModel):
    """A part of a request: of exactly these types, without other fields."""

    model_config = ConfigDict(strict=True, extra="forbid")


class WeightedText(Asked):
    """One more sentence of a query."""

    text: Text
    weight: Weight = 1.0


class QueryImage(Asked):
    """An image of a query: one of the index, or one that was uploaded."""

    id: Id | None = None
    upload: Annotated[str, Field(pattern="^[0-9a-f]{32}$")] | None = None
    weight: Weight = 1.0

    @model_validator(mode="after")
    def _is_one(self) -> "QueryImage":
        if (self.id is None) == (self.upload is None):
            raise ValueError("expected an id or an upload")
        return self


class AskedFilters(Asked):
    """Which images are ranked: those that pass all filters."""

    folder: Text = ""
    pattern: Text = ""
    since: Text = ""
    until: Text = ""
    hours: Text = ""
    min_size: Size | None = None
    max_size: Size | None = None


class SearchRequest(Asked):
    """A query, and which part of its ranking is wanted."""

    text: Text = ""
    texts: list[WeightedText] = Field([], max_length=MAX_PARTS)
    without: Annotated[list[Text], Field(max_length=MAX_PARTS), AfterValidator(_separate)] = []
    images: list[QueryImage] = Field([], max_length=MAX_PARTS)
    more: list[Id] = Field([], max_length=MAX_MARKED, description="images that results should resemble")
    less: list[Id] = Field([], max_length=MAX_MARKED, description="images that results should not resemble")
    filters: AskedFilters = AskedFilters()
    min_score: Annotated[float, Field(allow_inf_nan=False)] | None = None
    k: int = Field(20, ge=1, le=MAX_RESULTS)
    offset: int = Field(0, ge=0, le=10**9)
    group: bool = Field(True, description="show equal images as one")
    per_file: bool = Field(False, description="show one entry of each photo or video")


class ExplainRequest(Asked):
    """The description whose score is explained."""

    text: Text


class ExportRequest(Asked):
    """The images to export: their files ("zip"), their pictures as JPEG ("crops"), or a table ("csv"), into
    which `query` is written.
    """

    ids: list[Id] = Field(min_length=1, max_length=MAX_EXPORTED)
    format: Literal["zip", "crops", "csv"] = Field(alias="as")
    query: SearchRequest | None = None


class LoginRequest(Asked):
    """The password that the server was started with."""

    password: Text


class Named(BaseModel):
    """An image that shares the place of a result; `file` as in `Whereabouts`."""

    id: int
    path: Line
    file: Line | None = None


class Whereabouts(BaseModel):
    """Where an entry of an index of people is; null: it is a whole image, or a photo.

    `file` is relative to the image root. `box` is left, top, width and height in pixels of the upright
    photo or frame, without margin. Times are seconds since the first frame of the video: `time` that of the
    picture, `first` and `last` those of the track. `detection` is the score of the box,
    where it has one.
    """

    file: Line | None = None
    video: bool | None = None
    box: tuple[int, int, int, int] | None = None
    time: float | None = None
    first: float | None = None
    last: float | None = None
    detection: float | None = None

    @staticmethod
    def of(place: Place, sighting: Sighting | None) -> "Whereabouts":
        """Those of an entry; of a whole image there is no sighting."""
        if sighting is None:
            return Whereabouts()
        file, time, box = place
        track = {"first": sighting.first, "last": sighting.last, "detection": sighting.score}
        return Whereabouts(file=file, video=time is not None, box=box, time=time, **track)


class Crop(BaseModel):
    """A crop of a track, at `time` seconds of its video."""

    time: float | None
    box: tuple[int, int, int, int] | None


class Details(Whereabouts):
    """An entry of the index.

    `scene` is width and height of the whole photo or frame, upright, where it can be read; `crops` are other
    good crops of its track, the best first.
    """

    id: int
    path: Line
    width: int | None = None
    height: int | None = None
    taken: str | None = None
    scene: tuple[int, int] | None = None
    crops: list[Crop] = []


class FoundImage(Whereabouts):
    """An image of a ranking.

    `taken` is local time; `count` is 1 + the number of duplicates, `num_others` that of other entries of the
    same file where it has one place; of both, the first are named. `right` says whether it shows the
    described person, where annotations tell.
    """

    rank: int
    id: int
    score: float
    path: Line
    width: int | None = None
    height: int | None = None
    taken: str | None = None
    count: int = 1
    duplicates: list[Named] = []
    num_others: int = 0
    others: list[Named] = []
    right: bool | None = None


class SearchAnswer(BaseModel):
    """A part of a ranking.

    `matching` images pass the filters; `passing` of them have at least the minimum score, if there is one;
    `first_right` is the rank of the first correct image, of a query of the evaluation protocol.
    """

    generation: int
    results: list[FoundImage]
    total: int
    matching: int
    passing: int | None = None
    has_more: bool
    seconds: float
    warnings: list[Line] = []
    first_right: int | None = None


class About(BaseModel):
    """What is known before the first search.

    `folders` are some that hold images, as those of cameras; with `has_people` the entries are people in
    photos, and with `has_videos` in videos.
    """

    total: int
    missing: int
    complete: bool
    generation: int
    checkpoint: Line
    max_results: int
    examples: list[Line]
    folders: list[Line]
    has_people: bool
    has_videos: bool
    has_truth: bool
    has_times: bool
    protected: bool


class Uploaded(BaseModel):
    """The name of an uploaded image, for `images` of a search."""

    upload: str


class Problem(BaseModel):
    """Why a request was refused, in one line."""

    error: str
