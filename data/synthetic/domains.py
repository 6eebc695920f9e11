"""What tells one domain from another: its people, cameras, drawing, places and captions, as plain data.

The public data sets of this field differ in all of these; a model trained on one loses much on another. Every
domain draws the same kinds of things in the same named colours, in other shares, and looks at them otherwise.
"""

from dataclasses import dataclass, field

from data.synthetic.attributes import Weights
from data.synthetic.languages import english_styles
from data.synthetic.languages.english_styles import Style

Range = tuple[float, float]

# How often people mention a thing that is visible.
INTEREST: Weights = {
    "bag": 5, "hat": 4, "scarf": 4, "hair": 3, "hand": 3, "inner": 3, "shoes": 2.5, "glasses": 2, "mask": 2,
    "build": 1, "view": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Ink:
    """How shapes are drawn: the rim's `shade` (1 is none) and `width` in body units, the darkness of a limb's
    shaded `side` (0 to 255), and how much wider than high the lens shows a body (`stretch`)."""

    shade: float = 0.62
    width: float = 0.005
    side: int = 34
    stretch: float = 1.0


@dataclass(frozen=True, eq=False)
class Domain:
    """The parameters of a domain; the defaults are those of `street`.

    Attributes:
        taste: factors on the weights of kinds, colours, patterns, seasons and builds (1 where absent).
        heights, widths: of a crop in pixels; `shapes`: width by height before `widths` bounds it.
        cut: share of the crops that cut off the feet, with a body of `cut_spans` crop heights, else `spans`.
        views, occluders: weights.
        shift: how far a person may stand beside the middle, as a share of the crop's width.
        bystander: share of the images with somebody farther behind.
        quality: of the JPEG files.
        light, warmth, green, gamma, sharpness, noise: ranges of a camera's `Sensor`.
        blurred: share of the images that are coarser than their camera's others.
        haze: share of grey light that veils every pixel.
        falloff: how much brighter the top of an image is than its middle.
        shadow: how far the shadow on the ground reaches to the right, in body heights, and its alpha.
        scenes: the places of the cameras, taken in turn; names of `scenes.PAINTERS`.
        english: vocabulary and sentences of English captions; the numbers of its frames are those that the
            other languages use, whose words are the same in every domain.
        garments: weights of naming both garments, the upper or the lower one only.
        num_things: how many things a caption names.
        interest: how often a visible thing is named.
        view_named: how often the view may be named at all.
        plain, uncolored: how often a pattern is left out, and how often its colours are.
    """

    name: str
    taste: Weights = field(default_factory=dict)
    heights: tuple[int, int] = (150, 400)
    shapes: Range = (0.38, 0.5)
    widths: tuple[int, int] = (60, 160)
    cut: float = 0.12
    cut_spans: Range = (1.05, 1.22)
    spans: Range = (0.8, 0.93)
    views: Weights = field(default_factory=lambda: {"front": 4, "back": 3.5, "side": 2.5})
    occluders: Weights = field(
        default_factory=lambda: {"": 72, "post": 8, "bench": 6, "bush": 6, "passer-by": 8}
    )
    shift: float = 0.07
    bystander: float = 0.15
    quality: tuple[int, int] = (50, 92)
    light: Range = (0.78, 1.08)
    warmth: Range = (-0.09, 0.09)
    green: Range = (-0.03, 0.03)
    gamma: Range = (0.85, 1.2)
    sharpness: Range = (0.35, 0.9)
    noise: Range = (2, 9)
    blurred: float = 0.35
    haze: float = 0.0
    falloff: float = 0.0
    ink: Ink = field(default_factory=Ink)
    shadow: tuple[float, int] = (0.0, 70)
    scenes: tuple[str, ...] = ("facade", "park", "corridor", "shops")
    english: Style = english_styles.STREET
    garments: tuple[float, float, float] = (86, 9, 5)
    num_things: tuple[int, int] = (3, 6)
    interest: Weights = field(default_factory=lambda: INTEREST)
    view_named: float = 0.4
    plain: float = 0.15
    uncolored: float = 0.1


STREET = Domain("street")

# Old cameras far away under a hazy sky: small, pale, coarse crops of students; short captions.
CAMPUS = Domain(
    "campus",
    taste={
        "warm": 1.5, "cold": 0.6, "slim": 1.5, "heavy": 0.5, "hoodie": 3, "t-shirt": 1.8, "sweatpants": 3,
        "shorts": 1.5, "blazer": 0.2, "coat": 0.4, "dress": 0.5, "skirt": 0.6, "sneakers": 2.5,
        "high heels": 0.1, "leather shoes": 0.3, "backpack": 4, "handbag": 0.3, "suitcase": 0.2,
        "shopping bag": 0.5, "glasses": 2.5, "sun hat": 0.3, "phone": 2, "umbrella": 0.4, "logo": 2,
        "pinstripes": 0.4, "navy": 2, "gray": 1.8, "white": 1.6, "olive": 1.5, "purple": 0.5, "red": 0.7,
        "beige": 0.5, "pink": 0.7,
    },
    heights=(110, 230),
    shapes=(0.34, 0.44),
    widths=(40, 100),
    cut=0.04,
    spans=(0.84, 0.94),
    views={"front": 2.5, "back": 4.5, "side": 3},
    occluders={"": 70, "post": 6, "bush": 8, "bicycle": 12, "passer-by": 4},
    shift=0.04,
    bystander=0.05,
    quality=(35, 70),
    light=(0.86, 1.0),
    warmth=(-0.07, -0.02),
    green=(0.0, 0.03),
    gamma=(0.8, 1.0),
    sharpness=(0.1, 0.4),
    noise=(6, 13),
    blurred=0.4,
    haze=0.16,
    ink=Ink(shade=0.84, width=0.003, side=58, stretch=0.94),
    shadow=(0.42, 84),
    scenes=("brick", "court", "racks"),
    english=english_styles.CAMPUS,
    garments=(66, 22, 12),
    num_things=(2, 3),
    interest={**INTEREST, "bag": 8, "hair": 1, "shoes": 1, "inner": 1, "build": 0.4, "hand": 1.5},
    view_named=0.12,
    plain=0.5,
    uncolored=0.2,
)  # fmt: skip

# New cameras close by under warm lamps: large, sharp, contrasty crops with much floor; long captions.
MALL = Domain(
    "mall",
    taste={
        "warm": 0.6, "cold": 1.4, "heavy": 1.5, "coat": 2, "dress": 2.5, "blazer": 2, "shirt": 1.5,
        "hoodie": 0.5, "skirt": 2, "sweatpants": 0.3, "high heels": 2.5, "boots": 1.6, "leather shoes": 1.6,
        "shopping bag": 8, "handbag": 2.5, "backpack": 0.4, "umbrella": 0.3, "cup": 3, "scarf": 1.6,
        "sunglasses": 0.5, "sun hat": 0.3, "cap": 0.5, "checks": 1.7, "dots": 1.7, "logo": 0.5, "red": 2,
        "beige": 2, "brown": 1.8, "black": 1.5, "pink": 1.6, "yellow": 0.7, "green": 0.7, "gray": 0.6,
        "navy": 0.7,
    },
    heights=(260, 384),
    shapes=(0.42, 0.56),
    widths=(110, 190),
    cut=0.3,
    cut_spans=(1.08, 1.24),
    spans=(0.7, 0.86),
    views={"front": 6, "back": 2, "side": 2},
    occluders={"": 66, "planter": 12, "rail": 10, "passer-by": 12},
    shift=0.12,
    bystander=0.3,
    quality=(80, 95),
    light=(0.95, 1.1),
    warmth=(0.03, 0.09),
    green=(-0.02, 0.01),
    gamma=(1.1, 1.35),
    sharpness=(0.8, 1.2),
    noise=(1, 3),
    blurred=0.1,
    falloff=0.16,
    ink=Ink(shade=0.3, width=0.009, side=20, stretch=1.1),
    shadow=(0.0, 36),
    scenes=("atrium", "escalator", "store"),
    english=english_styles.MALL,
    garments=(96, 4, 0),
    num_things=(4, 7),
    interest={**INTEREST, "shoes": 6, "hair": 6, "view": 2, "build": 2},
    view_named=0.7,
    plain=0.05,
    uncolored=0.02,
)  # fmt: skip

DOMAINS = {domain.name: domain for domain in (STREET, CAMPUS, MALL)}
