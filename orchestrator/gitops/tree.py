"""The files of a commit as git lists them, and which of them are taken: links are followed, and none leads out."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from orchestrator.errors import Kind, OrchError

HOPS_MAX = 40  # links on the way to one file, as in Linux
LINKS_MAX = 1_000  # in one commit
ENTRIES_MAX = 200_000  # in one commit; they are listed in memory
LINK_BYTES_MAX = 4096
FILE_MODES = frozenset({"100644", "100755", "100664"})  # the last one is of very old repositories
LINK_MODE = "120000"
SUBMODULE_MODE = "160000"


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """A file, link or submodule of a commit."""

    path: str
    """From the repository's root; bytes that are no UTF-8 are surrogates, as in all of Python's file names."""
    mode: str
    object_id: str


@dataclass(frozen=True, slots=True)
class Taken:
    """What of a commit is to be written: files by their object, links by their target."""

    files: Mapping[str, str]
    links: Mapping[str, str]


def parse_listing(listing: bytes) -> list[Entry]:
    """Return what `git ls-tree -r -z --full-tree` lists, sorted; raise INVALID for a name that cannot be a file's."""
    if listing.count(b"\0") > ENTRIES_MAX:
        what = f"the commit has {listing.count(bytes(1))} files, more than {ENTRIES_MAX}"
        raise OrchError(Kind.TOO_LARGE, what, hint="keep manifests and models in a repository of their own")
    entries = []
    for line in listing.split(b"\0"):
        if line:
            head, _, name = line.partition(b"\t")
            mode, _, object_id = head.decode("ascii").split(" ")
            entries.append(Entry(_checked(name.decode("utf-8", "surrogateescape")), mode, object_id))
    return sorted(entries)


def _checked(path: str) -> str:
    for part in path.split("/"):
        if part in {"", ".", ".."} or part.lower() == ".git":
            raise OrchError(Kind.INVALID, f"the commit holds a file with the name {path[:200]!r}", hint="remove it")
    return path


class Tree:
    """The files of one commit, and what its links say."""

    def __init__(self, entries: Collection[Entry], links: Mapping[str, str]) -> None:
        self._entries = {entry.path: entry for entry in entries}
        self._paths = sorted(self._entries)
        self._links = links

    def has(self, path: str) -> bool:
        """Return whether the path leads to a file or a folder of the commit."""
        try:
            real, _ = self._real(path)
        except OrchError:
            return False
        return self._is_file(real) or self._is_folder(real)

    def has_folder(self, path: str) -> bool:
        """Return whether the path leads to a folder of the commit."""
        real, _ = self._real(path)
        return not real or self._is_folder(real)

    def take(self, paths: Iterable[str]) -> Taken:
        """Return the files and folders with all that their links lead to; what is not there is passed over.

        Raise INVALID for a link that leads out of the repository or round in circles, and for a name that is no text.
        """
        files: dict[str, str] = {}
        links: dict[str, str] = {}
        waiting, seen = list(paths), set[str]()
        while waiting:
            path = waiting.pop()
            if path in seen:
                continue
            seen.add(path)
            real, passed = self._real(path)
            links.update((link, self._links[link]) for link in passed)
            if self._is_file(real):
                files[real] = self._entries[real].object_id
            else:
                for entry in self._under(real):
                    if entry.mode == LINK_MODE:
                        waiting.append(entry.path)
                    elif entry.mode in FILE_MODES:
                        files[entry.path] = entry.object_id
        for path in (*files, *links):
            if not path.isprintable():  # names stand in errors, logs and terminals
                what = f"the file {path[:200]!r} has a name that is no printable text"
                raise OrchError(Kind.INVALID, what, hint="rename it")
        return Taken(files, links)

    def _is_file(self, path: str) -> bool:
        return path in self._entries and self._entries[path].mode in FILE_MODES

    def _is_folder(self, path: str) -> bool:
        return next(self._under(path), None) is not None

    def _under(self, folder: str) -> Iterator[Entry]:
        prefix = "" if folder in {"", "."} else folder + "/"
        for place in range(bisect_left(self._paths, prefix), len(self._paths)):
            if not self._paths[place].startswith(prefix):
                return
            yield self._entries[self._paths[place]]

    def _real(self, path: str) -> tuple[str, list[str]]:
        """Return where the path leads through links, and the links on its way."""
        waiting = [(part, path) for part in path.split("/")[::-1]]
        reached: list[str] = []
        passed: list[str] = []
        while waiting:
            part, said_by = waiting.pop()
            if part in {"", "."}:
                continue
            if part == "..":
                if not reached:
                    raise _leads_out(said_by, self._links)
                reached.pop()
                continue
            here = "/".join([*reached, part])
            target = self._links.get(here)
            if target is None:
                reached.append(part)
                continue
            if len(passed) >= HOPS_MAX:
                raise OrchError(Kind.INVALID, f"the link {here!r} leads round in circles", hint="remove it")
            passed.append(here)
            if target.startswith("/"):
                raise _leads_out(here, self._links)
            waiting += [(each, here) for each in target.split("/")[::-1]]
        return "/".join(reached), passed


def _leads_out(link: str, links: Mapping[str, str]) -> OrchError:
    if link not in links:
        what = f"the path {link[:200]!r} leads out of the repository"
    else:
        what = f"the link {link[:200]!r} leads out of the repository, to {links[link][:200]!r}"
    return OrchError(Kind.INVALID, what, hint="put the file itself into the repository")
