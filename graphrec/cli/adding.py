"""``graphrec add``: new items in a saved recommender."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphrec.cli import output, settings
from graphrec.cli.help import command
from graphrec.core.errors import ConfigError, nearest


@command(
    "graphrec add runs/shop --item NEW1 --content text='a red garden chair' --content image=chair.jpg",
    "graphrec add runs/shop --item NEW1 --content image=chair.jpg --out saved/with-new",
)
def add(
    run: settings.Run,
    item: Annotated[str, typer.Option(help="Id of the new item.")],
    content: Annotated[
        list[str],
        typer.Option(
            metavar="MODALITY=VALUE", help="A text, or the path of a picture or other file; may be repeated."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where to save the recommender. Default: in place of the former."),
    ] = None,
) -> None:
    """Add a new item by its text and picture.

    RUN is a run directory or a saved recommender, which keeps the extractors of its features. The item is
    placed by the model's rule for items without interactions; nothing is trained or extracted again. A
    running service learns of it when it is started again: send it to POST /items instead.
    """
    values: dict[str, str] = {}
    for pair in content:
        modality, equals, value = pair.partition("=")
        if not equals or not modality or not value:
            raise ConfigError(f"--content {pair}: expected MODALITY=VALUE, such as text='a red chair'")
        if modality in values:
            raise ConfigError(f"--content {modality}: is given twice; expected each modality once")
        values[modality] = value
    from graphrec.runs import open_recommender, recommender_folder

    recommender, _ = open_recommender(run)
    known = recommender.modalities
    for modality in values:
        if known and modality not in known:
            raise ConfigError(
                f"--content {modality}: the model takes {', '.join(sorted(known))}.{nearest(modality, known)}"
            )
    had_index = recommender.index is not None
    recommender.add_items([item], content={modality: [value] for modality, value in values.items()})
    folder = recommender.save(out or recommender_folder(run))
    output.print_line(f"{folder}: {recommender.n_items:,} items with {output.printable(item)}")
    if had_index:
        output.print_note("the index is of the former items; build it again with graphrec index")
    output.print_next_steps(f"graphrec similar {out or run} --item {output.printable(item)}")
