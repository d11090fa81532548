"""Choices among pictures: the output of a notebook, and what a browser makes of it."""

import base64
import html
import io
import json
import re
import shutil
import subprocess
from itertools import product

import numpy as np
import pytest
from PIL import Image

from brainvis.plots import style
from brainvis.plots.choose import Choice, Frame

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = "<script>document.title = 'stolen'</script>\" onerror='x'"
CLASSES, STEPS = ("red disc", HOSTILE), ("0", "0.5", "1")


def pixels(shade: int) -> np.ndarray:
    return np.full((8, 8, 3), shade, np.uint8)


def made() -> Choice:
    frames = [Frame({"class": name}, pixels(10), f"class {name}") for name in CLASSES]
    places = product(CLASSES, STEPS)
    frames += [Frame({"class": name, "step": step}, pixels(20), f"{name} at {step}") for name, step in places]
    return Choice({"class": CLASSES, "step": STEPS}, frames, sliders=["step"])


def visible(page: str) -> list[str]:
    """Words beneath the pictures that are shown."""
    blocks = re.findall(r'<div data-at="[^"]*"([^>]*)><img alt="([^"]*)"', page)
    return [words for look, words in blocks if "none" not in look]


def test_the_first_choice_is_shown_where_no_script_runs():
    assert visible(made().html) == ["class red disc", "red disc at 0"]


def test_other_readers_get_a_picture():
    bundle = made()._repr_mimebundle_()
    assert bundle["text/plain"] == "Choice(class: 2, step: 3)"
    row = np.asarray(Image.open(io.BytesIO(base64.b64decode(bundle["image/png"]))))
    assert row.shape == (128, 4 * 128 + 3 * 6, 3)  # of the first class: its own, and one a step, enlarged
    assert row[0, 0, 0] == 10 and row[0, -1, 0] == 20


def test_names_stay_text():
    page = made().html
    assert "<script" not in page and "' onerror" not in page and "&lt;script&gt;" in page
    for at in re.findall(r'data-at="([^"]*)"', page):
        json.loads(at.replace("&quot;", '"'))


def test_what_cannot_be_chosen_is_refused():
    with pytest.raises(ValueError, match="not one of the choices"):
        Choice({"class": ["a"]}, [Frame({"class": "b"}, pixels(0))])
    with pytest.raises(ValueError, match="nothing is shown for {'class': 'b'}"):
        Choice({"class": ["a", "b"]}, [Frame({"class": "a"}, pixels(0))])
    noise, many = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8), [str(i) for i in range(60)]
    with pytest.raises(ValueError, match="show fewer: at most"):
        Choice({"class": many}, [Frame({"class": name}, noise) for name in many])


def test_photographs_are_shrunk():
    ramp = np.broadcast_to(np.arange(512, dtype=np.uint16)[:, None, None] // 2, (512, 512, 3)).astype(np.uint8)
    choice = Choice({"class": ["a"]}, [Frame({"class": "a"}, ramp)])
    assert "data:image/jpeg;base64," in choice.html and len(choice.html) < 30_000
    assert choice._repr_mimebundle_()["image/png"].startswith("iVBOR")


def test_a_figure_is_a_small_file():
    figure, axes = style.panels(width=4, height=2)
    axes.plot(np.random.default_rng(0).normal(size=400).cumsum())
    assert len(Choice({"x": ["a"]}, [Frame({"x": "a"}, figure)]).html) < 30_000


@pytest.mark.skipif(not BROWSER, reason="no browser is installed")
def test_a_browser_shows_what_is_chosen(tmp_path):
    act = """<script>for (const [control, value] of [[0, 1], [1, 2]]) {
    const one = document.querySelector(`[data-control="${control}"]`);
    one.value = value; one.dispatchEvent(new Event('input', {bubbles: true})); }</script>"""
    (tmp_path / "page.html").write_text(f"<html><title>safe</title><body>{made().html}{act}</body></html>")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    command = [BROWSER, *options, f"file://{tmp_path}/page.html"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    page = answer.stdout
    assert "<title>safe</title>" in page, answer.stderr
    assert list(map(html.unescape, visible(page))) == [f"class {HOSTILE}", f"{HOSTILE} at 1"]
    stands = re.findall(r'<b data-at="[^"]*"([^>]*)>([^<]*)</b>', page)
    assert [option for look, option in stands if "none" not in look] == ["1"]
