"""The README.md that goes along with an export: what it is, and code that encodes an image and a caption."""

from pathlib import Path

from misc.export.source import Source
from model.processor import ImageProcessor

INTRODUCTION = """\
# {title}

Exported from `{checkpoint}`: {backbone}, images of {height} x {width} pixels (height x width), captions of \
at most {text_length} tokens, features of {embed_dim} numbers.
{notes}"""
PROCESSOR_NOTE = """
`{kind}Processor` of transformers 4.36 or newer loads from here too; `AutoImageProcessor` is for all versions.
"""
BIAS_NOTE = """
Its sigmoid loss had a learned bias, {bias:.4f}, which this format has no place for. No ranking feels it.
"""
CAPTIONS = """
Captions were cleaned before they were tokenised, which no tokenizer does by itself: `clean` below. Without \
it the same caption has other features.

```python
{imports}

FOLDER = "."  # where this README lies


def clean(caption: str) -> str:
    for mark in '.!"()*#:;~':
        caption = caption.replace(mark, " ")
    caption = " ".join(caption.lower().split())
    return {cleaned}


captions = [clean("A woman in a red coat, with a white bag.")]
images = [Image.new("RGB", (60, 160), "red")]
{code}
print(torch.nn.functional.normalize(text_features) @ torch.nn.functional.normalize(image_features).T)
```
"""
MENDED = "html.unescape(html.unescape(ftfy.fix_text(caption)))"  # `openai_clean` of text_utils/tokenizer.py
PROCESSORS = """\
tokenizer = AutoTokenizer.from_pretrained(FOLDER)
processor = AutoImageProcessor.from_pretrained(FOLDER)
"""
# Ours is PIL's. What transformers 5 takes by itself differs by a grey level, and in the features.
PROCESSORS_PIL = PROCESSORS.replace(
    "Processor.from_pretrained(FOLDER", 'Processor.from_pretrained(FOLDER, backend="pil"'
)
HUGGINGFACE = """
model = {model}.from_pretrained(FOLDER).eval()
{processors}
with torch.inference_mode():
    tokens = tokenizer(captions, padding=True, truncation=True, return_tensors="pt")
    output = model(**tokens, **processor(images=images, return_tensors="pt"))
text_features, image_features = output.text_embeds, output.image_embeds
"""
OPENAI = """
model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{{FOLDER}}")
tokenizer = open_clip.get_tokenizer(f"local-dir:{{FOLDER}}")
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
as JSON in the metadata of `model.safetensors`. In that code's repository:

```bash
python main.py --config FOLDER/options.yaml --evaluate FOLDER/model.safetensors --output-dir runs/exported
```
"""
TITLES = {
    "huggingface": "Text-based person search, for transformers",
    "openai": "Text-based person search, for open_clip",
    "safetensors": "Text-based person search, safetensors",
    "onnx": "Text-based person search, as ONNX graphs",
}


def write_readme(source: Source, format_name: str, checkpoint: Path, folder: Path) -> None:
    """Write README.md for one of the formats."""
    height, width = source.processor.image_size
    kind, bias = "AltCLIP" if source.is_altclip else "CLIP", float(source.clip.logit_bias)
    notes = PROCESSOR_NOTE.format(kind=kind) if format_name == "huggingface" else ""
    if bias and format_name in ("huggingface", "openai"):
        notes += BIAS_NOTE.format(bias=bias)
    text = INTRODUCTION.format(
        title=TITLES[format_name],
        checkpoint=checkpoint.name,
        backbone=kind,
        height=height,
        width=width,
        text_length=source.tokenizer.text_length,
        embed_dim=source.clip.embed_dim,
        notes=notes,
    )
    text += SAFETENSORS if format_name == "safetensors" else _usage(source, *USAGE[format_name])
    (folder / "README.md").write_text(text, encoding="utf-8")


def _usage(source: Source, imports: str, code: str) -> str:
    model = "AltCLIPModel" if source.is_altclip else "CLIPModel"
    processors = PROCESSORS_PIL if isinstance(source.processor, ImageProcessor) else PROCESSORS
    to_clean = [] if source.is_altclip else ["import html\n", "import ftfy"]
    lines = [*to_clean, "import torch", "from PIL import Image", imports.format(model=model)]
    return CAPTIONS.format(
        imports="\n".join(lines),
        cleaned="caption" if source.is_altclip else MENDED,
        code=code.format(model=model, processors=processors),
    )
