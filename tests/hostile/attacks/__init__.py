"""All attacks, by family."""

from attack import Attack

from attacks import (
    active,
    exfiltrating,
    exhausting,
    forging,
    killing,
    malformed,
    patching,
    persisting,
    reading,
)

FAMILIES: dict[str, tuple[Attack, ...]] = {
    "reading": reading.ATTACKS,
    "patching": patching.ATTACKS,
    "forging": forging.ATTACKS,
    "killing": killing.ATTACKS,
    "exhausting": exhausting.ATTACKS,
    "persisting": persisting.ATTACKS,
    "exfiltrating": exfiltrating.ATTACKS,
    "malformed": malformed.ATTACKS,
    "active": active.ATTACKS,
}
ATTACKS = [attack for attacks in FAMILIES.values() for attack in attacks]
