"""Chinese captions: measure words, and a verb for every kind of thing worn or carried."""

import random

from data.synthetic.attributes import Item
from data.synthetic.languages.wording import ACCESSORIES, Content, mentioned

PEOPLE = {"man": ("男子", "男士", "男性"), "woman": ("女子", "女士", "女性")}
PRONOUN = {"man": "他", "woman": "她"}
BUILD = {"slim": ("身材苗条的", "偏瘦的", "身材瘦削的"), "heavy": ("体型偏胖的", "身材壮实的", "微胖的")}
# Measure word, then the names of a thing.
KINDS = {
    "t-shirt": ("件", "T恤", "短袖T恤", "短袖上衣"), "tank top": ("件", "背心", "无袖上衣"),
    "shirt": ("件", "衬衫", "长袖衬衫"), "sweater": ("件", "毛衣", "针织衫"),
    "hoodie": ("件", "连帽衫", "连帽卫衣"), "jacket": ("件", "夹克", "外套"),
    "blazer": ("件", "西装外套", "西服上衣"), "puffer": ("件", "羽绒服", "棉服"),
    "coat": ("件", "大衣", "长外套"), "dress": ("条", "连衣裙", "裙子"), "top": ("件", "上衣", "打底衫"),
    "trousers": ("条", "长裤", "裤子"), "jeans": ("条", "牛仔裤", "牛仔长裤"),
    "sweatpants": ("条", "运动裤", "运动长裤"), "leggings": ("条", "紧身裤", "打底裤"),
    "shorts": ("条", "短裤", "五分裤"), "skirt": ("条", "半身裙", "短裙"),
    "sneakers": ("双", "运动鞋", "球鞋"), "boots": ("双", "靴子", "长靴"), "leather shoes": ("双", "皮鞋",),
    "sandals": ("双", "凉鞋",), "high heels": ("双", "高跟鞋",), "backpack": ("个", "双肩包", "背包"),
    "handbag": ("个", "手提包", "手袋"), "shoulder bag": ("个", "单肩包", "斜挎包"),
    "suitcase": ("个", "行李箱", "拉杆箱"), "shopping bag": ("个", "购物袋", "手提袋"),
    "cap": ("顶", "鸭舌帽", "棒球帽"), "beanie": ("顶", "毛线帽", "针织帽"),
    "sun hat": ("顶", "遮阳帽", "宽檐帽"), "glasses": ("副", "眼镜"), "sunglasses": ("副", "墨镜", "太阳镜"),
    "scarf": ("条", "围巾"), "mask": ("个", "口罩"), "phone": ("部", "手机"),
    "umbrella": ("把", "雨伞", "伞"), "cup": ("个", "纸杯", "咖啡杯"),
}  # fmt: skip
COLORS = {
    "black": ("黑色",), "white": ("白色",), "gray": ("灰色",), "red": ("红色",), "blue": ("蓝色",),
    "navy": ("深蓝色", "藏青色"), "light blue": ("浅蓝色", "天蓝色"), "green": ("绿色",),
    "olive": ("橄榄绿色", "军绿色"), "yellow": ("黄色",), "orange": ("橙色", "橘色"),
    "brown": ("棕色", "褐色"), "beige": ("米色", "米黄色"), "pink": ("粉色", "粉红色"), "purple": ("紫色",),
    "": ("",),
}  # fmt: skip
HAIR_COLORS = {"black": "黑色", "brown": "棕色", "blond": "金色", "red": "红色", "gray": "灰白色", "": ""}
HAIR = {
    "short": ("{}短发", "利落的{}短发"), "curly": ("{}卷发", "蓬松的{}卷发"),
    "bob": ("齐下巴的{}短发", "{}波波头"), "long": ("{}长发", "{}披肩长发"),
    "ponytail": ("{}马尾", "{}马尾辫"), "bun": ("{}丸子头", "{}发髻"), "bald": ("光头", "光头"),
}  # fmt: skip
HAIR_VERBS = {"bald": ("剃着",), "ponytail": ("扎着", "梳着"), "bun": ("扎着", "梳着")}
COLORED = {
    "stripes": ("{c}和{d}相间的条纹{k}", "带{d}横条纹的{c}{k}"),
    "pinstripes": ("带{d}竖条纹的{c}{k}", "{c}和{d}相间的竖条纹{k}"),
    "checks": ("{c}和{d}相间的格子{k}", "{c}配{d}的格纹{k}"),
    "dots": ("带{d}圆点的{c}{k}", "{c}底{d}波点{k}"),
    "logo": ("胸前印有{d}图案的{c}{k}", "带{d}标志的{c}{k}"),
    "two-tone": ("{d}和{c}拼接的{k}", "肩部为{d}的{c}{k}"),
    "side stripes": ("侧边带{d}条纹的{c}{k}", "两侧有{d}条纹的{c}{k}"),
}
UNCOLORED = {
    "stripes": ("条纹{k}", "横条纹{k}"), "pinstripes": ("竖条纹{k}", "带竖条纹的{k}"),
    "checks": ("格子{k}", "格纹{k}"), "dots": ("波点{k}", "带圆点的{k}"),
    "logo": ("胸前印有图案的{k}", "带标志的{k}"), "two-tone": ("拼色{k}", "双色{k}"),
    "side stripes": ("侧边带条纹的{k}", "两侧有条纹的{k}"),
}  # fmt: skip
VIEW = {
    "front": ("面向镜头", "正对镜头"),
    "back": ("背对镜头", "背朝镜头"),
    "side": ("侧身对着镜头", "侧面朝向镜头"),
}
VERBS = {
    "shoes": ("脚穿", "脚上穿着"), "hat": ("头戴", "戴着"), "scarf": ("围着", "脖子上围着"),
    "glasses": ("戴着",), "mask": ("戴着", "脸上戴着"), "backpack": ("背着", "身后背着"),
    "handbag": ("提着", "手里拎着"), "shoulder bag": ("挎着", "身上挎着"), "suitcase": ("拉着", "拖着"),
    "shopping bag": ("拎着", "手里提着"), "hand": ("手里拿着", "手拿"),
}  # fmt: skip


def thing(item: Item, rng: random.Random) -> str:
    """A thing with its measure word, colours and pattern."""
    measure, *names = KINDS[item.kind]
    name, color, second = rng.choice(names), rng.choice(COLORS[item.color]), rng.choice(COLORS[item.color2])
    if item.pattern:
        pattern = rng.choice((COLORED if item.color else UNCOLORED)[item.pattern])
        words = pattern.format(c=color, d=second, k=name)
    else:
        words = f"{color}{rng.choice(('', '的')) if color else ''}{name}"
    return f"一{measure}{words}"


def hair(item: Item, rng: random.Random) -> str:
    """The hair, as what a person has."""
    verb = rng.choice(HAIR_VERBS.get(item.kind, ("留着", "有着")))
    return verb + rng.choice(HAIR[item.kind]).format(HAIR_COLORS[item.color])


def garments(content: Content, rng: random.Random) -> str:
    """The upper and the lower garment, as one or two things."""
    items, words = content.items, ""
    if "upper" in items:
        words = thing(items["upper"], rng)
        if "inner" in items:
            words += f"，内搭{thing(items['inner'], rng)}"
    if "lower" in items:
        lower = thing(items["lower"], rng)
        joint = "，下身是" if "inner" in items else rng.choice(("和", "，下身是", "，搭配"))
        words = f"{words}{joint}{lower}" if words else lower
    return words


def small_things(content: Content, rng: random.Random) -> list[str]:
    """Shoes and all that is worn besides, as verb phrases."""
    fields = ("shoes", *ACCESSORIES)
    return [rng.choice(VERBS[field]) + thing(item, rng) for field, item in mentioned(content, fields)]


def doings(content: Content, rng: random.Random) -> list[str]:
    """What a person carries and how they are seen, as verb phrases."""
    phrases = [rng.choice(VERBS[item.kind]) + thing(item, rng) for _, item in mentioned(content, ("bag",))]
    phrases += [rng.choice(VERBS["hand"]) + thing(item, rng) for _, item in mentioned(content, ("hand",))]
    return phrases + [rng.choice(VIEW[item.kind]) for _, item in mentioned(content, ("view",))]


def caption(content: Content, frame: int, rng: random.Random) -> str:
    """A caption of one or two sentences; `frame` (0 to 5) decides how it is built."""
    items, he = content.items, PRONOUN[content.sex]
    build = rng.choice(BUILD[items["build"].kind]) if "build" in items else ""
    person = build + rng.choice(PEOPLE[content.sex])
    has = [hair(items["hair"], rng)] if "hair" in items else []
    worn, more, does = garments(content, rng), small_things(content, rng), doings(content, rng)
    wears = rng.choice(("身穿", "穿着", "身着"))
    if frame == 0:
        sentences = [[f"一名{person}{has[0] + '，' if has else ''}{wears}{worn}", *more, *does]]
    elif frame == 1:
        sentences = [[f"这名{person}{wears}{worn}", *more], has + does]
    elif frame == 2:
        owner = f"这位{person}" if build or not has else f"这位{has[0]}的{person}"
        sentences = [[f"{owner}{wears}{worn}", *(has if build else []), *more, *does]]
    elif frame == 3:
        sentences = [[f"图中有一位{person}", *has, *does], [f"{wears}{worn}", *more]]
    elif frame == 4:
        sentences = [[f"画面中的{person}{wears}{worn}", *more, *has, *does]]
    else:
        sentences = [[f"这个人是一位{person}", *has, *does], [f"{wears}{worn}", *more]]
    texts = ["，".join(clauses) for clauses in sentences if clauses]
    return "。".join([texts[0], *(he + text for text in texts[1:])]) + "。"
