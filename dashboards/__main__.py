"""`python -m dashboards` writes every generated file; `--check` names those that are stale and exits 1."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from dashboards import boards, grafana_rules, prometheus_rules

GENERATED: Final = Path(__file__).parent / "generated"
# Each gives file names, relative to `generated/`, and their text.
GENERATORS: Final[tuple[Callable[[], Mapping[str, str]], ...]] = (
    boards.files,
    prometheus_rules.files,
    grafana_rules.files,
)


def files() -> dict[str, str]:
    """Every generated file's text by its name."""
    return {name: text for generate in GENERATORS for name, text in generate().items()}


def stale() -> list[str]:
    """Files that differ from what the code makes now, are missing, or that nothing makes any more."""
    wanted = files()
    found = {str(path.relative_to(GENERATED)): path for path in GENERATED.rglob("*") if path.is_file()}
    changed = [name for name, text in wanted.items() if name not in found or found[name].read_text() != text]
    return sorted([*changed, *(name for name in found if name not in wanted)])


def write() -> None:
    for name in stale():
        path = GENERATED / name
        if name not in (wanted := files()):
            path.unlink()
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted[name])


def main() -> None:
    if sys.argv[1:] == ["--check"]:
        if found := stale():
            sys.exit("stale, run `python -m dashboards`:\n" + "\n".join(found))
    elif sys.argv[1:]:
        sys.exit(f"found {' '.join(sys.argv[1:])!r}, expected nothing or --check")
    else:
        write()


if __name__ == "__main__":
    main()
