"""All attacks, by family."""

from attack import Attack

from attacks import forging, patching, reading

FAMILIES: dict[str, tuple[Attack, ...]] = {
    "reading": reading.ATTACKS,
    "patching": patching.ATTACKS,
    "forging": forging.ATTACKS,
}
ATTACKS = [attack for attacks in FAMILIES.values() for attack in attacks]
