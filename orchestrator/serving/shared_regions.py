"""The regions of system shared memory that clients have registered with a worker."""

from __future__ import annotations

from pathlib import Path

from orchestrator.errors import Kind, OrchError
from orchestrator.serving.kept_regions import KeptRegions
from orchestrator.serving.oip import Place
from orchestrator.serving.shared_memory import FOLDER, Region, Registration, open_region

REGIONS_MAX = 256  # each is an open file of the worker
TOTAL_MAX_BYTES = 16 * 2**30  # of all: the pages of a registered object stay, also when its client has gone
NAME_MAX_CHARACTERS = 256

NOT_OFFERED = "shared memory is not offered here"
LOOPBACK_ONLY = f"{NOT_OFFERED}, at an endpoint that other machines can reach"
ALLOW_HINT = "send the data in the request, or state spec.endpoint.shared_memory: true in the manifest"


class Regions:
    """All calls on the event loop's thread. With a `refusal` nothing is offered, and it is what callers are told."""

    def __init__(
        self, refusal: str | None = NOT_OFFERED, *, folder: Path = FOLDER, kept: KeptRegions | None = None
    ) -> None:
        self._refusal = refusal
        self._folder = folder
        self._kept = kept
        self._regions: dict[str, Region] = {}

    @property
    def offered(self) -> bool:
        """Tell whether clients may register regions."""
        return self._refusal is None

    def _check_offered(self) -> None:
        if self._refusal is not None:
            hint = ALLOW_HINT if self._refusal == LOOPBACK_ONLY else "send the data in the request"
            raise OrchError(Kind.UNSUPPORTED, self._refusal, hint=hint)

    def register(self, wanted: Registration) -> None:
        """Open the region and know it by its name; raise INVALID, CONFLICT, TOO_LARGE, UNSUPPORTED."""
        self._check_offered()
        self.take_up()
        _check_registration(wanted)
        where = f"shared memory region {wanted.name!r}"
        if wanted.name in self._regions:
            raise OrchError(Kind.CONFLICT, "is registered already", where=where, hint="unregister it first")
        total = wanted.byte_size + sum(region.registration.byte_size for region in self._regions.values())
        if len(self._regions) >= REGIONS_MAX or total > TOTAL_MAX_BYTES:
            what = f"would be more than {REGIONS_MAX} regions or {TOTAL_MAX_BYTES} bytes in all"
            raise OrchError(Kind.TOO_LARGE, what, where=where, hint="unregister what is not needed any more")
        region = open_region(wanted, self._folder)
        for known in self._regions.values():
            if region.overlaps(known):
                what = f"shares bytes of the key {wanted.key!r} with the region {known.registration.name!r}"
                raise OrchError(Kind.CONFLICT, what, where=where, hint="place inputs and outputs by their offsets")
        self._regions[wanted.name] = region
        self._keep()

    def unregister(self, name: str) -> None:
        """Forget the region, or all where the name is empty; one that is not there is forgotten already."""
        self._check_offered()
        self.take_up()
        if name:
            self._regions.pop(name, None)
        else:
            self._regions.clear()
        self._keep()

    def status(self, name: str = "") -> list[Registration]:
        """Return what is registered, all or the one of that name; raise NOT_FOUND, UNSUPPORTED."""
        self._check_offered()
        self.take_up()
        if not name:
            return [region.registration for _, region in sorted(self._regions.items())]
        if name not in self._regions:
            raise OrchError(Kind.NOT_FOUND, "is not registered", where=f"shared memory region {name!r}")
        return [self._regions[name].registration]

    def find(self, place: Place, where: str, *, writing: bool = False) -> Region:
        """Return the region that a tensor lies in; raise INVALID unless it holds the tensor's bytes."""
        self._check_offered()
        if place.region not in self._regions:
            self.take_up()
        region = self._regions.get(place.region)
        if region is None:
            what = f"shared memory region {place.region[:NAME_MAX_CHARACTERS]!r} is not registered"
            raise OrchError(Kind.INVALID, what, where=where, hint="register it; one whose object was removed is lost")
        if place.offset + place.byte_size > region.registration.byte_size:
            what = (
                f"ends at byte {place.offset + place.byte_size} of the shared memory region {place.region!r}, "
                f"which has {region.registration.byte_size}"
            )
            raise OrchError(Kind.INVALID, what, where=where)
        if writing and not region.writable:
            what = f"the server may only read the shared memory region {place.region!r}"
            raise OrchError(Kind.INVALID, what, where=where, hint="change the object's owner or mode")
        return region

    # What outlives the worker

    def take_up(self) -> None:
        """Take up what another worker of this deployment has kept, if that is new."""
        if self._kept is None or not self.offered:
            return
        for registration, identity in self._kept.news():
            if registration.name in self._regions or len(self._regions) >= REGIONS_MAX:
                continue
            try:
                region = open_region(registration, self._folder)
            except OrchError:
                continue  # the object has gone, and its client, or it will register again
            if region.identity == identity:
                self._regions[registration.name] = region

    def _keep(self) -> None:
        if self._kept is not None:
            self._kept.keep([(region.registration, region.identity) for _, region in sorted(self._regions.items())])


def _check_registration(wanted: Registration) -> None:
    where = f"shared memory region {wanted.name[:NAME_MAX_CHARACTERS]!r}"
    if not 0 < len(wanted.name) <= NAME_MAX_CHARACTERS:
        raise OrchError(Kind.INVALID, f"a name has 1 to {NAME_MAX_CHARACTERS} characters", where=where)
    if wanted.byte_size < 1 or wanted.offset < 0:
        what = f"needs a byte_size of at least 1 and no negative offset, got {wanted.byte_size} and {wanted.offset}"
        raise OrchError(Kind.INVALID, what, where=where)


def cuda_status(name: str) -> list[Registration]:
    """Return the regions of CUDA's memory, of which there are none; raise NOT_FOUND for one that is named."""
    if name:
        raise OrchError(Kind.NOT_FOUND, "is not registered", where=f"CUDA shared memory region {name!r}")
    return []


def cuda_refused() -> OrchError:
    """Return why no CUDA memory can be registered; that all of it is forgotten can be told truthfully."""
    hint = "use system shared memory, or send the data in the request"
    return OrchError(Kind.UNSUPPORTED, "CUDA shared memory is not offered: OpenVINO does not read it", hint=hint)
