"""The judgement of final answers. Imports nothing else of `eval`; `eval.grade` is its front door."""
