"""The autograder of Generative AI Foundations: student code runs in a sandbox, hidden checks judge it from outside."""

import sys

# jsonschema, under every notebook library, takes three seconds to import this checker of web addresses where it finds
# it. None of our notebooks needs it, and every command would pay.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
