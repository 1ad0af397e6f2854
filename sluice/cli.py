"""The command line. Every command is thin: it reads its arguments and calls a room, imported when needed."""

import atexit
import os
import signal
import sys
from contextlib import suppress
from types import FrameType
from typing import Annotated, Any

import typer

from schemas.errors import ConfigError, DataError, Interrupted

app = typer.Typer(
    help="From raw documents to a pre-trained Qwen3: curate, train a tokenizer, pack, pre-train, export.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)
recipe_app = typer.Typer(help="Check, explain and describe recipes.", no_args_is_help=True, rich_markup_mode=None)
tokenizer_app = typer.Typer(help="Train a tokenizer.", no_args_is_help=True, rich_markup_mode=None)
quality_app = typer.Typer(help="Fit thresholds of quality.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(recipe_app, name="recipe")
app.add_typer(tokenizer_app, name="tokenizer")
app.add_typer(quality_app, name="quality")
language_app = typer.Typer(help="Train and judge language identification.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(language_app, name="language")

RecipeFile = Annotated[str, typer.Argument(metavar="RECIPE", help="Recipe file (YAML).")]
Input = Annotated[
    str,
    typer.Argument(
        metavar="INPUT",
        help="Documents (a file, folder, glob or URL), a run folder or dataset whose finished stages are used, "
        "or a recipe.",
    ),
]
RunFolder = Annotated[str, typer.Argument(metavar="RUN", help="Folder of a run.")]
OutputFolder = Annotated[str | None, typer.Option("--output", "-o", help="Folder of the run.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recipe; repeatable.")
]
With = Annotated[str | None, typer.Option("--recipe", help="Recipe that the settings come from.")]
Column = Annotated[
    list[str] | None,
    typer.Option("--column", metavar="NAME=COLUMN", help="Column of text, id, url, date or licence; repeatable."),
]


@app.command()
def run(
    context: typer.Context,
    recipe: RecipeFile,
    output: OutputFolder = None,
    from_: Annotated[str | None, typer.Option("--from", metavar="STAGE", help="Redo from this stage on.")] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="STAGE", help="Stop after this stage.")] = None,
    settings: Settings = None,
) -> None:
    """Run a recipe: what is done already is skipped. Beam pipeline options go after `--`."""
    from schemas.recipe import load_recipe
    from sluice.commands import run_recipe

    run_recipe(load_recipe(recipe, tuple(settings or ())), output, from_, until, context.obj)


def _stage_command(name: str, does: str) -> None:
    """Add the command of a stage that has no option of its own."""

    def command(
        context: typer.Context,
        input: Input,
        output: OutputFolder = None,
        recipe: With = None,
        settings: Settings = None,
        column: Column = None,
    ) -> None:
        _stage(name, context, input, output, recipe, settings, column)

    app.command(name, help=does)(command)


@app.command()
def extract(
    context: typer.Context,
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="Files, folders, globs or URLs; or one run folder, or one recipe.",
            show_default=False,
        ),
    ],
    output: OutputFolder = None,
    pdf_backend: Annotated[str | None, typer.Option(help="pymupdf or pypdfium2.")] = None,
    password: Annotated[list[str] | None, typer.Option(help="Password of encrypted PDF files; repeatable.")] = None,
    ocr: Annotated[str | None, typer.Option(help="tesseract, rapidocr or none.")] = None,
    vlm_url: Annotated[str | None, typer.Option(help="OpenAI-compatible server of a vision model.")] = None,
    vlm_model: Annotated[str | None, typer.Option(help="Name of the vision model.")] = None,
    refine_url: Annotated[str | None, typer.Option(help="OpenAI-compatible server of a language model.")] = None,
    refine_model: Annotated[str | None, typer.Option(help="Name of the language model that repairs PDF text.")] = None,
    answers: Annotated[str | None, typer.Option(help="Folder that keeps the answers of models.")] = None,
    html: Annotated[str | None, typer.Option(help="careful or fast.")] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show page by page how each file is read, and why; write nothing.")
    ] = False,
    recipe: With = None,
    settings: Settings = None,
    column: Column = None,
) -> None:
    """Text out of PDF, HTML, WARC, EPUB, DOCX, Markdown, text, source code, JSONL and Parquet, also in tar and zip."""
    import json

    from sluice.commands import check_pair, explain_inputs, run_stage

    check_pair("--vlm", vlm_url, vlm_model)
    check_pair("--refine", refine_url, refine_model)
    chosen = {
        "pdf_backend": pdf_backend,
        "passwords": password or None,
        "ocr": ocr,
        "vision.url": vlm_url,
        "vision.model": vlm_model,
        "refine.url": refine_url,
        "refine.model": refine_model,
        "answers": answers,
        "html": html,
    }
    extra = [f"extract.{name}={json.dumps(value)}" for name, value in chosen.items() if value is not None]
    changes, columns = (*extra, *(settings or ())), tuple(column or ())
    if explain:
        explain_inputs(inputs, output, recipe, changes, columns, context.obj)
    else:
        run_stage("extract", inputs[0], output, recipe, changes, columns, context.obj, tuple(inputs[1:]))


@app.command()
def annotate(
    context: typer.Context,
    input: Input,
    output: OutputFolder = None,
    recipe: With = None,
    settings: Settings = None,
    column: Column = None,
    labels: Annotated[str | None, typer.Option(help="Comma-separated labels, for example language,quality.")] = None,
) -> None:
    """Language, quality, fluency, educational value, domain and safety per document."""
    extra = [f"annotate.labels=[{labels}]"] if labels else []
    _stage("annotate", context, input, output, recipe, [*(settings or []), *extra], column)


_stage_command("filter", "Keep or drop decisions with every reason, by the thresholds of the recipe.")


@language_app.command("train")
def language_train(
    train: Annotated[
        list[str],
        typer.Argument(metavar="TRAIN...", help="Parquet or JSONL files: text, label and source.", show_default=False),
    ],
    output: Annotated[str, typer.Option("--output", "-o", help="Model file, for example language.npz.")],
    threads: Annotated[int, typer.Option(min=1, help="Of fastText; with one the same lines give the same file.")] = 1,
) -> None:
    """Train language identification; labels outside the 119 teach what is none of them."""
    from sluice.language import train_model

    train_model(train, output, threads)


@language_app.command("evaluate")
def language_evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model file, or `packaged`.")],
    data: Annotated[
        list[str], typer.Argument(metavar="DATA...", help="Parquet or JSONL files with text, label and source.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="JSON for machines.")] = False,
) -> None:
    """Precision, recall and F1 of every label, the commonest confusions, and accuracy by source and length."""
    from sluice.language import evaluate_model

    evaluate_model(model, data, as_json)


@quality_app.command("fit")
def quality_fit(
    context: typer.Context,
    input: Input,
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="File of thresholds to write.")],
    method: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN=METHOD",
            help="median-ratio, mean-sigma, quantile, or published to keep the English bound; repeatable.",
        ),
    ] = None,
    sentences: Annotated[
        bool, typer.Option("--sentences", help="The documents are single sentences: fit only what these can tell.")
    ] = False,
    label: Annotated[
        str | None, typer.Option(metavar="FIELD", help="Field with the true language; absent: it is identified.")
    ] = None,
    seen: Annotated[
        bool, typer.Option("--seen", help="The model of languages was trained on these documents, so it is too sure.")
    ] = False,
    least: Annotated[
        int, typer.Option(min=1, help="Documents of a language; with fewer it takes the bounds of its script.")
    ] = 500,
    recipe: With = None,
    settings: Settings = None,
    column: Column = None,
) -> None:
    """Thresholds of the filter for each language, from reference documents; English ones have to be among them."""
    from sluice.quality import fit_quality

    fit_quality(
        input,
        output,
        method or [],
        sentences,
        label,
        seen,
        least,
        recipe,
        tuple(settings or ()),
        tuple(column or ()),
        context.obj,
    )


@app.command()
def dedup(
    context: typer.Context,
    input: Input,
    output: OutputFolder = None,
    scope: Annotated[str | None, typer.Option(help="all, or source: compare within each source only.")] = None,
    verify: Annotated[float | None, typer.Option(help="Least Jaccard similarity of near-duplicates.")] = None,
    index: Annotated[bool, typer.Option("--index", help="Keep an index for --against of later runs.")] = False,
    against: Annotated[
        list[str] | None, typer.Option(metavar="RUN", help="Earlier run with an index; repeatable.", show_default=False)
    ] = None,
    explain: Annotated[
        str | None,
        typer.Option(
            metavar="DOC_ID",
            help="Of a finished run, show the cluster of this document (id in hex, or your own) and its differences.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="With --explain: JSON for machines.")] = False,
    recipe: With = None,
    settings: Settings = None,
    column: Column = None,
) -> None:
    """Exact and near-duplicates; the best document of a cluster survives."""
    import json
    from pathlib import Path

    earlier = [path if "://" in path else str(Path(path).absolute()) for path in against or []]
    chosen = {"scope": scope, "verify": verify, "index": index or None, "against": earlier or None}
    extra = [f"dedup.{name}={json.dumps(value)}" for name, value in chosen.items() if value is not None]
    if explain is None and not as_json:
        _stage("dedup", context, input, output, recipe, [*(settings or []), *extra], column)
        return
    if explain is None:
        raise ConfigError("--json belongs to --explain; decisions are written as Parquet")
    if output or recipe or settings or column or extra or context.obj:
        raise ConfigError("--explain reads a finished run and writes nothing; it takes no other option but --json")
    from sluice.explain_dedup import explain_duplicates

    explain_duplicates(input, explain, as_json)


@app.command()
def decontaminate(
    context: typer.Context,
    input: Input,
    output: OutputFolder = None,
    benchmarks: Annotated[list[str] | None, typer.Option(help="Benchmark file or glob; repeatable.")] = None,
    recipe: With = None,
    settings: Settings = None,
    column: Column = None,
) -> None:
    """Overlap with evaluation sets, as decisions."""
    import json
    from pathlib import Path

    chosen = [path if "://" in path else str(Path(path).absolute()) for path in benchmarks or []]
    extra = [f"decontaminate.benchmarks={json.dumps(chosen)}"] if chosen else []
    _stage("decontaminate", context, input, output, recipe, [*(settings or []), *extra], column)


_stage_command("split", "Join all decisions and set the validation documents apart.")


@tokenizer_app.command("train")
def tokenizer_train(
    context: typer.Context,
    input: Input,
    output: OutputFolder = None,
    vocabulary_size: Annotated[int | None, typer.Option(help="With the 26 added tokens.")] = None,
    recipe: With = None,
    settings: Settings = None,
    column: Column = None,
) -> None:
    """Byte-level BPE with Qwen's pattern and added tokens."""
    extra = [f"tokenizer.vocabulary_size={vocabulary_size}"] if vocabulary_size else []
    _stage("tokenizer", context, input, output, recipe, [*(settings or []), *extra], column)


@app.command()
def tokenize(
    context: typer.Context,
    input: Input,
    output: OutputFolder = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Run, folder, tokenizer.json or ranks; absent: one is trained on the input.")
    ] = None,
    recipe: With = None,
    settings: Settings = None,
    column: Column = None,
) -> None:
    """Documents to token shards."""
    from pathlib import Path

    extra = []
    if tokenizer:
        of_run = Path(tokenizer, "tokenizer", "tokenizer.json")
        extra = [f"tokenizer.path={(of_run if of_run.exists() else Path(tokenizer)).absolute()}"]
    _stage("tokenize", context, input, output, recipe, [*(settings or []), *extra], column)


_stage_command("mix", "A plan per stage of training: how often each document is used.")


_stage_command("pack", "Plans to sequences.")


@app.command()
def pretrain(
    context: typer.Context,
    input: Input,
    output: OutputFolder = None,
    recipe: With = None,
    settings: Settings = None,
    column: Column = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print stages, learning rates, FLOPs and memory; read and train nothing.")
    ] = False,
) -> None:
    """Train a Qwen3 through all its stages; goes on from its last checkpoint."""
    if not dry_run:
        _stage("pretrain", context, input, output, recipe, settings, column)
        return
    from sluice.commands import print_training

    print_training(input, output, recipe, tuple(settings or ()), tuple(column or ()))


_stage_command("evaluate", "Bits per byte on the validation split, by language and domain.")


_stage_command("export", "A folder that `transformers` loads.")


@app.command()
def plan(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A published size, qwen3-0.6b to -235b-a22b, or a recipe.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Parameters of a model, and the FLOPs and the memory of its training."""
    from sluice.plan import plan_model

    plan_model(model, as_json)


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="Text that the model goes on from.")],
    model: Annotated[str, typer.Option("--model", "-m", help="A run, an exported folder or a checkpoint.")],
    tokens: Annotated[int, typer.Option(min=1, help="Most tokens to add.")] = 100,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token.")] = 0.8,
    top_k: Annotated[int, typer.Option(min=0, help="0 switches it off.")] = 50,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0)] = 1.0,
    seed: int = 0,
) -> None:
    """Continue a prompt with a trained model."""
    from sluice.commands import generate_text

    generate_text(prompt, model, tokens, temperature, top_k, top_p, seed)


@app.command()
def report(folder: RunFolder) -> None:
    """Write report.html: one self-contained page with the plots of a run."""
    from sluice.report import write_report

    typer.echo(write_report(folder))


@app.command()
def status(folder: RunFolder) -> None:
    """What is done, what is stale and what is under way."""
    from sluice.show import show_status

    show_status(folder)


@app.command()
def explain_batch(
    folder: RunFolder,
    step: Annotated[int | None, typer.Option(help="What this step reads, by its number in metrics.jsonl.")] = None,
    document: Annotated[
        str | None, typer.Option(metavar="ID", help="When this document is read: a document id in hex, or your own id.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON for machines.")] = False,
) -> None:
    """The documents of a training step, or the steps of a document, done or to come."""
    from sluice.explain import explain_batch

    explain_batch(folder, step, document, as_json)


@app.command()
def show(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="A dataset folder, a Parquet or an Arrow file.")],
    rows: Annotated[int, typer.Option("--rows", "-n", min=0, help="Sample rows.")] = 3,
) -> None:
    """Schema, counts and sample rows of a dataset."""
    from sluice.show import show_dataset

    show_dataset(dataset, rows)


@recipe_app.command("check")
def recipe_check(recipe: RecipeFile, settings: Settings = None) -> None:
    """Say whether a recipe is valid, without running anything."""
    from schemas.recipe import load_recipe
    from sluice.road import stages_of
    from sluice.run import check

    loaded = load_recipe(recipe, tuple(settings or ()))
    check(loaded, stages_of(loaded))
    typer.echo(f"{recipe}: valid; {len(stages_of(loaded))} stages, {len(loaded.sources)} sources")


@recipe_app.command("schema")
def recipe_schema() -> None:
    """JSON Schema of the recipe, for editors."""
    import json

    from schemas.recipe import Recipe

    typer.echo(json.dumps(Recipe.model_json_schema(), indent=2))


@recipe_app.command("explain")
def recipe_explain(recipe: RecipeFile, output: OutputFolder = None, settings: Settings = None) -> None:
    """What will run, what is already done, and about how many tokens and how long."""
    from schemas.recipe import load_recipe
    from sluice.show import explain

    explain(load_recipe(recipe, tuple(settings or ())), output)


def _stage(
    name: str,
    context: typer.Context,
    source: str,
    output: str | None,
    recipe: str | None,
    settings: list[str] | None,
    columns: list[str] | None,
) -> None:
    from sluice.commands import run_stage

    run_stage(name, source, output, recipe, tuple(settings or ()), tuple(columns or ()), context.obj)


def main() -> None:
    """Entry point of the command: runs it and ends the process.

    Threads of Arrow may still be winding up when the interpreter takes itself down, which then ends in an abort after
    all work is done. So what is to be done at the end is done here, and the process leaves without the rest.
    """
    code: Any = 0
    try:
        command()
    except SystemExit as end:
        code = end.code
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # a pipe that nobody reads any more
            stream.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def command(arguments: list[str] | None = None) -> None:
    """Entry point. Beam's options stand after `--`.

    Exit codes: 0 done, or training stopped with everything saved; 1 failed; 2 bad configuration; 130 and 143 stopped
    by SIGINT and SIGTERM.
    """
    signal.signal(signal.SIGINT, _leave)
    signal.signal(signal.SIGTERM, _leave)
    given = sys.argv[1:] if arguments is None else arguments
    cut = given.index("--") if "--" in given else len(given)
    obj: Any = tuple(given[cut + 1 :])
    try:
        app(args=given[:cut], obj=obj, prog_name="sluice")
    except ConfigError as error:
        _stop(error, 2)
    except DataError as error:
        _stop(error, 1)
    except Interrupted as error:
        typer.echo(f"sluice: {error}", err=True)
    except BrokenPipeError:
        sys.stderr.close()
        raise SystemExit(0) from None
    except OSError as error:
        _stop(f"{error.filename or 'input or output'}: {error.strerror or error}", 1)
    except Exception as error:
        _stop(f"unexpected {type(error).__name__}: {error}; the traceback is in {_keep_traceback()}", 1)


def _keep_traceback() -> str:
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile("w", prefix="sluice-", suffix=".txt", delete=False) as file:
        traceback.print_exc(file=file)
    return file.name


def _leave(number: int, frame: FrameType | None) -> None:
    """Leave at once: whatever is half-written is made again by the next run, so there is nothing to tidy up.

    An exception would have to find its way out of Beam, which turns it into pages of something else. Training has a
    handler of its own, which saves a checkpoint.
    """
    import psutil

    for child in psutil.Process().children(recursive=True):
        child.kill()
    if sys.stdout.isatty():
        sys.stdout.write("\x1b[?25h\n")  # the progress bar hides the cursor
    sys.stdout.flush()
    sys.stderr.write("sluice: stopped; the same command goes on from here\n")
    sys.stderr.flush()
    os._exit(128 + number)


def _stop(message: object, code: int) -> None:
    from sluice.text import printable

    typer.echo(f"sluice: {printable(' '.join(str(message).split()), 2000)}", err=True)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
