"""For tests of search: a small model as a run leaves it, folders of images, an index of people, a server."""

import contextlib
import json
import os
import shutil
import socket
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import uvicorn
from PIL import Image

from data.images.regions import Place, Region, place_of
from misc.search.encoder import Encoder, load_encoder
from misc.search.index import Index
from misc.search.indexing.update import update_index
from misc.search.storage import store
from misc.search.storage.database import Entry, Header
from misc.search.storage.sightings import Sighting
from misc.search.storage.store import Store, create, new_features_name
from misc.search.views import crop_of
from misc.search.web.app import build_app
from misc.search.web.page import Page
from misc.search.web.server import configuration
from model import build_model
from options import load_options, to_dict
from tests.helpers.tiny import SIZES

Search = Callable[..., list[dict[str, Any]]]  # what the fixture `search` is
SETTINGS = SIZES | {"misc.device": "cpu", "data.test_batch_size": 4}
ODD_NAME = "<img src=x onerror=document.title=1> & \udcff.png"  # markup, and a byte that is not UTF-8


def save_run(path: Path, seed: int = 0, **settings: Any) -> Path:
    """A checkpoint of a random model of the lean recipe with `SETTINGS` and `settings`."""
    overrides = [f"{key}={value}" for key, value in (SETTINGS | settings).items()]
    options = load_options("config/s.config.yaml", overrides)
    torch.manual_seed(seed)
    model, _, _ = build_model(options, num_identities=3)
    for parameter in model.clip.parameters():  # features that differ between images
        parameter.data += 0.2 * torch.randn_like(parameter)
    torch.save({"model": model.state_dict(), "options": to_dict(options)}, path)
    return path


def small_encoder(folder: Path, seed: int = 0) -> Encoder:
    return load_encoder(save_run(folder / f"run {seed}.pth", seed))


def save_image(path: Path, seed: int, size: tuple[int, int] = (8, 16)) -> Path:
    """An image of its own; in the format of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def image_folder(folder: Path, count: int = 10) -> Path:
    """Images a/00.png, b/01.png, a/02.png ..."""
    for number in range(count):
        save_image(folder / "ab"[number % 2] / f"{number:02d}.png", number)
    return folder


class Kill(BaseException):
    """Simulates the end of the process: nothing handles it."""


@contextlib.contextmanager
def killed_at_write(number: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Raise `Kill` in place of this write of the block, counted from 0, and of all later ones."""
    left = [number]

    def killed(work: Callable[..., object]) -> Callable[..., object]:
        def instead(*arguments: object) -> object:
            left[0] -= 1
            if left[0] < 0:
                raise Kill
            return work(*arguments)

        return instead

    with monkeypatch.context() as patch:
        for place, name in ((os, "fsync"), (Path, "replace"), (store, "_write")):
            patch.setattr(place, name, killed(getattr(place, name)))
        yield


def index_of(folder: Path, features: np.ndarray, images: Sequence[dict[str, Any]], **header: Any) -> Index:
    """An index of these features (N, E), with what an `Entry` says of each image besides id and slot, and
    `header` about itself.
    """
    folder.mkdir(exist_ok=True)
    origin = {"image_root": str(folder), "checkpoint": "", "identity": "", "options": {}}
    create(folder, Header(embed_dim=features.shape[1], features=new_features_name(), **origin | header))
    store = Store(folder)
    for slot, image in zip(store.append(features.astype(np.float16)), images, strict=True):
        store.put([Entry(store.new_id(), slot, **{"size": 1, "mtime_ns": 0} | image)])
    store.commit(complete=True)
    return Index.open(folder)


def small_page(people: Path, folder: Path) -> Page:
    """A page over a copy of the images of `people` and one with `ODD_NAME`, in `folder`/imgs."""
    shutil.copytree(people / "imgs", folder / "imgs")
    save_image(folder / "imgs" / ODD_NAME, seed=1)
    encoder = small_encoder(folder)
    update_index(encoder, folder / "imgs", folder / "index")
    return Page(Index.open(folder / "index"), encoder)


@contextlib.contextmanager
def running(page: Page, **settings: Any) -> Iterator[str]:
    """The address of the page, while it is served; `settings` as `build_app` takes them."""
    with tempfile.TemporaryDirectory() as cache, socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(configuration(build_app(page, **{"cache": Path(cache)} | settings)))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join()


def ask(address: str, body: Any = None, **headers: str) -> tuple[int, bytes]:
    """(status, answer) of a request: a POST of JSON, or of bytes, where there is a body."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"content-type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
    try:
        with urllib.request.urlopen(urllib.request.Request(address, data, headers)) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def write_video(path: Path, frames: Sequence[Image.Image], rate: int, codec: str = "libx264") -> Path:
    """A video of these frames, as most cameras write it: H.264."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options={"g": "5"})
        (stream.width, stream.height), stream.pix_fmt = frames[0].size, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode(None))
    return path


def street(
    seed: int, *persons: tuple[Image.Image, Region], size: tuple[int, int] = (320, 240)
) -> Image.Image:
    """A street, and persons in these boxes of it."""
    image = Image.linear_gradient("L").resize(size).rotate(45 * seed).convert("RGB")
    for person, (left, top, width, height) in persons:
        image.paste(person.resize((width, height)), (left, top))
    return image


MARGIN = 0.1
FRAME_RATE, SPAN = 5, (1.0, 4.0)  # of the video; seconds at which the person is in it
FILES = [*(f"{camera}/{n}.png" for n in (0, 2) for camera in ("entrance", "yard")), "yard/nobody.png"]
HOURS = dict(zip((*FILES, "yard/walk.mp4"), range(6, 24, 3), strict=True))  # when they were taken


def draw_sightings(people: Path, root: Path) -> dict[str, tuple[Image.Image, Sighting]]:
    """Two persons in each of four photos of two cameras, a photo of nobody, and where PyAV is installed a
    video of six seconds with a person from `SPAN[0]` to `SPAN[1]`, below `root`: {path of the entry: the
    photo or frame, and how the entry came about}.
    """
    persons = [Image.open(file).convert("RGB") for file in sorted((people / "imgs").rglob("*.jpg"))[:9]]
    found: dict[str, tuple[Image.Image, Sighting]] = {}
    for number, file in enumerate(FILES[:4]):  # PNG: tests compare pixels
        boxes = [(20 + 10 * number, 60, 50, 150), (200, 40, 60, 160)]
        scene = street(number, *zip(persons[2 * number :], boxes, strict=False))
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        scene.save(root / file)
        found |= {Place(file, None, box).path: (scene, Sighting(of=2, score=0.9)) for box in boxes}
    street(5).save(root / FILES[4])
    found[FILES[4]] = street(5), Sighting()
    if find_spec("av"):
        boxes = [(20 + 8 * number, 50, 50, 150) for number in range(6 * FRAME_RATE)]
        frames = [
            street(3, (persons[8], box)) if SPAN[0] <= number / FRAME_RATE <= SPAN[1] else street(3)
            for number, box in enumerate(boxes)
        ]
        write_video(root / "yard/walk.mp4", frames, FRAME_RATE)
        best, *crops = (Place("yard/walk.mp4", n / FRAME_RATE, boxes[n]).path for n in (12, 8, 16))
        track = Sighting(score=0.8, first=SPAN[0], last=SPAN[1], seen=16, crops=tuple(crops))
        found[best] = frames[12], track
    return found


def people_page(people: Path, folder: Path) -> Page:
    """A page of an index of `draw_sightings`, of photos and a video in `folder`/root."""
    root, encoder = folder / "root", small_encoder(folder)
    found = draw_sightings(people, root)
    views, entries = [], []
    for path, (scene, sighting) in found.items():
        file, _, box = place_of(path)
        views.append(crop_of(scene, box, MARGIN) if box else scene)
        width, height = box[2:] if box else scene.size
        status = (root / file).stat()
        facts = {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "width": width, "height": height}
        taken = f"2024-05-06 {HOURS[file]:02d}:30:00"
        entries.append({"path": path, "sighting": sighting.text, "taken": taken, **facts})
    header = {
        "image_root": str(root),
        "checkpoint": str(encoder.checkpoint),
        "identity": encoder.identity,
        "options": to_dict(encoder.options),
        "people": {"detector": "hog", "margin": MARGIN, "every": 1 / FRAME_RATE},
    }
    return Page(index_of(folder / "index", encoder.encode_images(views).numpy(), entries, **header), encoder)
