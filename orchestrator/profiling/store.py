"""Keep profiles as files under the state folder, so that nothing is measured twice."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.profiling.measurement import ArmProfile, Profile

PROFILES_MAX = 256  # files; the least lately written go first
BYTES_MAX = 32 * 2**20  # of one file: a few dozen arms with all their samples

log = logging.getLogger("orch.profiles")


@dataclass(frozen=True, slots=True)
class Key:
    """What a profile is of: another model, machine, engine, number of cores or shape is another profile."""

    model_sha256: str
    fingerprint: str
    openvino: str
    cpus: int
    shapes: Mapping[str, Sequence[int | str]] = field(default_factory=dict)

    @classmethod
    def of(cls, profile: Profile) -> Key:
        """Return the key of a profile."""
        return cls(profile.model_sha256, profile.fingerprint, profile.openvino, profile.cpus, profile.shapes)

    @property
    def file_name(self) -> str:
        """Return the name of its file: the model's digest, for people, and a digest of all."""
        shapes = {name: list(dims) for name, dims in self.shapes.items()}
        text = json.dumps([self.model_sha256, self.fingerprint, self.openvino, self.cpus, shapes], sort_keys=True)
        return f"{self.model_sha256[:12]}-{hashlib.sha256(text.encode()).hexdigest()[:20]}.json"


class ProfileStore:
    """Profiles in a folder. What cannot be read is as if it were not there; what cannot be written is let go."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, key: Key) -> Profile | None:
        """Return the stored profile, None where there is none that can be used."""
        path = self._folder / key.file_name
        try:
            with path.open("rb") as file:
                data = file.read(BYTES_MAX + 1)
            profile = Profile.model_validate_json(data)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:  # a file of another version, or cut off
            log.warning("%s is no profile and was not used: %s", path, str(error).partition("\n")[0])
            return None
        return profile if Key.of(profile).file_name == path.name else None

    def save(self, profile: Profile, instead_of: Collection[str] = ()) -> None:
        """Keep the profile; arms that an earlier one has and this one lacks are kept with it.

        But not those of `instead_of` (`compiled_key`), which were measured at another time and would be compared with
        these.
        """
        earlier = self.load(Key.of(profile))
        kept = profile
        if earlier is not None:
            others = tuple(each for each in earlier.arms if each.arm.compiled_key not in instead_of)
            kept = merged(earlier.model_copy(update={"arms": others}), profile)
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _replace(self._folder / Key.of(profile).file_name, kept.model_dump_json())
            self._forget_oldest()
        except OSError as error:
            log.warning("the profile could not be kept: %s", error)

    def _forget_oldest(self) -> None:
        files = sorted(self._folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        for path in files[: max(0, len(files) - PROFILES_MAX)]:
            path.unlink(missing_ok=True)


def merged(earlier: Profile, later: Profile) -> Profile:
    """Return the later profile with the arms that only the earlier one has, and what only its proof taught."""
    stretch = earlier.stretch if later.stretch is None else later.stretch
    return later.model_copy(update={"arms": _merged_arms(earlier.arms, later.arms), "stretch": stretch})


def _merged_arms(earlier: Iterable[ArmProfile], later: Iterable[ArmProfile]) -> tuple[ArmProfile, ...]:
    arms = {each.arm.key: each for each in earlier} | {each.arm.key: each for each in later}
    return tuple(arms[key] for key in sorted(arms))


def _replace(path: Path, text: str) -> None:
    """Write by staging name and rename: a reader sees the old or the new, never half of one."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False) as staging:
        try:
            staging.write(text)
            staging.flush()
            Path(staging.name).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(staging.name).unlink()
            raise
