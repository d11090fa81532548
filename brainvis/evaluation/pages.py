"""Pages that anyone can open: every executed notebook as HTML or Markdown, and an index of the runs.

nbconvert renders the notebooks. Each page is one file: pictures are embedded, formulas are MathML, nothing is fetched.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable
from pathlib import Path

import nbformat
from jinja2 import Environment, PackageLoader
from latex2mathml.converter import convert
from markupsafe import Markup
from nbconvert import HTMLExporter, MarkdownExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode
from PIL import Image
from pygments.formatters import HtmlFormatter
from traitlets.config import Config

from brainvis.evaluation.report import scores_of
from brainvis.files import BrainvisError, runs_folder, write_aside
from brainvis.graph import NOTEBOOKS, SUMMARIES, notebook_of
from brainvis.study import Product, Study
from brainvis.study.product import read_product

INTERVAL = re.compile(r"\[([-+.\d]+), ([-+.\d]+)\]")  # in a cell of a table: stays on one line
COLOURS = 256  # of a picture in a page: a third of the size, without a visible difference
PLUMBING = "plumbing"  # tag of imports and saving results: pages hide their code, not its output, and words about them
OPTIONS = {"exclude_input_prompt": True, "exclude_output_prompt": True}
PRIORITY = ["text/html", "text/markdown", "image/svg+xml", "image/png", "image/jpeg", "text/plain"]  # no widgets
# Columns of the index: the first of these scores that a run has.
COLUMNS = {
    "CA top-1": ("fused.top1", "test.top1"),
    "CA top-5": ("fused.top5", "test.top5"),
    "GA": ("refined.generation_accuracy", "semantic.generation_accuracy"),
    "FID": ("refined.fid", "semantic.fid"),
}
REPORT = "report/report.html"  # Snakemake's, which `make share` puts next to the index
THUMBNAILS, SIDE = 3, 48  # of a run of notebook 06; pixels


class Page(HTMLExporter):
    """nbconvert's HTML, with formulas as MathML, which browsers render themselves."""

    class Renderer(IPythonRenderer):
        """Markdown with formulas."""

        def block_math(self, body: str) -> str:
            numbered = re.sub(r"\\tag\{(.+?)\}", r"\\qquad \\text{(\1)}", body)
            return convert(numbered, display="block")

        def multiline_math(self, text: str) -> str:
            return convert(text, display="block")

        def inline_math(self, body: str) -> str:
            return convert(body)

    def markdown2html(self, context, source: str) -> str:
        """The filter that renders a Markdown cell."""
        renderer = self.Renderer(escape=False, attachments={}, anchor_link_text="")
        return MarkdownWithMath(renderer=renderer).render(source)

    markdown2html.jinja_pass_arg = HTMLExporter.markdown2html.jinja_pass_arg


def write_pages(folder: Path) -> int:
    """Write every run's executed notebook into `folder`/pages, and index.html above it; returns their number."""
    products = sorted(gather_all(), key=_place)
    names = {page_name(product) for product in products}
    rows = []
    for product in products:
        notebook = cleaned(executed_notebook(product))
        page = html_page(notebook, lambda link, product=product: _beside(link, product, names))
        _write(folder / "pages" / page_name(product), page)
        rows.append(_row(product))
    index = _template("index.html.j2").render(rows=rows, columns=list(COLUMNS), report=REPORT)
    _write(folder / "index.html", index)
    return len(products)


def write_markdown(study: Study, folder: Path) -> list[str]:
    """Write the notebooks of one study, with their pictures, as Markdown for repositories; returns the files. Pictures
    that an earlier version of a page had are removed."""
    written = []
    for stage in [*study.stages, *SUMMARIES]:
        notebook = cleaned(executed_notebook(study.load(stage)), markdown=True)
        name = notebook_of(stage)
        exporter = MarkdownExporter(config=_config(MarkdownExporter))
        text, resources = exporter.from_notebook_node(notebook, {"unique_key": name, "output_files_dir": name})
        text = re.sub(r"\]\((\d\d_\w+)\.ipynb", r"](\1.md", re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.S))
        for file, content in resources["outputs"].items():
            _write(folder / file, content)
        for older in {*(folder / name).glob(f"{name}_*.png")} - {folder / file for file in resources["outputs"]}:
            older.unlink()
        _write(folder / f"{name}.md", text)
        written.append(f"{name}.md")
    return written


def gather_all() -> Iterable[Product]:
    """Every run of every study present that is complete, up to date and has left its notebook."""
    for file in sorted(runs_folder().glob("*/*/*/*/results.json")):
        try:
            product = read_product(file.parent)
            stage, study = product.results["stage"], Study(**product.results["study"])
            if stage not in SUMMARIES and product.results["fingerprint"] != study.fingerprint(stage):
                raise BrainvisError("it is out of date")
            _notebook_file(product)
        except BrainvisError as error:
            print(f"left out: {file.parent}: {error}")
            continue
        yield product


def _place(product: Product) -> tuple:
    """Sort key of a run in the index: by study, notebook, subject; the whole method before ablations."""
    study, who, ablation, stage = product.folder.relative_to(runs_folder()).parts
    return study, notebook_of(stage), who, ablation != "full", ablation


def page_name(product: Product) -> str:
    """The file name of a run's page: study, subject, ablation and stage, as in its folder's name."""
    return "--".join(product.folder.relative_to(runs_folder()).parts) + ".html"


def executed_notebook(product: Product) -> NotebookNode:
    """The notebook of a run with its outputs; BrainvisError if the run left none."""
    return nbformat.read(_notebook_file(product), as_version=4)


def _notebook_file(product: Product) -> Path:
    file = product.folder / f"{notebook_of(product.results['stage'])}.ipynb"
    if not file.exists():
        raise BrainvisError(f"{file} is missing: run the notebook with snakemake or papermill, which write it")
    return file


def cleaned(notebook: NotebookNode, markdown: bool = False) -> NotebookNode:
    """A notebook without progress bars and words about hidden cells, and with smaller pictures; in Markdown, pictures
    replace HTML next to them."""
    notebook.cells = [cell for cell in notebook.cells if cell.cell_type != "markdown" or not _is_plumbing(cell)]
    for cell in notebook.cells:
        kept = [output for output in cell.get("outputs", []) if output.get("name") != "stderr"]
        for output in kept:
            data = output.get("data", {})
            if "image/png" in data:
                data["image/png"] = _smaller(data["image/png"])
            if markdown and "image/png" in data:
                data.pop("text/html", None)
        if "outputs" in cell:
            cell.outputs = [output for output in kept if not _is_widget(output)]
    return notebook


def html_page(notebook: NotebookNode, beside=lambda link: link) -> str:
    """A notebook as one HTML file; `beside` maps the name of a linked notebook to a page."""
    body, _ = Page(config=_config(Page), template_name="basic").from_notebook_node(notebook)
    body = re.sub(r'href="([^"/:]+)\.ipynb', lambda found: f'href="{beside(found[1])}', body)
    body = re.sub(r"<td[^>]*>[^<]*</td>", lambda cell: INTERVAL.sub("[\\1,\N{NO-BREAK SPACE}\\2]", cell[0]), body)
    heading = next((cell.source for cell in notebook.cells if cell.source.lstrip().startswith("# ")), "# notebook")
    title = heading.lstrip().splitlines()[0].lstrip("# ")
    code = HtmlFormatter().get_style_defs(".highlight")
    return _template("page.html.j2").render(title=title, body=Markup(body), code=Markup(code))


def _beside(link: str, product: Product, names: set[str]) -> str:
    """The page of another notebook: of the same subject and ablation if there is one, else that of `full`."""
    stage = next((stage for stage, notebook in NOTEBOOKS.items() if notebook == link), None)
    study, who, ablation, _ = product.folder.relative_to(runs_folder()).parts
    options = [f"{study}--{w}--{a}--{stage}.html" for a in (ablation, "full") for w in (who, "sub-all", "sub-01")]
    return next((name for name in options if name in names), "../index.html")


def _row(product: Product) -> dict:
    """A run in the index: its options, its main scores, thumbnails of its pictures."""
    results, chosen = product.results, product.results["study"]
    study, who, ablation, stage = product.folder.relative_to(runs_folder()).parts
    scores, numbers = scores_of(product), {}
    for title, options in COLUMNS.items():
        value = next((scores[name]["value"] for name in options if name in scores), None)
        numbers[title] = "" if value is None else f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
    images = sorted((product.folder / "pictures").glob("refinement/*_sample-0.png"))[:THUMBNAILS]
    return {
        "page": f"pages/{page_name(product)}",
        "notebook": notebook_of(stage),
        "chosen": {"data set": chosen["dataset"], "preset": chosen["preset"], "subject": who.removeprefix("sub-"),
                   "ablation": ablation, "seed": chosen["seed"], "protocol": chosen["protocol"]},
        "numbers": numbers,
        "minutes": f"{results['seconds'] / 60:.1f}",
        "fingerprint": results["fingerprint"] or "",
        "thumbnails": [_thumbnail(file) for file in images],
    }  # fmt: skip


def _thumbnail(file: Path) -> str:
    picture, kept = Image.open(file).convert("RGB"), io.BytesIO()
    picture.thumbnail((SIDE, SIDE))
    picture.quantize(64).save(kept, "png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(kept.getvalue()).decode()


def _smaller(png: str) -> str:
    """A picture with fewer colours, if that makes the file smaller."""
    before, kept = base64.b64decode(png), io.BytesIO()
    Image.open(io.BytesIO(before)).convert("RGB").quantize(COLOURS).save(kept, "png", optimize=True)
    return base64.b64encode(min(before, kept.getvalue(), key=len)).decode()


def _is_plumbing(cell: NotebookNode) -> bool:
    """Of interest to those who run the notebook alone."""
    return PLUMBING in cell.metadata.get("tags", [])


def _is_widget(output: NotebookNode) -> bool:
    """A progress bar, which shows nothing without its kernel."""
    return "application/vnd.jupyter.widget-view+json" in output.get("data", {})


def _config(exporter: type) -> Config:
    common = {**OPTIONS, "preprocessors": ["nbconvert.preprocessors.TagRemovePreprocessor"]}
    return Config({
        exporter.__name__: common,
        "TagRemovePreprocessor": {"remove_input_tags": {PLUMBING}, "enabled": True},
        "NbConvertBase": {"display_data_priority": PRIORITY},
    })  # fmt: skip


def _template(name: str):
    return Environment(loader=PackageLoader("brainvis.evaluation", "templates"), autoescape=True).get_template(name)


def _write(file: Path, content: str | bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    write_aside(file, lambda path: path.write_bytes(data))
