"""What an output folder holds and is to hold: a header, and one shard a line, in OUT/plan.jsonl.

Shard number n becomes the part OUT/parts/part-0000000n: a part that is there is done. The plan is written aside and
renamed, and never changed: the same command finds the same plan, another one is told what differs.
"""

from __future__ import annotations

import filecmp
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spherood.errors import ConfigError, DataError
from spherood.files import written_aside
from spherood.scoring.shards import Shard

PLAN = "plan.jsonl"
ROWS = re.compile(rb'\{"rows":(\d+|null),')  # the lines may be long, and nothing else of them is needed
Header = Mapping[str, Any]


@dataclass(frozen=True)
class Plan:
    """``Plan.of(out)``; `images`: how many there are, None where a tar does not say."""

    out: Path
    header: Header
    offsets: tuple[int, ...]  # where the line of each shard begins
    images: int | None

    @classmethod
    def of(cls, out: Path) -> Plan:
        """The plan that is there. DataError where there is none, or it is damaged."""
        path, offsets, images = out / PLAN, [], 0
        if not path.is_file():
            raise DataError(f"{out}: holds no {PLAN}. Score into it with: spherood score BUNDLE INPUT -o {out}")
        unknown = False
        with path.open("rb") as file:
            try:
                header = json.loads(file.readline())
                place = file.tell()
                for line in file:
                    counted = ROWS.match(line)
                    if counted is None:
                        raise ValueError
                    unknown, images = unknown or counted[1] == b"null", images + int(counted[1].replace(b"null", b"0"))
                    offsets.append(place)
                    place += len(line)
            except ValueError:
                raise DataError(f"{path}: damaged. Choose another folder.") from None
        return cls(out, header, tuple(offsets), None if unknown else images)

    def __len__(self) -> int:
        return len(self.offsets)

    def shard(self, number: int) -> Shard:
        """The shard of that number."""
        with (self.out / PLAN).open("rb") as file:
            file.seek(self.offsets[number])
            return Shard.model_validate_json(file.readline())

    def part(self, number: int) -> Path:
        """Where its rows go."""
        return self.out / "parts" / f"part-{number:08}{self.header['format']}"

    def left(self, share: tuple[int, int] = (0, 1)) -> list[int]:
        """Numbers of the shards whose part is not there, of every `share[1]`-th from number `share[0]` on."""
        return [number for number in range(share[0], len(self), share[1]) if not self.part(number).exists()]


def open_plan(out: Path, header: Header, found: Iterator[Shard]) -> Plan:
    """Make the plan, or find it as it would be made.

    ConfigError where OUT was begun with another header, or holds other things; DataError where it was begun with other
    inputs.
    """
    path = out / PLAN
    if path.exists():
        _same_header(out, Plan.of(out).header, header)
    elif out.exists() and (not out.is_dir() or any(not entry.name.startswith(".") for entry in out.iterdir())):
        raise ConfigError(f"{out}: holds other things. Choose a folder that is empty or absent.")
    with written_aside(path if not path.exists() else out / f"{PLAN}.again") as aside:
        with aside.open("w", encoding="utf-8") as file:
            file.write(json.dumps(header, ensure_ascii=False) + "\n")
            file.writelines(shard.model_dump_json() + "\n" for shard in found)
        if path.exists() and not filecmp.cmp(path, aside, shallow=False):
            raise DataError(
                f"{out}: was begun with other inputs ({_difference(path, aside)}). Choose another folder for these, or "
                "give the ones it was begun with."
            )
    (out / f"{PLAN}.again").unlink(missing_ok=True)
    return Plan.of(out)


def _same_header(out: Path, before: Header, now: Header) -> None:
    different = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if different:
        key = different[0]
        raise ConfigError(
            f"{out}: holds parts of another {key.replace('_', ' ')} ({before.get(key)}, not {now.get(key)}). Choose "
            "another folder, or remove it."
        )


def _difference(one: Path, other: Path) -> str:
    with one.open(encoding="utf-8") as before, other.open(encoding="utf-8") as now:
        for number, (old, new) in enumerate(zip(before, now, strict=False)):
            if old != new:
                return f"shard {number - 1:,} is another: {_names(new)}"
    return "fewer or more"


def _names(line: str) -> str:
    shard = Shard.model_validate_json(line)
    return f"{shard.paths[0]} to {shard.paths[-1]}" if len(shard.paths) > 1 else shard.paths[0]
