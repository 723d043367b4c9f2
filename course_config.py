"""The course: the one file that an instructor edits.

An assignment called `vae` is written in `solutions/vae.py`, its hidden checks in `tests/checks/test_vae.py`.
`course lint` says whether they fit together, `course release` makes what students get.
"""

from autograder.course import Assignment, Course, LatePolicy, Limits

# Who hands in late loses a tenth of what was earned for each day begun.
LATE = LatePolicy(grace_minutes=15, percent_per_day=10, closes_after_days=7)

# The first step of an optimiser imports this, for two seconds: once for all submissions is enough.
OPTIMISER = ("torch._dynamo",)

course = Course(
    id="generative-ai-foundations",
    title="Foundations of generative AI",
    # In the order in which students meet them. `weight` is the share in the course's mark; `due` takes a date with its
    # time zone, such as due="2027-10-31T23:59+01:00"; without one nothing is ever late.
    assignments=[
        Assignment(name="information_theory", title="Information theory", points=20, late=LATE),
        Assignment(name="sampling", title="Sampling methods", points=20, late=LATE),
        Assignment(
            name="change_of_variables", title="Transforming random variables", points=20, late=LATE, preload=OPTIMISER
        ),
        Assignment(name="vae", title="Variational autoencoders", points=20, late=LATE, preload=OPTIMISER),
        Assignment(name="efficient_attention", title="KV cache, MQA, GQA and MLA", points=20, late=LATE),
        Assignment(name="fine_tuning", title="Fine-tuning and LoRA", points=20, late=LATE, preload=OPTIMISER),
    ],
    # "cuda" runs submissions on a GPU, one at a time; "auto" is the CPU, which is faster for what is asked here.
    device="auto",
    # "none" runs what students wrote with your own rights and says so on every mark.
    sandbox="bubblewrap",
    # Seconds are CPU seconds: a busy machine costs nobody marks.
    limits=Limits(
        cell_seconds=20,
        check_seconds=10,
        submission_seconds=300,
        memory_bytes=4 * 1024**3,
    ),
    seed=0,
)
