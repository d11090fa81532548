# Studies of hours, each of its own name: `snakemake --cores 2 study`, or one of them, such as `pretraining_study`. A part
# that is done leaves a small file and is not made again, however often they are stopped; what came of all parts is written
# to figures/study. The parts on pre-training are committed, so that another machine goes on where one was stopped.
import re

import yaml

from brainvis.files import data_folder, figures_folder, runs_folder

PRETRAINING = ["none", "lmm", "lmm_regression", "lmm_tokens", "lmm_data2vec", "masked_signal"]
WORLDS = [f"{design}{drift}" for design in ("interleaved", "block") for drift in ("", "_drift_0.5", "_drift_1")]
WORLDS += ["block_drift_0.5_no_signal"]
SEEDS = range(3)
PART_FOLDER = figures_folder() / "study" / "pretraining"
PARTS = [f"{kind}-{seed}-interleaved" for seed in SEEDS for kind in PRETRAINING]
PARTS += [f"{kind}-{seed}-{world}" for seed in SEEDS for world in WORLDS[1:] for kind in ("none", "lmm")]
ORIGINS = ["lmm_same_25", "lmm_same_50", "lmm_other_head", "lmm_both"]  # table 5
ORIGINS += ["lmm_ssvep"] if data_folder("ssvep_exo").is_dir() else []  # what is not there is left out, and tables.md says so
PARTS += [f"{kind}-{seed}-interleaved" for seed in SEEDS for kind in ORIGINS]


rule study:
    localrule: True
    input:
        figures_folder() / "study" / "pretraining.json",
        figures_folder() / "study" / "audit_calibration.json",
        figures_folder() / "study" / "tables.md",
        figures_folder() / "study" / "learned.md",


# Sentences for the README, of what the other studies found.
rule learned_study:
    input:
        figures_folder() / "study" / "pretraining.json",
        [figures_folder() / "study" / f"{table}.csv" for table in ("layout", "targets", "table4", "table7")],
    output:
        figures_folder() / "study" / "learned.md",
    params:
        python=sys.executable,
        script=os.path.join(workflow.basedir, "docs", "studies", "learned.py"),
        folder=lambda wildcards, output: os.path.dirname(output[0]),
    shell:
        "{params.python:q} {params.script:q} {params.folder:q}"


rule audits_study:
    output:
        figures_folder() / "study" / "audit_calibration.json",
    params:
        python=sys.executable,
        script=os.path.join(workflow.basedir, "docs", "studies", "calibrate_audits.py"),
        points=runs_folder() / "study" / "audits",
        figures=lambda wildcards, output: os.path.dirname(output[0]),
    threads: 2
    shell:
        "{params.python:q} {params.script:q} --output {params.points:q} --figures {params.figures:q} --processes {threads}"


rule pretraining_study:
    input:
        [PART_FOLDER / f"{part}.json" for part in PARTS],
    output:
        figures_folder() / "study" / "pretraining.json",
    params:
        python=sys.executable,
        script=os.path.join(workflow.basedir, "docs", "studies", "show_pretraining.py"),
        folder=PART_FOLDER,
        figures=lambda wildcards, output: os.path.dirname(output[0]),
    shell:
        "{params.python:q} {params.script:q} {params.folder:q} {params.figures:q}"


# The first seed finds the learning rates of the others.
rule pretraining_part:
    input:
        lambda part: ancient(PART_FOLDER / f"{part.kind}-0-{part.world}.json") if part.seed != "0" else [],
    output:
        PART_FOLDER / "{kind}-{seed}-{world}.json",
    params:
        folder=PART_FOLDER,
        python=sys.executable,
        script=os.path.join(workflow.basedir, "docs", "studies", "pretraining.py"),
    threads: 1
    wildcard_constraints:
        kind="[a-z0-9_]+",
        seed="[0-9]+",
        world="[a-z0-9_.]+",
    shell:
        "{params.python:q} {params.script:q} {wildcards.kind} {wildcards.seed} {wildcards.world} {params.folder:q}"


# Tables of the paper and sweeps: docs/studies/tables.yml. A part is one change and one seed; it runs what notebooks are
# missing, and leaves a small file that is committed.
with open(os.path.join(workflow.basedir, "docs", "studies", "tables.yml"), encoding="utf-8") as plan_of_tables:
    OF_TABLES = yaml.safe_load(plan_of_tables)
TABLE_PARTS = figures_folder() / "study" / "parts"


rule tables_study:
    input:
        [figures_folder() / "study" / f"{table}.csv" for table in OF_TABLES["tables"]],
    output:
        figures_folder() / "study" / "tables.md",
    params:
        python=sys.executable,
        script=os.path.join(workflow.basedir, "docs", "studies", "show_tables.py"),
        figures=lambda wildcards, output: os.path.dirname(output[0]),
    shell:
        "{params.python:q} {params.script:q} {params.figures:q}"


for table, of_table in OF_TABLES["tables"].items():
    wanted = {row[1]: None for row in of_table["rows"]}

    rule:
        name:
            f"{table}_study"
        input:
            [TABLE_PARTS / f"{part}-{seed}.json" for part in wanted for seed in OF_TABLES["seeds"]],
            [figures_folder() / "study" / "pretraining.json"] * ("pretraining" in of_table),
        output:
            figures_folder() / "study" / f"{table}.csv",
        params:
            table=table,
            folder=TABLE_PARTS,
            python=sys.executable,
            script=os.path.join(workflow.basedir, "docs", "studies", "tables.py"),
        shell:
            "{params.python:q} {params.script:q} table {params.table:q} {params.folder:q} {output:q}"


def before_part(of):
    """The whole method, whose runs other parts share; and the first seed, which chooses a variant for the others."""
    chooses = "variants" in OF_TABLES["parts"][of.part] and int(of.seed) != OF_TABLES["seeds"][0]
    first = [f"full-{of.seed}"] * (of.part != "full") + [f"{of.part}-{OF_TABLES['seeds'][0]}"] * chooses
    return [ancient(TABLE_PARTS / f"{part}.json") for part in first]


rule table_part:
    input:
        before_part,
    output:
        TABLE_PARTS / "{part}-{seed}.json",
    params:
        folder=TABLE_PARTS,
        python=sys.executable,
        script=os.path.join(workflow.basedir, "docs", "studies", "tables.py"),
    threads: 1
    wildcard_constraints:
        part="|".join(map(re.escape, OF_TABLES["parts"])),
        seed="[0-9]+",
    shell:
        "{params.python:q} {params.script:q} run {wildcards.part:q} {wildcards.seed} {params.folder:q}"


# A study of its own, run by another snakemake: stages 01 to 04 of three seeds on permuted labels.
rule permuted_study:
    output:
        figures_folder() / "study" / "permuted.json",
    params:
        python=sys.executable,
        script=os.path.join(workflow.basedir, "docs", "studies", "permuted_labels.py"),
    threads: workflow.cores
    shell:
        "{params.python:q} {params.script:q} {output:q} --cores {threads}"
