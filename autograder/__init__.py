"""The autograder of Generative AI Foundations: student code runs in a sandbox, hidden checks judge it from outside."""
