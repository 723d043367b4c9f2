"""A small part of an audit done again: whether the findings that are kept still come out."""

import random
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from autograder.audit import Crew, fate_of, load_table, variant_problem, variants_path, why_stale
from autograder.audit_worker import Answer, Job
from autograder.authoring import read_script
from autograder.mutants import Mutant, mutants_of
from autograder.variants import Variant, load_variants


def rerun_sample(root: Path, assignment: str, size: int, *, jobs: int = 1, seed: int = 0) -> list[str]:
    """Audit the reference and a random part of the rest again.

    Args:
        root: The course folder.
        assignment: Name of an assignment whose findings are kept.
        size: How many mistakes, alternatives and mutants, each drawn from all tasks.
        jobs: Processes that judge side by side.
        seed: Which part.

    Returns:
        What is not as the committed findings say, a sentence each.
    """
    kept = load_table(root, assignment)
    assert kept is not None, why_stale(root, assignment)
    chance = random.Random(f"{seed} {kept.measured}")
    script = read_script(root / "solutions" / f"{assignment}.py")
    variants = load_variants(variants_path(root, assignment))
    mutants = [mutant for cell in script.cells if cell.task for mutant in mutants_of(cell.task, cell.source)]
    known = {mutant: fate for fate, ids in kept.fates.items() for mutant in ids}
    known |= {survivor.id: "survived" for survivor in kept.survivors}
    with Crew(root, assignment, jobs) as crew:
        asked: list[tuple[Future[Answer], Callable[[Answer], str]]] = [(crew.submit(None), _reference_again)]
        for kind in ("mistake", "alternative"):
            of_kind = [variant for variant in variants if variant.kind == kind]
            for variant in chance.sample(of_kind, min(size, len(of_kind))):
                asked.append((crew.submit(Job({variant.task: variant.source})), _variant_again(variant)))
        for mutant in chance.sample(mutants, min(size, len(mutants))):
            job = Job({mutant.task: mutant.source}, (mutant.task,), until_caught=True)
            asked.append((crew.submit(job), _mutant_again(mutant, known.get(mutant.id, "killed"))))
        return [problem for future, judge in asked if (problem := judge(future.result()))]


def _reference_again(answer: Answer) -> str:
    return f"the reference fails {answer.failed}" if any(answer.failed) else ""


def _variant_again(variant: Variant) -> Callable[[Answer], str]:
    return lambda answer: variant_problem(variant, answer)


def _mutant_again(mutant: Mutant, expected: str) -> Callable[[Answer], str]:
    def judge(answer: Answer) -> str:
        fate = fate_of(answer)
        return "" if fate == expected else f"{mutant.id} in {mutant.task}: {fate}, where {expected} is on record"

    return judge
