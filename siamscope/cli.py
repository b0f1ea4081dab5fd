"""The commands: parse, hand over, print. No logic, and no torch before a command needs it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from siamscope import cli_groups

if TYPE_CHECKING:
    from siamscope.workflow.train import Finished

COMMANDS = {
    "train": "train an encoder on unlabelled images and judge it",
    "resume": "continue a run from its last checkpoint",
    "evaluate": "k-NN and linear probe of a run's encoder or an encoder file",
    "embed": "write the features of images to an npz file",
    "report": "write the report of a run, or of several side by side",
    "compare": "all methods under one recipe, several seeds: table, figure and page",
    "gradients": "every method's gradient on the same embeddings, also over the course of a run",
    "dynamics": "the theory of collapse as a laboratory: check, draw, explore, predict",
    "diagnose": "is a representation collapsing: all label-free scores, spectrum, verdict and advice",
    "forecast": "the accuracy to expect, from label-free scores: fit on some runs, apply to others",
    "select": "the best of several runs or checkpoints, without labels",
    "sweep": "a search over rates, decays and widths without labels (needs the extra [sweep])",
    "study": "size of data and model, and order of presentation, at equal steps: tables and pages",
    "scaling": "bytes a step of each method against link speed: which stop scaling where, on paper",
    "reproduce": "a paper's claims: list them, resolve their recipes, measure them",
    "methods": "the table of methods",
    "data": "what a data source holds, and a picture of its samples and views",
}

EXIT_CODES = """exit codes:
  0         done
  1         an error inside the program; 'dynamics check': a check failed; 'reproduce': a claim does not hold
  2         bad input: an unknown name, a value out of range, data or a directory that cannot be used
  3         the loss became NaN or infinite; the last checkpoint is intact
  4         the alarm ended a collapsing run after saving (--on-collapse stop, or rollback when that did not help)
  5         'diagnose': a limit of --fail-above or --fail-below is not kept
  6         under torchrun, another process is gone or does not answer; the last checkpoint is intact
  130, 143  stopped by Ctrl-C or SIGTERM after saving; 'siamscope resume RUN' goes on"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command and leave with its exit code."""
    try:
        code = run(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)


def run(args: list[str]) -> int:
    """Run a command; the exit code."""
    if not args or args[0] in ("-h", "--help"):
        print(overview())
        return 0 if args else 2
    if args[0] in ("-V", "--version"):
        import siamscope

        print(f"siamscope {siamscope.__version__}")
        return 0
    if args[0] not in COMMANDS:
        print(f"siamscope: {_unknown(args[0])}", file=sys.stderr)
        return 2
    try:
        return _command(args[0], args[1:])
    except KeyboardInterrupt:
        again = "; a run that had begun goes on with 'siamscope resume RUN'" if args[0] in ("train", "resume") else ""
        print(f"siamscope: stopped{again}", file=sys.stderr)
        return 130
    except ValueError as error:
        if not type(error).__module__.startswith("siamscope."):  # not written for the user: a defect
            raise
        print(f"siamscope {args[0]}: {error}", file=sys.stderr)
        return {"NonFiniteLossError": 3, "LostProcessError": 6}.get(type(error).__name__, 2)


def _command(name: str, args: list[str]) -> int:
    if any(".tar" in word for word in args):
        from siamscope.data.tar_files import joined

        args = joined(args)
    if name in cli_groups.GROUPS:
        return _group(name, args)
    if name in cli_groups.MODULES:
        return cli_groups.run_module(name, COMMANDS[name], args)
    code: int = globals()[f"_{name}"](args)
    return code


def overview() -> str:
    """The text of `siamscope --help`."""
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items())
    return f"""usage: siamscope COMMAND ...

See why a Siamese network learns, and when it collapses. Then train one that does not.

commands:
{commands}

'siamscope COMMAND --help' lists a command's options with their defaults.

{EXIT_CODES}"""


def _unknown(command: str, known: Iterable[str] = COMMANDS, prog: str = "siamscope") -> str:
    import difflib

    near = difflib.get_close_matches(command, known, n=1)
    return f"unknown command {command!r}{f'; did you mean {near[0]!r}?' if near else ''} (see {prog} --help)"


# ------------------------------------------------------------------------------------------ commands


def _train(args: list[str]) -> int:
    from siamscope import options
    from siamscope.row import not_read

    given = _parse(options.Train, "train", args, options.with_recipe(options.Train, options.layered(args)))
    recipe = options.recipe_of(given)
    if given.source:
        recipe = replace(recipe, data=replace(recipe.data, source=given.source))
    unread = not_read(recipe.method, options.cells_named(args))
    if unread:
        print(
            f"siamscope train: {', '.join(f'method.{cell}' for cell in unread)}: not read by a row with objective "
            f"{recipe.method.objective!r}, predictor {recipe.method.predictor!r}, target {recipe.method.target!r}",
            file=sys.stderr,
        )
    steps = options.profiled(given)
    from siamscope.workflow.train import train

    done = train(recipe, given.out, overwrite=given.overwrite, reporter=_reporter(given.quiet), profile=steps)
    return _trained(done, given.json, profiled=given.profile)


def _resume(args: list[str]) -> int:
    from siamscope import options

    given = _parse(options.Resume, "resume", args)
    steps = options.profiled(given)
    from siamscope.workflow.train import resume

    told = _reporter(given.quiet)
    done = resume(given.run, device=given.device, on_collapse=given.on_collapse, reporter=told, profile=steps)
    return _trained(done, given.json, "resume", given.profile)


def _trained(done: Finished, as_json: bool, command: str = "train", profiled: bool = False) -> int:
    """Write the report and print how a run ended; the exit code."""
    if not done.first:
        return 128 + done.signal if done.signal else 4 if done.reason else 0
    from siamscope import report

    page = report.write([done.run.path])
    if profiled:
        print((done.run.path / "profile.txt").read_text(encoding="utf-8"), file=sys.stderr)
    if done.signal:
        print(f"stopped after step {done.step}; continue with: siamscope resume {done.run.path}", file=sys.stderr)
        return 128 + done.signal
    if done.reason:
        print(f"siamscope {command}: {done.reason}", file=sys.stderr)
        return 4
    assert done.evaluation is not None
    if as_json:
        print(json.dumps(done.evaluation | {"run": str(done.run.path), "report": str(page)}))
        return 0
    _print_verdict(done.evaluation["verdict"])
    _print_figures(done.evaluation)
    print(f"encoder  {done.run.path / 'encoder.safetensors'}\nreport   {page}")
    return 0


def _evaluate(args: list[str]) -> int:
    from siamscope import options

    args = _data_alias(args)
    source = options.peek(args, "--data.source")
    default = options.evaluate_default(options.positional(args), source)
    given = _parse(options.Evaluate, "evaluate", args, default)
    from siamscope.workflow.encoder import evaluate

    data = None if given.data.source == options.NOT_GIVEN else given.data
    found = evaluate(given.encoder, data, given.evaluation, seed=given.seed, device=given.device, reporter=_reporter())
    if given.json:
        print(json.dumps(found))
    else:
        _print_figures(found)
    return 0


def _embed(args: list[str]) -> int:
    from siamscope import options

    given = _parse(options.Embed, "embed", args, options.embed_default(options.positional(args)))
    from siamscope.workflow.encoder import embed

    data = replace(given.data, source=given.source)
    done = embed(given.encoder, data, given.out, device=given.device, reporter=_reporter())
    if given.json:
        print(json.dumps(done))
    else:
        labels = "with labels" if done["labels"] else "without labels"
        print(f"{done['n']} images x {done['d']} features, {labels}: {done['out']}")
        if done["rejected"]:
            print(f"{done['rejected']} unreadable files were left out")
    return 0


def _report(args: list[str]) -> int:
    from siamscope import options, report

    given = _parse(options.Report, "report", args)
    print(report.write(given.runs, given.out))
    if given.figure:
        print(report.overview(given.runs[0], given.figure))
    return 0


def _compare(args: list[str]) -> int:
    from siamscope import options

    if options.peek(args, "--method", "--method.name"):
        print("siamscope compare: --method names one row; did you mean --methods?", file=sys.stderr)
        return 2

    given = _parse(
        options.Compare, "compare", args, options.with_recipe(options.Compare, options.layered(args, "compare"))
    )
    from siamscope.workflow.compare import compare

    recipe, cells = options.recipe_of(given), options.cells_named(args)
    if given.source:
        recipe = replace(recipe, data=replace(recipe.data, source=given.source))
    done = compare(
        recipe, given.out, methods=given.methods, seeds=given.seeds, cells=cells, variants=given.momentum_variants,
        jobs=given.jobs, retry=given.retry, say=None if given.quiet else lambda text: print(text, file=sys.stderr),
    )  # fmt: skip
    print(json.dumps(done.facts) if given.json else done.text)
    return 128 + done.signal if done.signal else 0


def _gradients(args: list[str]) -> int:
    from siamscope import options

    default = options.gradients_default(options.positional(args), options.layered(args))
    given = _parse(options.Gradients, "gradients", args, default)
    from siamscope.workflow.gradients import gradients

    done = gradients(
        options.recipe_of(given), given.source, given.out, methods=given.methods, pairs=given.pairs,
        reference=given.reference, cells=options.cells_named(args), as_trained=given.as_trained,
        reporter=_reporter(given.quiet),
    )  # fmt: skip
    print(json.dumps(done.facts) if given.json else done.text)
    return 0


def _group(group: str, args: list[str]) -> int:
    """`siamscope GROUP NAME ...`; alone, the list of names."""
    known = cli_groups.GROUPS[group]
    if not args or args[0] in ("-h", "--help"):
        print(cli_groups.overview(group, COMMANDS[group]))
        return 0
    if args[0] not in known:
        print(f"siamscope {group}: {_unknown(args[0], known, f'siamscope {group}')}", file=sys.stderr)
        return 2
    return cli_groups.run_of_group(group, args[0], args[1:])


def _reproduce(args: list[str]) -> int:
    from siamscope.claims import command

    answer = command.run(_parse(command.Options, "reproduce", args))
    print(answer.text)
    return answer.code


def _methods(args: list[str]) -> int:
    from siamscope import options

    given = _parse(options.Methods, "methods", args)
    from siamscope.workflow.table import markdown, rows

    if given.markdown:
        print(markdown(), end="")
        return 0
    table = rows(given.pattern, given.verbose)
    if not table:
        print(f"siamscope methods: no method matches {given.pattern!r}", file=sys.stderr)
        return 2
    if given.json:
        print(json.dumps(table))
    else:
        _print_table(table)
    return 0


def _data(args: list[str]) -> int:
    from siamscope import options

    given = _parse(options.Data, "data", args, options.with_recipe(options.Data, options.layered(args)))
    recipe = options.recipe_of(given)
    if given.source:
        recipe = replace(recipe, data=replace(recipe.data, source=given.source))
    from siamscope.workflow.show import about

    facts = about(recipe, given.out if given.show else None, _reporter())
    if given.json:
        print(json.dumps(facts))
    else:
        for name, value in facts.items():
            print(f"{name:<11} {', '.join(map(str, value)) if isinstance(value, list) else value}")
    return 0


# ------------------------------------------------------------------------------------------ parsing


def _parse(kind: type[Any], name: str, args: list[str], default: Any = None) -> Any:
    import tyro

    return tyro.cli(kind, args=args, prog=f"siamscope {name}", description=COMMANDS[name] + ".", default=default)


def _data_alias(args: list[str]) -> list[str]:
    """`--data X` for `--data.source X`."""
    return ["--data.source" + word[6:] if word == "--data" or word.startswith("--data=") else word for word in args]


def _reporter(quiet: bool = False) -> Any:
    from siamscope.training import progress

    return progress.Silent() if quiet else progress.reporter()


# ------------------------------------------------------------------------------------------ printing


def _print_verdict(verdict: dict[str, Any]) -> None:
    print(f"verdict  {verdict['status']}")
    for reason in verdict["reasons"]:
        print(f"         {reason}")
    for advice in verdict["advice"]:
        print(f"  try    {advice}")


def _print_figures(found: dict[str, Any]) -> None:
    """k-NN and probe of the encoder, the untrained encoder and raw pixels."""
    if not found["labels"]:
        print("no labels: no k-NN accuracy and no linear probe")
        return
    names = {"trained": "trained encoder", "untrained": "untrained encoder", "raw_pixels": "raw pixels"}
    ks = list(found["knn"]["trained"])
    print(f"accuracy on {found['n_queries']} {found['split']} images, {found['n_bank']} training images in the bank")
    print(f"{'':<18}" + "".join(f"{k + '-NN':>9}" for k in ks) + (f"{'linear':>10}" if found["probe"] else ""))
    for key, title in names.items():
        line = f"{title:<18}" + "".join(f"{100 * found['knn'][key][k]:>8.1f} %"[-9:] for k in ks)
        probe = found["probe"].get(key)
        if probe:
            low, high = probe["interval"]
            line += f"{100 * probe['top1']:>8.1f} %  [{100 * low:.1f}, {100 * high:.1f}]"
            line += f"  top-5 {100 * probe['top5']:.1f} %" if probe["top5"] is not None else ""
        print(line)
    for note in found["notes"]:
        print(f"note: {note}")


def _print_table(table: list[dict[str, Any]]) -> None:
    columns = list(table[0])
    width = {c: max(len(c), *(len(str(row[c])) for row in table)) for c in columns}
    for row in [dict(zip(columns, columns, strict=True)), *table]:
        print("  ".join(f"{row[c]!s:<{width[c]}}" for c in columns).rstrip())
