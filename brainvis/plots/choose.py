"""Interactive choices between pictures that are drawn in advance: menus and sliders in plain HTML.

Moving a slider needs neither a kernel nor a widget library, so the same output works in JupyterLab, in an executed
notebook opened by someone else, and in an exported page without a network. Where scripts do not run, the first choice
is shown. Where HTML is not shown at all, a picture replaces it: the figures of the first choice, or all pictures of the
first option of the first control.
"""

import base64
import html
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from brainvis.plots import style
from brainvis.plots.style import Pixels

DPI, COLOURS = 100, 64  # of figures; few colours make small files
LARGE = 256  # pixels per side: pictures are shrunk to that
MOST = 2_000_000  # bytes per output: the pages of eight notebooks must stay small
# Shows what matches the choices, hides the rest: inline, so that an output needs no unique name in the page.
SCRIPT = """const all = this.closest('.choose'), at = {};
all.querySelectorAll('[data-control]').forEach(one => at[one.dataset.control] = one.value);
all.querySelectorAll('[data-at]').forEach(one => one.style.display =
Object.entries(JSON.parse(one.dataset.at)).every(([name, value]) => at[name] === value) ? '' : 'none');"""


@dataclass(frozen=True)
class Frame:
    """A picture with words beneath it, shown for some choices: control -> option; controls that are not named may have
    any value."""

    at: Mapping[str, str]
    picture: Figure | Pixels  # (height, width, 3) uint8
    words: str = ""


class Choice:
    """Menus and sliders above pictures, in a notebook's output.

    Args:
        controls: name -> options, the first one selected initially.
        frames: what is shown, in this order.
        sliders: controls that are sliders; the others are menus.
        side: width of a pixel picture on the screen, in CSS pixels.

    Raises:
        ValueError: a frame at a choice that does not exist, a choice for which nothing is shown, or pictures that
            together are larger than `MOST`.
    """

    def __init__(
        self,
        controls: Mapping[str, Sequence[str]],
        frames: Iterable[Frame],
        sliders: Sequence[str] = (),
        side: int = 128,
    ) -> None:
        self.controls = {name: [str(option) for option in options] for name, options in controls.items()}
        frames = list(frames)
        for frame in frames:
            for name, option in frame.at.items():
                if str(option) not in self.controls.get(name, ()):
                    raise ValueError(f"a frame is at {name} = {option!r}, which is not one of the choices")
        where = [{name: str(option) for name, option in frame.at.items()} for frame in frames]
        for options in product(*self.controls.values()):
            chosen = dict(zip(self.controls, options, strict=True))
            if not any(at.items() <= chosen.items() for at in where):
                raise ValueError(f"nothing is shown for {chosen}")
        files = [_file(frame.picture) for frame in frames]
        if (size := sum(map(len, files))) > MOST:
            raise ValueError(f"{len(files)} pictures take {size:,} bytes; show fewer: at most {MOST:,} are allowed")
        first = {name: options[0] for name, options in self.controls.items()}
        leading = dict(list(first.items())[:1])
        self.first = _in_a_row(
            [
                frame.picture
                for frame, at in zip(frames, where, strict=True)
                if at.items() <= (first if isinstance(frame.picture, Figure) else {**at, **leading}).items()
            ]
        )
        heads = "".join(self._control(name, name in sliders) for name in self.controls)
        shown = "".join(
            self._shown(frame, at, file, side) for frame, at, file in zip(frames, where, files, strict=True)
        )
        flow = "display:flex;flex-wrap:wrap;gap:12px;align-items:flex-start"
        self.html = f'<div class="choose"><div style="{flow}">{heads}</div><div style="{flow}">{shown}</div></div>'

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, str]:
        picture = base64.b64encode(self.first).decode()
        return {"text/html": self.html, "image/png": picture, "text/plain": repr(self)}

    def __repr__(self) -> str:
        return "Choice(" + ", ".join(f"{name}: {len(options)}" for name, options in self.controls.items()) + ")"

    def _control(self, name: str, slider: bool) -> str:
        """A menu; or a slider, with its current option next to it."""
        number, options = list(self.controls).index(name), self.controls[name]
        said, act = html.escape(style.words(name)), f'data-control="{number}" oninput="{html.escape(SCRIPT)}"'
        if not slider:
            listed = "".join(
                f'<option value="{place}">{html.escape(style.words(option))}</option>'
                for place, option in enumerate(options)
            )
            return f"<label>{said} <select {act}>{listed}</select></label>"
        stands = "".join(
            f"<b {_at({str(number): str(place)}, not place)}>{html.escape(style.words(option))}</b>"
            for place, option in enumerate(options)
        )
        return f'<label>{said} <input type="range" min="0" max="{len(options) - 1}" value="0" {act}> {stands}</label>'

    def _shown(self, frame: Frame, at: Mapping[str, str], file: bytes, side: int) -> str:
        names = list(self.controls)
        places = {str(names.index(name)): str(self.controls[name].index(option)) for name, option in at.items()}
        visible = all(place == "0" for place in places.values())
        of_pixels = not isinstance(frame.picture, Figure)
        look = f"width:{side}px;image-rendering:pixelated" if of_pixels else "max-width:100%"
        words = html.escape(style.words(frame.words, 200)) if frame.words else ""
        kind = "png" if file.startswith(b"\x89PNG") else "jpeg"
        source = f"data:image/{kind};base64,{base64.b64encode(file).decode()}"
        image = f'<img alt="{words}" style="{look}" src="{source}">'
        width = f"max-width:{max(side, 160)}px" if of_pixels else "max-width:100%"
        beneath = f'<div style="font-size:85%;{width}">{words}</div>' if words else ""
        return f"<div {_at(places, visible)}>{image}{beneath}</div>"


def _at(places: Mapping[str, str], visible: bool) -> str:
    """Attributes of what is shown for these values of the controls."""
    hidden = "" if visible else ' style="display:none"'
    return f'data-at="{html.escape(json.dumps(places))}"{hidden}'


def _file(picture: Figure | Pixels) -> bytes:
    """A picture as a small file: PNG, or JPEG for photographs, which would be large as PNG."""
    if isinstance(picture, Figure) or len(picture) <= LARGE // 2:
        return _png(picture)
    file, image = io.BytesIO(), Image.fromarray(np.asarray(picture))
    image.thumbnail((LARGE, LARGE))
    image.save(file, "jpeg", quality=85)
    return file.getvalue()


def _png(picture: Figure | Pixels) -> bytes:
    """A picture as a small PNG file."""
    file = io.BytesIO()
    if isinstance(picture, Figure):
        drawn = io.BytesIO()
        picture.savefig(drawn, format="png", dpi=DPI)
        Image.open(drawn).convert("RGB").quantize(COLOURS).save(file, "png", optimize=True)
    else:
        Image.fromarray(np.asarray(picture)).save(file, "png", optimize=True)
    return file.getvalue()


def _in_a_row(pictures: Sequence[Figure | Pixels]) -> bytes:
    """Pictures side by side as one PNG file; small ones are enlarged."""
    images = [Image.open(io.BytesIO(_png(picture))).convert("RGB") for picture in pictures]
    for image in images:
        image.thumbnail((10 * LARGE, 2 * LARGE))
    larger = max(1, LARGE // 2 // max(image.height for image in images))
    images = [image.resize((larger * image.width, larger * image.height), Image.Resampling.NEAREST) for image in images]
    gap = 6
    row = Image.new("RGB", (sum(image.width + gap for image in images) - gap, max(i.height for i in images)), "white")
    left = 0
    for image in images:
        row.paste(image, (left, 0))
        left += image.width + gap
    return _png(np.asarray(row))
