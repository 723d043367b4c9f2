"""All attacks, by family."""

from attack import Attack

from attacks import active, exfiltrating, forging, malformed, patching, reading

FAMILIES: dict[str, tuple[Attack, ...]] = {
    "reading": reading.ATTACKS,
    "patching": patching.ATTACKS,
    "forging": forging.ATTACKS,
    "exfiltrating": exfiltrating.ATTACKS,
    "malformed": malformed.ATTACKS,
    "active content": active.ATTACKS,
}
ATTACKS = [attack for attacks in FAMILIES.values() for attack in attacks]
