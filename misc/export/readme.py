"""The README.md of an export: what it contains, and code that encodes an image and a caption."""

from pathlib import Path

from misc.export.source import Source
from model.processor import NORMALIZATIONS, ImageProcessor
from text_utils.tokenizer import CLIPTokenizer

INTRODUCTION = """\
# Text-based person search, {title}

Exported from `{checkpoint.name}`: {source.backbone.title}, images of {source.processor.image_size[0]} x \
{source.processor.image_size[1]} pixels (height x width), captions of at most {source.tokenizer.text_length} \
tokens, features of {source.model.embed_dim} numbers.

The input is prepared so: captions with `data.cleaning={source.tokenizer.cleaning}`, images {images}.
{notes}"""
PROCESSOR_NOTE = """
`{processor}` of transformers 4.36 or newer loads this folder too; `AutoImageProcessor` works in all versions.
"""
BIAS_NOTE = """
Its sigmoid loss had a learned bias, {bias:.4f}, which this format cannot contain; it affects no ranking.
"""
HEADS_NOTE = """
These are the towers alone. In the project that trained them `{heads}` takes part in the features too, which \
this format cannot contain: scores and rankings differ from those of `--evaluate`. The formats safetensors \
and onnx contain all.
"""
CAPTIONS = """
The model was trained on captions that were cleaned in ways that this tokenizer does not: call `clean` below \
first. Without it the same caption can have other features.

```python
{imports}

FOLDER = "."  # the folder of this README


def clean(caption: str) -> str:
{cleaning}
    return {cleaned}


captions = [clean("A woman in a red coat, with a white bag.")]
images = [Image.new("RGB", (60, 160), "red")]
{code}
print(torch.nn.functional.normalize(text_features) @ torch.nn.functional.normalize(image_features).T)
```
"""
# As `openai_clean` of text_utils/tokenizer.py.
OPENAI_CLEAN = "html.unescape(html.unescape(ftfy.fix_text(caption)))"
REPAIRED = f'    caption = " ".join({OPENAI_CLEAN}.split())'
# As `CLEANINGS` of text_utils/captions.py.
CLEANINGS = {
    "tbps-clip": """\
    for mark in '.!"()*#:;~':
        caption = caption.replace(mark, " ")
    caption = " ".join(caption.lower().split())""",
    "none": """\
    caption = " ".join(caption.split())  # punctuation stays""",
    "whitespace": REPAIRED,
    "lower": f"{REPAIRED}.lower()",
    "canonicalize": f"""\
{REPAIRED}
    caption = caption.translate(str.maketrans("_", " ", string.punctuation.replace("_", "")))
    caption = " ".join(caption.lower().split())""",
}
PROCESSORS = """\
tokenizer = AutoTokenizer.from_pretrained(FOLDER)
processor = AutoImageProcessor.from_pretrained(FOLDER)
"""
# The model was trained with PIL's resizing; the default of transformers 5 differs by a grey level.
PROCESSORS_PIL = PROCESSORS.replace(
    "Processor.from_pretrained(FOLDER", 'Processor.from_pretrained(FOLDER, backend="pil"'
)
HUGGINGFACE = """
model = {model}.from_pretrained(FOLDER).eval()
{processors}
with torch.inference_mode():
    tokens = tokenizer(captions, padding={padding}, truncation=True, return_tensors="pt")
    output = model({tokens}, **processor(images={images}, return_tensors="pt"))
text_features, image_features = output.text_embeds, output.image_embeds
"""
OPENAI = """
name, size = f"local-dir:{{FOLDER}}", {size}
model, _, preprocess = open_clip.create_model_and_transforms(
    name, load_weights=False, pretrained_text=False, force_image_size=size
)
open_clip.load_checkpoint(model, f"{{FOLDER}}/open_clip_pytorch_model.bin")
tokenizer = open_clip.get_tokenizer(name)
model.eval()
with torch.inference_mode():
    text_features = model.encode_text(tokenizer(captions))
    image_features = model.encode_image(torch.stack([preprocess(image) for image in images]))
"""
ONNX = """
image_graph = InferenceSession(f"{{FOLDER}}/image.onnx")
text_graph = InferenceSession(f"{{FOLDER}}/text.onnx")
{processors}
tokens = tokenizer(captions, padding=True, truncation=True, return_tensors="np")
inputs = {{name: tokens[name].astype("int64") for name in ("input_ids", "attention_mask")}}
text_features = torch.from_numpy(text_graph.run(["features"], inputs)[0])
pixels = processor(images=images, return_tensors="np")["pixel_values"]
image_features = torch.from_numpy(image_graph.run(["features"], {{"pixel_values": pixels}})[0])
"""
TRANSFORMERS = "from transformers import AutoImageProcessor, AutoTokenizer"
USAGE = {
    "huggingface": (TRANSFORMERS + ", {model}", HUGGINGFACE),
    "openai": ("import open_clip", OPENAI),
    "onnx": ("from onnxruntime import InferenceSession\n" + TRANSFORMERS, ONNX),
}
SAFETENSORS = """
The tensors have the names of the code that trained them; the options of the run are in `options.yaml`, and \
as JSON in the metadata of `model.safetensors`. In the repository of that code:

```bash
python main.py --config FOLDER/options.yaml --evaluate FOLDER/model.safetensors --output-dir runs/exported
```
"""
TITLES = {"huggingface": "for transformers", "openai": "for open_clip", "onnx": "as ONNX graphs"}


def write_readme(source: Source, format_name: str, checkpoint: Path, folder: Path) -> None:
    """Write README.md for one of the formats."""
    model, bias, notes = source.model.clip.transformers_class, float(source.model.clip.logit_bias), ""
    if format_name == "huggingface" and model in ("CLIPModel", "AltCLIPModel"):
        notes = PROCESSOR_NOTE.format(processor=model.replace("Model", "Processor"))
    has_bias = source.model.clip.pads_captions and format_name == "huggingface"  # SigLIP's class has one
    if bias and not has_bias and format_name in ("huggingface", "openai"):
        notes += BIAS_NOTE.format(bias=bias)
    if source.left_out:
        notes += HEADS_NOTE.format(heads="`, `".join(source.left_out))
    title = TITLES.get(format_name, format_name)
    given = {"title": title, "checkpoint": checkpoint, "source": source, "notes": notes}
    text = INTRODUCTION.format(**given, images=_images(source))
    text += SAFETENSORS if format_name == "safetensors" else _usage(source, *USAGE[format_name])
    (folder / "README.md").write_text(text, encoding="utf-8")


def _images(source: Source) -> str:
    """How images are prepared, as in "images ...": by this project's processor, or by AltCLIP's own."""
    processor = source.processor
    if not isinstance(processor, ImageProcessor):
        return "by AltCLIP's own processor"
    names = (
        name for name, known in NORMALIZATIONS.items() if known == (processor.image_mean, processor.image_std)
    )
    name = next(names, f"mean {processor.image_mean}, deviation {processor.image_std}")
    settings = f"`data.interpolation={processor.interpolation}`, `data.normalization={name}`"
    return f"resized without a crop, anti-aliased ({settings})"


def _inputs(source: Source) -> dict[str, str]:
    """How the class of transformers is called: the padding and the names of captions, and the images."""
    clip, images = source.model.clip, "images"
    if clip.takes_patches:
        height, width = source.processor.image_size
        kind = source.processor.interpolation.upper()
        images = (
            f'[image.convert("RGB").resize(({width}, {height}), Image.Resampling.{kind}) for image in images]'
        )
    if clip.pads_captions:
        return {"padding": '"max_length"', "tokens": 'input_ids=tokens["input_ids"]', "images": images}
    return {"padding": "True", "tokens": "**tokens", "images": images}


def _usage(source: Source, imports: str, code: str) -> str:
    model = source.model.clip.transformers_class
    processors = PROCESSORS_PIL if isinstance(source.processor, ImageProcessor) else PROCESSORS
    needs_openai_clean = isinstance(source.tokenizer, CLIPTokenizer)  # its transformers version does less
    cleaning = CLEANINGS[source.tokenizer.cleaning]
    repairs = needs_openai_clean or OPENAI_CLEAN in cleaning
    modules = ["import html", "import string\n", "import ftfy"] if repairs else []
    lines = [*modules, "import torch", "from PIL import Image", imports.format(model=model)]
    return CAPTIONS.format(
        imports="\n".join(lines),
        cleaning=cleaning,
        cleaned=OPENAI_CLEAN if needs_openai_clean else "caption",
        code=code.format(
            model=model, processors=processors, size=source.processor.image_size, **_inputs(source)
        ),
    )
