"""The families of `transformers` models that `model.backbone=transformers` builds, by their `model_type`."""

from collections.abc import Mapping

from model.families.chinese_clip import ChineseCLIP
from model.families.encoder import HubEncoder
from model.families.metaclip2 import MetaCLIP2
from model.families.siglip import SigLIP
from model.families.siglip2 import NaFlex

FAMILIES: Mapping[str, type[HubEncoder]] = {
    "chinese_clip": ChineseCLIP,
    "metaclip_2": MetaCLIP2,
    "siglip": SigLIP,
    "siglip2": NaFlex,
}
